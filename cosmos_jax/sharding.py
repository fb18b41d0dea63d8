"""Mesh axes, the two tables that place arrays on them, and the functions that apply the tables.

The mesh has three axes. `data` and `fsdp` split the batch; `context` splits the latent frames of
every sample (or their rows, where the frames do not divide). Parameters, optimiser state and EMA
are split over `fsdp` and `context` together, as the reference uses the same ranks for both.

Activations keep their view, frame, row and column axes (`b v t h w d`) between operations. Tokens
are flattened only on a device's own shard, inside `jax.shard_map`: merging a split axis with an
unsplit one outside it makes the partitioner gather the whole activation.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

P = PartitionSpec
AnyMesh = Mesh | AbstractMesh  # an abstract one has sizes but no devices: shapes are traced on it
AXES = ("data", "fsdp", "context")
BATCH = ("data", "fsdp")
WEIGHTS = ("fsdp", "context")

PARAMETERS = (
    # Path regex (searched), and how the array is placed.
    (r"(^|/)(kernel|embedding|lora_down|lora_up)$", "split"),
    (r"(^|/)(bias|scale|lora_magnitude)$", "replicate"),
)
"""First match wins. A parameter that no row matches is an error."""


def make_mesh(data: int = 1, fsdp: int = 1, context: int = 1, devices: Sequence[Any] = ()) -> Mesh:
    """Makes the mesh; see `mesh_sizes`."""
    devices = list(devices) or jax.devices()
    grid = np.asarray(devices, dtype=object).reshape(mesh_sizes(data, fsdp, context, len(devices)))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_sizes(data: int, fsdp: int, context: int, devices: int) -> list[int]:
    """Sizes of the mesh's axes. One may be -1: it takes the devices that the others leave.

    Raises:
        ValueError: the sizes do not multiply to the number of devices; the message names both.
    """
    sizes = [data, fsdp, context]
    given = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise ValueError(f"mesh {dict(zip(AXES, sizes))}: sizes are at least 1, and one may be -1")
    if -1 in sizes and devices % given == 0:
        sizes[sizes.index(-1)] = devices // given
    if math.prod(sizes) != devices:
        raise ValueError(
            f"mesh {dict(zip(AXES, sizes))} needs {math.prod(s for s in sizes if s != -1)} devices "
            f"(or a multiple, with one axis -1) and there are {devices}; set "
            "config.mesh.data, .fsdp and .context so that they multiply to the number of devices"
        )
    return sizes


def axis_size(name: str) -> int:
    """Size of a mesh axis in the mesh set by `jax.set_mesh`; 1 where none is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[name]


def context_letter(t: int, h: int, context: int) -> str:
    """Which axis of a token grid `context` splits: frames "t" if they divide, else rows "h".

    Raises:
        ValueError: neither divides; the message lists the context sizes that fit.
    """
    for letter, size in (("t", t), ("h", h)):
        if size % context == 0:
            return letter
    fit = [n for n in range(1, max(t, h) + 1) if t % n == 0 or h % n == 0]
    raise ValueError(
        f"mesh axis context={context} divides neither the {t} latent frames nor the {h} patch "
        f"rows; context sizes that fit: {fit}"
    )


def activation_spec(shape: Sequence[int], axes: str, mesh: Any) -> PartitionSpec:
    """PartitionSpec of an activation whose axes are named by letters, as in "b v t h w d"."""
    letters = axes.split()
    if len(letters) != len(shape):
        raise ValueError(f"axes {axes!r} do not name the {len(shape)} axes of shape {tuple(shape)}")
    sizes = dict(zip(letters, shape))
    places: dict[str, Any] = {}
    if "b" in sizes and sizes["b"] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0:
        places["b"] = BATCH
    if {"t", "h"} <= sizes.keys():
        places[context_letter(sizes["t"], sizes["h"], mesh.shape["context"])] = "context"
    return P(*(places.get(letter) for letter in letters))


