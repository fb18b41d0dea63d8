"""The state of training and its step, as pure functions placed by the tables of `sharding`."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from cosmos_jax import optim, sharding
from cosmos_jax.diffusion import conditioning, flow
from cosmos_jax.models.attention import COMPILER_OPTIONS
from cosmos_jax.types import Batch, Params, TrainState

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Process:
    """Rectified flow, the diffusion process of a recipe; `diffusion.edm_process` has another.

    Attributes:
        shift: of the time distribution and of the sampling schedule.
        num_conditional_latents: probability of 0, 1, 2, ... given latent frames. These
            are latent frames, because the published recipes draw them so.
        text_dropout: probability of training a sample without text.
        text_dropout_per_view: drop the text of each view by itself (agibot), not of the sample.
        conditional_frame_timestep: timestep of given frames, -1 for that of the noisy ones.
        time_levels: None for continuous time; 1000 for the first Predict2.5 release's table.
        solver: what samples it, loaded where a run samples.
    """

    shift: float = 5.0
    num_conditional_latents: tuple[float, ...] = (1.0,)
    text_dropout: float = 0.0
    text_dropout_per_view: bool = False
    conditional_frame_timestep: float = -1.0
    time_levels: int | None = None
    solver: ClassVar[str] = "cosmos_jax.sample:FlowSolver"

    def __post_init__(self) -> None:
        """Raises a ValueError for a rate outside [0, 1]."""
        if not 0 <= self.text_dropout <= 1:
            raise ValueError(f"config.process.text_dropout={self.text_dropout} must lie in [0, 1]")

    def loss(
        self, network: "Bound", latents: Array, mask: Array, epsilon: Array, normal: Array
    ) -> tuple[Float[Array, "b"], flow.Flow]:
        """The loss of each sample; see `flow.loss`."""
        return flow.loss(
            network,
            latents,
            mask,
            epsilon,
            normal,
            shift=self.shift,
            conditional_frame_timestep=self.conditional_frame_timestep,
            dtype=network.net.config.dtype,
            levels=self.time_levels,
        )


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What a step is made of; everything here is fixed for a run.

    Attributes:
        net: the network (`models.dit.DiT`), whose config names the compute dtype.
        process: the diffusion process (`Process`, or one with its attributes and `loss`).
        optimizer: transforms the gradients of the trainable parameters.
        learning_rate: of each step, for the log.
        trainable: regex over parameter paths (`optim.split_trainable`).
        ema_rate: width of the power-function average; 0 keeps none.
        seed: of all randomness of the run.
        offload: moments and EMA wait in host memory while the network computes.
        skip_unsound: a step whose loss or gradient is not finite, or whose gradient's norm is above
            `grad_limit`, changes nothing. Else what is not finite in a gradient counts as 0.
        grad_limit: see `skip_unsound`; None: no limit.
        accumulate: in how many parts, one after the other, a batch is taken.
    """

    net: Any
    process: Any
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    trainable: str
    ema_rate: float
    seed: int
    offload: bool = False
    skip_unsound: bool = False
    grad_limit: float | None = None
    accumulate: int = 1

    @property
    def dtype(self) -> DTypeLike:
        """The compute dtype."""
        return self.net.config.dtype

    def init(self, key: Key[Array, ""], inputs: dict[str, Any]) -> TrainState:
        """A fresh state; `inputs` are the network's (`network_inputs`)."""
        variables = self.net.init(key, **inputs)
        if adapter := self.net.config.adapter:
            adapters = importlib.import_module("cosmos_jax.adapter_check")
            adapters.check(variables["params"], adapter.targets, self.trainable)
        params, frozen = optim.split_trainable(variables["params"], self.trainable)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            frozen=jax.tree.map(lambda p: p.astype(self.dtype), frozen),
            constants=variables["constants"],
            opt_state=self.optimizer.init(params),
            ema=params if self.ema_rate else None,
        )

    def shardings(self, shapes: TrainState, mesh: sharding.AnyMesh) -> TrainState:
        """A tree of `NamedSharding` for a state of these shapes; moments lie like parameters."""
        everywhere = NamedSharding(mesh, sharding.P())
        params = sharding.param_shardings(shapes.params, mesh)
        averages = params
        if self.offload:
            averages = jax.tree.map(lambda place: place.with_memory_kind("pinned_host"), params)
        return TrainState(
            step=everywhere,
            params=params,
            frozen=sharding.param_shardings(shapes.frozen, mesh),
            constants=jax.tree.map(lambda _: everywhere, shapes.constants),
            opt_state=optax.tree_map_params(
                self.optimizer,
                lambda _, place: place,
                shapes.opt_state,
                averages,
                transform_non_params=lambda _: everywhere,
            ),
            ema=averages if shapes.ema is not None else None,
        )

    def abstract_state(self, inputs: dict[str, Any], mesh: sharding.AnyMesh) -> TrainState:
        """The state as shapes with shardings, without memory."""
        shapes = jax.eval_shape(lambda key: self.init(key, inputs), jax.random.key(0))
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            self.shardings(shapes, mesh),
        )

    def init_state(self, inputs: dict[str, Any], mesh: Mesh) -> TrainState:
        """A fresh state on the mesh: the same numbers on every mesh, no host copy."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state(inputs, mesh))
        init = jax.jit(lambda key: self.init(key, inputs), out_shardings=places)
        return init(jax.random.fold_in(jax.random.key(self.seed), INIT))

    def start(
        self, abstract: TrainState, params: Params, frozen: Params, constants: Params
    ) -> TrainState:
        """The state before the first step from weights that are on the devices already.

        Args:
            abstract: the state as shapes with shardings (`abstract_state`).
            params: what is trained, float32.
            frozen: the rest, in the compute dtype.
            constants: the constants.
        """
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        moments = jax.jit(self.optimizer.init, out_shardings=places.opt_state)(params)
        ema = None
        if abstract.ema is not None:
            ema = jax.jit(lambda p: jax.tree.map(jnp.copy, p), out_shardings=places.ema)(params)
        step = jax.make_array_from_callback((), places.step, lambda _: np.zeros((), np.int32))
        return TrainState(step, params, frozen, constants, moments, ema)

    def loss(
        self,
        params: Params,
        state: TrainState,
        batch: Batch,
        draws: flow.Draws,
        dropout: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b"], Any]:
        """The loss of each sample at given draws; `dropout` is the key of an adapter's dropout."""
        t = batch.latents.shape[2]
        probabilities = dict(enumerate(self.process.num_conditional_latents))
        counts = conditioning.choose_counts(draws.condition, probabilities, t)
        rate, per_view = self.process.text_dropout, self.process.text_dropout_per_view
        nothing = self.net.no_text(optim.merge(params, state.frozen), batch.text.shape[-1])
        text = conditioning.drop_text(batch.text, draws.text, rate, per_view, nothing)
        epsilon, normal = draws.epsilon, draws.normal
        return self.loss_given(params, state, batch, counts, text, epsilon, normal, dropout)

    def loss_given(
        self,
        params: Params,
        state: TrainState,
        batch: Batch,
        counts: Int[Array, "b"],
        text: Float[Array, "b v s e"],
        epsilon: Float[Array, "b v t h w c"],
        normal: Float[Array, "b"],
        dropout: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b"], Any]:
        """The loss of each sample, all choices made: given frames, text, noise and noise level."""
        _, v, t, *_ = batch.latents.shape
        mask = conditioning.condition_mask(counts, v, t)
        variables = {"params": optim.merge(params, state.frozen), "constants": state.constants}
        network = bind(self.net, variables, batch, text, mask, 1.0, dropout)
        epsilon = sharding.constrain(epsilon, "b v t h w c")
        return self.process.loss(network, batch.latents, mask, epsilon, normal)

    def gradients(self, state: TrainState, batch: Batch) -> tuple[Float[Array, ""], Params]:
        """The mean loss of a batch and its float32 gradients.

        With `accumulate` parts, activations are those of one part at a time. Part j is rows j,
        j + n, ...: each device takes its own. Draws are those of the undivided batch.

        Raises:
            ValueError: the batch does not divide into the parts.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        adapter, n = self.net.config.adapter, self.accumulate
        dropout = jax.random.fold_in(key, DROPOUT) if adapter and adapter.dropout else None

        def value_and_grad(batch: Batch) -> tuple[Float[Array, ""], Params]:
            draws = flow.training_noise(key, batch.index, batch.latents.shape[1:])

            def mean_loss(params: Params) -> Float[Array, ""]:
                return self.loss(params, state, batch, draws, dropout)[0].mean()

            return jax.value_and_grad(mean_loss)(state.params)

        if n == 1:
            return value_and_grad(batch)
        if len(batch.index) % n:
            raise ValueError(f"a batch of {len(batch.index)} does not divide into {n} parts")

        def add(total: Any, j: Array) -> tuple[Any, None]:
            found = value_and_grad(_part(batch, j, n))
            loss, grads = jax.tree.map(lambda a, b: a + b / n, total, found)
            return (loss, _like_params(grads)), None

        zeros = _like_params(jax.tree.map(jnp.zeros_like, state.params))
        total, _ = jax.lax.scan(add, (jnp.zeros(()), zeros), jnp.arange(n))
        return total

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step: a pure function of the state and the batch.

        Randomness comes from (seed, step, global sample index), so neither the mesh nor a restart
        changes it.
        """
        loss, grads = self.gradients(state, batch)
        norm = optax.tree.norm(grads)
        sound = jnp.isfinite(loss) & jnp.isfinite(norm)
        if self.grad_limit is not None:
            sound &= norm <= self.grad_limit
        moments = self._moved(sharding.on_device, state.opt_state, norm)
        updates, opt_state = self.optimizer.update(grads, moments, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = average = self._moved(sharding.on_device, state.ema, params)
        if ema is not None:
            ema = optim.ema_update(ema, params, state.step, self.ema_rate, self.dtype)
        if self.skip_unsound:
            old = state.params, moments, average
            params, opt_state, ema = _chosen(sound, (params, opt_state, ema), old)
        opt_state, ema = (self._moved(sharding.on_host, tree) for tree in (opt_state, ema))
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "lr": jnp.asarray(self.learning_rate(state.step), jnp.float32),
            "unsound": 1 - sound.astype(jnp.float32),
        }
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
        return new, metrics

    def _moved(self, move: Callable[[Array], Array], averages: Any, after: Any = None) -> Any:
        """Moments or EMA (not counters), moved where they are offloaded, once `after` is computed.

        Without it XLA copies them to the device at once, to lie there beside the activations.
        """
        if not self.offload:
            return averages
        if after is not None:
            averages, _ = jax.lax.optimization_barrier((averages, after))
        return jax.tree.map(lambda x: move(x) if x.dtype == jnp.float32 else x, averages)

    def jit_step(self) -> Any:
        """`step`, to be compiled; the state is donated."""
        options = COMPILER_OPTIONS if self.net.config.attention == "fa3" else None
        return jax.jit(self.step, donate_argnums=0, compiler_options=options)


INIT = 0x1417  # folded into the run's seed for the initial weights; steps fold in their number
DROPOUT = 0xD0000000  # folded into a step's key; sample indices are below 2^31


def _part(batch: Batch, j: Int[Array, ""], n: int) -> Batch:
    """Rows j, j + n, ... of a batch, placed as a batch is."""

    def take(x: Array) -> Array:
        parts = x.reshape(x.shape[0] // n, n, *x.shape[1:])
        rows = jax.lax.dynamic_index_in_dim(parts, j, axis=1, keepdims=False)
        letters = {6: "b v t h w c", 4: "b v s e", 2: "b v", 1: "b"}[x.ndim]
        return sharding.constrain(rows, letters)

    return jax.tree.map(take, batch)


def _chosen(sound: Array, new: Any, old: Any) -> Any:
    """`new` where a step is sound, else `old`; counters count on."""
    return jax.tree.map(lambda a, b: jnp.where(sound, a, b) if a.ndim else a, new, old)


def _like_params(tree: Params) -> Params:
    """States that gradients lie like their parameters; does nothing where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, sharding.param_shardings(tree, mesh))


@dataclasses.dataclass(frozen=True)
class Bound:
    """A network as a function of the noisy latents and the timesteps alone.

    Attributes:
        net: the network.
        variables: its parameters and constants.
        inputs: its other inputs, by name.
    """

    net: Any
    variables: Any
    inputs: dict[str, Any]

    def __call__(self, x: Array, timesteps: Array) -> Array:
        """What the network predicts."""
        return self.net.apply(self.variables, x, timesteps, **self.inputs)


def bind(
    net: Any,
    variables: Any,
    batch: Batch,
    text: Float[Array, "b v s e"],
    mask: Float[Array, "b v t"],
    control_scale: float | Array,
    dropout: Key[Array, ""] | None = None,
) -> Bound:
    """The network with its weights and all inputs but the noisy latents and the timesteps."""
    inputs = {
        "text": text,
        "view_ids": batch.view_ids,
        "condition_mask": mask,
        "control": batch.control,
        "control_scale": control_scale,
        "fps": batch.fps,
    }
    if dropout is not None:
        inputs |= {"index": batch.index, "rngs": {"dropout": dropout}}
    return Bound(net, variables, inputs)


def network_inputs(channels: int, text_width: int, control: bool, frames: int) -> dict[str, Any]:
    """The smallest inputs that show the network every shape its weights depend on.

    `frames` is any number that the mesh axis `context` divides: weights do not depend on it.
    """
    latents = jnp.zeros((1, 1, frames, 2, 2, channels))
    return {
        "latents": latents,
        "timesteps": jnp.zeros((1, 1, 1)),
        "text": jnp.zeros((1, 1, 1, text_width)),
        "view_ids": jnp.zeros((1, 1), jnp.int32),
        "condition_mask": jnp.zeros((1, 1, frames)),
        "control": latents if control else None,
        "fps": jnp.ones(1),
    }
