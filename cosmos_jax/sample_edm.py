"""The denoising loop of Cosmos-Predict1: noise, given frames and a network in; latents out.

As `sample`, in EDM's noise levels. Latents are of a standard deviation of 1 outside, as the codec
has them, and of `data` inside.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cosmos_jax.diffusion import conditioning, edm, edm_solvers, guiding
from cosmos_jax.types import round_to

AUGMENT_SIGMA = 0.001
"""Noise level of given frames in the network's input (cosmos-predict1, Video2World)."""


def guided(
    network: edm.Network,
    noise: Float[Array, "b v t h w c"],
    given: Float[Array, "b v t h w c"],
    mask: Float[Array, "b v t"],
    guidance: float | Float[Array, ""] | None,
    *,
    data: float,
    dtype: DTypeLike,
) -> Callable[[Array, Array], Array]:
    """The clean guess (sample, scalar sigma) -> float32 `[b v t h w c]` that a solver follows.

    Given frames enter the network with a trace of noise, whatever the level of the rest, and the
    guess of them is they themselves.

    Args:
        network: with text and mask bound. With guidance it is called with a batch of 2b: the b
            samples with their text, then the same b without (`Predict1.no_text`).
        noise: standard normal, added to given frames.
        given: latents of the given frames, of a standard deviation of `data`; only frames with
            mask 1 are read.
        mask: 1 where a frame is given; zeros where none is.
        guidance: g of `cond + g (cond - uncond)`; None evaluates the conditional branch alone.
        data: standard deviation of clean latents.
        dtype: the compute dtype.
    """
    given = round_to(given, dtype)
    faint = edm.scaling(jnp.float32(AUGMENT_SIGMA), data).input * (given + AUGMENT_SIGMA * noise)

    def guess(x: Array, sigma: Array) -> Array:
        shown = faint / edm.scaling(sigma, data).input  # so that `faint` is what the network gets
        x = conditioning.replace_given(x, shown, mask)
        copies = 1 if guidance is None else 2
        wide, levels = jnp.tile(x, (copies, 1, 1, 1, 1, 1)), jnp.full(copies * len(x), sigma)
        clean = edm.clean_guess(network, wide, levels, data=data, dtype=dtype)
        if guidance is not None:
            cond, uncond = jnp.split(clean, 2)
            clean = guiding.guide(cond, uncond, guidance)
        return conditioning.replace_given(clean, given, mask)

    return guess


def denoise(
    network: edm.Network,
    noise: Float[Array, "b v t h w c"],
    given: Float[Array, "b v t h w c"],
    mask: Float[Array, "b v t"],
    schedule: edm_solvers.Schedule,
    guidance: float | Float[Array, ""] | None,
    *,
    start: float,
    data: float,
    dtype: DTypeLike,
) -> Float[Array, "b v t h w c"]:
    """Denoises latents under classifier-free guidance.

    Args:
        network: see `guided`.
        noise: standard normal, float32 (`sample.initial_noise`).
        given: latents of the given frames, of a standard deviation of 1.
        mask: 1 where a frame is given.
        schedule: `edm_solvers.euler`, as published, or `edm_solvers.res`.
        guidance: see `guided`; published: 7.
        start: size of the noise that the solver begins with: `edm_solvers.euler_start()`, or the
            schedule's first level.
        data: standard deviation of clean latents in the process.
        dtype: the compute dtype; samples are rounded to it between steps, as published.

    Returns:
        Clean latents of a standard deviation of 1.
    """
    guess = guided(network, noise, data * given, mask, guidance, data=data, dtype=dtype)
    return edm_solvers.solve(guess, start * noise, schedule, dtype) / data
