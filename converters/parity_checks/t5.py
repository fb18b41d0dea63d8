"""Parity of the T5 encoder."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from converters import rules, t5
from converters.parity_checks.golden import FLOAT32, Golden, Options, Row, close, compare
from cosmos_jax.models.t5 import T5Encoder


def check(golden: Golden, options: Options) -> Iterator[Row]:
    """Hidden states, and the output before and after its padding is zeroed."""
    config = dataclasses.replace(t5.config_from_hf(golden.json("config_json")), dtype=options.dtype)
    ids, seen = golden["in/input_ids"].astype(np.int32), golden["in/attention_mask"].astype(bool)
    state_dict = golden.named("sd/")
    tensors = {name: state_dict[key] for name, key in t5.bare(state_dict).items()}
    encoder = T5Encoder(config)
    like = {"params": jax.eval_shape(encoder.init, jax.random.key(0), ids, seen)["params"]}
    tree = jax.tree.map(jnp.asarray, rules.to_ours(t5.table(config), tensors, like))
    out, states = jax.jit(encoder.apply)(tree, ids, seen)
    zeroed = jnp.where(seen[..., None], out, 0)
    ours = {
        "out/last_hidden_raw": out,
        "out/last_hidden_zeroed": zeroed,
        "out/fp16_zeroed": zeroed.astype(jnp.float16),
        "act/hidden_0": tree["params"]["embed"]["embedding"][ids],
    }
    # The last of the reference's hidden states is the output.
    ours |= {f"act/hidden_{i + 1}": x for i, x in enumerate((*states[:-1], out))}
    for name, array in ours.items():
        if name in golden and golden[name].dtype == np.float16 and options.dtype == "float32":
            ulp = float(np.spacing(np.abs(golden[name]).max()))  # either may be rounded
            yield compare(name, array, golden[name], FLOAT32 + ulp)
        elif name in golden:
            yield close(name, array, golden[name], options.dtype)
