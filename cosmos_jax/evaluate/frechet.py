"""Frechet distance between features of generated and of real video, by a network of the user's.

Of an image network's features of frames it is FID, of a video network's features of clips FVD. The
network is a function: uint8 `[n y x 3]` frames, or `[n f y x 3]` clips, to features `[n d]`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

Features = Callable[[np.ndarray], Any]

BATCH = 16


def distance(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> float:
    """|mean difference|^2 + tr(A + B - 2 (A B)^(1/2)) of the covariances A and B.

    Source: Heusel et al., 2017. With fewer rows than columns a covariance lacks ranks, and the
    distance is larger than that of many samples.

    Raises:
        ValueError: fewer than two rows, or values that are not finite.
    """
    for rows in (first, second):
        if len(rows) < 2:
            raise ValueError(
                f"a Frechet distance needs at least 2 rows of features, not {len(rows)}"
            )
        if not np.isfinite(rows).all():
            raise ValueError("features that are not finite numbers have no Frechet distance")
    shift = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    a, b = (
        np.atleast_2d(np.cov(rows.astype(np.float64), rowvar=False)) for rows in (first, second)
    )
    root = _root(a)
    mixed = np.linalg.eigvalsh(root @ b @ root)  # those of A B
    both = np.sqrt(np.clip(mixed, 0, None)).sum()
    return float(max(shift @ shift + np.trace(a) + np.trace(b) - 2 * both, 0.0))


def _root(a: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(a)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def load(source: str, axes: int) -> Features:
    """The feature network.

    Args:
        source: a file of `jax.export.Exported.serialize`, or "package.module:function".
        axes: 4 for frames, 5 for clips.

    Raises:
        ValueError: neither, or an exported function of another input.
    """
    if not Path(source).is_file():
        if ":" not in source:
            raise ValueError(f"--features={source}: no such file, and not package.module:function")
        from cosmos_jax import build

        return build.load(source, "--features")
    from jax import export

    try:
        exported = export.deserialize(bytearray(Path(source).read_bytes()))
    except ImportError as error:
        raise ValueError(
            f"{source} needs flatbuffers: pip install 'cosmos_jax[evaluate]'"
        ) from error
    except Exception as error:  # whatever flatbuffers and jax say of other bytes
        raise ValueError(
            f"{source} is not a function that jax.export serialized for this jax: {error}"
        ) from error
    shapes = exported.in_avals
    if len(shapes) != 1 or len(shapes[0].shape) != axes or shapes[0].dtype != np.uint8:
        raise ValueError(
            f"{source} takes {', '.join(map(str, shapes))}; due is one uint8 array of {axes} axes"
        )
    return exported.call


def features(network: Features, pieces: np.ndarray, source: str) -> Float[np.ndarray, "n d"]:
    """Features of frames or clips, at most `BATCH` at a time.

    Raises:
        ValueError: the network refuses them, or gives anything but one row for each.
    """
    rows = []
    for begin in range(0, len(pieces), BATCH):
        batch = pieces[begin : begin + BATCH]
        try:
            row = np.asarray(network(batch), np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source} does not take uint8 {batch.shape}: {error}") from error
        if row.ndim != 2 or len(row) != len(batch):
            raise ValueError(f"{source} made {row.shape} of {len(batch)} inputs, not [n d]")
        rows.append(row)
    return np.concatenate(rows)
