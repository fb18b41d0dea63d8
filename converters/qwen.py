"""Names of the Qwen2.5-VL language tower's tensors, and its options, as ours.

The table has the bare names, as in `layers.0.mlp.up_proj.weight`. In published files they follow a
prefix (`bare` finds it), beside the vision tower and the output head, which encode no text.
"""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from converters.rules import Rule, Table
from cosmos_jax.models.qwen import QwenConfig

PREFIXES = ("model.language_model.", "language_model.model.", "model.", "")
IGNORED = ("visual.*", "model.visual.*", "lm_head.weight", "language_model.lm_head.weight")

SIZES = {
    "hidden_size": "hidden_width",
    "num_hidden_layers": "blocks",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "mlp_width",
    "vocab_size": "vocabulary",
    "rms_norm_eps": "eps",
}
"""Options of Hugging Face's config that are fields of ours."""

ONLY = {
    "attention": "causal, no padding mask",
    "hidden_act": "silu",
    "use_sliding_window": False,
}
"""Options that have one supported value."""

WITHOUT_EFFECT = (
    *("architectures", "attention_dropout", "chunk_size_feed_forward", "dtype", "id2label"),
    *("initializer_range", "is_encoder_decoder", "label2id", "max_position_embeddings"),
    *("max_window_layers", "model_type", "_name_or_path", "output_attentions", "pad_id_used"),
    *("output_hidden_states", "problem_type", "return_dict", "sliding_window", "torch_dtype"),
    *("tie_word_embeddings", "transformers_version", "use_cache", "vision_config", "*_token_id"),
)
"""Options that change no hidden state of a text (sliding_window counts with use_sliding_window)."""

ROPE = ("mrope_section", "rope_parameters", "rope_scaling", "rope_theta")

LINEAR = "o i -> i o"
VECTOR = "d -> d"


def table(config: QwenConfig) -> Table:
    """Every weight of the tower by its bare name, total in both directions."""
    theirs, ours, stack = "layers.{}.", "params/blocks/", range(config.blocks)
    return (
        Rule("embed_tokens.weight", "params/embed/embedding", "v d -> v d"),
        Rule(
            theirs + "self_attn.{q,k,v,o}_proj.weight",
            ours + "{q,k,v,out}/kernel",
            LINEAR,
            stack,
        ),
        Rule(theirs + "self_attn.{q,k,v}_proj.bias", ours + "{q,k,v}/bias", VECTOR, stack),
        Rule(
            theirs + "mlp.{gate,up,down}_proj.weight",
            ours + "{gate,up,down}/kernel",
            LINEAR,
            stack,
        ),
        Rule(
            theirs + "{input,post_attention}_layernorm.weight",
            ours + "{attention,mlp}_norm/scale",
            VECTOR,
            stack,
        ),
        Rule("norm.weight", "params/norm/scale", VECTOR),
    )


def bare(keys: Collection[str]) -> dict[str, str]:
    """The key in a file of every tensor of the tower, by its bare name, in the file's order.

    The vision tower and the output head (`IGNORED`) are left out.

    Raises:
        ValueError: there is no tower in the file, or a tensor that belongs to none of the three.
    """
    found = [prefix for prefix in PREFIXES if f"{prefix}embed_tokens.weight" in keys]
    if len(found) != 1:
        tables = [f"{prefix}embed_tokens.weight" for prefix in found or PREFIXES]
        raise ValueError(
            "these are not the weights of one Qwen2.5-VL language tower: "
            + (" and ".join(tables) if found else f"none of {', '.join(tables)}")
            + f" among {len(keys)} tensors"
        )
    kept = [key for key in keys if not any(fnmatch.fnmatchcase(key, i) for i in IGNORED)]
    if strange := [key for key in kept if not key.startswith(found[0])]:
        raise ValueError(
            f"{len(strange)} tensors are neither of the language tower ({found[0]}*) nor ignored "
            f"({', '.join(IGNORED)}): {', '.join(strange[:5])}"
        )
    return {key.removeprefix(found[0]): key for key in kept}


def config(shapes: Mapping[str, Sequence[int]], head_width: int = 128) -> QwenConfig:
    """Sizes from the shapes of a tower's tensors, by bare name.

    What no shape tells has the default: all published towers have heads of 128, and the same
    `rope_theta` and `eps`.

    Raises:
        ValueError: a tensor that tells a size is missing, or the heads are not of `head_width`.
    """
    layer = "layers.0."
    names = {
        "table": "embed_tokens.weight",
        "q": layer + "self_attn.q_proj.weight",
        "k": layer + "self_attn.k_proj.weight",
        "mlp": layer + "mlp.up_proj.weight",
    }
    if missing := [name for name in names.values() if name not in shapes]:
        raise ValueError(f"the sizes of the Qwen tower are not told: {', '.join(missing)} missing")
    rows = {short: shapes[name][0] for short, name in names.items()}
    for short in ("q", "k"):
        if rows[short] % head_width:
            raise ValueError(
                f"{names[short]} has {rows[short]} rows, which are no heads of {head_width}"
            )
    return QwenConfig(
        hidden_width=shapes["embed_tokens.weight"][1],
        blocks=len(fnmatch.filter(shapes, "layers.*.mlp.up_proj.weight")),
        heads=rows["q"] // head_width,
        kv_heads=rows["k"] // head_width,
        mlp_width=rows["mlp"],
        vocabulary=rows["table"],
    )


def config_from_hf(options: Mapping[str, Any]) -> QwenConfig:
    """The `QwenConfig` of Hugging Face's `config.json`, flat or with a `text_config`.

    Raises:
        ValueError: an option that is unknown, missing, or has an unsupported value.
    """
    if "text_config" in options:
        return config_from_hf(options["text_config"])
    given = dict(options)
    if missing := [name for name in SIZES if name not in given]:
        raise ValueError(f"the Qwen config lacks {', '.join(missing)}")
    fields = {ours: given.pop(name) for name, ours in SIZES.items()}
    for name, value in ONLY.items():
        if given.pop(name, value) != value:
            raise ValueError(f"option {name} of the Qwen config must be {value!r}")
    width, kinds = fields["hidden_width"] // fields["heads"], given.pop("layer_types", ())
    if given.pop("head_dim", width) != width:
        raise ValueError(f"option head_dim of the Qwen config must be {width}")
    if set(kinds or ()) - {"full_attention"}:
        raise ValueError("option layer_types of the Qwen config must be full_attention throughout")
    theta = _rope_theta({name: given.pop(name, None) for name in ROPE})
    unknown = [
        name for name in given if not any(fnmatch.fnmatchcase(name, i) for i in WITHOUT_EFFECT)
    ]
    if unknown:
        raise ValueError(f"unknown options of the Qwen config: {', '.join(sorted(unknown))}")
    return QwenConfig(**fields, rope_theta=theta)


def _rope_theta(given: Mapping[str, Any]) -> float:
    """The base, from the top level or from the newer `rope_parameters`; scaled ropes are errors."""
    nested = dict(given["rope_scaling"] or {}) | dict(given["rope_parameters"] or {})
    nested.pop("mrope_section", None)
    kinds = {nested.pop(name, "default") for name in ("type", "rope_type")}
    theta = nested.pop("rope_theta", given["rope_theta"])
    if nested or kinds - {"default", "mrope"}:
        raise ValueError(
            f"the rope of the Qwen config must be default or mrope, not {sorted(kinds)} "
            f"with {sorted(nested)}"
        )
    if theta is None:
        raise ValueError("the Qwen config lacks rope_theta")
    return float(theta)
