"""Parity of the UniPC solver, and of the whole denoising loop under guidance."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.parity_checks import toy
from converters.parity_checks.golden import (
    Golden,
    Options,
    Row,
    by_view,
    check_options,
    compare,
    frame_mask,
)
from cosmos_jax import sample
from cosmos_jax.diffusion import unipc

LIMIT = 1e-4
SOLVER = ("name", "steps", "shift", "seed", "shape", "karras", "field")
LOOP = (
    *("name", "multiview", "dtype", "B", "V", "state_t", "seed", "coefs", "control_weight"),
    *("num_conditional_latent_frames", "guidance", "num_steps", "negative_prompt", "shift"),
    *("conditional_frame_timestep", "use_karras_sigma"),
)


def schedule(steps: int, shift: float, karras: bool) -> unipc.Schedule:
    """The rows of the solver."""
    sigmas = unipc.karras_sigmas(steps) if karras else unipc.shift_sigmas(steps, shift)
    return unipc.schedule(sigmas)


def check_solver(golden: Golden, options: Options) -> Iterator[Row]:
    """Every step of every case on the file's own velocities, and the end that the scan reaches."""
    for i, case in enumerate(golden.json("cases_json")):
        name = case.get("name", f"c{i}")
        check_options(case, SOLVER, f"case {name}")
        yield from _solver_case(name, golden.under(f"{name}/"), case)


def _solver_case(name: str, golden: Golden, case: Mapping[str, Any]) -> Iterator[Row]:
    rows = schedule(case["steps"], case["shift"], case.get("karras", False))
    yield compare(f"{name}/timesteps", rows.timestep, golden["timesteps"], 0.0)
    sigmas = np.append(rows.sigma, np.float32(0))
    yield compare(f"{name}/sigmas", sigmas, golden["sigmas"], 1e-7)
    if len(golden["v"]) != len(rows.sigma):
        raise ValueError(f"case {name}: {len(golden['v'])} velocities of {len(rows.sigma)} steps")

    def step(state: unipc.State, given: Any) -> Any:
        state = unipc.step(state, *given)
        return state, (state.x, state.clean1)

    x, v = jnp.asarray(golden["x"]), jnp.asarray(golden["v"])
    replay = jax.jit(lambda x, v, rows: jax.lax.scan(step, unipc.start(x), (v, rows))[1])
    ours, clean = replay(x[0], v, rows)
    yield compare(f"{name}/x", ours, golden["x"][1:], LIMIT)
    yield compare(f"{name}/x0_pred", clean, golden["x0_pred"], LIMIT)
    kind = case.get("field", "gauss")
    if kind not in ("gauss", "nl"):
        golden.skipped.append(f"{name}/x by the scan, whose field {kind!r} is not known")
        return
    mu, spread = jnp.asarray(golden["mu"]), float(golden["s"])
    field = _gauss(mu, spread) if kind == "gauss" else _nonlinear(mu)
    solve = jax.jit(lambda x, rows: unipc.solve(field, x, rows))
    yield compare(f"{name}/x[-1] by the scan", solve(x[0], rows), golden["x"][-1], LIMIT)


def _gauss(mu: Any, spread: float) -> Any:
    """The exact velocity where the data are normal, of mean mu and the given spread."""

    def velocity(x: Any, timestep: Any) -> Any:
        b = timestep / 1000
        a = 1 - b
        var = a**2 * spread**2 + b**2
        clean = mu + a * spread**2 / var * (x - a * mu)
        return b / var * (x - a * mu) - clean

    return velocity


def _nonlinear(mu: Any) -> Any:
    def velocity(x: Any, timestep: Any) -> Any:
        t = timestep / 1000
        return jnp.sin(2 * x + t) * (0.5 + t) - 0.7 * mu * jnp.cos(3 * t * x)

    return velocity


def check_loop(golden: Golden, options: Options) -> Iterator[Row]:
    """Noise, network inputs and final latents of every case."""
    for case in golden.json("cases_json"):
        check_options(case, LOOP, f"case {case['name']}")
        yield from _loop_case(golden.under(f"{case['name']}/"), case)


def _loop_case(golden: Golden, case: Mapping[str, Any]) -> Iterator[Row]:
    name, views = case["name"], case["V"]
    noise = by_view(golden["in/noise"], views)
    drawn = sample.initial_noise(case["seed"], **dict(zip("bvthwc", noise.shape)))
    yield compare(f"{name}/in/noise", drawn, noise, 0.0)
    texts = (golden["in/text"], golden["in/neg_text"] * case["negative_prompt"])
    means = [jnp.asarray(text).mean((1, 2)) for text in texts]
    latents, seen = run_loop(golden, case, jnp.asarray(noise), jnp.concatenate(means))
    yield compare(f"{name}/out/latents", latents, by_view(golden["out/latents"], views), LIMIT)
    first = by_view(golden["net_in_x_first_cond"], views)
    yield compare(f"{name}/net_in_x_first_cond", seen[0][0][: len(noise)], first, LIMIT)
    # The reference calls its network twice a step (cond, uncond); ours sees both in one batch.
    times = np.concatenate([t.reshape(2, len(noise), -1) for _, t in seen])
    yield compare(f"{name}/net_in_t", times, golden["net_in_t"], 1e-2)  # 1e-5 of their size
    if "net_in_ctx_mean" in golden:
        ours = np.tile(np.stack(means), (len(seen), 1))
        yield compare(f"{name}/net_in_ctx_mean", ours, golden["net_in_ctx_mean"], LIMIT)


def run_loop(golden: Golden, case: Mapping[str, Any], noise: Any, text_means: Any) -> Any:
    """Final latents of a case, and the (x, timesteps) that every call of the network received."""
    views, seen = case["V"], []
    mask = np.zeros(noise.shape[:3], np.float32)
    if "in/condition_mask" in golden:
        mask = frame_mask(golden["in/condition_mask"], views)
    control = by_view(golden["in/control_latent"], views) * toy.control_weight(case)
    network = toy.velocity(
        toy.coefficients(case), jnp.asarray(control), jnp.asarray(mask), text_means
    )

    def spy(x: Any, timesteps: Any) -> Any:
        keep = lambda x, t: seen.append((np.asarray(x), np.asarray(t)))  # noqa: E731
        jax.debug.callback(keep, x, timesteps, ordered=True)
        return network(x, timesteps)

    solve = jax.jit(
        lambda noise, given, guidance: sample.denoise(
            spy,
            noise,
            given,
            jnp.asarray(mask),
            schedule(case["num_steps"], case["shift"], case["use_karras_sigma"]),
            guidance,
            conditional_frame_timestep=case["conditional_frame_timestep"],
            dtype=jnp.dtype(case.get("dtype", "float32").removeprefix("torch.")),
        )
    )
    given = jnp.asarray(by_view(golden["in/x0_latent"], views))
    latents = solve(noise, given, jnp.float32(case["guidance"]))
    jax.effects_barrier()
    return latents, seen
