"""What the network is told: which latent frames are given, which text, and how text guides it.

Counts of given frames come in two kinds. Users speak of pixel frames (0, 1, 5, ...), which
`latent_frames` converts once, at the door; everything else here counts latent frames.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def latent_frames(frames: int, temporal: int) -> int:
    """Latent frames that hold exactly the first `frames` pixel frames.

    That is 0 of 0, else 1 + (frames - 1) / temporal.

    Raises:
        ValueError: no number of latent frames holds exactly so many pixel frames.
    """
    if frames == 0:
        return 0
    if frames < 0 or (frames - 1) % temporal:
        raise ValueError(
            f"num_conditional_frames={frames}: a latent frame holds {temporal} pixel frames and "
            f"the first one holds 1, so give 0, 1, {1 + temporal}, {1 + 2 * temporal}, ..."
        )
    return 1 + (frames - 1) // temporal


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


def view_counts(counts: int | Sequence[int], v: int, t: int) -> Int[np.ndarray, "v"]:
    """Explicit numbers of given latent frames: one for all views, or one for each view.

    Raises:
        ValueError: not one count per view, or a count outside 0..t.
    """
    per_view = [counts] * v if isinstance(counts, int) else list(counts)
    if len(per_view) != v:
        raise ValueError(
            f"{len(per_view)} counts of conditional latent frames {per_view} for {v} views; give "
            "one number, or one for each view"
        )
    if any(not 0 <= n <= t for n in per_view):
        raise ValueError(f"conditional latent frames {per_view} do not all lie in 0..{t}")
    return np.array(per_view, np.int32)


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


def guide(
    cond: Float[Array, "b v t h w c"],
    uncond: Float[Array, "b v t h w c"],
    guidance: float | Float[Array, ""],
) -> Float[Array, "b v t h w c"]:
    """Classifier-free guidance in the form `cond + g (cond - uncond)`: g = 0 is no guidance.

    Predict2.5 multiview publishes g of `uncond + g (cond - uncond)`; here that is g - 1.
    """
    return cond + guidance * (cond - uncond)
