"""safetensors files: one, or several with an index."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from converters.stored import Stored, pieces

INDEX = ".safetensors.index.json"
TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in TYPES.items()}


def open_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a file, of the files of an index, or of a folder that holds either.

    Raises:
        ValueError: nothing of that kind; a file that is missing, cut short or damaged.
    """
    if path.is_dir():
        found = sorted(path.glob(f"*{INDEX}")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise ValueError(
                f"{path} holds {len(found)} safetensors files and no index of them; name one"
            )
        path = found[0]
    return _open_index(path) if path.name.endswith(INDEX) else _open_file(path)


def _open_index(path: Path) -> dict[str, Stored]:
    where: dict[str, str] = json.loads(path.read_text("utf-8"))["weight_map"]
    names = sorted(set(where.values()))
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise ValueError(f"{path.parent}: of {len(names)} files these are missing: {missing}")
    files = {name: _open_file(path.parent / name) for name in names}
    if absent := [key for key, name in where.items() if key not in files[name]]:
        raise ValueError(f"{path} names tensors that its files do not hold: {absent}")
    return {key: files[name][key] for key, name in where.items()}


def _open_file(path: Path) -> dict[str, Stored]:
    size = path.stat().st_size if path.is_file() else -1
    cut = ValueError(f"{path} ({size} bytes) is missing, cut short or damaged; fetch it again")
    if size < 8:
        raise cut
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length + 8 > size:
            raise cut
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise cut from None
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        begin, end = (8 + length + i for i in entry["data_offsets"])
        if entry["dtype"] not in TYPES:
            raise ValueError(f"{path}: {key} is of type {entry['dtype']}, which is not known here")
        shape, dtype = tuple(entry["shape"]), TYPES[entry["dtype"]]
        tensor = _tensor(path, shape, dtype, begin)
        if end > size or end - begin != tensor.nbytes:
            raise cut
        tensors[key] = tensor
    return tensors


def _tensor(path: Path, shape: tuple[int, ...], dtype: np.dtype, begin: int) -> Stored:
    def read() -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, dtype)
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        held = np.asarray(np.memmap(path, np.uint8, "r", begin, (count,)))
        return held.view(dtype).reshape(shape)

    return Stored(shape, dtype, read)


def write_safetensors(path: Path, tensors: Mapping[str, Stored], about: Mapping[str, str]) -> None:
    """Writes one file, one tensor in memory at a time; `about` is its metadata.

    Raises:
        ValueError: a dtype that the format does not have.
    """
    header: dict[str, Any] = {"__metadata__": dict(about)} if about else {}
    position = 0
    for key, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise ValueError(f"safetensors files hold no {tensor.dtype} ({key})")
        span = [position, position + tensor.nbytes]
        header[key] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": span,
        }
        position = span[1]
    data = json.dumps(header).encode("utf-8")
    data += b" " * (-len(data) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        for tensor in tensors.values():
            for piece in pieces(tensor):
                file.write(piece)
