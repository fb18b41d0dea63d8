"""The state of training and its step, as pure functions placed by the tables of `sharding`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from cosmos_jax import optim, sharding
from cosmos_jax.diffusion import conditioning, flow
from cosmos_jax.types import Batch, Params, TrainState

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Process:
    """The diffusion process of a recipe.

    Attributes:
        shift: of the time distribution and of the sampling schedule.
        num_conditional_latents: probability of 0, 1, 2, ... given latent frames. These
            are latent frames, because the published recipes draw them so.
        text_dropout: probability of training a sample without text.
        text_dropout_per_view: drop the text of each view by itself (agibot), not of the sample.
        conditional_frame_timestep: timestep of given frames, -1 for that of the noisy ones.
        time_levels: None for continuous time; 1000 for the first Predict2.5 release's table.
    """

    shift: float = 5.0
    num_conditional_latents: tuple[float, ...] = (1.0,)
    text_dropout: float = 0.0
    text_dropout_per_view: bool = False
    conditional_frame_timestep: float = -1.0
    time_levels: int | None = None

    def __post_init__(self) -> None:
        """Raises a ValueError for a rate outside [0, 1]."""
        if not 0 <= self.text_dropout <= 1:
            raise ValueError(f"config.process.text_dropout={self.text_dropout} must lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What a step is made of; everything here is fixed for a run.

    Attributes:
        net: the network (`models.dit.DiT`), whose config names the compute dtype.
        process: the diffusion process.
        optimizer: transforms the gradients of the trainable parameters.
        learning_rate: of each step, for the log.
        trainable: regex over parameter paths (`optim.split_trainable`).
        ema_rate: width of the power-function average; 0 keeps none.
        seed: of all randomness of the run.
    """

    net: Any
    process: Process
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    trainable: str
    ema_rate: float
    seed: int

    @property
    def dtype(self) -> DTypeLike:
        """The compute dtype."""
        return self.net.config.dtype

    def init(self, key: Key[Array, ""], inputs: dict[str, Any]) -> TrainState:
        """A fresh state; `inputs` are the network's (`network_inputs`)."""
        variables = self.net.init(key, **inputs)
        params, frozen = optim.split_trainable(variables["params"], self.trainable)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            frozen=jax.tree.map(lambda p: p.astype(self.dtype), frozen),
            constants=variables["constants"],
            opt_state=self.optimizer.init(params),
            ema=params if self.ema_rate else None,
        )

    def shardings(self, shapes: TrainState, mesh: Mesh) -> TrainState:
        """A tree of `NamedSharding` for a state of these shapes; moments lie like parameters."""
        everywhere = NamedSharding(mesh, sharding.P())
        params = sharding.param_shardings(shapes.params, mesh)
        return TrainState(
            step=everywhere,
            params=params,
            frozen=sharding.param_shardings(shapes.frozen, mesh),
            constants=jax.tree.map(lambda _: everywhere, shapes.constants),
            opt_state=optax.tree_map_params(
                self.optimizer,
                lambda _, place: place,
                shapes.opt_state,
                params,
                transform_non_params=lambda _: everywhere,
            ),
            ema=params if shapes.ema is not None else None,
        )

    def abstract_state(self, inputs: dict[str, Any], mesh: Mesh) -> TrainState:
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
        self, params: Params, state: TrainState, batch: Batch, draws: flow.Draws
    ) -> tuple[Float[Array, "b"], flow.Flow]:
        """The loss of each sample at given draws."""
        t = batch.latents.shape[2]
        probabilities = dict(enumerate(self.process.num_conditional_latents))
        counts = conditioning.choose_counts(draws.condition, probabilities, t)
        text = conditioning.drop_text(
            batch.text, draws.text, self.process.text_dropout, self.process.text_dropout_per_view
        )
        return self.loss_given(params, state, batch, counts, text, draws.epsilon, draws.normal)

    def loss_given(
        self,
        params: Params,
        state: TrainState,
        batch: Batch,
        counts: Int[Array, "b"],
        text: Float[Array, "b v s e"],
        epsilon: Float[Array, "b v t h w c"],
        normal: Float[Array, "b"],
    ) -> tuple[Float[Array, "b"], flow.Flow]:
        """The loss of each sample, all choices made: given frames, text, noise and noise level."""
        _, v, t, *_ = batch.latents.shape
        mask = conditioning.condition_mask(counts, v, t)
        variables = {"params": optim.merge(params, state.frozen), "constants": state.constants}
        velocity = bind(self.net, variables, batch, text, mask, control_scale=1.0)
        return flow.loss(
            velocity,
            batch.latents,
            mask,
            sharding.constrain(epsilon, "b v t h w c"),
            normal,
            shift=self.process.shift,
            conditional_frame_timestep=self.process.conditional_frame_timestep,
            dtype=self.dtype,
            levels=self.process.time_levels,
        )

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step: a pure function of the state and the batch.

        Randomness comes from (seed, step, global sample index), so neither the mesh nor a restart
        changes it.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        draws = flow.training_noise(key, batch.index, batch.latents.shape[1:])

        def mean_loss(params: Params) -> Float[Array, ""]:
            return self.loss(params, state, batch, draws)[0].mean()

        loss, grads = jax.value_and_grad(mean_loss)(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optim.ema_update(ema, params, state.step, self.ema_rate, self.dtype)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "lr": jnp.asarray(self.learning_rate(state.step), jnp.float32),
        }
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
        return new, metrics


INIT = 0x1417  # folded into the run's seed for the initial weights; steps fold in their number


def bind(
    net: Any,
    variables: Any,
    batch: Batch,
    text: Float[Array, "b v s e"],
    mask: Float[Array, "b v t"],
    control_scale: float,
) -> Callable[[Array, Array], Array]:
    """The network as a velocity function of the noisy latents and the timesteps alone."""

    def velocity(x: Array, timesteps: Array) -> Array:
        return net.apply(
            variables,
            x,
            timesteps,
            text,
            batch.view_ids,
            mask,
            control=batch.control,
            control_scale=control_scale,
            fps=batch.fps,
        )

    return velocity


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
    }
