"""What is planned: a config's step on a mesh that need not exist, and what lies beside it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from cosmos_jax import build, encode, plan_memory, sharding
from cosmos_jax.loop import Loop
from cosmos_jax.models.attention import BACKENDS
from cosmos_jax.plan_memory import Memory
from cosmos_jax.train import Trainer


@dataclasses.dataclass(frozen=True)
class System:
    """A config's training step on a mesh of sizes alone.

    Attributes:
        values: the config, plain.
        kernel: the backend of attention that will run; "xla" stands in for it where it is traced.
        mesh: sizes of the axes.
        trainer: holds the network.
        loop: the loop's settings.
        sizes: what follows from the config.
        text_weights: bytes on each device of a text encoder that runs in the loop.
    """

    values: Mapping[str, Any]
    kernel: str
    mesh: AbstractMesh
    trainer: Trainer
    loop: Loop
    sizes: build.Sizes
    text_weights: int

    def memory(self, views: int) -> Memory:
        """Memory of the step with samples of so many views."""
        with jax.sharding.use_abstract_mesh(self.mesh):
            given = self.trainer, self.sizes, self.mesh, self.loop.batch, views, self.kernel
            return plan_memory.count(*given)

    def beside(self, memory: Memory) -> dict[str, int]:
        """Bytes on each device of what the loop holds while a step runs."""
        shapes = jax.eval_shape(build.codec(self.values).init, jax.random.key(0))
        codec = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        return {
            "next batch": memory.batch,
            "video codec": codec,
            "text encoder": self.text_weights,
        }

    def gib(self, views: int) -> float:
        """All of a device's memory that the run takes, in GiB."""
        memory = self.memory(views)
        return (memory.total + sum(self.beside(memory).values())) / plan_memory.GIB

    def check(self, views: int) -> None:
        """Traces the whole step; raises what is wrong with its shapes."""
        batch = encode.placed(self.sizes.batch(self.loop.batch, views), self.mesh)
        with jax.sharding.use_abstract_mesh(self.mesh):
            jax.eval_shape(self.trainer.step, self.sizes.state, batch)


def system(
    values: Mapping[str, Any], devices: int | None, cached: tuple[int, int] | None = None
) -> System:
    """Builds and checks it, without memory or devices.

    Args:
        values: the config.
        devices: how many; None: as many as `config.mesh` says, an axis of -1 being 1.
        cached: shape s, e of the embeddings of a cache that stands for the text encoder.

    Raises:
        ValueError: a config that does not fit itself or the devices.
    """
    kernel = target_kernel(values["attention"], values["dtype"])
    build.check_keys(values["mesh"], sharding.AXES, "config.mesh")
    given = dict.fromkeys(sharding.AXES, 1) | values["mesh"]
    if devices is None:
        devices = math.prod(max(size, 1) for size in given.values())
    shape = sharding.mesh_sizes(**given, devices=devices)
    mesh = AbstractMesh(tuple(shape), sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.sharding.use_abstract_mesh(mesh):
        trainer = build.trainer({**values, "attention": "xla"})
        # Raises where this network cannot run that kernel.
        dataclasses.replace(trainer.net.config, attention=kernel, text_attention=kernel)
        loop = build.loop(values, mesh)
        sizes = build.sizes(values, mesh, trainer)
    if cached is not None:
        sizes = dataclasses.replace(sizes, text=cached)
    text_weights = 0 if cached else _text_weights(values, mesh)
    return System(values, kernel, mesh, trainer, loop, sizes, text_weights)


def target_kernel(name: str, dtype: str) -> str:
    """The backend of attention on the GPUs that are planned for, whatever this machine has."""
    if name == "auto":
        return "cudnn" if dtype == "bfloat16" else "xla"
    return name if name in BACKENDS else build.attention_backend(name, dtype)


def _text_weights(values: Mapping[str, Any], mesh: AbstractMesh) -> int:
    """Bytes on each device of the text encoder, which stays there once it has been called."""
    encoder = build.text_encoder(values)
    if not hasattr(encoder, "init"):
        return 0
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    places = sharding.param_shardings(shapes, mesh)
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True)
    arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x, place in pairs]
    return plan_memory.shard_bytes(arrays)
