"""A fixed video codec that needs no weights: sixteen low frequencies of the DCT of every block.

It stands in for a learned VAE where none can be had (the demo, tests): the same interface, the same
shape of latents (blocks of 4x8x8 pixels, the first frame by itself, 16 channels), recognisable
pictures. It is an orthogonal projection: of a video it keeps, block by block, what its basis spans.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cosmos_jax.models import clip_lengths
from cosmos_jax.types import Params

REST = (
    # Frequency along (time, row, column, colour) of each channel; its mean and standard deviation.
    ((0, 0, 0, 0), -7.76, 9.72),
    ((0, 0, 0, 1), 0.92, 4.04),
    ((0, 0, 0, 2), 0.25, 1.79),
    ((0, 1, 0, 0), 0.0, 2.36),
    ((0, 0, 1, 0), 0.0, 1.41),
    ((0, 2, 0, 0), 0.0, 1.27),
    ((0, 3, 0, 0), 0.0, 0.75),
    ((0, 1, 1, 0), 0.0, 1.24),
    ((0, 1, 0, 1), 0.0, 1.05),
    ((1, 0, 0, 0), 0.0, 1.58),
    ((2, 0, 0, 0), 0.0, 0.78),
    ((3, 0, 0, 0), 0.0, 0.45),
    ((1, 0, 1, 0), 0.0, 0.98),
    ((2, 0, 1, 0), 0.0, 0.70),
    ((1, 1, 0, 0), 0.0, 0.69),
    ((1, 0, 0, 1), 0.0, 0.73),
)
"""Blocks of four frames.

The sixteen frequencies of most energy, and their statistics, were measured on the rendered scene
(video of `SceneConfig()`, all episodes, pixels in [-1, 1]); real driving video ranks them nearly
alike. Means below a tenth of the deviation are taken as zero.
"""

FIRST = (
    ((0, 0, 0, 0), -3.85, 4.93),
    ((0, 0, 0, 1), 0.47, 2.09),
    ((0, 0, 0, 2), 0.11, 0.93),
    ((0, 1, 0, 0), 0.0, 1.23),
    ((0, 0, 1, 0), 0.0, 0.99),
    ((0, 2, 0, 0), 0.0, 0.66),
    ((0, 3, 0, 0), 0.0, 0.41),
    ((0, 1, 1, 0), 0.0, 0.71),
    ((0, 1, 0, 1), 0.0, 0.57),
    ((0, 0, 2, 0), 0.0, 0.53),
    ((0, 0, 3, 0), 0.0, 0.34),
    ((0, 0, 1, 1), 0.0, 0.46),
    ((0, 2, 1, 0), 0.0, 0.39),
    ((0, 1, 2, 0), 0.0, 0.35),
    ((0, 0, 4, 0), 0.0, 0.24),
    ((0, 4, 0, 0), 0.0, 0.27),
)
"""The first frame's blocks: more detail in space in the channels that elsewhere hold change."""


def _dct(n: int) -> np.ndarray:
    """Orthonormal DCT-II, rows are frequencies. Of colours: grey, red-blue, magenta-green."""
    angles = np.pi / n * np.arange(n)[:, None] * (np.arange(n) + 0.5)
    return np.cos(angles) * np.where(np.arange(n) == 0, 1.0, np.sqrt(2.0))[:, None] / np.sqrt(n)


def _basis(table: tuple, frames: int) -> np.ndarray:
    """Orthonormal basis [frames 8 8 3 16] of the kept frequencies."""
    axes = [_dct(n) for n in (frames, 8, 8, 3)]
    waves = [[axis[k] for axis, k in zip(axes, row[0], strict=True)] for row in table]
    return np.stack([np.einsum("p,q,r,c->pqrc", *wave) for wave in waves], -1).astype(np.float32)


def _statistics(table: tuple) -> tuple[np.ndarray, np.ndarray]:
    _, mean, deviation = zip(*table, strict=True)
    return np.array(mean, np.float32), np.array(deviation, np.float32)


def _encode(pixels: jax.Array, table: tuple, frames: int) -> jax.Array:
    b, v, f, y, x, c = pixels.shape
    blocks = pixels.reshape(b, v, f // frames, frames, y // 8, 8, x // 8, 8, c)
    latents = jnp.einsum(
        "bvtphqwrc,pqrcz->bvthwz", blocks, _basis(table, frames), precision="highest"
    )
    mean, deviation = _statistics(table)
    return (latents - mean) / deviation


def _decode(latents: jax.Array, table: tuple, frames: int) -> jax.Array:
    b, v, t, h, w, _ = latents.shape
    mean, deviation = _statistics(table)
    waves = _basis(table, frames)
    blocks = jnp.einsum(
        "bvthwz,pqrcz->bvtphqwrc", latents * deviation + mean, waves, precision="highest"
    )
    return blocks.reshape(b, v, t * frames, h * 8, w * 8, 3)


@dataclasses.dataclass(frozen=True)
class DCTCodec:
    """The analytic codec, with the interface that all codecs share. It has no parameters.

    `encode(decode(z)) == z` for any latents; `decode(encode(video))` is the video without what the
    kept frequencies cannot show.
    """

    latent_channels: ClassVar[int] = 16
    spatial: ClassVar[int] = 8
    temporal: ClassVar[int] = 4
    by_place: ClassVar[bool] = False

    def init(self, key: jax.Array) -> Params:
        """There is nothing to draw: an empty tree."""
        del key
        return {}

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip (`clip_lengths.latent_frames`)."""
        return clip_lengths.latent_frames(frames, self.temporal)

    def encode(
        self, params: Params, video: Float[Array, "b v f y x 3"]
    ) -> Float[Array, "b v t h w 16"]:
        """Video in [-1, 1] to normalised float32 latents: t = 1 + (f - 1)/4, h = y/8, w = x/8.

        Raises:
            ValueError: f is not 1 + a multiple of 4, or y or x no multiple of 8.
        """
        del params
        _, _, f, y, x, _ = video.shape
        if f % 4 != 1 or y % 8 or x % 8 or not y or not x:
            raise ValueError(
                f"DCT codec: cannot encode {f} frames of {y}x{x} pixels: "
                "the frames must be 1 + a multiple of 4, rows and columns multiples of 8"
            )
        video = video.astype(jnp.float32)
        first, rest = _encode(video[:, :, :1], FIRST, 1), _encode(video[:, :, 1:], REST, 4)
        return jnp.concatenate([first, rest], axis=2)

    def decode(
        self, params: Params, latents: Float[Array, "b v t h w 16"]
    ) -> Float[Array, "b v f y x 3"]:
        """Latents to float32 video of about [-1, 1], not clipped; f = 1 + 4 (t - 1)."""
        del params
        latents = latents.astype(jnp.float32)
        first, rest = _decode(latents[:, :, :1], FIRST, 1), _decode(latents[:, :, 1:], REST, 4)
        return jnp.concatenate([first, rest], axis=2)
