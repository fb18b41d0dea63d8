"""A file of reference numbers, and the rows of a comparison with one."""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FLOAT32 = 2e-4
"""Largest absolute error of outputs and activations in float32; they are about 1 in size."""

BFLOAT16 = 5e-2
"""Largest rms error in bfloat16 as a part of the reference's rms; rounding alone makes 1e-2 in the
video network and 3e-2 in a small autoencoder."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How the comparisons compute.

    Attributes:
        dtype: compute dtype of networks, "float32" or "bfloat16".
        attention: backend of the video network's attention (`models.attention.BACKENDS`).
        root: folder of the data sets' folders; None: the folder of the file.
    """

    dtype: str = "float32"
    attention: str = "xla"
    root: Path | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: the array.
        max_error: largest absolute error.
        rms_error: its root mean square.
        limit: largest error that is good.
        measure: which of the two errors has the limit, "max" or "rms".
    """

    what: str
    max_error: float
    rms_error: float
    limit: float
    measure: str = "max"

    @property
    def ok(self) -> bool:
        """Whether the error is within its limit; NaN never is."""
        return (self.max_error if self.measure == "max" else self.rms_error) <= self.limit


class Golden:
    """Arrays of a file by name, without a prefix. Whatever is never asked for can be listed.

    Attributes:
        path: the file.
        arrays: all of its arrays by full name.
        skipped: in words, what the file says that nothing here computes.
    """

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray], prefix: str = ""):
        self.path, self.arrays, self.prefix = path, arrays, prefix
        self.skipped: list[str] = []
        self._read: set[str] = set()

    @classmethod
    def load(cls, path: Path) -> "Golden":
        """Reads a file.

        Raises:
            ValueError: it is not there, is no .npz archive, or is damaged.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is not an .npz archive, or it is cut off")
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(path, dict(file))
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    def under(self, prefix: str) -> "Golden":
        """The same file, of whose arrays those under a longer prefix are seen."""
        part = Golden(self.path, self.arrays, self.prefix + prefix)
        part.skipped, part._read = self.skipped, self._read
        return part

    def names(self, prefix: str = "") -> list[str]:
        """Names of the arrays under a prefix, without it."""
        start = self.prefix + prefix
        return [key[len(start) :] for key in self.arrays if key.startswith(start)]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        key = self.prefix + name
        if key not in self.arrays:
            raise ValueError(f"{self.path}: the array {key} is missing")
        self._read.add(key)
        return self.arrays[key]

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays under a prefix, by their names without it."""
        return {name: self[prefix + name] for name in self.names(prefix)}

    def json(self, name: str) -> Any:
        """What is written in an array of one string."""
        return json.loads(str(self[name]))

    def not_compared(self) -> list[str]:
        """The arrays that nothing asked for, and `skipped`."""
        return [key for key in self.arrays if key not in self._read] + self.skipped


def by_view(x: np.ndarray, views: int) -> np.ndarray:
    """An array [b c (v t) h w] of the reference as `b v t h w c`.

    Raises:
        ValueError: the frames are not those of so many views.
    """
    if x.ndim != 5 or x.shape[2] % views:
        raise ValueError(f"an array of shape {x.shape} is not [B, C, {views} views x T, H, W]")
    b, c, vt, h, w = x.shape
    return np.moveaxis(x.reshape(b, c, views, vt // views, h, w), 1, -1)


def frame_mask(mask: np.ndarray, views: int) -> np.ndarray:
    """A mask [b 1 (v t) h w] of the reference as `b v t`.

    Raises:
        ValueError: it is not the same all over a frame.
    """
    mask = by_view(mask, views)[..., 0]
    if np.any(mask != mask[..., :1, :1]):
        raise ValueError("a condition mask that changes within a frame is not supported")
    return mask[..., 0, 0]


def check_options(given: Mapping[str, Any], known: Collection[str], what: str) -> None:
    """Raises a ValueError where options are given that are not known."""
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"unknown options of {what}: {', '.join(unknown)}")


def compare(
    what: str,
    ours: Any,
    theirs: Any,
    limit: float,
    measure: str = "max",
    scale: Any = 1.0,
) -> Row:
    """The row of one array. Errors are divided by `scale` first; other shapes never pass."""
    ours, theirs = np.asarray(ours).astype(np.float64), np.asarray(theirs).astype(np.float64)
    if ours.shape != theirs.shape:
        text = f"{what}: shape {ours.shape}, not {theirs.shape}"
        return Row(text, np.nan, np.nan, limit, measure)
    with np.errstate(invalid="ignore"):  # infinity less infinity: NaN, which does not pass
        error = np.abs((ours - theirs) / scale)
    return Row(what, float(error.max(initial=0)), rms(error), limit, measure)


def close(what: str, ours: Any, theirs: Any, dtype: str) -> Row:
    """The row of an output or an activation that was computed in `dtype`."""
    if dtype == "float32":
        return compare(what, ours, theirs, FLOAT32)
    return compare(what, ours, theirs, BFLOAT16 * rms(np.asarray(theirs)), "rms")


def rms(x: np.ndarray) -> float:
    """Root mean square, 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if x.size else 0.0
