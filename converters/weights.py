"""Where weights come from and go to: published files, our checkpoints, our weights folders."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from converters import adapters, hub, networks, rules
from converters.networks import Network
from converters.stored import BFLOAT16, Stored, cast, is_float, pieces
from cosmos_jax import checkpoints
from cosmos_jax.models.adapters import Adapter
from cosmos_jax.types import Params

ABOUT = "weights.json"

Arrays = dict[str, Stored]
"""Our arrays by path, as in "params/blocks/mlp/up/kernel"."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights that can be read.

    Attributes:
        where: the source as it was given.
        network: what they are the weights of.
        sets: our arrays of each set: "regular", "ema", or "" where the file does not say.
        tensors: the reference's tensors of each set; empty for our own formats.
        others: tensors that belong to no set (the vision tower beside a language tower).
        adapted: the adapters that the kernels of `sets` have taken in, or None.
        step: finished steps of a checkpoint of ours.
    """

    where: str
    network: Network
    sets: dict[str, Arrays]
    tensors: dict[str, dict[str, Stored]]
    others: dict[str, Stored]
    adapted: adapters.Adapted | None = None
    step: int = 0

    @property
    def is_ours(self) -> bool:
        """Whether it is a checkpoint or weights folder of ours."""
        return not self.tensors

    def choose(self, which: str | None) -> str:
        """The set that is meant: the EMA where nothing is said and there is one.

        Raises:
            ValueError: a set that the source does not hold.
        """
        if which is None:
            return "ema" if "ema" in self.sets else next(iter(self.sets))
        if which in self.sets:
            return which
        if list(self.sets) == [""] or (list(self.sets) == ["regular"] and not self.is_ours):
            return next(iter(self.sets))  # a file with one set does not say which it is
        raise ValueError(f"{self.where} holds {list(self.sets)} weights, not {which}")


def open_source(source: str, network: Network | None = None) -> Source:
    """Opens weights, without reading their numbers.

    Args:
        source: a path or `hf://` name (`hub.open_tensors`), a workdir or checkpoint of
            run_train.py, or a weights folder.
        network: what they are to be the weights of; None: recognised.

    Raises:
        ValueError: nothing is there that is understood, or it does not fit the network.
    """
    path = Path(source)
    if not hub.is_remote(source) and path.is_dir():
        if (path / ABOUT).is_file():
            return _weights_folder(source, path, network)
        if (path / "checkpoints").is_dir() or checkpoints.complete_steps(path):
            return _checkpoint(source, checkpoints.locate(path), network)
        if (path / "record").is_dir():
            return _checkpoint(source, path.absolute(), network)
    try:
        tensors, others = networks.bare(hub.open_tensors(source))
        found = network or networks.recognise(next(iter(tensors.values())))
        sets = {name: networks.read(found, held) for name, held in tensors.items()}
    except ValueError as error:
        raise ValueError(error if source in str(error) else f"{source}: {error}") from error
    return Source(source, found, sets, tensors, others)


def _weights_folder(source: str, path: Path, network: Network | None) -> Source:
    about = json.loads((path / ABOUT).read_text("utf-8"))
    held = networks.from_options(about["network"], about["options"])
    if missing := [name for name in about["arrays"] if not (path / name).is_dir()]:
        raise ValueError(f"{source}: of {len(about['arrays'])} arrays these are missing: {missing}")
    arrays = {
        name: Stored(tuple(shape), np.dtype(dtype), functools.partial(_leaf, path / name, "array"))
        for name, (dtype, shape) in about["arrays"].items()
    }
    _check_network(source, held, network)
    return Source(source, held, {about["set"]: arrays}, {}, {})


def _checkpoint(source: str, path: Path, network: Network | None) -> Source:
    record = checkpoints.read_record(path)
    options = dict(record.model["network"])
    adapter = Adapter(**options.pop("adapter")) if "adapter" in options else None
    held = networks.from_options("a trained network", options)
    _check_network(source, held, network)
    still = checkpoints.frozen_path(path, record)
    fixed = {f"params/{k}": v for k, v in _item(still, "frozen").items()}
    fixed |= {f"constants/{k}": v for k, v in _item(still, "constants").items()}
    sets = {
        name: {f"params/{k}": v for k, v in _item(path, item).items()} | fixed
        for name, item in (("regular", "params"), ("ema", "ema"))
        if (path / item).is_dir()
    }
    if adapter is None:
        return Source(source, held, sets, {}, {}, step=record.step)
    parts = {k: {p: a for p, a in v.items() if adapters.is_part(p)} for k, v in sets.items()}
    others = [name for name in _item(path, "params") if not adapters.is_part(name)]
    adapted = adapters.Adapted(adapter, parts, others)
    sets = {name: adapters.merged(arrays, adapter) for name, arrays in sets.items()}
    return Source(source, held, sets, {}, {}, adapted, record.step)


def _check_network(source: str, held: Network, wanted: Network | None) -> None:
    """Raises a ValueError that names the first option in which two networks differ."""
    if wanted is None:
        return
    there, here = (json.loads(json.dumps(n.options)) for n in (held, wanted))
    for name in {**here, **there}:
        told = [d.get(name) for d in (there, here)]
        if told[0] != told[1]:
            raise ValueError(
                f"{source} holds weights of another network: {name} is {told[0]} there and "
                f"{told[1]} here"
            )


def _item(folder: Path, item: str) -> Arrays:
    held = traverse_util.flatten_dict(checkpoints.metadata(folder, item), sep="/")
    return {
        name: Stored(
            tuple(leaf.shape), np.dtype(leaf.dtype), functools.partial(_leaf, folder / item, name)
        )
        for name, leaf in held.items()
    }


def _leaf(folder: Path, name: str) -> np.ndarray:
    """One array of an Orbax item, alone."""
    wanted: Any = traverse_util.unflatten_dict({name: 0}, sep="/")
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        held = reader.restore(folder.absolute(), args=args)
    return traverse_util.flatten_dict(held, sep="/")[name]


def save(folder: Path, source: Source, which: str, arrays: Arrays) -> None:
    """Writes a weights folder: an Orbax checkpoint for each array, and a JSON file that names them.

    Orbax holds two copies of what it writes together, so arrays are written one after the other.
    """
    logging.getLogger("absl").addFilter(checkpoints.not_orbax)
    for name, array in arrays.items():
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
            held = {"array": np.ascontiguousarray(array.read())}
            writer.save((folder / name).absolute(), args=ocp.args.PyTreeSave(held))
    network = source.network
    about = {
        "network": network.name,
        "options": network.options,
        "set": which,
        "source": source.where,
        "arrays": {name: (str(a.dtype), a.shape) for name, a in arrays.items()},
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1), "utf-8")


def to_dtype(source: Source, which: str, dtype: str | None) -> Arrays:
    """The arrays of a set as bfloat16 ("bf16") or float32 ("fp32"); None: as they are.

    Raises:
        ValueError: float32 of a set that holds none: it would only look more exact than it is.
    """
    arrays = source.sets[which]
    if dtype is None:
        return arrays
    held = {str(a.dtype) for p, a in arrays.items() if p.startswith("params") and is_float(a.dtype)}
    if dtype == "fp32" and not held & {"float32", "float64"}:
        raise ValueError(
            f"{source.where} holds the {which or 'one set of'} weights as {', '.join(sorted(held))}"
            ", not as float32; ask for --dtype=bf16, or give a source with float32 weights"
        )
    wanted = {"bf16": BFLOAT16, "fp32": np.dtype(np.float32)}[dtype]
    return {path: cast(array, wanted) for path, array in arrays.items()}


def to_reference(source: Source, which: str, dtype: str | None, prefix: str) -> dict[str, Stored]:
    """The reference's tensors of a set, in `dtype`, under a prefix where its files have one."""
    arrays = to_dtype(source, which, dtype)
    tensors = rules.write(source.network.table, arrays)
    types = {a.dtype for a in arrays.values() if is_float(a.dtype)}
    if len(types) == 1:  # what is made again gets the type of the rest
        tensors = {key: cast(tensor, *types) for key, tensor in tensors.items()}
    prefix = prefix if source.network.prefixed else ""
    return {k if networks.is_beside(k) else prefix + k: t for k, t in tensors.items()}


