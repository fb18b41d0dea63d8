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
    where = weight_map(path)
    names = sorted(set(where.values()))
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise ValueError(f"{path.parent}: of {len(names)} files these are missing: {missing}")
    files = {name: _open_file(path.parent / name) for name in names}
    if absent := [key for key, name in where.items() if key not in files[name]]:
        raise ValueError(f"{path} names tensors that its files do not hold: {absent}")
    # What the index leaves out is there all the same: let the reader of the tensors judge.
    everything = {key: tensor for name in names for key, tensor in files[name].items()}
    return {key: files[name][key] for key, name in where.items()} | everything


def weight_map(path: Path) -> dict[str, str]:
    """An index: the file that each tensor lies in, a file beside the index.

    Raises:
        ValueError: it is no index, or names files elsewhere.
    """
    try:
        where = json.loads(path.read_text("utf-8"))["weight_map"]
        elsewhere = [name for name in where.values() if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no index of safetensors files") from error
    if elsewhere:
        raise ValueError(f"{path} names {elsewhere[0]}, which is not beside it; refused")
    return where


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
            header.pop("__metadata__", None)
            entries = {
                key: (
                    entry["dtype"],
                    tuple(map(int, entry["shape"])),
                    *map(int, entry["data_offsets"]),
                )
                for key, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise cut from error
    tensors = {}
    for key, (name, shape, begin, end) in entries.items():
        if name not in TYPES:
            raise ValueError(f"{path}: {key} is of type {name}, which is not known here")
        tensor = _tensor(path, shape, TYPES[name], 8 + length + begin)
        sound = min(begin, *shape, 0) == 0 and end - begin == tensor.nbytes
        if not sound or 8 + length + end > size:
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
    # The widest numbers first, so that all are aligned; the header keeps the order of the keys.
    placed = sorted(tensors, key=lambda key: -tensors[key].dtype.itemsize)
    spans = {}
    for key in placed:
        spans[key] = [position, position + tensors[key].nbytes]
        position += tensors[key].nbytes
    for key, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise ValueError(f"safetensors files hold no {tensor.dtype} ({key})")
        header[key] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": spans[key],
        }
    data = json.dumps(header).encode("utf-8")
    data += b" " * (-len(data) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        for key in placed:
            for piece in pieces(tensors[key]):
                file.write(piece)
