"""The denoising loop: noise, given frames and a velocity function in; clean latents out."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cosmos_jax.diffusion import conditioning, flow, guiding, unipc
from cosmos_jax.types import round_to


def initial_noise(
    seed: int, *, b: int, v: int, t: int, h: int, w: int, c: int
) -> Float[np.ndarray, "b v t h w c"]:
    """The reference's initial noise, bit for bit: numpy draws it in the order `b c (v t) h w`.

    It comes from the host, so it is the same on every device and mesh.
    """
    drawn = np.random.RandomState(seed).standard_normal([b, c, v * t, h, w]).astype(np.float32)
    return einops.rearrange(drawn, "b c (v t) h w -> b v t h w c", v=v)


def guided(
    velocity: flow.Velocity,
    noise: Float[Array, "b v t h w c"],
    given: Float[Array, "b v t h w c"],
    mask: Float[Array, "b v t"],
    guidance: float | Float[Array, ""] | None,
    *,
    conditional_frame_timestep: float,
    dtype: DTypeLike,
) -> Callable[[Array, Array], Array]:
    """The velocity (sample, scalar timestep) -> float32 `[b v t h w c]` that a solver follows.

    The given frames replace the noisy ones in the network's input, and their velocity is
    noise - given whatever the network says: they drift, with the rest, to the given latents
    (nearly: the first sigma is just below 1, and the noise is not scaled by it).

    Args:
        velocity: the network, with control, text and mask bound. With guidance it is called with a
            batch of 2b: the b samples with their text, then the same b with the unconditional text.
            The caller binds inputs of that batch, `concatenate([cond, uncond])`; a mesh with
            data=2 then evaluates the branches side by side.
        noise: float32, see `initial_noise`.
        given: normalised latents of the given frames; only frames with mask 1 are read.
        mask: 1 where a frame is given; zeros where none is.
        guidance: g of `cond + g (cond - uncond)`. None evaluates the conditional branch alone, in
            half the time, and gives the latents of g = 0.
        conditional_frame_timestep: see `flow.frame_timesteps`.
        dtype: the compute dtype, to which given frames and network inputs are rounded. The latents
            themselves stay float32.
    """
    given = round_to(given, dtype)

    def follow(x: Array, timestep: Array) -> Array:
        net_input = conditioning.replace_given(x, given, mask).astype(dtype)
        timesteps = jnp.full(len(x), timestep)
        timesteps = flow.frame_timesteps(timesteps, mask, conditional_frame_timestep)
        if guidance is None:
            v = velocity(net_input, timesteps).astype(jnp.float32)
        else:
            both = velocity(jnp.tile(net_input, (2, 1, 1, 1, 1, 1)), jnp.tile(timesteps, (2, 1, 1)))
            cond, uncond = jnp.split(both.astype(jnp.float32), 2)
            v = guiding.guide(cond, uncond, guidance)
        return conditioning.replace_given(v, noise - given, mask)

    return follow


@dataclasses.dataclass(frozen=True)
class FlowSolver:
    """UniPC, step by step: what `generate.Generator` asks of a process's solver.

    Attributes:
        process: a `train.Process`.
        network: a `models.dit.DiTConfig`.
        guidance_excess: by how much the published g of models of several views without control is
            more: there it is that of `uncond + g (cond - uncond)`.
    """

    process: Any
    network: Any
    guidance_excess: ClassVar[int] = 1

    @property
    def takes_given(self) -> bool:
        """Whether the network can be given frames."""
        return self.network.masked

    def named(self, name: str | None) -> "FlowSolver":
        """The solver of `SampleConfig.solver`.

        Raises:
            ValueError: any name: there is one solver of rectified flow.
        """
        if name is not None:
            raise ValueError(f"solver={name!r}: models of rectified flow have UniPC; leave it out")
        return self

    def rows(self, num_steps: int, karras: bool) -> unipc.Schedule:
        """One row for each evaluation of the network, on the host."""
        if karras:
            return jax.device_get(unipc.schedule(unipc.karras_sigmas(num_steps)))
        sigmas = unipc.shift_sigmas(num_steps, self.process.shift)
        return jax.device_get(unipc.schedule(sigmas))

    def noise_share(self, rows: unipc.Schedule) -> Float[np.ndarray, "steps"]:
        """The noise's share of the noisy latents at each row, from 0 to 1."""
        return np.asarray(rows.sigma)

    def start(self, noise: Float[Array, "b v t h w c"]) -> unipc.State:
        """The state before the first row, from standard normal noise."""
        return unipc.start(noise)

    def seen(self, x: Array, row: unipc.Schedule) -> Array:
        """A sample at a scale at which changes at all noise levels compare (`step_cache`)."""
        return x

    def predict(
        self,
        network: flow.Velocity,
        x: Float[Array, "b v t h w c"],
        row: unipc.Schedule,
        noise: Float[Array, "b v t h w c"],
        given: Float[Array, "b v t h w c"],
        mask: Float[Array, "b v t"],
        guidance: Float[Array, ""] | None,
    ) -> Float[Array, "b v t h w c"]:
        """What the solver follows at a sample, the velocity; see `guided`."""
        late = dict(conditional_frame_timestep=self.process.conditional_frame_timestep)
        follow = guided(network, noise, given, mask, guidance, **late, dtype=self.network.dtype)
        return follow(x, row.timestep)

    def step(self, state: unipc.State, v: Array, row: unipc.Schedule) -> unipc.State:
        """The state after a row."""
        return unipc.step(state, v, row)

    def latents(self, state: unipc.State) -> Float[Array, "b v t h w c"]:
        """Clean latents, of the state after the last row."""
        return state.x


def denoise(
    velocity: flow.Velocity,
    noise: Float[Array, "b v t h w c"],
    given: Float[Array, "b v t h w c"],
    mask: Float[Array, "b v t"],
    schedule: unipc.Schedule,
    guidance: float | Float[Array, ""] | None,
    *,
    conditional_frame_timestep: float,
    dtype: DTypeLike,
) -> Float[Array, "b v t h w c"]:
    """Denoises latents with UniPC under classifier-free guidance, in one compiled loop.

    `generate.Generator` takes the same steps one by one, to say how far it is.

    Args:
        velocity: and the arguments that are not listed: see `guided`.
        noise: float32, see `initial_noise`.
        given: normalised latents of the given frames.
        mask: 1 where a frame is given.
        schedule: `unipc.schedule(unipc.shift_sigmas(steps, shift))`, or of `karras_sigmas(steps)`.
        guidance: see `guided`.
        conditional_frame_timestep: see `flow.frame_timesteps`.
        dtype: the compute dtype.
    """
    follow = guided(
        velocity,
        noise,
        given,
        mask,
        guidance,
        conditional_frame_timestep=conditional_frame_timestep,
        dtype=dtype,
    )
    return unipc.solve(follow, noise, schedule)
