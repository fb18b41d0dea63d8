"""The denoising loop: noise, given frames and a velocity function in; clean latents out."""

from collections.abc import Callable

import einops
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
