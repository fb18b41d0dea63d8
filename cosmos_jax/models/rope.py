"""Rotary position embedding over latent frames, rows and columns.

Source: cosmos-transfer2.5, `VideoRopePosition3DEmb`; RoFormer (arXiv:2104.09864) for the rotation,
"NTK-aware" scaling for the ratios.

The exponents ("ranges") are arrays of the checkpoint, not of the code: the published models were
trained with exponents rounded to bfloat16, which moves some angles by up to 0.05 rad. They live in
the collection `constants`, and everything from them on is float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cosmos_jax import sharding

Rotation = tuple[Float[Array, "t h w 1 k"], Float[Array, "t h w 1 k"]]
"""Cosine and sine of the angles of every token, float32."""

BASE_FPS = 24.0
"""With fps modulation, frame positions count frames of a video of this rate."""


def axis_widths(head_width: int) -> tuple[int, int, int]:
    """How many features of a head turn with t, h and w.

    Raises:
        ValueError: a head too narrow for three axes.
    """
    spatial = head_width // 6 * 2
    temporal = head_width - 2 * spatial
    if spatial < 4 or temporal % 2:
        raise ValueError(f"heads of {head_width} features do not split for rope; 12 or more, even")
    return temporal, spatial, spatial


def exact_range(width: int, dtype: str) -> Float[Array, "k"]:
    """The exponents 2i/width of one axis, rounded to `dtype`, as float32."""
    exponents = 2 * np.arange(width // 2, dtype=np.float32) / width
    return jnp.asarray(exponents.astype(jnp.dtype(dtype)).astype(np.float32))


def _angles(
    positions: Float[Array, "p"], exponents: Float[Array, "k"], ratio: float
) -> Float[Array, "p k"]:
    width = 2 * exponents.shape[0]
    theta = 10000.0 * ratio ** (width / (width - 2))
    return positions[:, None] * theta ** -exponents.astype(jnp.float32)


def rotation(
    grid: tuple[int, int, int],
    temporal: Float[Array, "kt"],
    spatial: Float[Array, "ks"],
    ratios: tuple[float, float, float],
    fps: Float[Array, ""] | None,
) -> Rotation:
    """Cosines and sines of every token's angles, the same for every view.

    Args:
        grid: numbers of latent frames, patch rows and patch columns.
        temporal: exponents of the frame axis.
        spatial: exponents of the rows and of the columns.
        ratios: extrapolation ratios of frames, rows and columns.
        fps: frame rate, where frame positions are in units of 1/24 s; None: they are frame numbers.
    """
    t, h, w = (jnp.arange(n, dtype=jnp.float32) for n in grid)
    if fps is not None:
        t = t / fps * BASE_FPS
    parts = (
        _angles(t, temporal, ratios[0])[:, None, None],
        _angles(h, spatial, ratios[1])[None, :, None],
        _angles(w, spatial, ratios[2])[None, None, :],
    )
    angles = jnp.concatenate([jnp.broadcast_to(a, (*grid, a.shape[-1])) for a in parts], axis=-1)
    angles = sharding.constrain(angles[:, :, :, None], "t h w n k")
    return jnp.cos(angles), jnp.sin(angles)


@jax.checkpoint
def rotate(x: Float[Array, "b v t h w n k2"], turn: Rotation) -> Float[Array, "b v t h w n k2"]:
    """Turns the pairs (i, i + k) of every head; float32 inside, dtype of x outside."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = turn
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
