"""Parity of the video network: outputs, activations and gradients, in float32 and in bfloat16."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from converters import dit25, rules
from converters.parity_checks.golden import (
    Golden,
    Options,
    Row,
    by_view,
    check_options,
    close,
    compare,
    frame_mask,
    rms,
)
from cosmos_jax.models import layers, rope
from cosmos_jax.models.dit import DiT, DiTConfig
from cosmos_jax.types import Params

GRADIENT = {"float32": 1e-3, "bfloat16": 1e-1}
"""Largest error of a gradient: in float32 the largest entry's as a part of the tensor's largest, in
bfloat16 the rms error as a part of the tensor's rms."""

NORM = {"float32": 1e-3, "bfloat16": 1e-1}
"""Largest relative error of a gradient's norm."""

LOSS = {"float32": 2e-4, "bfloat16": 3e-2}
"""Largest absolute error of the loss, ten times a mean over the output."""

PLATFORM = 1.6
"""Bfloat16 sums differ from platform to platform, so errors may be as large as the reference's own
distance from its float32 numbers, times this."""

TEXT_TOKENS = 512
"""Rows of one view's text, by which the multi-view reference networks tell views apart."""

DESCRIPTION = ("cls", "cfg", "B", "V", "T", "H", "W", "data_type", "control_scale", "seed")
INPUTS = (
    *("x_B_C_T_H_W", "timesteps_B_T", "crossattn_emb", "fps", "padding_mask"),
    *("condition_video_input_mask_B_C_T_H_W", "view_indices_B_T", "latent_control_input"),
    "control_context_scale",
)


@dataclasses.dataclass(frozen=True)
class Network:
    """The network of a file, with its inputs and weights (float32 numpy) in our layout."""

    config: DiTConfig
    views: int
    inputs: Mapping[str, Any]
    variables: Params

    @functools.cached_property
    def grad_table(self) -> list[rules.Rule]:
        """The rows of weights that have gradients."""
        table = [row for row in dit25.table(self.config) if isinstance(row, rules.Rule)]
        return [row for row in table if row.ours.startswith("params/")]


def load(golden: Golden, dtype: str, attention: str) -> Network:
    """Builds the network from the reference's own arguments.

    Raises:
        ValueError: an option or an input that is unknown or has an unsupported value; weights that
            do not fit.
    """
    described = golden.json("config_json")
    check_options(described, DESCRIPTION, "the description of a network")
    views, cls = described["V"], described["cls"]
    config = dataclasses.replace(
        dit25.config(cls, described["cfg"]),
        dtype=dtype,
        attention=attention,
        text_attention=attention,
    )
    if (kind := described["data_type"]) not in ("video", "image"):
        raise ValueError(f"data_type {kind!r} is neither video nor image")
    inputs = _inputs(golden.named("in/"), views, cls not in dit25.SINGLE_VIEW)
    if kind == "image":  # the reference takes no given frames there
        inputs["condition_mask"] = np.zeros_like(inputs["condition_mask"])
    like = jax.eval_shape(DiT(config).init, jax.random.key(0), **inputs)
    variables = rules.to_ours(dit25.table(config), golden.named("sd/"), like)
    return Network(config, views, inputs, variables)


