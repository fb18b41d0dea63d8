"""Parity of Cosmos-Predict1's solvers, schedules, conditions and folding of views."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from converters.parity_checks.golden import (
    Golden,
    Options,
    Row,
    by_view,
    check_options,
    compare,
)
from converters.parity_checks.sampling import LIMIT
from cosmos_jax import build_predict1, optim, videos
from cosmos_jax.diffusion import conditioning, edm, edm_solvers, guiding
from cosmos_jax.models.predict1 import Predict1
from cosmos_jax.types import round_to

TOY = ("toy", "mix_cond", "mix_uncond", "guidance", "seed")
EULER = ("n", "sigma_min", "sigma_max", "guidance", "dtype")
RES = (
    *("n", "solver", "sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_noise"),
    "sample_clean",
)
SCHEDULES = (
    *("adamw", "cycle_length", "ema_rates", "f_max", "f_min", "f_start", "lr", "note"),
    "warm_up_steps",
)
ADAMW = ("betas", "clip_norm", "eps", "lr_factor", "weight_decay")
SIGMA_DATA = 0.5
CAMERAS = {
    6: ("front", "left", "right", "back", "back_left", "back_right"),
    5: ("front", "left", "right", "back_left", "back_right"),
}
"""The order of the published sampler's views, by their number."""

Guess = Callable[[Any, Any], Any]


def toy(golden: Golden, given: Mapping[str, Any], guided: bool) -> Guess:
    """The closed-form denoiser of a file, guided where a case is."""
    mean, other, square = (jnp.asarray(golden[name]) for name in ("mu", "mu_uncond", "s"))
    square = square**2

    def branch(mu: Any, mix: float, x: Any, sigma: Any) -> Any:
        return mu + (x - mu) * square / (square + sigma**2) + mix * jnp.tanh(x / (1 + sigma))

    def guess(x: Any, sigma: Any) -> Any:
        cond = branch(mean, given["mix_cond"], x, sigma)
        if not guided:
            return cond
        uncond = branch(other, given["mix_uncond"], x, sigma)
        wide = [y[..., None, None] for y in (cond, uncond)]
        return guiding.guide(wide[0], wide[1], given["guidance"])[..., 0, 0]

    return guess


def check_solvers(golden: Golden, options: Options) -> Iterator[Row]:
    """Every step of every case, and what the scan ends with."""
    given = golden.json("config_json")
    check_options(given, TOY, "the toy denoiser")
    for name in [key.removesuffix("/meta") for key in golden.names() if key.endswith("/meta")]:
        case, meta = golden.under(f"{name}/"), golden.under(f"{name}/").json("meta")
        if "solver" in meta:
            check_options(meta, RES, f"case {name}")
            guided = "guided" in name
            # Guidance multiplies what the branches' rounding leaves.
            limit = LIMIT * (1 + given["guidance"]) if guided else LIMIT
            guess = toy(golden, given, guided)
            yield from _res(name, case, meta, guess, golden["noise"], limit)
        else:
            check_options(meta, EULER, f"case {name}")
            guess = toy(golden, given, meta["guidance"] is not None)
            yield from _euler(name, case, meta, guess, golden["noise"])


def trajectory(guess: Guess, x: Any, rows: edm_solvers.Schedule, dtype: str) -> np.ndarray:
    """The samples after every row."""

    def body(state: Any, row: Any) -> Any:
        state = edm_solvers.step(state, guess(state.x, row.sigma), row)
        state = state._replace(x=round_to(state.x, dtype))
        return state, state.x

    run = jax.jit(lambda x: jax.lax.scan(body, edm_solvers.start(round_to(x, dtype)), rows)[1])
    return np.asarray(run(x))


def _euler(
    name: str, case: Golden, meta: Mapping[str, Any], guess: Guess, noise: np.ndarray
) -> Iterator[Row]:
    dtype = meta["dtype"].removeprefix("torch.")
    highest, lowest = float(meta["sigma_max"]), float(meta["sigma_min"])
    levels = edm_solvers.sigmas(meta["n"], highest=highest, lowest=lowest)
    rows, theirs = edm_solvers.euler(levels), case["sigmas"]
    ours = np.append(levels, 0.0)
    yield compare(f"{name}/sigmas, relative", ours, theirs, 1e-5, scale=np.maximum(theirs, 1e-9))
    yield compare(f"{name}/timesteps", np.log(levels) / 4, case["timesteps"], 1e-5)
    start = edm_solvers.euler_start(highest)
    yield compare(f"{name}/init_noise_sigma", start, case["init_noise_sigma"], 1e-6)
    samples = noise * np.float32(start)
    if dtype == "float32":
        yield compare(f"{name}/traj", trajectory(guess, samples, rows, dtype), case["traj"], LIMIT)
        last = jax.jit(lambda x: edm_solvers.solve(guess, x, rows))(samples)
        yield compare(f"{name}/traj[-1] by solve", last, case["traj"][-1], LIMIT)
        return

    def rounded(x: Any, sigma: Any) -> Any:
        scale = edm.scaling(sigma, SIGMA_DATA)
        output = round_to((guess(x, sigma) - scale.skip * x) / scale.out, dtype)
        return scale.skip * x + scale.out * output

    ours, theirs = trajectory(rounded, samples, rows, dtype), case["traj"]
    size = np.abs(theirs).max(tuple(range(1, theirs.ndim)), keepdims=True)
    yield compare(f"{name}/traj, relative to each step's largest", ours, theirs, 2e-2, scale=size)


