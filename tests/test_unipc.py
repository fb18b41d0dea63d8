"""UniPC: the reference's trajectories, and the properties of the solver."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.parity_checks import sampling
from converters.parity_checks.golden import Golden, Options
from cosmos_jax.diffusion import unipc

pytestmark = pytest.mark.core

GOLDEN = Golden.load(pathlib.Path(__file__).parent / "goldens" / "unipc.npz")


@functools.cache
def compared():
    return list(sampling.check_solver(GOLDEN, Options()))


def rows(schedule):
    return [jax.tree.map(lambda a, i=i: a[i], schedule) for i in range(len(schedule.sigma))]


def field(mu, spread=0.3):
    """The exact velocity where the data are normal, of mean mu and the given spread."""

    def velocity(x, timestep):
        b = timestep / 1000
        a = 1 - b
        var = a**2 * spread**2 + b**2
        clean = mu + a * spread**2 / var * (x - a * mu)
        return b / var * (x - a * mu) - clean

    return velocity


def test_every_step_of_the_references_trajectory():
    rows = {row.what: row for row in compared()}
    for i in range(len(GOLDEN.json("cases_json"))):
        for name in ("timesteps", "sigmas"):
            assert rows[f"c{i}/{name}"].max_error == 0
        for name in ("x", "x0_pred"):
            assert rows[f"c{i}/{name}"].max_error <= 1e-5, rows[f"c{i}/{name}"]
    assert GOLDEN.not_compared() == []


def test_the_scan_reaches_the_references_end():
    rows = [row for row in compared() if row.what.endswith("by the scan")]
    assert len(rows) == len(GOLDEN.json("cases_json"))
    assert all(row.max_error <= 1e-4 for row in rows), rows


@pytest.mark.parametrize("sigmas", [unipc.shift_sigmas(7, 5.0), unipc.karras_sigmas(4)])
def test_the_scan_is_the_plain_loop(sigmas):
    schedule = unipc.schedule(sigmas)
    noise = jax.random.normal(jax.random.key(0), (3, 4))

    def velocity(x, timestep):
        return jnp.sin(2 * x + timestep / 1000)

    state = unipc.start(noise)
    for row in rows(schedule):
        state = unipc.step(state, velocity(state.x, row.timestep), row)
    scanned = jax.jit(lambda noise: unipc.solve(velocity, noise, schedule))(noise)
    np.testing.assert_allclose(scanned, state.x, rtol=1e-5, atol=1e-6)


def test_one_step_is_noise_minus_sigma_times_velocity():
    schedule = unipc.schedule(unipc.shift_sigmas(1, 5.0))
    noise = jax.random.normal(jax.random.key(0), (5,))
    v = jax.random.normal(jax.random.key(1), (5,))
    end = unipc.solve(lambda x, t: v, noise, schedule)
    np.testing.assert_allclose(end, noise - schedule.sigma[0] * v, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 3, 35, 1000])
@pytest.mark.parametrize("shift", [1.0, 5.0, 10.0])
def test_weights_are_finite_and_keep_a_constant_path(steps, shift):
    """If x stays on one straight path (x = s eps + (1 - s) x0), every weighted sum stays on it."""
    schedule = unipc.schedule(unipc.shift_sigmas(steps, shift))
    assert all(np.all(np.isfinite(a)) for a in schedule)
    s = np.append(schedule.sigma, 0.0)
    c, p = np.asarray(schedule.correct), np.asarray(schedule.predict)
    np.testing.assert_allclose(p[:, 0] * s[:-1], s[1:], atol=1e-6)
    np.testing.assert_allclose(p[:, 0] * (1 - s[:-1]) + p[:, 1] + p[:, 2], 1 - s[1:], atol=1e-5)
    np.testing.assert_allclose(c[1:, 0] * s[:-2], s[1:-1], atol=1e-6)
    sums = c[1:, 0] * (1 - s[:-2]) + c[1:, 1:].sum(1)
    np.testing.assert_allclose(sums, 1 - s[1:-1], atol=1e-5)


def test_error_falls_with_the_square_of_the_step_or_faster():
    mu, spread = jnp.asarray([0.7]), 1.0
    noise = jnp.asarray([1.3])

    def error(steps):
        # Continuous times: truncated timesteps would put a floor under the error.
        schedule = unipc.schedule(unipc.shift_sigmas(steps, 1.0))
        schedule = schedule._replace(timestep=1000 * schedule.sigma)
        s = float(schedule.sigma[0])
        start_scale = np.sqrt((1 - s) ** 2 * spread**2 + s**2)
        exact = mu + spread * (noise - (1 - s) * mu) / start_scale
        return float(jnp.abs(unipc.solve(field(mu, spread), noise, schedule) - exact)[0])

    assert error(20) < error(10) / 4
    assert error(40) < error(20) / 4


def test_timesteps_are_truncated_from_a_float32_first_time():
    """With shift 1 the times 0.999 (1 - i/27) fall on whole timesteps, where rounding decides."""
    assert unipc.schedule(unipc.shift_sigmas(27, 1.0)).timestep.tolist() == list(range(999, 0, -37))


def test_karras_takes_one_evaluation_more_and_runs_from_200_to_a_hundredth():
    sigmas = unipc.karras_sigmas(35)
    assert len(sigmas) == 36
    np.testing.assert_allclose(sigmas[[0, -1]], [200 / 201, 0.01 / 1.01], rtol=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: unipc.shift_sigmas(0, 5.0), "at least one step"),
        (lambda: unipc.shift_sigmas(4, 0.0), "positive shift"),
        (lambda: unipc.karras_sigmas(0), "at least one step"),
        (lambda: unipc.schedule(np.asarray([0.5, 0.9])), "fall strictly"),
        (lambda: unipc.schedule(np.asarray([1.0, 0.5])), "fall strictly"),
        (lambda: unipc.schedule(np.asarray([0.5, 0.0])), "fall strictly"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
