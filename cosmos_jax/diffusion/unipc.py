"""UniPC for flows: a predictor-corrector solver of second order (Zhao et al. 2023, variant B2(h)).

The solver is linear in the sample and in the network's guesses of the clean latents, so a step is
two weighted sums. All weights are computed on the host before the loop: the first and the last
step, which drop to first order, are rows like every other (the last interval reaches sigma = 0,
where the log-signal-to-noise ratio is infinite; its weights are simply 0 and 1).

Numbers follow cosmos-transfer2.5's FlowUniPCMultistepScheduler: order 2, "bh2", predicting clean
latents, lower order at the end, final sigma 0. There is no randomness after the initial noise.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ORDER = 2
KARRAS_MAX, KARRAS_MIN, KARRAS_RHO = 200.0, 0.01, 7.0


class Schedule(NamedTuple):
    """One row for each evaluation of the network.

    Attributes:
        timestep: what the network is told `[steps]`: 1000 sigma TRUNCATED to a whole number.
        sigma: what the solver uses `[steps]`, not truncated.
        correct: weights `[steps 4]` of the previous sample, the last two clean guesses (the later
            first) and the new one, that give the corrected current sample.
        predict: weights `[steps 3]` of the corrected sample, the new clean guess and the one
            before, that give the next sample.
    """

    timestep: Float[Array, "steps"]
    sigma: Float[Array, "steps"]
    correct: Float[Array, "steps 4"]
    predict: Float[Array, "steps 3"]


class State(NamedTuple):
    """Between steps: the sample, the corrected sample before it, and the last two clean guesses."""

    x: Float[Array, "..."]
    before: Float[Array, "..."]
    clean1: Float[Array, "..."]
    clean2: Float[Array, "..."]


def shift_sigmas(steps: int, shift: float) -> Float[np.ndarray, "steps"]:
    """Evenly spaced times from 0.999 down, shifted: the default schedule (shift 5, 35 steps).

    Raises:
        ValueError: fewer than one step, or a shift that is not positive.
    """
    if steps < 1 or shift <= 0:
        raise ValueError(
            f"steps={steps}, shift={shift}: take at least one step and a positive shift"
        )
    # The reference holds the first time in float32; truncated timesteps can depend on that.
    even = np.linspace(float(np.float32(0.999)), 0, steps + 1)[:-1]
    return shift * even / (1 + (shift - 1) * even)


def karras_sigmas(steps: int) -> Float[np.ndarray, "{steps}+1"]:
    """The schedule of Karras et al. 2022 carried over to flows, of Predict2.5-2B/post-trained.

    Both ends are included, so the network is evaluated `steps` + 1 times, as in the reference.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: take at least one step")
    top, bottom = KARRAS_MAX ** (1 / KARRAS_RHO), KARRAS_MIN ** (1 / KARRAS_RHO)
    edm = (top + np.arange(steps + 1) / steps * (bottom - top)) ** KARRAS_RHO
    return edm / (1 + edm)


def schedule(sigmas: Float[np.ndarray, "steps"]) -> Schedule:
    """Computes the weights of every step, in float64.

    Raises:
        ValueError: sigmas that do not fall strictly, inside (0, 1), in float32.
    """
    # float32 first: near sigma = 1 that rounding shows in 1 - sigma, and it is the reference's.
    s = np.append(np.float32(sigmas), np.float32(0)).astype(np.float64)
    if len(s) < 2 or s[0] >= 1 or np.any(np.diff(s) >= 0):
        raise ValueError(f"sigmas must fall strictly from below 1 to above 0, not {sigmas}")
    lam = np.append(np.log1p(-s[:-1]) - np.log(s[:-1]), np.inf)
    steps = len(sigmas)
    orders = [min(ORDER, steps - i, i + 1) for i in range(steps)]
    correct = [(1.0, 0.0, 0.0, 0.0)]  # nothing lies before the first sample
    correct += [_correct(s, lam, i, orders[i - 1]) for i in range(1, steps)]
    predict = [_predict(s, lam, i, orders[i]) for i in range(steps)]
    return Schedule(
        timestep=jnp.asarray(np.trunc(1000 * sigmas), jnp.float32),
        sigma=jnp.asarray(s[:-1], jnp.float32),
        correct=jnp.asarray(correct, jnp.float32),
        predict=jnp.asarray(predict, jnp.float32),
    )


def _predict(s: np.ndarray, lam: np.ndarray, i: int, order: int) -> tuple[float, float, float]:
    """UniP from sigma i to i+1: weights of the sample, and of clean guesses i and i-1."""
    h = lam[i + 1] - lam[i]
    b = (1 - s[i + 1]) * np.expm1(-h)
    slope = 0.0 if order == 1 else 0.5 * b * h / (lam[i - 1] - lam[i])
    return s[i + 1] / s[i], -b + slope, -slope


def _correct(
    s: np.ndarray, lam: np.ndarray, i: int, order: int
) -> tuple[float, float, float, float]:
    """UniC from sigma i-1 to i: weights of sample i-1, and of clean guesses i-1, i-2 and i."""
    h = lam[i] - lam[i - 1]
    phi = np.expm1(-h)
    b = (1 - s[i]) * phi
    if order == 1:
        return s[i] / s[i - 1], -0.5 * b, 0.0, -0.5 * b
    r = (lam[i - 2] - lam[i - 1]) / h
    # rho solves [[1, 1], [r, 1]] rho = rhs.
    g = phi / -h - 1
    rhs = g / phi, 2 * (g / -h - 0.5) / phi
    rho1 = (rhs[1] - rhs[0]) / (r - 1)
    rho2 = rhs[0] - rho1
    return s[i] / s[i - 1], b * (rho1 / r + rho2 - 1), -b * rho1 / r, -b * rho2


def start(noise: Float[Array, "..."]) -> State:
    """The state before the first step."""
    return State(noise, noise, jnp.zeros_like(noise), jnp.zeros_like(noise))


def step(state: State, v: Float[Array, "..."], row: Schedule) -> State:
    """One step: from the velocity at `state.x` to the next sample.

    Args:
        state: from `start` or the step before.
        v: the velocity that the network gives at `state.x`, which is not yet corrected.
        row: this step's row of the schedule.
    """
    clean = state.x - row.sigma * v
    c, p = row.correct, row.predict
    x = c[0] * state.before + c[1] * state.clean1 + c[2] * state.clean2 + c[3] * clean
    return State(p[0] * x + p[1] * clean + p[2] * state.clean1, x, clean, state.clean1)


def solve(
    velocity: Callable[[Array, Array], Array], noise: Float[Array, "*shape"], rows: Schedule
) -> Float[Array, "*shape"]:
    """From noise to a sample, in one `lax.scan`: the network is compiled once for all steps.

    Args:
        velocity: (sample, scalar timestep) -> velocity, float32 of the sample's shape.
        noise: standard normal, float32.
        rows: the schedule.
    """

    def body(state: State, row: Schedule) -> tuple[State, None]:
        return step(state, velocity(state.x, row.timestep), row), None

    return jax.lax.scan(body, start(noise), rows)[0].x
