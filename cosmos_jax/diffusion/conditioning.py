"""What the network is told: which latent frames are given, and which text.

Counts of given frames are latent frames here; users speak of pixel frames (0, 1, 5, ...), which
`guiding.latent_frames` converts once, at the door.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def choose_counts(
    uniform: Float[Array, "b"], probabilities: Mapping[int, float], t: int
) -> Int[Array, "b"]:
    """Turns a uniform draw in [0, 1) per sample into its number of given latent frames.

    Args:
        uniform: the draws.
        probabilities: count -> probability. A fixed count n is {n: 1.0}; a count uniform over a
            range is equal probabilities. An image batch (t = 1) learns nothing unless {0: 1.0}.
        t: latent frames of the clip.

    Raises:
        ValueError: the probabilities are not a distribution, or a count lies outside 0..t.
    """
    counts = np.array(sorted(probabilities), np.int32)
    weights = np.array([probabilities[n] for n in sorted(probabilities)], np.float64)
    if not len(weights) or weights.min() < 0 or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(
            f"probabilities of conditional latent frames {dict(probabilities)} must be at least 0 "
            "and sum to 1"
        )
    if counts[0] < 0 or counts[-1] > t:
        raise ValueError(
            f"conditional latent frames {counts.tolist()} do not all lie in 0..{t}, the latent "
            "frames of the clip; change the counts or take longer clips"
        )
    # The last edge is left out: rounding of the sum must not make a draw exceed every edge.
    edges = jnp.asarray(np.cumsum(weights)[:-1], jnp.float32)
    return jnp.asarray(counts)[jnp.searchsorted(edges, uniform, side="right")]


def condition_mask(
    counts: Int[Array, "b"] | Int[Array, "b v"], v: int, t: int
) -> Float[Array, "b v t"]:
    """1.0 where a latent frame is given: the first `counts` of all views alike, or of each view."""
    per_view = jnp.broadcast_to(counts.reshape(len(counts), -1), (len(counts), v))
    return (jnp.arange(t) < per_view[:, :, None]).astype(jnp.float32)


def replace_given(
    x: Float[Array, "b v t h w c"],
    given: Float[Array, "b v t h w c"],
    mask: Float[Array, "b v t"],
) -> Float[Array, "b v t h w c"]:
    """`given` where the mask is 1, `x` elsewhere.

    A selection, not a weighted sum: what the network says of a given frame may even be NaN.
    """
    return jnp.where(mask[..., None, None, None] > 0, given, x)


def drop_text(
    text: Float[Array, "b v s e"],
    uniform: Float[Array, "b v"],
    rate: float,
    per_view: bool,
    nothing: Float[Array, "e"],
) -> Float[Array, "b v s e"]:
    """Text to `nothing` with probability `rate`: of a whole sample, or of each view by itself.

    Zeros (`DiT.no_text`), not the embedding of an empty caption, are what the published models were
    trained on. A whole sample is decided by the draw of its first view.
    """
    draws = uniform if per_view else uniform[:, :1]
    return jnp.where((draws >= rate)[:, :, None, None], text, nothing.astype(text.dtype))
