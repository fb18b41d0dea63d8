"""The blur that published inference makes of a video when no blurred control video is given.

A bilateral filter on a picture made smaller, then the whole picture much smaller and back. Source
of the steps and numbers: cosmos-transfer2.5's blur augmentor without randomness. OpenCV and torch
add in other orders and in fixed point: levels differ from theirs by 0.2 on average and 4 at most.
"""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Float32, UInt8

from cosmos_jax.data import transforms

Pixels = UInt8[np.ndarray, "y x 3"]

STRENGTHS = {
    "very_low": (1, 4),
    "low": (4, 4),
    "medium": (2, 10),
    "high": (1, 16),
    "very_high": (4, 16),
}
"""Of each strength, how many times smaller the picture is while it is filtered, and afterwards."""

RADIUS = 15  # of the bilateral filter, in pixels
SIGMA_COLOUR = 150.0  # of the sum of the three channels' differences
SIGMA_SPACE = 100.0  # pixels


@functools.cache
def _area_matrix(n_in: int, n_out: int) -> Float32[np.ndarray, "out in"]:
    """Shrinks by the share of each input sample that an output sample covers."""
    edges = np.arange(n_out + 1) * (n_in / n_out)
    low, high = edges[:-1, None], edges[1:, None]
    j = np.arange(n_in)
    covered = np.clip(np.minimum(high, j + 1) - np.maximum(low, j), 0, None)
    return (covered * (n_out / n_in)).astype(np.float32)


@functools.cache
def _cubic_matrix(n_in: int, n_out: int) -> Float32[np.ndarray, "out in"]:
    return transforms.filter_matrix(n_in, n_out, cubic=True)


@functools.cache
def _linear_matrix(n_in: int, n_out: int) -> Float32[np.ndarray, "out in"]:
    return transforms.filter_matrix(n_in, n_out, cubic=False)


def _resize(
    pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray, round_twice: bool = False
) -> np.ndarray:
    """Applies a matrix to the columns and one to the rows; torch rounds after each, OpenCV once."""
    wide = pixels.transpose(2, 0, 1).astype(np.float32) @ columns.T
    if round_twice:
        wide = np.clip(np.floor(wide + 0.5), 0, 255)
    levels = np.clip(np.floor(rows @ wide + 0.5), 0, 255)
    return levels.astype(np.uint8).transpose(1, 2, 0)


@functools.cache
def _taps() -> tuple[tuple[int, int, np.float32], ...]:
    """Half of the filter's disc without its centre: (down, right, weight of the distance)."""
    reach = range(-RADIUS, RADIUS + 1)
    return tuple(
        (down, right, np.float32(math.exp(-0.5 * (down**2 + right**2) / SIGMA_SPACE**2)))
        for down in reach
        for right in reach
        if (down, right) > (0, 0) and math.hypot(down, right) <= RADIUS
    )


def bilateral(pixels: Pixels) -> Pixels:
    """Mean of the disc around each pixel, weighted by nearness in space and in colour.

    Two pixels weigh the same in each other's mean, so every weight is worked out once.
    """
    r = RADIUS
    padded = np.pad(pixels, ((r, r), (r, r), (0, 0)), mode="reflect").astype(np.int16)
    colour = np.exp(-0.5 * (np.arange(766) / SIGMA_COLOUR) ** 2).astype(np.float32)
    planes = padded.transpose(2, 0, 1).copy()
    values = np.concatenate([planes, np.ones_like(planes[:1])]).astype(np.float32)
    total = values.copy()  # the centre's weight is 1; the last plane sums the weights
    height, width = planes.shape[1:]
    for down, right, near in _taps():
        here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        there = slice(down, height), slice(max(0, right), width - max(0, -right))
        apart = np.abs(planes[:, *here] - planes[:, *there]).sum(0, dtype=np.int16)
        weight = colour[apart]
        weight *= near
        total[:, *here] += weight * values[:, *there]
        total[:, *there] += weight * values[:, *here]
    mean = total[:3, r:-r, r:-r] / total[3, r:-r, r:-r]
    return np.rint(mean).astype(np.uint8).transpose(1, 2, 0)


@dataclasses.dataclass(frozen=True)
class Blur:
    """A filter of RGB frames; `strength` is a key of `STRENGTHS`."""

    strength: str

    def __call__(self, pixels: Pixels) -> Pixels:
        """One frame.

        Raises:
            ValueError: the frame is too small to be shrunk that much.
        """
        (before, after), (y, x, _) = STRENGTHS[self.strength], pixels.shape
        if min(y, x) < max(before, after):
            raise ValueError(f"frames of {y}x{x} cannot be made {max(before, after)} times smaller")
        small = y // before, x // before
        pixels = _resize(pixels, _area_matrix(y, small[0]), _area_matrix(x, small[1]))
        pixels = bilateral(pixels)
        pixels = _resize(pixels, _linear_matrix(small[0], y), _linear_matrix(small[1], x))
        tiny = y // after, x // after
        pixels = _resize(pixels, _cubic_matrix(y, tiny[0]), _cubic_matrix(x, tiny[1]), True)
        return _resize(pixels, _cubic_matrix(tiny[0], y), _cubic_matrix(tiny[1], x), True)
