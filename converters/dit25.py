"""Cosmos-Predict2.5 and Cosmos-Transfer2.5 networks: their options and weight names, as ours.

Source: cosmos-transfer2.5 state dicts, without the prefix `net.` or `net_ema.`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.rules import Ignored, Rule, Table
from cosmos_jax.models.dit import DiTConfig

SINGLE_VIEW = ("MinimalV1LVGDiT",)
MULTI_VIEW = ("MultiViewDiT", "MultiViewControlDiT")
CROSS_VIEW = ("MultiViewCrossDiT", "MultiViewCrossControlDiT")

ONLY = {
    "patch_temporal": 1,
    "pos_emb_cls": "rope3d",
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "extra_per_block_abs_pos_emb": False,
    "use_wan_fp32_strategy": True,
    "vace_has_mask": False,
}
"""Options of which the published models use one value, and the only one that is supported."""

WITHOUT_EFFECT = ("atten_backend", "pos_emb_learnable", "state_t")
"""Options that change no number here: a rope has nothing to learn, and shapes say the rest."""

LINEAR = "o i -> i o"
VECTOR = "d -> d"


class Arguments(dict):
    """Constructor arguments; what is asked for is taken out, so that what is left is unknown."""

    def take(self, name: str, needed: bool = True) -> Any:
        """An argument's value; None where one that is not needed is missing."""
        if name not in self and needed:
            raise ValueError(f"option {name} of the reference network is missing")
        return self.pop(name, None)

    def take_only(self, name: str, value: Any) -> None:
        """Raises a ValueError where an argument is given with another value."""
        if self.pop(name, value) != value:
            raise ValueError(f"option {name} of the reference network must be {value!r}")


def config(cls: str, options: Mapping[str, Any]) -> DiTConfig:
    """The `DiTConfig` of a reference class and its constructor arguments.

    Raises:
        ValueError: a class or an option that is unknown, missing, or has an unsupported value.
    """
    if cls not in SINGLE_VIEW + MULTI_VIEW + CROSS_VIEW:
        raise ValueError(f"unknown reference network {cls}")
    given = Arguments(options)
    for name, value in ONLY.items():
        given.take_only(name, value)
    for name in WITHOUT_EFFECT:
        given.pop(name, None)
    fields = _trunk(given)
    if cls not in SINGLE_VIEW:
        fields |= _views(given, fields["width"], cross=cls in CROSS_VIEW)
    if "Control" in cls:
        fields |= _control(given, fields)
    if given:
        raise ValueError(f"unknown options of the reference network {cls}: {sorted(given)}")
    return DiTConfig(**fields)


