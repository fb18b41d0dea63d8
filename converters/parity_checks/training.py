"""Parity of the training step (rectified flow), of learning rates and of the weights' average."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.parity_checks import toy
from converters.parity_checks.golden import (
    FLOAT32,
    Golden,
    Options,
    Row,
    by_view,
    check_options,
    compare,
    frame_mask,
)
from cosmos_jax import optim
from cosmos_jax.diffusion import conditioning, flow

CASE = (
    *("name", "multiview", "dtype", "B", "V", "state_t", "probs", "coefs", "control_weight"),
    *("text_dropout", "seed", "n_cond", "shift", "conditional_frame_timestep"),
)
LR = ("warm_up_steps", "cycle_lengths", "f_start", "f_max", "f_min")


def check_flow(golden: Golden, options: Options) -> Iterator[Row]:
    """Loss, its gradients and all between of every case; each has its own dtype."""
    for case in golden.json("cases_json"):
        check_options(case, CASE, f"case {case['name']}")
        yield from _flow_case(golden.under(f"{case['name']}/"), case)


def flow_loss(golden: Golden, case: Mapping[str, Any], coefs: Any) -> Any:
    """Mean loss of a case, and what it was computed from."""
    views, dtype = case["V"], jnp.dtype(case["dtype"].removeprefix("torch."))
    mask = jnp.asarray(frame_mask(golden["in/condition_mask"], views))
    control = jnp.asarray(by_view(golden["in/control_latent"], views)).astype(dtype)
    network = toy.velocity(
        coefs,
        control.astype(jnp.float32) * toy.control_weight(case),
        mask,
        jnp.asarray(golden["in/text_after_dropout"]).mean((1, 2)),
    )
    per_sample, aux = flow.loss(
        network,
        jnp.asarray(by_view(golden["in/x0_latent"], views)),
        mask,
        jnp.asarray(by_view(golden["in/epsilon"], views)),
        jnp.asarray(golden["in/normal_draw_for_time"]),
        # The published values, which files name only where they have others.
        shift=case.get("shift", 5.0),
        conditional_frame_timestep=case.get("conditional_frame_timestep", -1.0),
        dtype=dtype,
    )
    return per_sample.mean(), (per_sample, aux)


def _flow_case(golden: Golden, case: Mapping[str, Any]) -> Iterator[Row]:
    name, views, bf16 = case["name"], case["V"], case["dtype"] == "torch.bfloat16"
    run = jax.jit(jax.value_and_grad(lambda c: flow_loss(golden, case, c), has_aux=True))
    (loss, (per_sample, aux)), grads = run(toy.coefficients(case))
    clean = by_view(golden["in/epsilon"], views) - aux.target
    wanted = {
        key: by_view(golden[key], views)
        for key in ("net_in/x", "out/xt", "out/target_velocity", "out/model_pred", "out/x0")
    }
    step = np.abs(wanted["net_in/x"]) * 2.0**-7

    yield compare(f"{name}/out/sigma", aux.sigma[:, None], golden["out/sigma"], FLOAT32)
    times = golden["net_in/timesteps"]
    ours = np.asarray(aux.timesteps).reshape(len(times), -1)
    yield compare(f"{name}/net_in/timesteps", ours, times, 1e-2)  # 1e-5 of their size
    for key, value in (("xt", aux.noisy), ("target_velocity", aux.target), ("x0", clean)):
        yield compare(f"{name}/out/{key}", value, wanted[f"out/{key}"], FLOAT32)
    received = np.asarray(aux.net_input, np.float32)
    if bf16:
        # Where a sum lies between two bfloat16 numbers, platforms may differ by one of their steps.
        what = f"{name}/net_in/x, in bfloat16 steps"
        yield compare(what, received, wanted["net_in/x"], 1.0, scale=np.maximum(step, 1e-9))
    else:
        yield compare(f"{name}/net_in/x", received, wanted["net_in/x"], FLOAT32)
    limit = 2e-2 if bf16 else FLOAT32
    yield compare(f"{name}/out/model_pred", aux.prediction, wanted["out/model_pred"], limit)
    size = np.abs(golden["out/loss"])
    yield compare(f"{name}/out/loss, relative", loss, golden["out/loss"], 1e-4, scale=size)
    if "out/per_instance_loss" in golden:
        each = golden["out/per_instance_loss"]
        yield compare(f"{name}/out/per_instance_loss", per_sample, each, FLOAT32)
    theirs = golden["grad_coefs"]
    yield compare(f"{name}/grad_coefs", grads, theirs, 1e-3 * float(np.abs(theirs).max()))
    if "n_cond" in case:
        mask = frame_mask(golden["in/condition_mask"], views)
        counts = jnp.asarray(case["n_cond"], jnp.int32)
        drawn = conditioning.condition_mask(counts, *mask.shape[1:])
        yield compare(f"{name}/in/condition_mask of n_cond", drawn, mask, 0.0)


def check_schedules(golden: Golden, options: Options) -> Iterator[Row]:
    """Learning rate multipliers, and the average of the weights over some steps."""
    config = golden.json("config_json")
    check_options(config, ("lr", "ema"), "the schedules")
    for i, cycles in enumerate(config["lr"]):
        check_options(cycles, LR, f"lr{i}")
        steps = jnp.asarray(golden[f"lr{i}/steps"], jnp.int32)
        ours = jax.jit(jax.vmap(optim.lambda_linear(**cycles)))(steps)
        theirs = golden[f"lr{i}/mult"]
        scale = np.maximum(np.abs(theirs), 1e-7)
        yield compare(f"lr{i}/mult, relative", ours, theirs, 1e-5, scale=scale)
    for i, average in enumerate(config["ema"]):
        check_options(average, ("rate", "iteration_shift"), f"ema{i}")
        if average["iteration_shift"]:
            raise ValueError(f"option iteration_shift of ema{i} must be 0")
        yield from _average(f"ema{i}", golden.under(f"ema{i}/"), average["rate"])


def _average(name: str, golden: Golden, rate: float) -> Iterator[Row]:
    yield compare(f"{name}/coef", optim.ema_exponent(rate), golden["coef"], 1e-6)
    steps = jnp.asarray(golden["iteration"], jnp.int32)
    weights = jax.jit(jax.vmap(lambda n: optim.ema_weight(n, rate)))(steps)
    wanted = 1 - golden["beta"]  # near 0 in the long run, so its size counts
    yield compare(f"{name}/beta: 1 - beta, relative", weights, wanted, 1e-4, scale=wanted)

    def step(ema: Any, row: Any) -> Any:
        ema = optim.ema_update(ema, row[1], row[0], rate, jnp.float32)
        return ema, ema

    params = jnp.asarray(golden["params"])
    roll = jax.jit(lambda first, rows: jax.lax.scan(step, first, rows)[1])
    ours = roll(
        {"w": jnp.asarray(golden["init"])},
        (jnp.arange(len(params), dtype=jnp.int32), {"w": params}),
    )
    yield compare(f"{name}/ema", ours["w"], golden["ema"], 1e-5)