def _res(
    name: str,
    case: Golden,
    meta: Mapping[str, Any],
    guess: Guess,
    noise: np.ndarray,
    limit: float,
) -> Iterator[Row]:
    if meta["S_churn"] and meta["S_noise"]:
        raise ValueError(f"case {name}: fresh noise (S_churn with S_noise) is not supported")
    solver = meta["solver"]
    if solver not in edm_solvers.EVALUATIONS:
        raise ValueError(f"case {name}: solver {solver} is not known")
    evaluations = edm_solvers.EVALUATIONS[solver]
    highest, lowest, rho = (float(meta[key]) for key in ("sigma_max", "sigma_min", "rho"))
    points = meta["n"] // evaluations + 1
    levels = edm_solvers.sigmas(points, highest=highest, lowest=lowest, rho=rho)
    yield compare(f"{name}/sigmas, relative", levels, case["sigmas"], 1e-6, scale=case["sigmas"])
    rows = edm_solvers.res(
        solver,
        levels,
        churn=float(meta["S_churn"]),
        churn_above=float(meta["S_min"]),
        clean=meta["sample_clean"],
    )
    count = len(levels) - 1
    used = np.asarray(rows.sigma)[: count * evaluations : evaluations]
    theirs = case["sigma_used"]
    yield compare(f"{name}/sigma_used, relative", used, theirs, 1e-6, scale=theirs)
    samples = noise * np.float32(edm_solvers.SIGMA_MAX)  # whatever the first level
    ours = trajectory(guess, samples, rows, "float32")
    landed = ours[evaluations - 1 : count * evaluations : evaluations]
    yield compare(f"{name}/traj", landed, case["traj"], limit)
    last = jax.jit(lambda x: edm_solvers.solve(guess, x, rows))(samples)
    yield compare(f"{name}/final", last, case["final"], limit)


def check_schedules(golden: Golden, options: Options) -> Iterator[Row]:
    """Learning rates, averages of weights, and steps of the optimiser."""
    given = golden.json("config_json")
    check_options(given, SCHEDULES, "the schedules")
    adamw = given["adamw"]
    check_options(adamw, ADAMW, "the optimiser")
    settings = optim.OptimConfig(
        lr=given["lr"],
        weight_decay=adamw["weight_decay"],
        clip=adamw["clip_norm"],
        warm_up_steps=given["warm_up_steps"],
        cycle_length=given["cycle_length"],
        f_start=given["f_start"],
        f_max=given["f_max"],
        f_min=given["f_min"],
        b1=adamw["betas"][0],
        b2=adamw["betas"][1],
        eps=adamw["eps"],
    )
    rates = jax.jit(jax.vmap(optim.learning_rate(settings, 1)))
    for name, steps, scale in (
        ("factor", golden["lr/steps"], given["lr"]),
        ("lr_used_at_iteration_0_11", np.arange(12), 1.0),
    ):
        theirs = golden[f"lr/{name}"]
        ours = np.asarray(rates(jnp.asarray(steps, jnp.int32)), np.float64) / scale
        yield compare(f"lr/{name}, relative", ours, theirs, 1e-5, scale=theirs)
    for rate in given["ema_rates"]:
        yield from _average(golden, rate)
    yield from _adamw(golden, settings)


