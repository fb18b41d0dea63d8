"""The denoising loop of Cosmos-Predict1: noise, given frames and a network in; latents out.

As `sample`, in EDM's noise levels. Latents are of a standard deviation of 1 outside, as the codec
has them, and of `data` inside.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cosmos_jax.diffusion import conditioning, edm, edm_solvers, guiding
from cosmos_jax.types import round_to

EULER = "euler"
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
    given, faint = round_to(given, dtype), jnp.float32(AUGMENT_SIGMA)

    def guess(x: Array, sigma: Array) -> Array:
        x = conditioning.replace_given(x, edm.shown(given, noise, faint, sigma, data), mask)
        copies = 1 if guidance is None else 2
        wide, levels = jnp.tile(x, (copies, 1, 1, 1, 1, 1)), jnp.full(copies * len(x), sigma)
        clean = edm.clean_guess(network, wide, levels, data=data, dtype=dtype)
        if guidance is not None:
            cond, uncond = jnp.split(clean, 2)
            clean = guiding.guide(cond, uncond, guidance)
        return conditioning.replace_given(clean, given, mask)

    return guess


@dataclasses.dataclass(frozen=True)
class EDMSolver:
    """A solver of `edm_solvers`, step by step; see `sample.FlowSolver`.

    Attributes:
        process: a `diffusion.edm_process.EDMProcess`.
        network: a `models.predict1.Predict1Config`. With "euler" samples are rounded to its dtype
            between steps, as published.
        name: "euler", as the published inference, or one of `edm_solvers.EVALUATIONS`: those of the
            training side, which keep samples in full precision and end with one more evaluation.
        guidance_excess: the published g is ours.
    """

    process: Any
    network: Any
    name: str = EULER
    guidance_excess: ClassVar[int] = 0

    @property
    def takes_given(self) -> bool:
        """Whether the network can be given frames."""
        return self.network.masked

    def named(self, name: str | None) -> "EDMSolver":
        """The solver of a name; None: the published one.

        Raises:
            ValueError: there is none of that name.
        """
        known = (EULER, *edm_solvers.EVALUATIONS)
        if name is not None and name not in known:
            raise ValueError(f"solver={name!r} is none of {', '.join(known)}")
        return dataclasses.replace(self, name=name or EULER)

    def rows(self, num_steps: int, karras: bool) -> edm_solvers.Schedule:
        """One row for each evaluation of the network, on the host.

        Raises:
            ValueError: `karras`, which chooses between two schedules of rectified flow; fewer
                evaluations than a step takes.
        """
        if karras:
            raise ValueError(
                "config.sample.karras chooses a schedule of rectified flow; EDM has one, set False"
            )
        if self.name == EULER:
            levels = edm_solvers.sigmas(num_steps, lowest=edm_solvers.EULER_MIN)
            return jax.device_get(edm_solvers.euler(levels))
        steps = num_steps // edm_solvers.EVALUATIONS[self.name]
        levels = edm_solvers.sigmas(steps + 1, lowest=edm_solvers.RES_MIN)
        return jax.device_get(edm_solvers.res(self.name, levels))

    def noise_share(self, rows: edm_solvers.Schedule) -> Float[np.ndarray, "steps"]:
        """The noise's share of the noisy latents at each row: what rectified flow calls sigma."""
        sigma = np.asarray(rows.sigma)
        return sigma / (sigma + self.process.sigma_data)

    def start(self, noise: Float[Array, "b v t h w c"]) -> edm_solvers.State:
        """The state before the first row, from standard normal noise."""
        if self.name != EULER:
            return edm_solvers.start(edm_solvers.SIGMA_MAX * noise)
        return edm_solvers.start(round_to(edm_solvers.euler_start() * noise, self.network.dtype))

    def seen(self, x: Array, row: edm_solvers.Schedule) -> Array:
        """A sample as the network sees it: samples themselves shrink with the noise level."""
        return edm.scaling(jnp.asarray(row.sigma), self.process.sigma_data).input * x

    def predict(
        self,
        network: edm.Network,
        x: Float[Array, "b v t h w c"],
        row: edm_solvers.Schedule,
        noise: Float[Array, "b v t h w c"],
        given: Float[Array, "b v t h w c"],
        mask: Float[Array, "b v t"],
        guidance: Float[Array, ""] | None,
    ) -> Float[Array, "b v t h w c"]:
        """What the solver follows at a sample, the clean guess; see `guided`."""
        data, dtype = self.process.sigma_data, self.network.dtype
        guess = guided(network, noise, data * given, mask, guidance, data=data, dtype=dtype)
        return guess(x, row.sigma)

    def step(
        self, state: edm_solvers.State, clean: Array, row: edm_solvers.Schedule
    ) -> edm_solvers.State:
        """The state after a row."""
        state = edm_solvers.step(state, clean, row)
        if self.name != EULER:
            return state
        return state._replace(x=round_to(state.x, self.network.dtype))

    def latents(self, state: edm_solvers.State) -> Float[Array, "b v t h w c"]:
        """Clean latents of a standard deviation of 1, of the state after the last row."""
        return state.x / self.process.sigma_data


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
