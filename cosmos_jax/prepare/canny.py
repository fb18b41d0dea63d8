"""Canny's edge detector, equal bit for bit to OpenCV's with its default options.

Those are a Sobel operator of 3x3 with replicated borders, the gradient's L1 norm, and of a colour
picture the channel in which that is largest. Directions are told apart in fixed point with 15 bits.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int32, UInt8

STRENGTHS: dict[str, tuple[float | int, float | int]] = {
    "very_low": (20, 50),
    "low": (50, 100),
    "medium": (100, 200),
    "high": (200, 300),
    "very_high": (300, 400),
}
"""(low, high) thresholds. Source: cosmos-transfer2.5's edge augmentor without randomness."""

HIGHEST = 2040  # the largest gradient there can be

_TAN_22 = round(0.4142135623730950488 * 2**15)  # of 22.5 degrees; that of 67.5 is larger by 2
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def sobel(
    pixels: UInt8[np.ndarray, "y x c"],
) -> tuple[Int32[np.ndarray, "y x"], Int32[np.ndarray, "y x"]]:
    """(d/dx, d/dy) of the channel with the largest |d/dx| + |d/dy|; of equals, the first."""
    y, x, _ = pixels.shape
    padded = np.pad(pixels.astype(np.int16), ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:y] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :x] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dx, dy = rows[:, 2:] - rows[:, :x], columns[2:] - columns[:y]
    best = np.argmax(np.abs(dx) + np.abs(dy), axis=2)[..., None]
    dx, dy = (np.take_along_axis(d, best, axis=2)[..., 0].astype(np.int32) for d in (dx, dy))
    return dx, dy


def _ridges(dx: np.ndarray, dy: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Where the norm is largest along the gradient; of two equals, the upper or left one."""
    y, x = dx.shape
    padded = np.pad(norm, 1)  # nothing beyond the border

    def neighbour(down: int, right: int) -> np.ndarray:
        return padded[1 + down : 1 + down + y, 1 + right : 1 + right + x]

    across, along = np.abs(dx) * _TAN_22, np.abs(dy) << 15
    flat = along < across
    steep = along > across + (np.abs(dx) << 16)
    rising = (dx ^ dy) < 0
    ridge = np.where(
        rising,
        (norm > neighbour(-1, 1)) & (norm > neighbour(1, -1)),
        (norm > neighbour(-1, -1)) & (norm > neighbour(1, 1)),
    )
    ridge = np.where(steep, (norm > neighbour(-1, 0)) & (norm >= neighbour(1, 0)), ridge)
    return np.where(flat, (norm > neighbour(0, -1)) & (norm >= neighbour(0, 1)), ridge)


def _connected(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """The strong points, and the weak ones that a chain of weak neighbours joins to them."""
    left = np.pad(weak & ~strong, 1)  # the border is never weak, so walks end there
    width = left.shape[1]
    steps = np.array([down * width + right for down, right in _NEIGHBOURS])
    edges, left = np.pad(strong, 1).ravel(), left.ravel()
    front = np.flatnonzero(edges)
    while front.size:
        reached = (front[:, None] + steps).ravel()
        front = np.unique(reached[left[reached]])
        edges[front], left[front] = True, False
    return edges.reshape(-1, width)[1:-1, 1:-1]


def canny(
    pixels: UInt8[np.ndarray, "y x c"], low: float | int, high: float | int
) -> Bool[np.ndarray, "y x"]:
    """Edges of a picture of one or three channels.

    Args:
        low: a gradient above this is part of an edge that a gradient above `high` begins.
        high: see `low`; both on the scale of |d/dx| + |d/dy|, 0 to 2040.
    """
    dx, dy = sobel(pixels)
    norm = np.abs(dx) + np.abs(dy)
    weak = (norm > np.floor(low)) & _ridges(dx, dy, norm)
    return _connected(weak & (norm > np.floor(high)), weak)


@dataclasses.dataclass(frozen=True)
class Edges:
    """`canny` as a filter of RGB frames: edges are white, the rest is black."""

    low: float | int
    high: float | int

    def __post_init__(self):
        """Raises a ValueError for thresholds that are out of order or out of range."""
        if not 0 <= self.low <= self.high <= HIGHEST:
            raise ValueError(
                f"low={self.low:g}, high={self.high:g}: thresholds are due with "
                f"0 <= low <= high <= {HIGHEST}"
            )

    def __call__(self, pixels: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "y x 3"]:
        """One frame."""
        edges = canny(pixels, self.low, self.high)
        return np.repeat(edges[..., None].astype(np.uint8) * 255, 3, axis=2)