def _inputs(given: dict[str, np.ndarray], views: int, multi_view: bool) -> dict[str, Any]:
    """Arguments of `DiT`."""
    check_options(given, INPUTS, "a network's inputs")
    latents = by_view(given["x_B_C_T_H_W"], views)
    b, v, t = latents.shape[:3]
    text, times = given["crossattn_emb"], given["timesteps_B_T"].reshape(b, -1)
    if multi_view and text.shape[1] != views * TEXT_TOKENS:
        raise ValueError(
            f"in/crossattn_emb has {text.shape[1]} tokens; a multi-view network takes {views} views"
            f" x {TEXT_TOKENS}"
        )
    inputs = {
        "latents": latents,
        "timesteps": times.reshape((b, 1, 1) if times.shape[1] == 1 else (b, v, t)),
        "text": text.reshape(b, v, -1, text.shape[-1]),
        "view_ids": np.tile(np.arange(v, dtype=np.int32), (b, 1)),
        "condition_mask": np.zeros((b, v, t), np.float32),
    }
    if (mask := given.get("condition_video_input_mask_B_C_T_H_W")) is not None:
        inputs["condition_mask"] = frame_mask(mask, views)
    if "view_indices_B_T" in given:
        ids = given["view_indices_B_T"].reshape(b, v, t).astype(np.int32)
        if np.any(ids != ids[:, :, :1]):
            raise ValueError("in/view_indices_B_T changes within a view, which is not supported")
        inputs["view_ids"] = ids[:, :, 0]
    if "padding_mask" in given:
        mask = given["padding_mask"].astype(np.float32)
        size = mask.shape[-2:]
        inputs["padding_mask"] = np.broadcast_to(mask.reshape(-1, *size), (b, *size))
    if "fps" in given:
        inputs["fps"] = np.broadcast_to(given["fps"].astype(np.float32).reshape(-1), (b,))
    elif t == 1:  # an image has one position, whatever the rate
        inputs["fps"] = np.full(b, rope.BASE_FPS, np.float32)
    if "latent_control_input" in given:
        inputs["control"] = by_view(given["latent_control_input"], views)
    if "control_context_scale" in given:
        scale = given["control_context_scale"].astype(np.float32)
        inputs["control_scale"] = scale.reshape(() if scale.size == 1 else (b,))
    return inputs


def _keep_input(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Keeps what the time embedding's norm receives: the sinusoid is no module's output."""
    if context.module.name == "norm" and context.method_name == "__call__":
        context.module.sow("intermediates", "input", args[0])
    return following(*args, **kwargs)


def apply(
    config: DiTConfig, variables: Params, inputs: Mapping[str, Any], names: Iterable[str]
) -> tuple[Any, dict[str, Any]]:
    """The output, and the activations of those of the reference's modules that ours has."""
    with nn.intercept_methods(_keep_input):
        out, state = DiT(config).apply(
            variables,
            **inputs,
            capture_intermediates=lambda _, method: method in ("__call__", "_turn"),
            mutable=["intermediates"],
        )
    seen = traverse_util.flatten_dict(state["intermediates"], sep="/")
    seen = {path.removesuffix("/__call__"): kept[0] for path, kept in seen.items()}
    found = {name: activation(config, seen, name) for name in names}
    return out, {name: x for name, x in found.items() if x is not None}


def check(golden: Golden, options: Options) -> Iterator[Row]:
    """Output, loss, activations and gradients of one network."""
    network = load(golden, options.dtype, options.attention)
    variables = jax.tree.map(jnp.asarray, network.variables)
    weight = None
    if "loss_weight" in golden or golden.names("grad"):
        weight = by_view(golden["loss_weight"], network.views)

    def loss(params: Params, inputs: Mapping[str, Any]) -> Any:
        names = golden.names("act/")
        out, seen = apply(network.config, variables | {"params": params}, inputs, names)
        return 10 * jnp.mean(out * (1.0 if weight is None else weight)), (out, seen)

    grads = None
    if golden.names("grad"):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, (out, seen)), grads = step(variables["params"], network.inputs)
    else:
        value, (out, seen) = jax.jit(loss)(variables["params"], network.inputs)

    yield close("out", out, by_view(golden["out"], network.views), options.dtype)
    if weight is not None and "loss" in golden:
        yield compare("loss", value, golden["loss"], LOSS[options.dtype])
    yield from _activations(golden, seen, options.dtype)
    if grads is not None:
        ours = rules.to_reference(network.grad_table, {"params": grads})
        yield from _gradients(golden, ours, options.dtype)


