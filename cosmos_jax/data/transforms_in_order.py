"""The resize that truncates: it adds in torch's order, at three times the cost of a product.

Truncation shows the last bit of a sum wherever the exact result is a whole number.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from cosmos_jax.data.transforms import Frames, Size, filter_matrix, reach

_F32 = np.float32


class _Tap(NamedTuple):
    """The k-th tap of all filters of an axis: of each output, the input, its weight and its way."""

    inputs: np.ndarray
    weights: np.ndarray
    fused: np.ndarray


@functools.lru_cache(maxsize=64)
def _taps(n_in: int, n_out: int) -> tuple[_Tap, ...]:
    """The bilinear filters tap by tap, and which taps torch 2.13's compiled CPU kernel fuses.

    After the first tap it multiplies in groups of four and then adds; what is left is fused.
    """
    matrix = filter_matrix(n_in, n_out, cubic=False)
    _, low, high = reach(n_in, n_out, radius=1)
    grouped = (high - low - 1) // 4 * 4
    taps = []
    for k in range((high - low).max()):
        inputs = np.minimum(low + k, n_in - 1)
        weights = np.where(low + k < high, matrix[np.arange(n_out), inputs], _F32(0))
        taps.append(_Tap(inputs, weights, k > grouped))
    return tuple(taps)


def _filter_in_order(
    planes: Float32[np.ndarray, "3 y x"], n_out: int, axis: int
) -> Float32[np.ndarray, "3 h w"]:
    """Filters one axis, adding tap after tap as torch does.

    The product of two float32 is exact in float64: a fused tap rounds its sum only.
    """
    total = np.zeros([n_out if i == axis else n for i, n in enumerate(planes.shape)], np.float32)
    for tap in _taps(planes.shape[axis], n_out):
        weights, fused = (a.reshape([-1 if i == axis else 1 for i in range(3)]) for a in tap[1:])
        product = np.multiply(np.take(planes, tap.inputs, axis), weights, dtype=np.float64)
        if not fused.all():
            product = np.where(fused, product, product.astype(np.float32))
        np.add(total, product, out=total, dtype=np.float64, casting="same_kind")
    return total


def stretch(frames: Frames, size: Size) -> UInt8[np.ndarray, "f h w 3"]:
    """See `transforms.stretch_truncated`."""
    out = np.empty((len(frames), *size, 3), np.uint8)
    for frame, pixels in zip(frames, out, strict=True):
        planes = frame.transpose(2, 0, 1).astype(np.float32) / _F32(255)
        planes = _filter_in_order(_filter_in_order(planes, size[1], axis=2), size[0], axis=1)
        pixels[:] = (planes * _F32(255)).transpose(1, 2, 0)
    return out
