"""What is measured: a config's network on its mesh, with random weights and random inputs.

Nothing is timed on zeros, on which a GPU draws less power and runs faster. Fresh networks are full
of them: the gates of all blocks start at zero, and with them every gradient below.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cosmos_jax import build, sharding
from cosmos_jax.models.dit import DiTConfig
from cosmos_jax.train import Trainer
from cosmos_jax.types import Batch, Params, TrainState

STD = 0.01  # of what takes the place of zeros


@dataclasses.dataclass(frozen=True)
class System:
    """The network of a config on a mesh.

    Attributes:
        values: the config, plain.
        mesh: set for the process.
        trainer: holds the network.
        sizes: what follows from the config.
        views: number of views.
    """

    values: Mapping[str, Any]
    mesh: Mesh
    trainer: Trainer
    sizes: build.Sizes
    views: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """v, t, h, w of the latents of one sample."""
        return self.views, *self.sizes.latents[:3]

    @property
    def network(self) -> DiTConfig:
        """What runs for the text of these sizes: it may come projected, as in `Sizes.flops`."""
        network = self.sizes.network
        projected = self.sizes.text[1] != network.text_features
        return dataclasses.replace(network, text_features=0) if projected else network

    def about(self) -> dict[str, Any]:
        """What a line says of it."""
        network = self.trainer.net.config
        return {
            "mesh": dict(self.mesh.shape),
            "views": self.views,
            "tokens": self.sizes.tokens(self.views),
            "dtype": network.dtype,
            "attention": network.attention,
            "text_attention": network.text_attention,
        }


def system(values: Mapping[str, Any], views: int) -> System:
    """Builds the mesh and the network, without memory.

    Raises:
        ValueError: a config that does not fit itself or this machine, or more views than the
            network knows.
    """
    mesh = build.mesh(values)
    jax.set_mesh(mesh)
    trainer = build.trainer(values)
    known = trainer.net.config.view_rows
    if known and views > known:
        raise ValueError(f"--views={views}: the network knows {known} views")
    return System(values, mesh, trainer, build.sizes(values, mesh, trainer), views)


def without_zeros(params: Params, seed: int) -> Params:
    """Zeros replaced by small random numbers."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed, impl="unsafe_rbg"), len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            jnp.where(leaf == 0, STD * jax.random.normal(key, leaf.shape, leaf.dtype), leaf)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )


def training_state(system: System) -> TrainState:
    """A state before its first step."""
    return fill(system.trainer.init_state(system.sizes.inputs, system.mesh))


def fill(state: TrainState) -> TrainState:
    """The state with `without_zeros` weights, which its average starts from; `state` is donated."""

    def change(params: Params, frozen: Params, ema: Params | None) -> tuple:
        params = without_zeros(params, 1)
        return params, without_zeros(frozen, 2), None if ema is None else params

    old = state.params, state.frozen, state.ema
    places = jax.tree.map(lambda leaf: leaf.sharding, old)
    params, frozen, ema = jax.jit(change, donate_argnums=(0, 1, 2), out_shardings=places)(*old)
    return state.replace(params=params, frozen=frozen, ema=ema)


def sampling_variables(system: System) -> dict[str, Params]:
    """The network's variables as sampling holds them: in the compute dtype, no optimiser."""
    trainer, mesh = system.trainer, system.mesh

    def make(key: Array) -> dict[str, Params]:
        made = trainer.net.init(key, **system.sizes.inputs)
        params = without_zeros(made["params"], 1)
        return {
            "params": jax.tree.map(lambda p: p.astype(trainer.dtype), params),
            "constants": made["constants"],
        }

    key = jax.random.key(0, impl="unsafe_rbg")  # compiles in less time
    shapes, everywhere = jax.eval_shape(make, key), NamedSharding(mesh, sharding.P())
    places = {
        "params": sharding.param_shardings(shapes["params"], mesh),
        "constants": jax.tree.map(lambda _: everywhere, shapes["constants"]),
    }
    return jax.jit(make, out_shardings=places)(key)


def random_batch(
    sizes: build.Sizes, size: int, views: int, dtype: DTypeLike, seed: int = 0
) -> Batch:
    """A batch of normal latents and text, made on the devices."""
    shape = (size, views, *sizes.latents)

    def make(key: Array) -> Batch:
        keys = jax.random.split(key, 3)
        latents, control = (
            sharding.constrain(jax.random.normal(k, shape), "b v t h w c") for k in keys[:2]
        )
        return Batch(
            latents=latents,
            control=control if sizes.network.control_blocks else None,
            text=jax.random.normal(keys[2], (size, views, *sizes.text), dtype),
            view_ids=jnp.tile(jnp.arange(views, dtype=jnp.int32), (size, 1)),
            index=jnp.arange(size, dtype=jnp.int32),
            fps=jnp.full(size, 10.0),
        )

    return jax.jit(make)(jax.random.key(seed))


def codec_params(codec: Any, mesh: Mesh) -> Params:
    """The codec's random weights, whole on every device."""
    return jax.jit(codec.init, out_shardings=NamedSharding(mesh, sharding.P()))(jax.random.key(0))


def normal(
    seed: int, shape: tuple[int, ...], dtype: DTypeLike, mesh: Mesh | None = None
) -> Float[Array, "..."]:
    """Normal numbers, whole on every device of a mesh or on one device."""
    place = None if mesh is None else NamedSharding(mesh, sharding.P())
    make = jax.jit(lambda key: jax.random.normal(key, shape, dtype), out_shardings=place)
    return make(jax.random.key(seed))