def _trunk(given: Arguments) -> dict[str, Any]:
    width, patch = given.take("model_channels"), given.take("patch_spatial")
    projected = given.take("use_crossattn_projection")
    rows, columns = given.take("max_img_h"), given.take("max_img_w")
    channels = given.take("in_channels")
    given.take_only("out_channels", channels)
    features = given.take("crossattn_proj_in_channels", needed=projected)
    ratios = (given.take(f"rope_{axis}_extrapolation_ratio") for axis in "thw")
    return {
        "width": width,
        "blocks": given.take("num_blocks"),
        "heads": given.take("num_heads"),
        "mlp_width": int(width * given.take("mlp_ratio")),
        "modulation_rank": given.take("adaln_lora_dim"),
        "text_width": given.take("crossattn_emb_channels"),
        "text_features": features if projected else 0,
        "rope_ratios": tuple(ratios),
        "channels": channels,
        "patch": patch,
        "pads": given.take("concat_padding_mask"),
        "timestep_scale": given.take("timestep_scale"),
        "rope_fps": given.take("rope_enable_fps_modulation"),
        "positions": max(rows // patch, columns // patch, given.take("max_frames")),
    }


def _views(given: Arguments, width: int, cross: bool) -> dict[str, Any]:
    rows, channels = given.take("n_cameras_emb"), given.take("view_condition_dim")
    fields = {
        "view_rows": rows,
        "view_channels": channels if given.take("concat_view_embedding") else 0,
        "joint_views": not cross,
    }
    if not cross:
        return fields
    crossed = given.take("enable_cross_view_attn")
    names = given.take("cross_view_attn_map_str", needed=crossed)
    ids = given.take("camera_to_view_id", needed=crossed)
    if crossed:
        seen = {ids[name]: tuple(ids[other] for other in names[name]) for name in names}
        fields["neighbours"] = tuple(seen.get(i, ()) for i in range(max(rows - 1, *seen) + 1))
    fields["view_modulation"] = given.take("adaln_view_embedding")
    return fields


def _control(given: Arguments, trunk: Mapping[str, Any]) -> dict[str, Any]:
    n, every = trunk["blocks"], given.take("vace_block_every_n")
    mappings = {"spaced": range(0, n, every), "first_n": range(n // every)}
    strategy = given.take("condition_strategy")
    if strategy not in mappings:
        raise ValueError(f"option condition_strategy {strategy!r} is none of {list(mappings)}")
    width = trunk["width"]
    hints = given.pop("hint_nf", None) or [width] * 8
    if hints[0] != width:
        raise ValueError(f"option hint_nf must begin with the width {width}, not {hints[0]}")
    # The reference counts the view channels in, although they are appended once more.
    channels = trunk["channels"] + trunk["view_channels"]
    return {
        "control_blocks": tuple(mappings[strategy]),
        "control_channels": channels * given.take("num_max_modalities"),
        "hint_widths": tuple(hints[1:]) if given.take("use_input_hint_block") else (),
    }


def table(config: DiTConfig) -> Table:
    """Every weight of the network, total in both directions."""
    return (
        Rule("x_embedder.proj.1.weight", "params/embed/kernel", LINEAR),
        Rule("t_embedder.1.linear_{1,2}.weight", "params/time/{up,out}/kernel", LINEAR),
        Rule("t_embedding_norm.weight", "params/time/norm/scale", VECTOR),
        Rule(
            "final_layer.adaln_modulation.{1,2}.weight",
            "params/final/modulation/{down,up}/kernel",
            LINEAR,
        ),
        Rule("final_layer.linear.weight", "params/final/out/kernel", LINEAR),
        *_block_rows("blocks.{}.", "params/blocks/", config, config.blocks),
        *_optional_rows(config),
        *_control_rows(config),
        *_rope_rows(config),
        Ignored("accum_{video_sample_counter,image_sample_counter,iteration}", np.array(0)),
        Ignored("accum_train_in_hours", np.array(0, np.float32)),
        Ignored("*._extra_state"),
    )


def _attention_rows(reference: str, ours: str, layers: range) -> list[Rule]:
    return [
        Rule(
            reference + ".{q_proj,k_proj,v_proj,output_proj}.weight",
            ours + "/{q,k,v,out}/kernel",
            LINEAR,
            layers,
        ),
        Rule(
            reference + ".{q_norm,k_norm}.weight", ours + "/{q_norm,k_norm}/scale", VECTOR, layers
        ),
    ]


def _block_rows(reference: str, ours: str, config: DiTConfig, count: int) -> list[Rule]:
    layers = range(count)
    adaln = "adaln_modulation_{self_attn,cross_attn,mlp}"
    modulation = "{self_attn,text_attn,mlp}_modulation"
    rows = [
        *_attention_rows(reference + "self_attn", ours + "self_attn", layers),
        *_attention_rows(reference + "cross_attn", ours + "text_attn", layers),
        Rule(reference + "mlp.layer{1,2}.weight", ours + "mlp/{up,down}/kernel", LINEAR, layers),
        Rule(f"{reference}{adaln}.1.weight", f"{ours}{modulation}/down/kernel", LINEAR, layers),
        Rule(f"{reference}{adaln}.2.weight", f"{ours}{modulation}/up/kernel", LINEAR, layers),
    ]
    if config.neighbours:
        norm = reference + "layer_norm_cross_view_attn.{weight,bias}"
        rows += _attention_rows(reference + "cross_view_attn", ours + "view_attn", layers)
        rows.append(Rule(norm, ours + "view_norm/{scale,bias}", VECTOR, layers))
    return rows


def _optional_rows(config: DiTConfig) -> list[Rule]:
    rows = []
    if config.text_features:
        rows += _biased("crossattn_proj.0", "params/text_project")
    if config.view_channels:
        rows.append(Rule("view_embeddings.weight", "params/view/embedding", "v c -> v c"))
    if config.view_modulation:
        embedding = "params/view_modulation/embedding"
        rows.append(Rule("adaln_view_embedder.weight", embedding, "v d -> v d"))
        rows += _biased("adaln_view_proj", "params/view_project")
    return rows


def _biased(reference: str, ours: str, stack: range = range(0)) -> list[Rule]:
    return [
        Rule(reference + ".weight", ours + "/kernel", LINEAR, stack),
        Rule(reference + ".bias", ours + "/bias", VECTOR, stack),
    ]


def _control_rows(config: DiTConfig) -> list[Rule]:
    if not config.control_blocks:
        return []
    count = len(config.control_blocks)
    stem = "params/control/stem/"
    rows = [
        Rule("control_embedder.proj.1.weight", stem + "embed/kernel", LINEAR),
        *_biased("control_blocks.0.before_proj", stem + "before"),
        *_block_rows("control_blocks.{}.", "params/control/blocks/", config, count),
        *_biased("control_blocks.{}.after_proj", "params/control/blocks/after", range(count)),
    ]
    for i in range(len(config.hint_widths)):
        rows += _biased(f"input_hint_block.{2 * i}", f"{stem}hint_{i}")
    return rows


def _rope_rows(config: DiTConfig) -> list[Rule | Ignored]:
    """A multi-view checkpoint holds one equal set of buffers for every possible number of views."""
    reference, copies = "pos_embedder.", range(0)
    seqs = [reference + "seq"]
    if config.view_rows:
        copies = range(1, config.view_rows + 1)
        reference = "pos_embedder_options.n_cameras_{}."
        seqs = [reference.format(i) + "seq" for i in copies]
    ranges = reference + "dim_{temporal,spatial}_range"
    positions = np.arange(config.positions, dtype=np.float32)
    return [
        Rule(ranges, "constants/rope_{temporal,spatial}", VECTOR, copies=copies),
        *(Ignored(seq, positions) for seq in seqs),
    ]
