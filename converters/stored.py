"""Tensors that lie in files, and files that are written whole or not at all."""

import contextlib
import dataclasses
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PIECE = 1 << 26  # bytes that are written at a time


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor that lies in a file, or can be made.

    Attributes:
        shape: known without reading.
        dtype: known without reading; bfloat16 is that of ml_dtypes.
        read: gives the numbers; a view of a memory map where the file allows it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def in_memory(array: Any) -> Stored:
    """An array as `Stored`."""
    array = np.asarray(array)
    return Stored(array.shape, array.dtype, lambda: array)


def is_float(dtype: Any) -> bool:
    """Whether numbers of this dtype may be rounded to another float."""
    return np.dtype(dtype) == BFLOAT16 or np.issubdtype(dtype, np.floating)


def cast(tensor: Stored, dtype: Any) -> Stored:
    """The tensor in another float dtype, converted when it is read; integers stay."""
    if not is_float(tensor.dtype) or tensor.dtype == dtype:
        return tensor
    return Stored(tensor.shape, np.dtype(dtype), lambda: tensor.read().astype(dtype))


def pieces(tensor: Stored) -> Iterator[memoryview]:
    """The tensor's bytes, C order and little endian, a bounded piece at a time."""
    array = tensor.read()
    if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
        raise ValueError(
            f"a tensor of {tensor.dtype}{tensor.shape} was read as {array.dtype}{array.shape}"
        )
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE].data


@contextlib.contextmanager
def replaced(target: Path, nbytes: int, overwrite: bool = False) -> Iterator[Path]:
    """Gives a draft path beside `target`, which takes its place at the end.

    A failure, an interrupt too, deletes the draft: nothing half-written has the target's name.

    Args:
        target: a file or a folder that is to be.
        nbytes: how many bytes will be written; asked of the disk before anything is.
        overwrite: replaces what is there.

    Raises:
        ValueError: the target exists, or the disk has no room or runs out of it.
    """
    target = target.absolute()
    if target.exists() and not overwrite:
        raise ValueError(f"{target} exists already; give another --target, or --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(target.parent).free) < nbytes:
        raise ValueError(
            f"{target.parent} has {free / 2**30:.1f} GiB free and {nbytes / 2**30:.1f} GiB are to "
            "be written; make room"
        )
    draft = target.with_name(f".{target.name}.draft{os.getpid()}")
    remove(draft)  # of a process that was killed
    try:
        yield draft
        _put(draft, target)
    except (OSError, ValueError) as error:
        if _code(error) not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"{target.parent} is full; nothing of {target.name} is left") from error
    finally:
        remove(draft)


def _code(error: OSError | ValueError) -> int | None:
    """The operating system's number of an error, also of tensorstore's ValueErrors."""
    told = re.search(r"os_error_code='(\d+)'", str(error))
    return int(told[1]) if told else getattr(error, "errno", None)


def _put(draft: Path, target: Path) -> None:
    """Renames over what is there; a folder must go aside first, and comes back on failure."""
    if not target.is_dir():
        draft.replace(target)
        return
    aside = target.with_name(f".{target.name}.aside{os.getpid()}")
    target.rename(aside)
    try:
        draft.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Region:
    """A part of a file as a file of its own, from `start`; for the archives inside one file."""

    def __init__(self, file: BinaryIO, start: int, length: int | None = None):
        self._file, self._start, self._length = file, start, length
        file.seek(start)

    def read(self, n: int = -1) -> bytes:
        """Reads up to n bytes, not beyond the part."""
        if self._length is not None:
            left = max(self._length - self.tell(), 0)
            n = left if n < 0 else min(n, left)
        return self._file.read(n)

    def write(self, data: Any) -> int:
        """Writes at the position."""
        return self._file.write(data)

    def tell(self) -> int:
        """The position in the part."""
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves the position; from the end only where the part has one."""
        if whence == 2 and self._length is not None:
            offset, whence = self._length + offset, 0
        if whence == 0 and offset < 0:
            raise OSError("before the start")
        base = self._start if whence == 0 else 0
        return self._file.seek(base + offset, whence) - self._start

    def seekable(self) -> bool:
        """Always."""
        return True

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()
