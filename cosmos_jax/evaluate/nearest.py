"""How near frames are to the training set's: what is nearer than new real video was memorised."""

import numpy as np
from jaxtyping import Float32, UInt8

from cosmos_jax.data import transforms

Thumbnails = Float32[np.ndarray, "n p"]

SIZE = (18, 32)  # rows, columns
BLOCK = 1024  # training frames compared at a time


def thumbnails(frames: UInt8[np.ndarray, "f y x 3"]) -> Thumbnails:
    """Frames stretched to `SIZE` (antialiased bilinear), as rows of levels."""
    return transforms.stretch(frames, SIZE).reshape(len(frames), -1).astype(np.float32)


def distances(queries: Float32[np.ndarray, "q p"], train: Thumbnails) -> Float32[np.ndarray, "q"]:
    """Of each query, the root mean square difference to the nearest training frame, in levels.

    Raises:
        ValueError: no training frames.
    """
    if not len(train):
        raise ValueError("no training frames to compare with")
    best = np.full(len(queries), np.inf, np.float32)
    for begin in range(0, len(train), BLOCK):
        block = train[begin : begin + BLOCK]
        for i, query in enumerate(queries):
            best[i] = min(best[i], np.square(block - query).mean(axis=1).min())
    return np.sqrt(best)
