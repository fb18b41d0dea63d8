"""Solvers from noise to clean latents in EDM's noise levels, as tables of weights.

Every solver here is linear: what follows an evaluation of the network is a weighted sum of the
sample, of the sample where the step began, and of the last two clean guesses. The weights are
computed on the host in float64, one row for each evaluation, so one `lax.scan` serves them all.

With sigma = exp(-lambda), a step from s to t of an exponential integrator is x_t = exp(-h) x_s + h
times a weighted mean of clean guesses, h = lambda_t - lambda_s (cosmos-predict1, "res_sampler";
Zhang et al. 2023, "Improved Order Analysis and Design of Exponential Integrator for Diffusion
Models Sampling"). The published inference is `euler` (diffusers' EDMEulerScheduler).
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cosmos_jax.types import round_to

SIGMA_MAX, RHO = 80.0, 7.0
EULER_MIN, RES_MIN = 0.0002, 0.002
EVALUATIONS = {"1euler": 1, "2ab": 1, "2mid": 2, "2heun_edm": 2}
"""Solvers of `res`, and how often a step of theirs asks the network."""

Row = tuple[float, float, float, float]


class Schedule(NamedTuple):
    """One row for each evaluation of the network.

    Attributes:
        sigma: the level at which the network is asked `[rows]`.
        predict: weights `[rows 4]` of the sample, of the sample where the step began, of the new
            clean guess and of the one before, that give the next sample.
        begins: 1 where the next sample begins a step `[rows]`.
    """

    sigma: Float[Array, "rows"]
    predict: Float[Array, "rows 4"]
    begins: Float[Array, "rows"]


class State(NamedTuple):
    """Between rows: the sample, the sample where the step began, and the last clean guess."""

    x: Float[Array, "..."]
    begun: Float[Array, "..."]
    clean: Float[Array, "..."]


def sigmas(
    count: int, *, highest: float = SIGMA_MAX, lowest: float, rho: float = RHO
) -> Float[np.ndarray, "count"]:
    """Levels whose rho-th roots are evenly spaced, both ends included (Karras et al. 2022, eq. 5).

    Raises:
        ValueError: no level, or ends that do not fall.
    """
    if count < 1 or not 0 < lowest < highest:
        raise ValueError(f"{count} levels from {highest} to {lowest} do not fall")
    top, bottom = highest ** (1 / rho), lowest ** (1 / rho)
    return (top + np.arange(count) / max(count - 1, 1) * (bottom - top)) ** rho


def euler_start(highest: float = SIGMA_MAX) -> float:
    """The size of the noise that `euler` begins with in diffusers; `res` takes the first level."""
    return (highest**2 + 1) ** 0.5


def euler(levels: Float[np.ndarray, "steps"]) -> Schedule:
    """Euler's method through the levels and on to 0: the last step lands on the clean guess."""
    ends = [*levels[1:], 0.0]
    return _schedule([(s, _line(s, t), 1.0) for s, t in zip(levels, ends)])


def res(
    solver: str,
    levels: Float[np.ndarray, "points"],
    *,
    churn: float = 0.0,
    churn_above: float = 0.0,
    clean: bool = True,
) -> Schedule:
    """The solvers of cosmos-predict1's training side, from the first level to the last.

    Args:
        solver: "2ab" (two-step Adams-Bashforth, the reference's choice), "1euler", or "2mid" and
            "2heun_edm", which evaluate the network twice a step.
        levels: one more than steps.
        churn: raises the level of every step above `churn_above`, as the reference's S_churn does,
            but without fresh noise (S_noise 0).
        churn_above: see `churn`.
        clean: whether the network is asked once more at the last level, whose clean guess is the
            result.

    Raises:
        ValueError: a solver that does not exist, or fewer than two levels.
    """
    if solver not in EVALUATIONS or len(levels) < 2:
        raise ValueError(f"solver {solver!r} must be one of {[*EVALUATIONS]}, with two levels up")
    extra = min(churn / len(levels), np.sqrt(1.2) - 1)
    rows: list[tuple[float, Row, float]] = []
    before = None
    for s, t in itertools.pairwise(levels):
        s = s * (1 + extra) if s > churn_above else s
        rows += _step(solver, s, t, before)
        before = s
    if clean:
        rows.append((levels[-1], (0.0, 0.0, 1.0, 0.0), 1.0))
    return _schedule(rows)


def _step(solver: str, s: float, t: float, before: float | None) -> list[tuple[float, Row, float]]:
    """The rows of a step from s to t; `before` is where the last step began, if there was one."""
    if solver == "2ab" and before is not None:
        decay, new, old = _exponential(s, t, before)
        return [(s, (decay, 0.0, new, old), 1.0)]
    if EVALUATIONS[solver] == 1:
        return [(s, _line(s, t), 1.0)]
    if solver == "2mid":
        middle = float(np.sqrt(s * t))
        decay, at_begin, at_middle = _exponential(s, t, middle)
        return [(s, _line(s, middle), 0.0), (middle, (0.0, decay, at_middle, at_begin), 1.0)]
    # "2heun_edm" is Euler's step with the mean of the clean guesses at both ends.
    decay, _, share, _ = _line(s, t)
    return [(s, _line(s, t), 0.0), (t, (0.0, decay, share / 2, share / 2), 1.0)]


def _line(s: float, t: float) -> Row:
    """Euler from s to t."""
    return t / s, 0.0, 1 - t / s, 0.0


def _exponential(s: float, t: float, other: float) -> tuple[float, float, float]:
    """From s to t: weights of the sample, of the clean guess at s and of that at `other`."""
    h = np.log(s / t)
    c = np.log(s / other) / h
    phi1 = -np.expm1(-h) / h
    phi2 = (phi1 - 1) / -h
    return np.exp(-h), h * (phi1 - phi2 / c), h * phi2 / c


def _schedule(rows: list[tuple[float, Row, float]]) -> Schedule:
    sigma, predict, begins = zip(*rows)
    return Schedule(*(jnp.asarray(np.array(x), jnp.float32) for x in (sigma, predict, begins)))


def start(noise: Float[Array, "*shape"]) -> State:
    """The state before the first row; `noise` has the first level's size."""
    return State(noise, noise, jnp.zeros_like(noise))


def step(state: State, clean: Float[Array, "*shape"], row: Schedule) -> State:
    """One row: from the clean guess at `state.x` to the next sample."""
    p = row.predict
    x = p[0] * state.x + p[1] * state.begun + p[2] * clean + p[3] * state.clean
    return State(x, jnp.where(row.begins > 0, x, state.begun), clean)


def solve(
    guess: Callable[[Array, Array], Array],
    noise: Float[Array, "*shape"],
    rows: Schedule,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*shape"]:
    """From noise to a sample, in one `lax.scan`: the network is compiled once for all rows.

    Args:
        guess: (sample, scalar sigma) -> clean latents, float32 of the sample's shape.
        noise: float32, of the first level's size.
        rows: the schedule.
        dtype: samples are rounded to it between rows. Published inference holds them in bfloat16.
    """

    def body(state: State, row: Schedule) -> tuple[State, None]:
        state = step(state, guess(state.x, row.sigma), row)
        return state._replace(x=round_to(state.x, dtype)), None

    return jax.lax.scan(body, start(round_to(noise, dtype)), rows)[0].x
