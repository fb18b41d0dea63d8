"""Cosmos-Predict1 networks: their options and weight names, as ours.

Source: cosmos-predict1 state dicts; names of the network without their prefix `net.`, and those of
the uncertainty head, `logvar.`, which lies beside it.
"""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.dit25 import LINEAR, VECTOR, Arguments
from converters.rules import Ignored, Rule, Table
from cosmos_jax.models.predict1 import Predict1Config

MARK = "blocks.block0.blocks.0.block.attn.to_q.0.weight"
"""A tensor that tells these networks from others."""

BESIDE = "logvar"
"""First part of the names of what lies beside the network."""

SINGLE_VIEW = ("GeneralDIT", "VideoExtendGeneralDIT")
MULTI_VIEW = ("MultiviewGeneralDIT", "VideoExtendMultiviewGeneralDIT")

Shapes = Mapping[str, tuple[int, ...]]

ONLY = {
    "patch_temporal": 1,
    "block_config": "FA-CA-MLP",
    "pos_emb_cls": "rope3d",
    "pos_emb_interpolation": "crop",
    "affline_emb_norm": True,
    "use_adaln_lora": True,
    "use_cross_attn_mask": False,
    "legacy_patch_emb": False,
    "additional_timestamp_channels": None,
}
"""Options of which the published models use one value, and the only one that is supported."""

VIEWS_ONLY = {"concat_view_embedding": True, "traj_condition_dim": 0}

WITHOUT_EFFECT = ("block_x_format", "pos_emb_learnable")
"""Options that change no number: a memory layout; a rope has nothing to learn."""

USUAL: dict[str, Any] = {
    "mlp_ratio": 4.0,
    "patch_spatial": 2,
    "concat_padding_mask": True,
    "logvar_channels": 0,
    "extra_per_block_abs_pos_emb": False,
    "extra_per_block_abs_pos_emb_type": "sincos",
    **{f"extra_{axis}_extrapolation_ratio": 1.0 for axis in "thw"},
    "add_repeat_frame_embedding": False,
    "view_condition_dim": 3,
}
"""What an option is where it is not named."""


def config(cls: str, options: Mapping[str, Any]) -> Predict1Config:
    """The `Predict1Config` of a reference class and its constructor arguments.

    `logvar_channels` are the features of the head beside the network.

    Raises:
        ValueError: a class or an option that is unknown, missing, or has an unsupported value.
    """
    if cls not in SINGLE_VIEW + MULTI_VIEW:
        raise ValueError(f"unknown reference network {cls}")
    given = Arguments({**USUAL, **options})
    multi = cls in MULTI_VIEW
    for name, value in (ONLY | VIEWS_ONLY if multi else ONLY).items():
        given.take_only(name, value)
    for name in WITHOUT_EFFECT:
        given.pop(name, None)
    views = [given.pop(name) for name in ("view_condition_dim", "add_repeat_frame_embedding")]
    fields = _trunk(given) | _positions(given, multi)
    if multi:
        rows = given.take("n_views")
        fields |= {"view_rows": rows, "view_channels": views[0], "repeats": views[1]}
    if given:
        raise ValueError(f"unknown options of the reference network {cls}: {sorted(given)}")
    return Predict1Config(**fields, masked=cls.startswith("VideoExtend"))


def _trunk(given: Arguments) -> dict[str, Any]:
    width, channels = given.take("model_channels"), given.take("in_channels")
    given.take_only("out_channels", channels)
    return {
        "width": width,
        "blocks": given.take("num_blocks"),
        "heads": given.take("num_heads"),
        "mlp_width": int(width * given.take("mlp_ratio")),
        "modulation_rank": given.take("adaln_lora_dim"),
        "text_width": given.take("crossattn_emb_channels"),
        "rope_ratios": tuple(given.take(f"rope_{axis}_extrapolation_ratio") for axis in "thw"),
        "channels": channels,
        "patch": given.take("patch_spatial"),
        "pads": given.take("concat_padding_mask"),
        "uncertainty": given.take("logvar_channels"),
    }


