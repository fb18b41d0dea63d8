"""Folders of PyTorch's distributed checkpoints: `.metadata` and `__RANK_I.distcp` files.

Every tensor, or part of one, lies in a `.distcp` file as a little `.pt` archive.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters import pickle_out as out
from converters import torch_files
from converters.stored import Region, Stored, in_memory
from converters.unpickle import DCP, DTYPES, Unpickler

METADATA = ".metadata"
DATA = "__0_0.distcp"


def open_dcp(folder: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint folder, or of the `model` folder of an iteration.

    Raises:
        ValueError: no `.metadata`, or one with code; files that are missing; parts that do not
            cover a tensor.
    """
    if not (folder / METADATA).is_file() and (folder / "model").is_dir():
        folder = folder / "model"
    path = folder / METADATA
    if not path.is_file():
        raise ValueError(f"{folder} has no {METADATA}: it is not a whole distributed checkpoint")
    with path.open("rb") as file:
        metadata = Unpickler(file, str(path)).load()
    try:
        return _tensors(folder, path, metadata)
    except (AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is damaged or of an unknown version ({error})") from error


def _tensors(folder: Path, path: Path, metadata: Any) -> dict[str, Stored]:
    places: dict[tuple[str, tuple[int, ...]], Any] = {}
    for index, info in metadata.storage_data.items():
        places[index.fqn, tuple(getattr(index, "offset", None) or ())] = info
        if getattr(info, "transform_descriptors", None):
            raise ValueError(f"{folder}: {index.fqn} is compressed, which is not supported")
    files = sorted({info.relative_path for info in places.values()})
    if unsafe := [name for name in files if Path(name).name != name]:
        raise ValueError(f"{path} names {unsafe[0]}, which is outside the folder; refused")
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: of {len(files)} files these are missing: {missing}")
    sizes = {name: (folder / name).stat().st_size for name in files}
    ends = {info.relative_path: info.offset + info.length for info in places.values()}
    for info in places.values():
        ends[info.relative_path] = max(ends[info.relative_path], info.offset + info.length)
    if cut := [name for name in files if sizes[name] < ends[name]]:
        raise ValueError(f"{folder}: these files are cut short; fetch them again: {cut}")
    return {
        key: _tensor(folder, key, about, places)
        for key, about in metadata.state_dict_metadata.items()
    }


def _tensor(folder: Path, key: str, about: Any, places: Mapping[Any, Any]) -> Stored:
    if not hasattr(about, "chunks"):
        return in_memory(np.zeros(0, np.uint8))  # bytes, such as `_extra_state`
    shape, dtype = tuple(about.size), about.properties.state[0]
    parts = []
    for chunk in about.chunks:
        offsets = tuple(chunk.offsets)
        info = places.get((key, offsets))
        if info is None and len(about.chunks) == 1 and (key, ()) in places:
            info = places[key, ()]
        if info is None:
            raise ValueError(f"{folder}: the part of {key} at {offsets} is not stored")
        parts.append((offsets, tuple(chunk.sizes), info))
    _check_cover(shape, [(offsets, sizes) for offsets, sizes, _ in parts], f"{folder}: {key}")

    def part(sizes: tuple[int, ...], info: Any) -> np.ndarray:
        held = torch_files.load(folder / info.relative_path, info.offset, info.length)
        if not isinstance(held, Stored) or (held.shape, held.dtype) != (sizes, dtype):
            raise ValueError(f"{folder / info.relative_path} does not hold {dtype}{sizes} of {key}")
        return held.read()

    def read() -> np.ndarray:
        if len(parts) == 1:
            return part(parts[0][1], parts[0][2])
        whole = np.empty(shape, dtype)
        for offsets, sizes, info in parts:
            whole[tuple(slice(o, o + n) for o, n in zip(offsets, sizes))] = part(sizes, info)
        return whole

    return Stored(shape, dtype, read)


def _check_cover(shape: tuple[int, ...], parts: Any, where: str) -> None:
    """Parts inside the tensor, of as many numbers, no two of which meet, are the tensor."""
    covered = sum(int(np.prod(sizes, dtype=np.int64)) for _, sizes in parts)
    if covered != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{where}: its parts hold {covered} numbers, not {shape}")
    if any(len(sizes) != len(shape) or len(offsets) != len(shape) for offsets, sizes in parts):
        raise ValueError(f"{where}: its parts have other axes than {shape}")
    full = [part for part in parts if 0 not in part[1]]
    low = np.array([offsets for offsets, _ in full], np.int64).reshape(len(full), len(shape))
    high = low + np.array([sizes for _, sizes in full], np.int64).reshape(low.shape)
    if (low < 0).any() or (high > np.array(shape, np.int64)).any():
        raise ValueError(f"{where}: a part lies outside of {shape}")
    meet = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(-1)
    if meet.sum() > len(full):
        raise ValueError(f"{where}: its parts overlap")


def write_dcp(folder: Path, tensors: Mapping[str, Stored]) -> None:
    """Writes a checkpoint of one rank that `torch.distributed.checkpoint` reads."""
    folder.mkdir(parents=True)
    places = {}
    with (folder / DATA).open("wb") as file:
        for key, tensor in tensors.items():
            start = file.tell()
            part = Region(file, start)
            torch_files.write_archive(part, torch_files.describe(tensor, "0"), {key: tensor})
            file.seek(0, 2)
            places[key] = (start, file.tell() - start)
    (folder / METADATA).write_bytes(out.START + _metadata(tensors, places) + out.END)


def _metadata(tensors: Mapping[str, Stored], places: Mapping[str, tuple[int, int]]) -> bytes:
    def cls(name: str) -> bytes:
        return out.name(f"{DCP}.metadata", name)

    def size(shape: tuple[int, ...]) -> bytes:
        return out.called(out.name("torch", "Size"), out.integers(shape))

    names = {dtype: name for name, dtype in DTYPES.items()}
    about, stored, paths = {}, {}, {}
    for key, tensor in tensors.items():
        zeros = size((0,) * len(tensor.shape))
        properties = out.row(
            out.name("torch", names[tensor.dtype]),
            out.called(out.name("torch.serialization", "_get_layout"), out.text("torch.strided")),
            out.FALSE,
            out.called(cls("_MEM_FORMAT_ENCODING"), out.integer(0)),
            out.FALSE,
        )
        whole = size(tensor.shape)
        chunk = out.record(cls("ChunkStorageMetadata"), offsets=zeros, sizes=whole)
        about[out.text(key)] = out.record(
            cls("TensorStorageMetadata"),
            properties=out.built(cls("TensorProperties"), properties),
            size=whole,
            chunks=out.listed(chunk),
        )
        index = out.record(
            cls("MetadataIndex"), fqn=out.text(key), offset=zeros, index=out.integer(0)
        )
        stored[index] = out.record(
            out.name(f"{DCP}.filesystem", "_StorageInfo"),
            relative_path=out.text(DATA),
            offset=out.integer(places[key][0]),
            length=out.integer(places[key][1]),
        )
        paths[out.text(key)] = out.row(out.text(key))
    return out.record(
        cls("Metadata"),
        state_dict_metadata=out.mapping(about),
        planner_data=out.mapping(paths),
        storage_data=out.mapping(stored),
    )
