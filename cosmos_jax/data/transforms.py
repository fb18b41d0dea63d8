"""Resize, crop and pad rules for uint8 frames, each a named function `(frames, size) -> frames`.

A resize filters columns, then rows, with the antialiased filters of
`torch.nn.functional.interpolate(antialias=True)`. Scale, centres and weights are worked out in
float32 as there: in float64 they move the result by up to 0.01 of 255, enough to change what
rounding and truncation give. Rules that round apply the filters as matrix products; the rule that
truncates adds in torch's order instead (`transforms_in_order`).
"""

import functools
import importlib
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

Frames = UInt8[np.ndarray, "f y x 3"]
Size = tuple[int, int]
"""(rows, columns)."""

_F32 = np.float32


def _triangle(d: np.ndarray) -> np.ndarray:
    return np.maximum(_F32(1) - d, _F32(0))


def _cubic(d: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5, the antialiased bicubic of torch and PIL."""
    near = (_F32(1.5) * d - _F32(2.5)) * d * d + _F32(1)
    far = ((d - _F32(5)) * d + _F32(8)) * d * _F32(-0.5) + _F32(2)
    return np.where(d < 1, near, np.where(d < 2, far, _F32(0)))


def reach(n_in: int, n_out: int, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output sample: the centre of its filter, and the inputs `low : high` under it."""
    scale = _F32(n_in) / _F32(n_out)
    support = _F32(radius) * max(scale, _F32(1))  # shrinking widens the filter: it antialiases
    centre = (scale * (np.arange(n_out) + 0.5)).astype(_F32)
    low = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + support + 0.5).astype(np.int64), n_in)
    return centre, low, high


def filter_matrix(n_in: int, n_out: int, cubic: bool) -> Float32[np.ndarray, "out in"]:
    """The matrix that resizes `n_in` samples to `n_out`; each row sums to 1."""
    kernel, radius = (_cubic, 2) if cubic else (_triangle, 1)
    centre, low, high = reach(n_in, n_out, radius)
    j = np.arange(n_in)
    offset = (j - low[:, None]).astype(_F32) + (low - centre).astype(_F32)[:, None]
    shrink = _F32(1) / max(_F32(n_in) / _F32(n_out), _F32(1))
    distance = np.abs((offset.astype(np.float64) + 0.5) * shrink).astype(_F32)
    inside = (j >= low[:, None]) & (j < high[:, None])
    weights = np.where(inside, kernel(distance), _F32(0))
    return weights / np.cumsum(weights, axis=1, dtype=_F32)[:, -1:]  # a sum in order


@functools.lru_cache(maxsize=64)
def _bands(
    n_in: int, n_out: int, first: int, count: int, cubic: bool, other: int
) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """Rows `first : first + count` of `filter_matrix` in blocks: (outputs, inputs, dense weights).

    A filter touches few inputs, so blocks along the diagonal hold all that is not zero. They are
    kept so small that OpenBLAS does each product (`other` is its third side) on the calling thread:
    its own threads, started by many reader threads at once, cost twenty times the product.
    """
    matrix = filter_matrix(n_in, n_out, cubic)[first : first + count]
    taps = 2 * (2 if cubic else 1) * max(n_in / n_out, 1)
    block = 32
    while block > 2 and block * (block * n_in / n_out + taps) * other > 2**18:
        block //= 2
    bands = []
    for start in range(0, count, block):
        rows = matrix[start : start + block]
        used = np.flatnonzero(rows.any(axis=0))
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(start, start + len(rows)), inputs, rows[:, inputs].copy()))
    return tuple(bands)


