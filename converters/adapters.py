"""Adapters (LoRA, DoRA) of a trained network: merged into its kernels, or alone as PEFT has them.

Source of the names and of the layout: PEFT, "PEFT checkpoint format"; A is our `lora_down`
transposed, and B our `lora_up`.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from converters import rules
from converters.rules import Rule, Table
from converters.stored import Stored
from cosmos_jax.models.adapters import Adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = (
    ("lora_down", ".lora_A.weight", "o i -> i o"),
    ("lora_up", ".lora_B.weight", "o i -> i o"),
    ("lora_magnitude", ".lora_magnitude_vector", "d -> d"),
)
"""Our array beside a kernel, PEFT's beside a module, and the einops pattern from theirs to ours."""


@dataclasses.dataclass(frozen=True)
class Adapted:
    """What was trained beside the kernels of a network.

    Attributes:
        adapter: rank, scale and kind.
        sets: the adapter's arrays by path, of each set of weights.
        others: what else was trained, by path.
    """

    adapter: Adapter
    sets: dict[str, dict[str, Stored]]
    others: list[str]


def is_part(path: str) -> bool:
    """Whether an array belongs to an adapter."""
    return path.rpartition("/")[2] in [name for name, *_ in PARTS]


def merged(arrays: Mapping[str, Stored], adapter: Adapter) -> dict[str, Stored]:
    """The arrays of the network alone: kernels take their adapters in, by float32 products."""
    held = {path: array for path, array in arrays.items() if not is_part(path)}
    for path, array in held.items():
        layer = path.removesuffix("kernel")
        parts = [arrays[layer + name] for name, *_ in PARTS if layer + name in arrays]
        if parts:
            read = functools.partial(_merge, array, parts, adapter.alpha / adapter.rank)
            held[path] = Stored(array.shape, np.dtype(np.float32), read)
    return held


def _merge(kernel: Stored, parts: list[Stored], scale: float) -> np.ndarray:
    """Kernels `[n i o]`, one after the other; a third part is DoRA's magnitudes `[n o]`.

    Magnitude and norm are rounded to the kernel's type, as in the network, so that an adapter that
    was not trained changes nothing.
    """
    stored, (down, up, *magnitude) = kernel.read(), [part.read() for part in parts]
    out = np.empty(kernel.shape, np.float32)
    for n, layer in enumerate(stored):
        low = np.float32(scale) * (down[n].astype(np.float32) @ up[n].astype(np.float32))
        out[n] = layer.astype(np.float32) + low
        if magnitude:
            lengths = np.stack([np.linalg.norm(out[n], axis=0), magnitude[0][n]])
            norm, wanted = lengths.astype(stored.dtype).astype(np.float32)
            out[n] *= wanted / np.where(norm > 0, norm, 1)
    return out


def table(network: Table, paths: Collection[str]) -> Table:
    """PEFT's names of the adapters at these paths, from a network's table."""
    rows = []
    for rule in rules.one_by_one(network):
        module, layer = rule.reference.removesuffix(".weight"), rule.ours.removesuffix("kernel")
        rows += [
            Rule(f"{PREFIX}{module}{theirs}", layer + ours, pattern, rule.stack)
            for ours, theirs, pattern in PARTS
            if layer + ours in paths
        ]
    return rows


def to_peft(
    adapted: Adapted | None, which: str, network: Table
) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The config and the tensors that PEFT stores, of one set of weights.

    Raises:
        ValueError: there is no adapter, or it is not all that was trained.
    """
    if adapted is None:
        raise ValueError("--format=peft writes adapters, and the source has none")
    if adapted.others:
        raise ValueError(
            f"--format=peft writes adapters alone, and {len(adapted.others)} other arrays were "
            f"trained, as {adapted.others[0]}; export the merged network"
        )
    arrays, adapter = adapted.sets[which], adapted.adapter
    tensors = rules.write(table(network, arrays), arrays)
    first = PARTS[0][1]
    modules = [key.removeprefix(PREFIX).removesuffix(first) for key in tensors if first in key]
    config = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_dora": adapter.dora,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": modules,
        "modules_to_save": None,
        "task_type": None,
        "base_model_name_or_path": None,
    }
    return config, tensors
