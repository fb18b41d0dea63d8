"""Whether adapters fit the network and are trained; loaded for a network that has some."""

import re

from flax import traverse_util

from cosmos_jax import optim
from cosmos_jax.types import Params

ADAPTABLE = r"(_attn|mlp)/\w+/kernel$"  # layers that may have one


def check(params: Params, targets: str, pattern: str) -> None:
    """Raises a ValueError where an adapter's targets fit nothing, or it is not trained.

    Args:
        params: the network's, with adapters.
        targets: the adapter's.
        pattern: regex of what is trained.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    if not any("/lora_" in path for path in flat):
        layers = [p.removesuffix("/kernel") for p in flat if re.search(ADAPTABLE, p)]
        raise ValueError(
            f"config.adapter.targets {targets!r} fits no layer of attention or an MLP; near it: "
            f"{optim.near(targets, layers)}"
        )
    still = [p for p in flat if "/lora_" in p and not re.fullmatch(pattern, p)]
    if still:
        raise ValueError(
            f"config.trainable={pattern!r} leaves the adapter {still[0]} untrained; set "
            f"config.trainable={optim.ADAPTERS!r}, or narrow config.adapter.targets"
        )
