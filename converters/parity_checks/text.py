"""Parity of the text encoder, the language tower of Qwen2.5-VL."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from converters import qwen, rules
from converters.parity_checks.golden import Golden, Options, Row, close
from cosmos_jax.models.qwen import QwenTower, full_concat, mean_pooling


def check(golden: Golden, options: Options) -> Iterator[Row]:
    """Hidden states and both kinds of embeddings."""
    given = qwen.config_from_hf(golden.json("config_json"))
    config = dataclasses.replace(given, dtype=options.dtype)
    tower, ids = QwenTower(config), golden["in/input_ids"].astype(np.int32)
    state_dict = golden.named("sd/")
    tensors = {name: state_dict[key] for name, key in qwen.bare(state_dict).items()}
    like = {"params": jax.eval_shape(tower.init, jax.random.key(0), ids)["params"]}
    tree = rules.to_ours(qwen.table(config), tensors, like)
    states = jax.jit(tower.apply)(jax.tree.map(jnp.asarray, tree), ids)
    ours = {
        "out/full_concat": full_concat(states),
        "out/mean_pooling": mean_pooling(states),
        "out/last_hidden": states[-1],
        "act/hidden_0": tree["params"]["embed"]["embedding"][ids],
    }
    ours |= {f"act/hidden_{i + 1}": state for i, state in enumerate(states)}
    for name, array in ours.items():
        if name in golden:
            yield close(name, array, golden[name], options.dtype)