def checksum(arrays: Mapping[str, Stored]) -> str:
    """A hash of names, types, shapes and bits, in whatever order they lie."""
    lines = []
    for name in sorted(arrays):
        held, array = hashlib.sha256(), arrays[name]
        for piece in pieces(array):
            held.update(piece)
        lines.append(f"{name} {array.dtype} {list(array.shape)} {held.hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def fingerprint(arrays: Mapping[str, Stored]) -> str:
    """A hash of names, types, shapes and the ends of every array: quick, and other for other
    training."""
    held = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        flat = array.read().reshape(-1)
        ends = np.concatenate([flat[:64], flat[-64:]])
        held.update(f"{name} {array.dtype} {list(array.shape)}".encode() + ends.tobytes())
    return held.hexdigest()[:16]


def place(arrays: Arrays, wanted: Params) -> tuple[Params, str]:
    """Arrays onto devices, one after the other, in the types and placements of `wanted`.

    Args:
        arrays: by path.
        wanted: a tree of `jax.ShapeDtypeStruct` with shardings, or parts of one (`None` leaves).

    Returns:
        The tree, and the `checksum` of the arrays as they were stored.
    """
    lines = []

    def put(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        array = np.ascontiguousarray(arrays[name].read())
        held = hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
        lines.append(f"{name} {array.dtype} {list(array.shape)} {held}")
        return jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index: array[index].astype(leaf.dtype)
        )

    tree = jax.tree_util.tree_map_with_path(put, wanted)
    return tree, hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
