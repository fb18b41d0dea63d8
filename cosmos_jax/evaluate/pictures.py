"""Numbers of frames by themselves and against the true ones, from the standard definitions."""

import numpy as np
from jaxtyping import Float, Float32, UInt8

from cosmos_jax.prepare import blur_filter

Frames = UInt8[np.ndarray, "f y x 3"]
Others = UInt8[np.ndarray, "_ _ _ 3"]
"""Frames whose shape is checked."""

PEAK = 255
RADIUS = 5  # of the 11x11 window
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def luma(frames: Frames) -> Float32[np.ndarray, "f y x"]:
    """Brightness in levels, by the weights of ITU-R BT.601."""
    return frames @ np.array([0.299, 0.587, 0.114], np.float32)


def psnr(frames: Frames, true: Others) -> Float[np.ndarray, "f"]:
    """Peak signal to noise ratio of each frame, in dB; inf where it equals the true one.

    Raises:
        ValueError: shapes differ.
    """
    check_same(frames, true)
    mse = [np.square(a.astype(np.int32) - b).mean() for a, b in zip(frames, true)]
    with np.errstate(divide="ignore"):
        return 10 * np.log10(PEAK**2 / np.array(mse))


def ssim(frames: Frames, true: Others) -> Float[np.ndarray, "f"]:
    """Structural similarity of each frame: mean over pixels and channels, 1 for equal frames.

    A Gaussian window of 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance; windows
    that reach beyond the picture are left out. Source: Wang et al., 2004.

    Raises:
        ValueError: shapes differ, or frames are smaller than the window.
    """
    check_same(frames, true)
    if min(frames.shape[1:3]) < 2 * RADIUS + 1:
        y, x = frames.shape[1:3]
        raise ValueError(f"SSIM has a window of 11x11 pixels; frames of {y}x{x} are smaller")
    pairs = zip(frames, true)
    return np.array(
        [np.mean([_similarity(a[..., c], b[..., c]) for c in range(3)]) for a, b in pairs]
    )


def _similarity(a: UInt8[np.ndarray, "y x"], b: UInt8[np.ndarray, "y x"]) -> float:
    """SSIM of one channel. Levels are centred, so that float32 holds their squares well."""
    a, b = (p.astype(np.float32) / PEAK - np.float32(0.5) for p in (a, b))
    mean_a, mean_b = _window(a), _window(b)
    squares = _window(a * a + b * b) - mean_a * mean_a - mean_b * mean_b
    both = _window(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + np.float32(0.5), mean_b + np.float32(0.5)
    c1, c2 = np.float32(K1**2), np.float32(K2**2)
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return float(
        (top / ((mean_a * mean_a + mean_b * mean_b + c1) * (squares + c2))).mean(dtype=np.float64)
    )


def _window(plane: np.ndarray) -> np.ndarray:
    """Means weighted by the Gaussian window, where all of it lies within the picture."""
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for _ in range(2):  # along rows, then (of the transposed) along columns, and back
        size = len(plane) - 2 * RADIUS
        total = plane[RADIUS : RADIUS + size] * taps[RADIUS]
        for i in range(RADIUS):
            total += taps[i] * (plane[i : i + size] + plane[2 * RADIUS - i :][:size])
        plane = np.ascontiguousarray(total.T)
    return plane


def blurred(frames: Frames, strength: str) -> Frames:
    """Frames after the blur of blur controls; `strength` is a key of `blur_filter.STRENGTHS`.

    Raises:
        ValueError: frames too small for the blur.
    """
    blur = blur_filter.Blur(strength)
    return np.stack([blur(frame) for frame in frames])


def sharpness(frames: Frames) -> Float[np.ndarray, "f"]:
    """Variance of the Laplacian (4 neighbours) of each frame's brightness, in levels squared."""
    grey = luma(frames)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (around - 4 * inner).var(axis=(1, 2), dtype=np.float64)


def colour(frames: Frames) -> Float[np.ndarray, "f 3"]:
    """Mean red, green and blue of each frame, in levels."""
    return frames.mean(axis=(1, 2), dtype=np.float64)


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` frame numbers, evenly spread with both ends."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))


def check_same(frames: np.ndarray, true: np.ndarray) -> None:
    """Raises a ValueError where two videos do not have the same shape."""
    if frames.shape != true.shape:
        raise ValueError(
            f"videos of {frames.shape} and {true.shape} (frames, rows, columns, colours) cannot be "
            "compared frame by frame"
        )