def _resample(
    frames: Frames, size: Size, *, cubic: bool = False, window: Size | None = None
) -> UInt8[np.ndarray, "f h w 3"]:
    """Resizes each frame to `size`, keeps the central `window` of it, rounds and clips."""
    f, y, x, _ = frames.shape
    h, w = window or size
    top, left = round((size[0] - h) / 2), round((size[1] - w) / 2)  # half to even, as torchvision
    over_x = _bands(x, size[1], left, w, cubic, y)
    over_y = _bands(y, size[0], top, h, cubic, w)
    out = np.empty((f, h, w, 3), np.uint8)
    wide = np.empty((3, y, w), np.float32)
    full = np.empty((3, h, w), np.float32)
    for frame, pixels in zip(frames, out, strict=True):  # one at a time: the planes stay in cache
        planes = frame.transpose(2, 0, 1).astype(np.float32)
        for outputs, inputs, weights in over_x:
            np.matmul(planes[:, :, inputs], weights.T, out=wide[:, :, outputs])
        for outputs, inputs, weights in over_y:
            np.matmul(weights, wide[:, inputs], out=full[:, outputs])
        np.rint(full, out=full)
        pixels[:] = np.clip(full, 0, 255, out=full).transpose(1, 2, 0)
    return out


def stretch(frames: Frames, size: Size) -> UInt8[np.ndarray, "f h w 3"]:
    """Straight to `size`, aspect ratio not kept: antialiased bilinear, rounded.

    Source: cosmos-transfer2.5's auto-multiview data set.
    """
    return frames if frames.shape[1:3] == size else _resample(frames, size)


def stretch_truncated(frames: Frames, size: Size) -> UInt8[np.ndarray, "f h w 3"]:
    """`stretch` on floats in [0, 1], then times 255 and TRUNCATED: half a level darker on average.

    Source: cosmos-predict2.5's VideoDataset, and the first step of the robotics data set.
    """
    if frames.shape[1:3] == size:
        return frames
    # Loaded where a recipe asks for it.
    return importlib.import_module("cosmos_jax.data.transforms_in_order").stretch(frames, size)


def cover(frames: Frames, size: Size) -> UInt8[np.ndarray, "f h w 3"]:
    """Keeps the aspect ratio: scaled (antialiased bilinear) until it covers `size`, centre cropped.

    The scaled size is rounded up, as in cosmos-predict2.5's inference.
    """
    y, x = frames.shape[1:3]
    if (y, x) == size:
        return frames
    factor = max(size[0] / y, size[1] / x)
    scaled = tuple(max(n, math.ceil(m * factor - 1e-6)) for n, m in zip(size, (y, x), strict=True))
    return _resample(frames, scaled, window=size)


def reflect_pad(frames: Frames, size: Size) -> UInt8[np.ndarray, "f h w 3"]:
    """Keeps the aspect ratio: scaled (antialiased bicubic) to fit in `size`, mirrored to fill it.

    [TRAP] The mirrored bars are trained on like any pixels: no mask marks them.

    Source: the last two steps of cosmos-transfer2.5's robotics data set, for video and control.

    Raises:
        ValueError: the bars would be wider than the picture that they mirror.
    """
    y, x = frames.shape[1:3]
    factor = min(size[0] / y, size[1] / x)
    scaled = (int(factor * y + 0.5), int(factor * x + 0.5))
    pad = [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(size, scaled, strict=True)]
    if any(max(p) >= m for p, m in zip(pad, scaled, strict=True)):
        raise ValueError(
            f"frames of {y}x{x} scaled to {scaled[0]}x{scaled[1]} cannot be mirrored out to "
            f"{size[0]}x{size[1]}; choose a size nearer to their aspect ratio"
        )
    if scaled != (y, x):
        frames = _resample(frames, scaled, cubic=True)
    return np.pad(frames, ((0, 0), *pad, (0, 0)), mode="reflect")


RESIZE_RULES: dict[str, Callable[[np.ndarray, Size], np.ndarray]] = {
    "cover": cover,
    "stretch": stretch,
    "stretch_truncated": stretch_truncated,
    "robotics": reflect_pad,
}
"""What `DataConfig.resize` names."""