def constrain(x: jax.Array, axes: str) -> jax.Array:
    """States the placement of an activation; does nothing where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(x.shape, axes, mesh))


def gather(weight: jax.Array) -> jax.Array:
    """The whole of a split parameter on every device: the all-gather of fsdp, stated at its use."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return weight
    return jax.lax.with_sharding_constraint(weight, P())


def split_spec(shape: Sequence[int], mesh: Any) -> PartitionSpec:
    """Splits the largest axis that divides over (`fsdp`, `context`), or over one of them.

    The leading axis of a stack of layers (rank 3) stays whole: the scan takes one layer at a time.
    An array with no axis that divides is replicated (only arrays of tiny networks are so small).
    """
    first = 1 if len(shape) > 2 else 0
    for names in (WEIGHTS, ("fsdp",), ("context",)):
        parts = math.prod(mesh.shape[n] for n in names)
        fits = [i for i in range(first, len(shape)) if shape[i] % parts == 0 and shape[i] > 0]
        if parts > 1 and fits:
            best = max(fits, key=lambda i: (shape[i], i))
            return P(*(names if i == best else None for i in range(len(shape))))
    return P()


def on_host(x: jax.Array) -> jax.Array:
    """The array in pinned host memory; inside `jax.jit`, a copy that the compiler schedules."""
    return jax.device_put(x, jax.memory.Space.Host)


def on_device(x: jax.Array) -> jax.Array:
    """The array in device memory, wherever it was."""
    return jax.device_put(x, jax.memory.Space.Device)


def path_name(path: Any) -> str:
    """A pytree path as "blocks/self_attn/q/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_shardings(tree: Any, mesh: AnyMesh) -> Any:
    """A tree of `NamedSharding`, by the table `PARAMETERS`, for arrays or their shapes.

    Raises:
        ValueError: a parameter that no row of the table matches.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, how in PARAMETERS:
            if re.search(pattern, name):
                return NamedSharding(mesh, split_spec(leaf.shape, mesh) if how == "split" else P())
        raise ValueError(f"no row of sharding.PARAMETERS matches the parameter {name}")

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_rows(mesh: AnyMesh, batch: int) -> list[int]:
    """The rows of the global batch that this process's devices hold, in order.

    Rows follow the devices, not the process index: two hosts inside one context group hold, and so
    read, the same rows.

    Raises:
        ValueError: the batch does not divide by `data` x `fsdp`.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch % ways:
        raise ValueError(
            f"a batch of {batch} does not divide over data x fsdp = {ways} devices; batch sizes "
            f"that fit this mesh are multiples of {ways}, and meshes that fit this batch have "
            f"data x fsdp in {[n for n in range(1, batch + 1) if batch % n == 0]}"
        )
    if isinstance(mesh, AbstractMesh):
        return list(range(batch))
    placed = NamedSharding(mesh, P(BATCH)).addressable_devices_indices_map((batch,))
    return sorted(
        {r for index in placed.values() if index for r in range(*index[0].indices(batch))}
    )


def batch_sharding(batch: int, mesh: AnyMesh) -> NamedSharding:
    """Where a global array `[batch ...]` from the host lies, see `put_rows`."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    return NamedSharding(mesh, P(BATCH) if batch % ways == 0 else P())


def put_rows(rows: Sequence[int], local: np.ndarray, batch: int, mesh: Mesh) -> jax.Array:
    """A global array `[batch ...]` from the rows that this process read.

    It is split over `data` and `fsdp` where the batch divides. Where it does not (one sample on
    many devices), every device holds the whole, and `rows` must be all of them.
    """
    where = {row: i for i, row in enumerate(rows)}

    def shard(index: Any) -> np.ndarray:
        return local[[where[r] for r in range(*index[0].indices(batch))]]

    shape = (batch, *local.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(batch, mesh), shard)