def _positions(given: Arguments, multi: bool) -> dict[str, Any]:
    """A multi-view network's positions are fixed, whatever type is asked for."""
    patch = given["patch_spatial"] if "patch_spatial" in given else USUAL["patch_spatial"]
    rows = (given.take("max_frames"), *(given.take(f"max_img_{a}") // patch for a in "hw"))
    ratios = tuple(given.take(f"extra_{axis}_extrapolation_ratio") for axis in "thw")
    present = given.take("extra_per_block_abs_pos_emb")
    kind = given.take("extra_per_block_abs_pos_emb_type")
    if present and not multi and kind not in ("sincos", "learnable"):
        raise ValueError(f"option extra_per_block_abs_pos_emb_type {kind!r} is not supported")
    fixed = multi or kind == "sincos"
    return {
        "positions": max(rows),
        "sincos": ratios if present and fixed else (),
        "learned": rows if present and not fixed else (),
    }


def nearest(shapes: Shapes) -> str:
    """The published network that a state dict's tensors are like.

    Two things no tensor tells: rope ratios, and whether a multi-view network has fixed positions;
    published networks have them if, and only if, they know of repeated frames or given ones.
    """
    if "view_embeddings.weight" not in shapes:
        return "predict1_7b"
    if _extra_channels(shapes) == 2:
        return "predict1_7b_multiview_av_video"
    if "repeat_frame_embedding.weight" in shapes:
        return "predict1_7b_multiview_av"
    return "predict1_7b_multiview_waymo"


def _size(shapes: Shapes, key: str, axis: int) -> int:
    if key not in shapes or len(shapes[key]) <= axis:
        raise ValueError(f"the network is not recognised without {key}; name it with --model")
    return shapes[key][axis]


def _extra_channels(shapes: Shapes) -> int:
    """Input channels of masks.

    Raises:
        ValueError: the input channels are not explained.
    """
    area = 4
    channels = _size(shapes, "final_layer.linear.weight", 0) // area
    given = _size(shapes, "x_embedder.proj.1.weight", 1)
    views = shapes.get("view_embeddings.weight", (0, 0))[1]
    extra = given // area - channels - views
    if given % area or extra not in (0, 1, 2):
        raise ValueError(
            f"x_embedder.proj.1.weight takes {given} numbers a patch, which {channels} latent "
            f"channels, masks and {views} view channels do not explain: tensors are missing "
            "(view_embeddings.weight?), or name the network with --model"
        )
    return extra


def resized(base: Predict1Config, shapes: Shapes) -> Predict1Config:
    """A published network with the sizes of a state dict.

    Raises:
        ValueError: a tensor that tells a size is missing.
    """
    first = MARK.removesuffix("0.block.attn.to_q.0.weight")
    width, head = _size(shapes, MARK, 0), _size(shapes, f"{first}0.block.attn.to_q.1.weight", 0)
    views = shapes.get("view_embeddings.weight", (0, 0))
    tables = [f"extra_pos_embedder.pos_emb_{axis}" for axis in "thw"]
    repeats = "repeat_frame_embedding.weight" in shapes
    seq, logvar = "pos_embedder.seq", f"{BESIDE}.1.weight"
    extra = _extra_channels(shapes)
    return dataclasses.replace(
        base,
        width=width,
        blocks=len(fnmatch.filter(shapes, "blocks.block*.blocks.2.block.layer1.weight")),
        heads=width // head,
        mlp_width=_size(shapes, f"{first}2.block.layer1.weight", 0),
        modulation_rank=_size(shapes, f"{first}0.adaLN_modulation.1.weight", 0),
        text_width=_size(shapes, f"{first}1.block.attn.to_k.0.weight", 1),
        channels=_size(shapes, "final_layer.linear.weight", 0) // 4,
        pads=extra > 0,
        masked=extra > 1,
        positions=shapes[seq][0] if seq in shapes else base.positions,
        learned=tuple(shapes[key][0] for key in tables) if tables[0] in shapes else (),
        view_rows=views[0],
        view_channels=views[1],
        repeats=repeats,
        repeated_views=base.repeated_views if repeats else (),
        uncertainty=shapes[logvar][1] if logvar in shapes else 0,
    )


def table(config: Predict1Config) -> Table:
    """Every weight of the network and its head, total in both directions."""
    return (
        Rule("x_embedder.proj.1.weight", "params/embed/kernel", LINEAR),
        Rule("t_embedder.1.linear_{1,2}.weight", "params/time/{up,out}/kernel", LINEAR),
        Rule("affline_norm.weight", "params/time/norm/scale", VECTOR),
        Rule(
            "final_layer.adaLN_modulation.{1,2}.weight",
            "params/final/modulation/{down,up}/kernel",
            LINEAR,
        ),
        Rule("final_layer.linear.weight", "params/final/out/kernel", LINEAR),
        *_block_rows(range(config.blocks)),
        *_optional_rows(config),
        Ignored("pos_embedder.seq", np.arange(config.positions, dtype=np.float32)),
        Ignored("*._extra_state"),
    )


def _block_rows(layers: range) -> list[Rule]:
    reference, ours = "blocks.block{}.blocks.", "params/blocks/"
    rows = []
    for i, name in enumerate(("self_attn", "text_attn")):
        attn, own = f"{reference}{i}.block.attn.", f"{ours}{name}/"
        rows += [
            Rule(attn + "to_{q,k,v,out}.0.weight", own + "{q,k,v,out}/kernel", LINEAR, layers),
            Rule(attn + "to_{q,k}.1.weight", own + "{q_norm,k_norm}/scale", VECTOR, layers),
        ]
    mlp = reference + "2.block.layer{1,2}.weight"
    rows.append(Rule(mlp, ours + "mlp/{up,down}/kernel", LINEAR, layers))
    modulation = ours + "{self_attn,text_attn,mlp}_modulation/"
    for i, part in ((1, "down"), (2, "up")):
        adaln = reference + "{0,1,2}" + f".adaLN_modulation.{i}.weight"
        rows.append(Rule(adaln, f"{modulation}{part}/kernel", LINEAR, layers))
    return rows


def _optional_rows(config: Predict1Config) -> list[Rule]:
    rows = []
    if config.learned:
        tables = "params/positions/{t,h,w}/embedding"
        rows.append(Rule("extra_pos_embedder.pos_emb_{t,h,w}", tables, "p d -> p d"))
    if config.view_channels:
        rows.append(Rule("view_embeddings.weight", "params/view/embedding", "v c -> v c"))
    if config.repeats:
        rows += [
            Rule("repeat_frame_embedding.weight", "params/view_repeat/kernel", LINEAR),
            Rule("repeat_frame_embedding.bias", "params/view_repeat/bias", VECTOR),
        ]
    if config.uncertainty:
        features = "constants/logvar/{freqs,phases}"
        rows += [
            Rule("logvar.0.{freqs,phases}", features, VECTOR),
            Rule("logvar.1.weight", "params/logvar/out/kernel", LINEAR),
        ]
    return rows
