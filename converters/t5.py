"""Names of the T5 encoder's tensors, and its options, as ours."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from converters.rules import Rule, Table
from cosmos_jax.models.t5 import T5Config

TABLES = ("shared.weight", "encoder.embed_tokens.weight")
"""The token table, under either name; files that hold both hold it twice."""
IGNORED = ("decoder.*", "lm_head.weight")
"""What else the files of the whole model hold."""
MARK = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
"""A tensor that no other network has."""

SIZES = {
    "d_model": "hidden_width",
    "num_layers": "blocks",
    "num_heads": "heads",
    "d_kv": "head_width",
    "d_ff": "mlp_width",
    "vocab_size": "vocabulary",
    "relative_attention_num_buckets": "buckets",
    "relative_attention_max_distance": "max_distance",
    "layer_norm_epsilon": "eps",
}
"""Options of Hugging Face's config that are fields of ours."""
ONLY = {"feed_forward_proj": "relu", "is_gated_act": False, "dense_act_fn": "relu"}
"""Options that have one supported value."""

LINEAR = "o i -> i o"


def table(config: T5Config) -> Table:
    """Every weight of the encoder, total in both directions."""
    theirs, ours, stack = "encoder.block.{}.layer.", "params/blocks/", range(config.blocks)
    attention, mlp = theirs + "0.SelfAttention.", theirs + "1.DenseReluDense."
    return (
        Rule(TABLES[0], "params/embed/embedding", "v d -> v d"),
        Rule(MARK, "params/distances/embedding", "b n -> b n"),
        Rule(attention + "{q,k,v,o}.weight", ours + "{q,k,v,out}/kernel", LINEAR, stack),
        Rule(mlp + "{wi,wo}.weight", ours + "{up,down}/kernel", LINEAR, stack),
        Rule(
            theirs + "{0,1}.layer_norm.weight", ours + "{attention,mlp}_norm/scale", "d -> d", stack
        ),
        Rule("encoder.final_layer_norm.weight", "params/norm/scale", "d -> d"),
    )


def bare(keys: Collection[str]) -> dict[str, str]:
    """The key in a file of every tensor of the encoder, by its name in the table.

    The decoder, the output head (`IGNORED`) and a second copy of the token table are left out.

    Raises:
        ValueError: there is no token table.
    """
    named = [name for name in TABLES if name in keys]
    if not named:
        raise ValueError(f"these are no weights of a T5 encoder: neither {' nor '.join(TABLES)}")

    kept = [k for k in keys if not any(fnmatch.fnmatchcase(k, pattern) for pattern in IGNORED)]
    return {TABLES[0]: named[0]} | {key: key for key in kept if key not in TABLES}


def config(shapes: Mapping[str, Sequence[int]]) -> T5Config:
    """Sizes from the shapes of the encoder's tensors; `max_distance` and `eps` are always the same.

    Raises:
        ValueError: a tensor that tells a size is missing.
    """
    block = "encoder.block.0.layer."
    attention, mlp_name = block + "0.SelfAttention.q.weight", block + "1.DenseReluDense.wi.weight"
    names = (TABLES[0], MARK, attention, mlp_name)
    if missing := [name for name in names if name not in shapes]:
        raise ValueError(f"the sizes of the T5 encoder are not told: {', '.join(missing)} missing")
    (vocabulary, width), (buckets, heads), (inner, _), (mlp, _) = (shapes[name] for name in names)
    if inner % heads:
        raise ValueError(f"{names[2]} has {inner} rows, which are no {heads} heads")
    return T5Config(
        hidden_width=width,
        blocks=len(fnmatch.filter(shapes, "encoder.block.*.layer.1.DenseReluDense.wi.weight")),
        heads=heads,
        head_width=inner // heads,
        mlp_width=mlp,
        vocabulary=vocabulary,
        buckets=buckets,
    )


def config_from_hf(options: Mapping[str, Any]) -> T5Config:
    """The `T5Config` of Hugging Face's `config.json`; options of training and of the decoder are
    not looked at.

    Raises:
        ValueError: a size is missing, or an option has an unsupported value.
    """
    if missing := [name for name in SIZES if name not in options]:
        raise ValueError(f"the T5 config lacks {', '.join(missing)}")
    for name, value in ONLY.items():
        if options.get(name, value) != value:
            raise ValueError(f"option {name} of the T5 config must be {value!r}")
    return T5Config(**{ours: options[name] for name, ours in SIZES.items()})
