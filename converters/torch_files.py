"""PyTorch's `.pt` files, read and written without PyTorch and without running their pickles.

The format is a zip archive that holds a pickle (`data.pkl`) and each storage as an uncompressed
entry, so tensors are views of a memory map. Files from before PyTorch 1.6, which are no archives,
are read too, and the parameters of TorchScript archives.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from converters import pickle_out as out
from converters.stored import Region, Stored, in_memory, pieces
from converters.unpickle import STORAGES, Module, Unpickler

LEGACY = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before 1.6
ALIGN = 64
WRAPPERS = ("model", "state_dict", "module")
STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}


class _Storage(NamedTuple):
    dtype: np.dtype
    numel: int
    place: Callable[[], tuple[int, int]]  # where its bytes begin in the file, and how many


def open_torch(path: Path) -> dict[str, Stored]:
    """The tensors of a `.pt` file by key, memory-mapped.

    Raises:
        ValueError: the file is cut short, damaged, no weights, or holds code.
    """
    held = _flat(load(path), str(path))
    if not held:
        raise ValueError(f"{path} holds no tensors")
    return held


def load(path: Path, start: int = 0, length: int | None = None) -> Any:
    """What a `.pt` file, or a part of a file, holds, with a `Stored` for each tensor.

    Raises:
        ValueError: see `open_torch`.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    size = path.stat().st_size if length is None else length
    with path.open("rb") as file:
        part: Any = Region(file, start, size)
        head = part.read(4)
        part.seek(0)
        if head[:2] == b"PK":
            return _load_archive(path, part, start)
        if head[:1] == b"\x80":
            return _load_legacy(path, part, start, size)
    raise ValueError(f"{path} ({size} bytes) is no .pt file; was the download cut, or a web page?")


def _mapped(path: Path) -> Callable[..., Stored]:
    """The function that makes tensors from storages of a file."""
    whole: list[np.ndarray] = []

    def tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> Stored:
        shape, steps = tuple(size), tuple(stride)
        last = offset + sum((n - 1) * s for n, s in zip(shape, steps))
        empty = 0 in shape
        sound = len(shape) == len(steps) and offset >= 0 and min((*shape, *steps, 0)) == 0
        if not sound or (not empty and last >= storage.numel):
            raise ValueError(f"{path} is damaged: a tensor lies outside its storage")

        def read() -> np.ndarray:
            if empty:
                return np.zeros(shape, storage.dtype)
            if not whole:
                whole.append(np.memmap(path, np.uint8, "r"))
            begin, nbytes = storage.place()
            if nbytes < storage.numel * storage.dtype.itemsize or begin + nbytes > whole[0].size:
                raise ValueError(f"{path} is cut short or damaged; fetch it again")
            width = storage.dtype.itemsize
            flat = np.asarray(whole[0])[begin + offset * width : begin + (last + 1) * width]
            steps_in_bytes = [s * width for s in steps]
            return np.lib.stride_tricks.as_strided(
                flat.view(storage.dtype), shape, steps_in_bytes, writeable=False
            )

        return Stored(shape, storage.dtype, read)

    return tensor


def _load_archive(path: Path, part: Any, start: int) -> Any:
    try:
        archive = zipfile.ZipFile(part)
    except (zipfile.BadZipFile, OSError, struct.error) as error:
        raise ValueError(
            f"{path} is cut short: its zip directory is missing; fetch the file again"
        ) from error
    try:
        pickled, sizes = _entries(path, archive, part, start)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error

    def storage(pid: tuple) -> _Storage:
        _, dtype, key, _, numel = pid[:5]
        if key not in sizes or sizes[key][1] < numel * dtype.itemsize:
            raise ValueError(f"{path} is damaged: storage {key} is missing or short")
        return _Storage(dtype, numel, lambda: sizes[key])

    return Unpickler(io.BytesIO(pickled), str(path), _mapped(path), storage).load()