def _average(golden: Golden, rate: float) -> Iterator[Row]:
    exponent = f"ema/exp_coefficient_{rate}"
    yield compare(exponent, optim.ema_exponent(rate), golden[exponent], 1e-6)
    steps = jnp.asarray(golden[f"ema/iterations_{rate}"], jnp.int32)
    ours = jax.vmap(lambda n: optim.ema_weight(n, rate))(steps)
    wanted = 1 - golden[f"ema/beta_{rate}"]
    what = f"ema/beta_{rate}: 1 - beta, relative"
    yield compare(what, ours, wanted, 1e-4, scale=np.maximum(wanted, 1e-12))
    if rate != float(golden["ema/rate_of_seq"]):
        return

    def step(ema: Any, row: Any) -> Any:
        ema = optim.ema_update(ema, row[1], row[0], rate, "float32")
        return ema, ema

    weights = jnp.asarray(golden["ema/src_weight_seq"])
    first = {"w": jnp.asarray(golden["ema/init_ema_weight"])}
    rows = (jnp.arange(len(weights), dtype=jnp.int32), {"w": weights})
    averages = jax.jit(lambda first, rows: jax.lax.scan(step, first, rows)[1])(first, rows)
    yield compare("ema/ema_weight_seq", averages["w"], golden["ema/ema_weight_seq"], 1e-5)


def _adamw(golden: Golden, settings: optim.OptimConfig) -> Iterator[Row]:
    optimizer = optim.optimizer(settings, 1)

    def step(state: Any, grad: Any) -> Any:
        w, moments = state
        updates, moments = optimizer.update(grad, moments, w)
        w = optax.apply_updates(w, updates)
        return (w, moments), w["w"]

    first = {"w": jnp.asarray(golden["adamw/w0"], jnp.float32)}
    grads = {"w": jnp.asarray(golden["adamw/grads_before_clip"], jnp.float32)}
    run = jax.jit(lambda w, grads: jax.lax.scan(step, (w, optimizer.init(w)), grads)[1])
    ours, theirs = np.asarray(run(first, grads)), golden["adamw/w_after"]
    yield compare("adamw/w_after", ours, theirs, 1e-6)


def check_glue(golden: Golden, options: Options) -> Iterator[Row]:
    """What the network is told with text and without, text dropout, views as an axis, pictures."""
    cond, uncond = golden.named("conditioner/cond/"), golden.named("conditioner/uncond/")
    given = golden.named("conditioner/in/")
    given["crossattn_emb"] = given.pop("t5_text_embeddings")
    given["crossattn_mask"] = given.pop("t5_text_mask")
    given["frame_repeat"] = given["frame_repeat"] / 10
    config = build_predict1.VARIANTS["predict1_7b_multiview_av"]
    ids = np.arange(given["frame_repeat"].shape[1])
    repeated = np.isin(ids, config.repeated_views).astype(np.float32)[None]
    yield compare("conditioner/cond/frame_repeat, published", repeated, cond["frame_repeat"], 0.0)
    nothing = np.asarray(Predict1(config).no_text({}, given["crossattn_emb"].shape[-1]), np.float32)
    empty = {"crossattn_emb": np.broadcast_to(nothing, given["crossattn_emb"].shape)}
    for branch, told, ours in (("cond", cond, given), ("uncond", uncond, given | empty)):
        for key, theirs in told.items():
            yield compare(f"conditioner/{branch}/{key}", ours[key], theirs, 0.0)
    draws = jax.random.uniform(jax.random.key(0), (20_000, 1))
    text = conditioning.drop_text(jnp.ones((20_000, 1, 1, 1)), draws, 0.2, False, jnp.zeros(1))
    kept = golden["conditioner/train_text_keep_fraction"]
    yield compare("conditioner/train_text_keep_fraction", text.mean(), kept, 0.03)
    folded = golden["fold/out_(BV)CTHW"]
    views = len(folded) // len(golden["fold/in_BC(VT)HW"])
    apart = np.moveaxis(by_view(golden["fold/in_BC(VT)HW"], views), -1, 2)
    yield compare("fold/out_(BV)CTHW", apart.reshape(folded.shape), folded, 0.0)
    for name in sorted({name.split("/")[0] for name in golden.names("grid/")}):
        yield from _pictures(golden.under(f"grid/{name}/"), int(name.removeprefix("V")))


def _pictures(golden: Golden, count: int) -> Iterator[Row]:
    """All views in one picture, and one after another; there numbers are truncated to levels.

    Raises:
        ValueError: a number of views that the published sampler does not have.
    """
    if count not in CAMERAS:
        raise ValueError(f"{golden.prefix}: pictures are of {[*CAMERAS]} views")
    pixels = np.clip(by_view(golden["decoded"], count)[0], -1, 1)
    levels = np.round((pixels + 1) * 127.5).astype(np.uint8)
    grid = videos.picture(CAMERAS[count], levels)
    yield compare(f"{golden.prefix}grid_uint8_THWC", grid, golden["grid_uint8_THWC"], 1.0)
    flat = np.concatenate(levels)
    yield compare(f"{golden.prefix}flat_uint8_THWC", flat, golden["flat_uint8_THWC"], 1.0)
