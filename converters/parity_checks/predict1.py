"""Parity of Cosmos-Predict1's network, its positions, its loss and some steps of its training."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from converters import predict1, rules
from converters.parity_checks.golden import (
    FLOAT32,
    Golden,
    Options,
    Row,
    by_view,
    check_options,
    close,
    compare,
    frame_mask,
)
from converters.parity_checks.networks import LOSS, gradient
from cosmos_jax import optim
from cosmos_jax.diffusion import edm
from cosmos_jax.models import predict1 as models
from cosmos_jax.models.dit import sinusoid
from cosmos_jax.models.predict1 import Predict1, Predict1Config
from cosmos_jax.types import Params

ABOUT = ("cls", "note", "seed", "max_abs_diff_vs_inference_class", "params_without_grad")
ABOUT_LOSS = ("seed", "dtype", "sde", "sigma_data")
ABOUT_STEPS = ("ema_rate", "lr", "optimizer", "seed", "steps", "warm_up_steps")
INPUTS = (
    *("x", "timesteps", "crossattn_emb", "padding_mask", "fps", "frame_repeat", "target"),
    "condition_video_input_mask",
)
BF16 = 3e-2
"""Largest error of a bfloat16 file's numbers, as a part of the largest."""

FPS = 10.0
"""Of the training steps, which do not state it as an array."""


def network(
    given: Mapping[str, Any], about: tuple[str, ...], cls: str, **execution: Any
) -> Predict1Config:
    """The network of a file's description, less what else the description says."""
    options = {name: value for name, value in given.items() if name not in about}
    return dataclasses.replace(predict1.config(cls, options), **execution)