def _entries(
    path: Path, archive: zipfile.ZipFile, part: Any, start: int
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The pickle, and where in the file each storage begins and how many bytes it has."""
    entries = {name.partition("/")[2]: name for name in archive.namelist()}
    if "data.pkl" not in entries:
        raise ValueError(f"{path} is a zip archive without data.pkl: no .pt file")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise ValueError(f"{path} was written on a big-endian machine, which is not supported")
    sizes = {}
    for info in archive.infolist():
        inner = info.filename.partition("/")[2]
        if inner.startswith("data/"):
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{path} is compressed, which .pt files never are")
            part.seek(info.header_offset)
            header = part.read(30)
            if header[:4] != b"PK\x03\x04":
                raise ValueError(f"{path} is damaged at {info.filename}; fetch it again")
            skip = sum(struct.unpack("<HH", header[26:30]))
            sizes[inner[5:]] = (start + info.header_offset + 30 + skip, info.file_size)
    return archive.read(entries["data.pkl"]), sizes


def _load_legacy(path: Path, part: Any, start: int, size: int) -> Any:
    file = io.BufferedReader(_Raw(part))
    places: dict[str, tuple[int, int]] = {}
    widths: dict[str, int] = {}

    def storage(pid: tuple) -> _Storage:
        _, dtype, key, _, numel = pid[:5]
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError(f"{path} holds views of storages, which is not supported")
        if widths.setdefault(key, dtype.itemsize) != dtype.itemsize:
            raise ValueError(f"{path} is damaged: storage {key} is of two types")
        return _Storage(dtype, numel, lambda: places[key])

    def load() -> Any:
        return Unpickler(file, str(path), _mapped(path), storage).load()

    if load() != LEGACY:
        raise ValueError(f"{path} is a pickle, but not of PyTorch weights")
    load()  # protocol
    machine = load()
    if not isinstance(machine, dict) or machine != {**machine, "little_endian": True}:
        raise ValueError(f"{path} was written on a big-endian machine, which is not supported")
    held, keys = load(), load()
    if not isinstance(keys, list) or sorted(widths) != sorted(map(str, keys)):
        raise ValueError(f"{path} is damaged: its storages are not those of its tensors")
    position = file.tell()
    for key in keys:
        file.seek(min(position, size))
        (numel,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        places[key] = (start + position + 8, numel * widths[key])
        position += 8 + numel * widths[key]
    if position > size:
        raise ValueError(f"{path} is cut short: {size} bytes of {position}; fetch it again")
    return held


class _Raw(io.RawIOBase):
    def __init__(self, part: Any):
        self._part = part

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._part.seek(offset, whence)

    def tell(self) -> int:
        return self._part.tell()

    def readinto(self, buffer: Any) -> int:
        data = self._part.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _flat(held: Any, where: str) -> dict[str, Stored]:
    """A state dict, out of a wrapper where there is one, with opaque entries as bytes."""
    if isinstance(held, Stored):
        return {"": held}
    if isinstance(held, Module):
        return dict(_walk(held, "", ()))
    if isinstance(held, (tuple, list)):
        held = dict(enumerate(held))
    if not isinstance(held, dict):
        raise ValueError(f"{where} holds a {type(held).__name__}, not a dict of tensors")
    if not any(isinstance(value, Stored) for value in held.values()):
        inner = [k for k in WRAPPERS if isinstance(held.get(k), dict)]
        if len(inner) != 1:
            raise ValueError(f"{where} holds no tensors at its top, but {sorted(map(str, held))}")
        counts = {key: _count(value) for key, value in held.items() if key != inner[0]}
        if aside := [f"{key} ({count} tensors)" for key, count in counts.items() if count]:
            print(f"{where}: {inner[0]} is read; left aside: {', '.join(aside)}", flush=True)
        held = held[inner[0]]
    return {str(key): _entry(value, f"{where}: {key}") for key, value in held.items()}


def _count(value: Any) -> int:
    """The tensors in nested dicts and lists, which may hold each other."""
    todo, seen, count = [value], set[int](), 0
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        count += isinstance(one, Stored)
        if isinstance(one, (dict, list, tuple)):
            todo += one.values() if isinstance(one, dict) else one
    return count


def _entry(value: Any, where: str) -> Stored:
    if isinstance(value, Stored):
        return value
    if isinstance(value, io.BytesIO):
        value = value.getvalue()
    if value is None or isinstance(value, bytes):
        return in_memory(np.frombuffer(value or b"", np.uint8))
    if not isinstance(value, (bool, int, float)):
        raise ValueError(f"{where} is no tensor but a {type(value).__name__}")
    return in_memory(np.asarray(value))


def _walk(module: Module, prefix: str, above: tuple[Module, ...]) -> Iterator[tuple[str, Stored]]:
    """The parameters, buffers and other tensors of a module; a module may refer to one above."""
    for name, value in vars(module).items():
        if isinstance(value, Stored):
            yield prefix + name, value
        elif isinstance(value, Module) and value is not module and value not in above:
            yield from _walk(value, f"{prefix}{name}.", (*above, module))


def write_torch(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Writes a dict of tensors that `torch.load` reads, one tensor in memory at a time.

    Raises:
        ValueError: a dtype that PyTorch does not have.
    """
    described = {out.text(k): describe(t, str(i)) for i, (k, t) in enumerate(tensors.items())}
    with path.open("wb") as file:
        write_archive(file, out.mapping(described), tensors)


def describe(tensor: Stored, storage: str) -> bytes:
    """The pickle of a whole storage as a tensor."""
    if tensor.dtype not in STORAGE_NAMES:
        raise ValueError(f"PyTorch files hold no {tensor.dtype}")
    numel = int(np.prod(tensor.shape, dtype=np.int64))
    stride = tuple(int(np.prod(tensor.shape[i + 1 :])) for i in range(len(tensor.shape)))
    kind = out.name("torch", STORAGE_NAMES[tensor.dtype])
    held = (out.text("storage"), kind, out.text(storage), out.text("cpu"), out.integer(numel))
    return out.called(
        out.name("torch._utils", "_rebuild_tensor_v2"),
        out.persistent(out.row(*held)),
        out.integer(0),
        out.integers(tensor.shape),
        out.integers(stride),
        out.FALSE,
        out.called(out.name("collections", "OrderedDict")),
    )


def write_archive(file: BinaryIO | Region, pickled: bytes, tensors: Mapping[str, Stored]) -> None:
    """Writes the archive of a pickle and its storages, numbered in order."""
    stream: Any = file
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (
            ("data.pkl", out.START + pickled + out.END),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
        for i, tensor in enumerate(tensors.values()):
            entry = zipfile.ZipInfo(f"archive/data/{i}")
            entry.file_size = tensor.nbytes
            wide = tensor.nbytes * 1.05 > zipfile.ZIP64_LIMIT  # then zipfile adds 20 bytes
            begin = stream.tell() + 30 + len(entry.filename) + 20 * wide
            fill = -(begin + 4) % ALIGN
            entry.extra = b"FB" + struct.pack("<H", fill) + bytes(fill)
            with archive.open(entry, "w", force_zip64=wide) as held:
                for piece in pieces(tensor):
                    held.write(piece)
