"""Where a run's weights come from: its network's, its codec's, its text encoder's (or a cache).

Files of weights are read by `converters.weights`, which is imported where a config names one: a run
from random weights reads no code but its own.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from cosmos_jax import build, sharding
from cosmos_jax.encode import Encoder, Text
from cosmos_jax.train import Trainer
from cosmos_jax.types import Params, TrainState

RANDOM = "random"


def check_source(values: Mapping[str, Any]) -> None:
    """Raises a ValueError where `config.init_from` does not hold what the run needs of it."""
    told = values["init_control"] != "source" or values["init_base"] is not None
    if told or values["init_from"] != RANDOM:
        build.load("cosmos_jax.pretrained:check_source", "config.init_from")(values)


def open_weights(source: str, kind: str, config: Any) -> Any:
    """The `converters.weights.Source` of a kind of network of `converters.networks`."""
    network = build.load(f"converters.networks:{kind}", "weights")("this network", config)
    return build.load("converters.weights:open_source", "weights")(source, network)


def place(source: str, kind: str, config: Any, wanted: Params, which: str | None = None) -> Params:
    """Reads the weights that are `wanted` onto devices, and says how many.

    `which` names a set of those that a source holds, "ema" or "regular".
    """
    held = open_weights(source, kind, config)
    arrays = held.sets[held.choose(which)]
    tree, checksum = build.load("converters.weights:place", "weights")(arrays, wanted)
    leaves = jax.tree_util.tree_leaves_with_path(wanted)
    nbytes = sum(arrays[sharding.path_name(path)].nbytes for path, _ in leaves)
    print(
        f"read     {len(leaves)} arrays, {nbytes:,} bytes, checksum {checksum} from {source}",
        flush=True,
    )
    return tree


def initial_state(
    values: Mapping[str, Any], mesh: Mesh, trainer: Trainer, sizes: build.Sizes
) -> TrainState:
    """The state before the first step: from `config.init_from`, or random.

    Raises:
        ValueError: the source cannot be read, or is of another network.
    """
    if values["init_from"] == RANDOM:
        return trainer.init_state(sizes.inputs, mesh)
    start = build.load("cosmos_jax.pretrained:initial_state", "config.init_from")
    return start(values, trainer, sizes)


def part_params(
    values: Mapping[str, Any], section: str, kind: str, part: Any, places: Any
) -> Params:
    """Weights of a part, placed by a tree of shardings: from its source, or random.

    Raises:
        ValueError: the source is not named, or cannot be read.
    """
    source = part_source(values, section, needed=bool(jax.tree.leaves(places)))
    if source is None:
        return jax.jit(part.init, out_shardings=places)(jax.random.key(values["seed"]))
    wanted = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(part.init, jax.random.key(0)),
        places,
    )
    return place(source, kind, part, {"params": wanted})["params"]


def part_source(values: Mapping[str, Any], section: str, needed: bool) -> str | None:
    """What `weights` of a section names; None where weights are random, or there are none.

    Raises:
        ValueError: weights that are needed and not named, or named and not needed.
    """
    source = values[section].get("weights")
    if needed and source is None:
        raise ValueError(
            f"config.{section}.weights is missing: name a file or an hf:// source, or say "
            f'"{RANDOM}" (random ones are not taken unasked)'
        )
    if not needed and source is not None:
        raise ValueError(f"config.{section}.weights: {values[section]['kind']} has no weights")
    return None if source == RANDOM else source


def text(values: Mapping[str, Any], *given: Any) -> Text:
    """Where the embeddings of a run's captions come from: see `build_text.text`."""
    return build.load("cosmos_jax.build_text:text", "config.text")(values, *given)


def encoder(values: Mapping[str, Any], mesh: Mesh, text: Text, pixels: bool = True) -> Encoder:
    """Clips to latents and text embeddings, with the codec's weights whole on every device.

    Without `pixels`, clips come as latents and none are decoded: then there are no weights.

    Raises:
        ValueError: weights that are not named, or cannot be read.
    """
    codec = build.codec(values)
    if not pixels:
        return Encoder(codec, {}, text.embed, mesh, values["dtype"])
    shapes = jax.eval_shape(codec.init, jax.random.key(0))
    places = jax.tree.map(lambda _: NamedSharding(mesh, sharding.P()), shapes)
    weights = part_params(values, "codec", "vae", codec, places)
    return Encoder(codec, weights, text.embed, mesh, values["dtype"])