def inputs(
    config: Predict1Config, latents: Any, timesteps: Any, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of `Predict1`; other inputs are the reference's, by name."""
    b, v, t = latents.shape[:3]
    text = given["crossattn_emb"]
    found = {
        "latents": latents,
        "timesteps": timesteps.reshape(b, 1, 1),
        "text": text.reshape(b, v, -1, text.shape[-1]),
        "view_ids": np.tile(np.arange(v, dtype=np.int32), (b, 1)),
        "condition_mask": np.zeros((b, v, t), np.float32),
        "fps": jnp.broadcast_to(given.get("fps", FPS), (b,)).astype(jnp.float32),
    }
    if "condition_video_input_mask" in given:
        found["condition_mask"] = frame_mask(given["condition_video_input_mask"], v)
    if "padding_mask" in given:
        mask = given["padding_mask"].astype(np.float32)[:, 0]
        found["padding_mask"] = jnp.broadcast_to(mask, (b, *mask.shape[1:]))
    if "frame_repeat" in given:
        found["frame_repeat"] = given["frame_repeat"]
    return jax.tree.map(jnp.asarray, found)


def variables(
    config: Predict1Config, tensors: Mapping[str, np.ndarray], example: Mapping[str, Any]
) -> Params:
    """The reference's weights as ours."""
    like = jax.eval_shape(Predict1(config).init, jax.random.key(0), **example)
    bare = {key.removeprefix("net."): tensor for key, tensor in tensors.items()}
    return jax.tree.map(jnp.asarray, rules.to_ours(predict1.table(config), bare, like))


def reference_grads(config: Predict1Config, grads: Params) -> dict[str, np.ndarray]:
    """Gradients by the reference's names, without `net.`."""
    rows = [row for row in predict1.table(config) if isinstance(row, rules.Rule)]
    rows = [row for row in rows if row.ours.startswith("params/")]
    return rules.to_reference(rows, {"params": grads})


def check_network(golden: Golden, options: Options) -> Iterator[Row]:
    """Output, loss, activations and gradients of one network."""
    config, example, held = load(golden, options)
    target = jnp.asarray(by_view(golden["in/target"], example["latents"].shape[1]))

    def loss(params: Params) -> Any:
        out, seen = Predict1(config).apply(
            held | {"params": params},
            **example,
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        return jnp.mean((out - target) ** 2), (out, seen["intermediates"])

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (out, seen)), grads = run(held["params"])
    yield close("out", out, by_view(golden["out"], example["latents"].shape[1]), options.dtype)
    yield compare("loss", value, golden["loss"], LOSS[options.dtype])
    yield from _activations(golden, config, example, seen, options.dtype)
    ours = reference_grads(config, grads)
    for key in golden.names("grad/"):
        yield gradient(golden, key, ours, options.dtype)
    without = golden.json("config_json")["params_without_grad"]
    for key in without:
        yield compare(f"{key}, without gradient", ours[key], np.zeros_like(ours[key]), 0.0)


def load(golden: Golden, options: Options) -> tuple[Predict1Config, dict[str, Any], Params]:
    """The network of a file, its inputs and its weights.

    Raises:
        ValueError: an option or an input that is unknown or has an unsupported value; weights that
            do not fit.
    """
    described = golden.json("config_json")
    config = network(
        described,
        ABOUT,
        described["cls"],
        dtype=options.dtype,
        attention=options.attention,
        text_attention=options.attention,
    )
    given = golden.named("in/")
    check_options(given, INPUTS, "a network's inputs")
    views = config.view_rows or 1
    example = inputs(config, by_view(given["x"], views), given["timesteps"], given)
    return config, example, variables(config, golden.named("sd/"), example)


def _activations(
    golden: Golden, config: Predict1Config, example: Any, captured: Any, dtype: str
) -> Iterator[Row]:
    seen = traverse_util.flatten_dict(captured, sep="/")
    seen = {path.removesuffix("/__call__"): kept[0] for path, kept in seen.items()}
    ours = _by_reference_name(config, example, seen)
    for name in golden.names("act/"):
        if name not in ours:
            continue  # never read, so it is listed
        theirs = golden[f"act/{name}"]
        kind = "float32" if name == "rope_angles_L11D" else dtype
        yield close(f"act/{name}", np.asarray(ours[name]).reshape(theirs.shape), theirs, kind)


def _by_reference_name(
    config: Predict1Config, example: Any, seen: Mapping[str, Any]
) -> dict[str, Any]:
    """What ours has for the activations of a file, reshaped to `[(v t) h w b d]` in blocks."""
    b, v, t, h, w, _ = example["latents"].shape
    grid = (t, h // config.patch, w // config.patch)
    head = config.width // config.heads
    rope = models.rope_angles(
        grid, head, config.rope_ratios, jnp.asarray(example["fps"][0]), config.rope_precision
    )
    found = {
        "x_embedder": seen["embed"],
        "adaln_lora_B3D": seen["time/out"],
        "t_emb_BD": sinusoid(example["timesteps"] * config.timestep_scale, config.width),
        "affine_emb_normed_BD": seen["time"][0],
        "rope_angles_L11D": np.tile(np.asarray(rope).reshape(-1, head // 2), (v, 2)),
    }
    positions: Any = 0.0
    if config.sincos:
        positions = models.sincos_positions(grid, config.width, config.sincos)
    elif config.learned:
        positions = seen["positions"]
    if config.sincos or config.learned:
        found["extra_pos_emb_BTHWD"] = np.broadcast_to(positions, (b, v, *positions.shape))
    before = seen["embed"]
    for i in range(config.blocks):
        x = before + positions
        for j, part in enumerate(("self_attn", "text_attn")):
            gate = seen[f"blocks/{part}_modulation"][2][i]
            x = x + gate * seen[f"blocks/{part}"][i]
            found[f"block{i}/sub{j}"] = _frames_first(x)
        before = seen["blocks/output"][i]
        found[f"block{i}/sub2"] = found[f"block{i}"] = _frames_first(before)
    return found


def _frames_first(x: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(x, np.float32), 0, -2)


def check_positions(golden: Golden, options: Options) -> Iterator[Row]:
    """Angles of the rope, in float32 and in bfloat16, and fixed positions, at full size."""
    given = golden.json("config_json")
    grid = (given["T"], given["H"], given["W"])
    rows = golden["rope/row_index"]
    ratios = tuple(given[f"{axis}_extrapolation_ratio"] for axis in "thw")
    for name, precision in (
        ("fp32", "float32"),
        ("fp32_fps_f64", "float32"),
        ("bf16buffers_fps_bf16", "bfloat16"),
    ):
        fps = jnp.float32(given["fps"])
        angles = models.rope_angles(grid, given["head_dim"], ratios, fps, precision)
        wide = np.tile(np.asarray(angles).reshape(-1, angles.shape[-1]), (given["n_views"], 2))
        yield compare(f"rope/angles_{name}", wide[rows], golden[f"rope/angles_{name}"], FLOAT32)
    positions = models.sincos_positions(grid, given["model_channels"], (1.0, 1.0, 1.0))
    wide = np.tile(positions.reshape(-1, given["model_channels"]), (given["n_views"], 1))
    yield compare("sincos/values_fp32", wide[rows], golden["sincos/values_fp32"], FLOAT32)
    yield compare(
        "timestep/out",
        sinusoid(jnp.asarray(golden["timestep/in"]), golden["timestep/out"].shape[-1]),
        golden["timestep/out"],
        FLOAT32,
    )


@dataclasses.dataclass(frozen=True)
class LossCase:
    """A network with its head, and everything that its loss is a function of."""

    config: Predict1Config
    data: float
    dtype: str

    def __call__(self, params: Params, constants: Params, given: Mapping[str, Any]) -> Any:
        """Mean loss, what it was computed from, and each sample's."""
        held, net = {"params": params, "constants": constants}, Predict1(self.config)

        def apply(x: Any, timesteps: Any) -> Any:
            return net.apply(held, **inputs(self.config, x, timesteps, given))

        views = self.config.view_rows or 1
        each, aux = edm.loss(
            apply,
            functools.partial(net.log_variance, held),
            jnp.asarray(by_view(given["x0"], views)),
            jnp.asarray(by_view(given["epsilon"], views)),
            jnp.asarray(given["sigma"]),
            data=self.data,
            dtype=self.dtype,
        )
        return each.mean(), (each, aux)


def check_loss(golden: Golden, options: Options) -> Iterator[Row]:
    """Scales, noisy latents, guess, weights and loss around a network; the file has its dtype."""
    given = golden.json("config_json")
    dtype = given["dtype"].removeprefix("torch.")
    config = network(given, ABOUT_LOSS, "MultiviewGeneralDIT", dtype=dtype)
    case, arrays = LossCase(config, given["sigma_data"], dtype), golden.named("in/")
    latents = by_view(arrays["x0"], config.view_rows)
    example = inputs(config, latents, arrays["sigma"], arrays)
    held = variables(config, golden.named("sd/"), example)
    run = jax.jit(jax.value_and_grad(case, has_aux=True))
    (loss, (each, aux)), grads = run(held["params"], held["constants"], arrays)

    def row(name: str, ours: Any, exact: bool = False) -> Row:
        theirs = golden[f"out/{name}"]
        theirs = by_view(theirs, config.view_rows) if theirs.ndim == 5 else theirs
        if dtype == "float32" or exact:
            scale = np.maximum(np.abs(theirs), 1.0)
            return compare(f"out/{name}", ours, theirs, FLOAT32, scale=scale)
        return compare(f"out/{name}", ours, theirs, BF16 * float(np.abs(theirs).max()))

    scale = edm.scaling(aux.sigma, case.data)
    for name, value in zip(("c_skip", "c_out", "c_in", "c_noise"), scale):
        yield row(name, value)
    square = (aux.prediction - aux.target) ** 2
    wide = aux.sigma[:, None, None, None, None, None]
    error = square * edm.weight(wide, case.data)
    u = aux.log_variance[:, None]
    flat = np.moveaxis(np.asarray(error), -1, 1).reshape(len(error), -1)
    size = square[0].size
    yield row("xt", aux.noisy)
    yield row("weights_per_sigma", aux.weight)
    yield row("x0_pred", aux.prediction)
    yield row("eps_pred", (aux.noisy - aux.prediction) / wide)
    yield row("logvar", u)
    yield row("pred_mse", square)
    yield row("edm_loss", error)
    yield row("kendall", flat * np.exp(-np.asarray(u)) + np.asarray(u))
    yield row("loss_mean", loss)
    yield row("loss_sum", each.mean() * size)
    ours = reference_grads(config, grads)
    for key in golden.names("grad/"):
        bare = {f"net.{name}": value for name, value in ours.items()} | ours
        yield gradient(golden, key, bare, dtype)
    if "sample_t/uniform" in golden:
        normal = jax.scipy.special.ndtri(jnp.asarray(golden["sample_t/uniform"]))
        sde, theirs = given["sde"], golden["sample_t/sigma_f64"]
        levels = edm.sigma_from_normal(normal, sde["p_mean"], sde["p_std"])
        yield compare("sample_t/sigma_f64, relative", levels, theirs, FLOAT32, scale=theirs)


def check_steps(golden: Golden, options: Options) -> Iterator[Row]:
    """Losses, gradients' norms, learning rates, and weights after some steps of training."""
    given = golden.json("config_json")
    cls = "MultiviewGeneralDIT"
    first = golden.named("init/")
    features = {"logvar_channels": len(first["logvar.0.freqs"])}
    config = network({**given, **features}, ABOUT_STEPS, cls, dtype="float32")
    batches = [golden.named(f"step{i}/") for i in range(given["steps"])]
    example = inputs(
        config, by_view(batches[0]["x0"], config.view_rows), batches[0]["sigma"], batches[0]
    )
    held = variables(config, first, example)
    settings = optim.OptimConfig(
        lr=given["lr"],
        weight_decay=0.1,
        clip=1.0,
        warm_up_steps=given["warm_up_steps"],
        cycle_length=10**9,
        f_max=1.0,
        f_min=1.0,
        b2=0.99,
        eps=1e-10,
    )
    optimizer = optim.optimizer(settings, given["steps"])
    case, constants = LossCase(config, 0.5, "float32"), held["constants"]

    @jax.jit
    def step(i: Any, params: Params, moments: Any, ema: Params, batch: Any) -> Any:
        (loss, _), grads = jax.value_and_grad(case, has_aux=True)(params, constants, batch)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        ema = optim.ema_update(ema, params, i, given["ema_rate"], "float32")
        return params, moments, ema, loss, optax.tree.norm(grads)

    params, ema, told = held["params"], held["params"], []
    moments = optimizer.init(params)
    for i, batch in enumerate(batches):
        params, moments, ema, *numbers = step(jnp.int32(i), params, moments, ema, batch)
        told.append(numbers)
    losses, norms = np.array(told).T
    steps = jnp.arange(given["steps"])
    for name, ours in (
        ("losses", losses),
        ("grad_norms_before_clip", norms),
        ("lrs", jax.vmap(optim.learning_rate(settings, given["steps"]))(steps)),
    ):
        theirs = golden[name]
        yield compare(f"{name}, relative", ours, theirs, 1e-4, scale=np.abs(theirs))
    weights = 1 - jax.vmap(lambda n: optim.ema_weight(n, given["ema_rate"]))(steps)
    yield compare("ema_betas", weights, golden["ema_betas"], 1e-5)
    for name, tree in (("final", params), ("final_ema", ema)):
        yield from _weights(golden, f"{name}/", config, tree, constants)


def _weights(
    golden: Golden, prefix: str, config: Predict1Config, params: Params, constants: Params
) -> Iterator[Row]:
    tree = jax.tree.map(np.asarray, {"params": params, "constants": constants})
    ours = rules.to_reference(predict1.table(config), tree)
    for key in golden.names(prefix):
        value = ours[key.removeprefix("net.")]
        yield compare(prefix + key, value, golden[prefix + key], FLOAT32)