def _activations(golden: Golden, seen: Mapping[str, Any], dtype: str) -> Iterator[Row]:
    for name in golden.names("act/"):
        if name not in seen:
            continue  # never read, so it is listed
        ours = seen[name]
        theirs = golden[f"act/{name}"]
        if name.startswith("pos_embedder"):
            # Of every view's angles ours are those of one, as cosines and sines of half a head.
            theirs = theirs.reshape(-1, ours[0].size // ours[0].shape[-1], 2, ours[0].shape[-1])
            for part, function, turn in (("cos", np.cos, ours[0]), ("sin", np.sin, ours[1])):
                wide = np.broadcast_to(np.reshape(turn, (-1, 1, turn.shape[-1])), theirs.shape)
                yield close(f"act/{name}, {part}", wide, function(theirs), "float32")
        elif ours.size == theirs.size:
            yield close(f"act/{name}", ours.reshape(theirs.shape), theirs, dtype)
        else:
            yield close(f"act/{name}", ours, theirs, dtype)


OUTSIDE_BLOCKS = {
    "x_embedder": "embed",
    "t_embedder.0": "time/norm/input",
    "t_embedder.1": "time/out",
    "t_embedder.1.linear_1": "time/up",
    "t_embedder.1.linear_2": "time/out",
    "t_embedding_norm": "time/norm",
    "crossattn_proj.0": "text_project",
    "control_embedder": "control/stem/embed",
    "control_blocks.0.before_proj": "control/stem/before",
    "final_layer": "final/out",
    "final_layer.linear": "final/out",
}
"""Modules of the reference, and the paths of ours that give the same."""

ATTENTIONS = {"self_attn": "self_attn", "cross_attn": "text_attn", "cross_view_attn": "view_attn"}
PROJECTIONS = {
    "q_norm": "q_norm",
    "k_norm": "k_norm",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "output_proj": "out",
}
IN_BLOCKS = {
    **ATTENTIONS,
    "layer_norm_cross_view_attn": "view_norm",
    "mlp": "mlp/down/ungated",
    "mlp.layer1": "mlp/up",
    "mlp.layer2": "mlp/down/ungated",
    "after_proj": "after",
    **{
        f"{theirs}.{part}": f"{ours}/{name}"
        for theirs, ours in ATTENTIONS.items()
        for part, name in PROJECTIONS.items()
    },
    **{
        f"adaln_modulation_{theirs}{part}": f"{ours}_modulation/{name}"
        for theirs, ours in (*ATTENTIONS.items(), ("mlp", "mlp"))
        for part, name in (("", "up"), (".1", "down"), (".2", "up"))
    },
}
"""The same inside a block."""


def activation(config: DiTConfig, seen: Mapping[str, Any], name: str) -> Any:
    """What ours has for the output of a module of the reference; None where there is no such."""
    if name in OUTSIDE_BLOCKS:
        return seen.get(OUTSIDE_BLOCKS[name])
    if re.fullmatch(r"pos_embedder(_options\.n_cameras_\d+)?", name):
        return seen["_turn"]
    if name == "crossattn_proj" and "text_project" in seen:
        return layers.gelu(seen["text_project"])
    if name == "input_hint_block" and config.hint_widths:
        return layers.silu(seen[f"control/stem/hint_{len(config.hint_widths) - 1}"])
    if not (match := re.fullmatch(r"(control_)?blocks\.(\d+)(?:\.(.+))?", name)):
        return None
    control, i, inner = bool(match[1]), int(match[2]), match[3]
    if i >= (len(config.control_blocks) if control else config.blocks):
        return None
    root = "control/blocks/" if control else "blocks/"
    if inner is not None:
        kept = seen.get(root + IN_BLOCKS[inner]) if inner in IN_BLOCKS else None
        return None if kept is None else kept[i]
    if not control:
        return seen[root + "output"][i]
    hints = seen[root + "after"][: i + 1]
    return jnp.concatenate([hints, seen[root + "output"][i][None]])


def gradient(golden: Golden, key: str, ours: Mapping[str, np.ndarray], dtype: str) -> Row:
    """The row of one gradient of a file."""
    theirs, bound = golden[f"grad/{key}"], GRADIENT[dtype]
    if key not in ours:
        return Row(f"grad/{key}: ours has no such parameter", np.nan, np.nan, bound)
    if dtype == "float32":
        limit = bound * float(np.abs(theirs).max(initial=0))
        return compare(f"grad/{key}", ours[key], theirs, limit)
    return compare(f"grad/{key}", ours[key], theirs, bound * rms(theirs), "rms")


def _gradients(golden: Golden, ours: Mapping[str, np.ndarray], dtype: str) -> Iterator[Row]:
    for key in golden.names("grad/"):
        yield gradient(golden, key, ours, dtype)
    norms = golden.json("grad_norms_json") if "grad_norms_json" in golden else {}
    without = golden.json("nograd_json") if "nograd_json" in golden else []
    if norms:
        yield _norms(norms, ours, NORM[dtype])
    if known := [key for key in without if key in ours]:
        largest = max(float(np.abs(ours[key]).max(initial=0)) for key in known)
        what = f"nograd_json: {len(known)} parameters without gradient"
        yield Row(what, largest, largest, 0.0)
    if untold := sorted(ours.keys() - norms.keys() - set(without) - set(golden.names("grad/"))):
        some = ", ".join(untold[:3]) + (", ..." if len(untold) > 3 else "")
        golden.skipped.append(f"gradients of {len(untold)} parameters ({some})")


def _norms(norms: Mapping[str, float], ours: Mapping[str, np.ndarray], limit: float) -> Row:
    """One row for the norms of all gradients, which names the worst."""
    floor = 1e-6 * max(norms.values())  # a gradient that is zero but for rounding
    errors = {
        key: abs(float(np.linalg.norm(ours[key].astype(np.float64))) - norm) / max(norm, floor)
        if key in ours
        else np.nan
        for key, norm in norms.items()
    }
    worst = max(errors, key=lambda key: np.inf if np.isnan(errors[key]) else errors[key])
    what = f"grad_norms_json: {len(norms)} norms, relative; worst {worst}"
    values = np.array(list(errors.values()))
    return Row(what, errors[worst], rms(values), limit)


def check_bfloat16(golden: Golden, options: Options) -> Iterator[Row]:
    """Networks in bfloat16, whose configs, weights and inputs are in `<net>.npz` beside the file.

    Whatever `--dtype` says: the errors' limits are the reference's own errors in bfloat16.
    """
    for key in golden.names():
        if key.endswith("/rms_diff_vs_fp32"):
            name = key.removesuffix("/rms_diff_vs_fp32")
            beside = Golden.load(golden.path.with_name(f"{name}.npz"))
            yield from _one_bfloat16(golden.under(f"{name}/"), beside, options.attention)


def _one_bfloat16(golden: Golden, float32: Golden, attention: str) -> Iterator[Row]:
    name = golden.prefix.rstrip("/")
    network = load(float32, "bfloat16", attention)
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), network.variables)
    names = golden.names("act/")
    run = jax.jit(lambda variables, inputs: apply(network.config, variables, inputs, names))
    out, seen = run(variables, network.inputs)
    theirs = by_view(golden["out"], network.views)
    limit = PLATFORM * float(golden["rms_diff_vs_fp32"])
    yield compare(f"{name}/out", out, theirs, limit, "rms")
    dtypes = {"out": out.dtype} if "out_dtype" in golden else {}
    for key in names:
        ours, full = seen.get(key), f"act/{key}"
        if ours is None or full not in float32:
            continue  # never read, so it is listed
        exact, theirs = float32[full], golden[full]
        same = ours.size == theirs.size
        limit = PLATFORM * rms(theirs - exact)
        ours = ours.reshape(theirs.shape) if same else ours
        yield compare(f"{name}/{full}", ours, theirs, limit, "rms")
        if f"act_dtype/{key}" in golden:
            dtypes[key] = ours.dtype
    given = {key: "out_dtype" if key == "out" else f"act_dtype/{key}" for key in dtypes}
    wrong = [key for key, d in dtypes.items() if str(golden[given[key]]) != f"torch.{d}"]
    what = f"{name}: dtypes of {len(dtypes)} arrays"
    yield Row(": ".join([what, ", ".join(wrong)][: 1 + bool(wrong)]), len(wrong), len(wrong), 0.0)
