"""Where a run's weights come from: its network's, its codec's, its text encoder's.

Files of weights are read by `converters.weights`, which is imported where a config names one: a run
from random weights reads no code but its own.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from cosmos_jax import build, optim, sharding
from cosmos_jax.encode import Encoder
from cosmos_jax.train import Trainer
from cosmos_jax.types import Params, TrainState

RANDOM = "random"


def check_source(values: Mapping[str, Any]) -> None:
    """Raises a ValueError where `config.init_from` does not hold the weights of the network."""
    if values["init_from"] != RANDOM:
        _open(values["init_from"], "dit", build.network(values).config)


def _open(source: str, kind: str, config: Any) -> Any:
    """The arrays by path of the weights of a network of `converters.networks`."""
    weights = build.load("converters.weights:open_source", "weights")
    network = build.load(f"converters.networks:{kind}", "weights")("this network", config)
    held = weights(source, network)
    return held.sets[held.choose(None)]


def _place(source: str, kind: str, config: Any, wanted: Params) -> Params:
    """Reads weights onto devices, and says how many."""
    place = build.load("converters.weights:place", "weights")
    arrays = _open(source, kind, config)
    tree, checksum = place(arrays, wanted)
    nbytes = sum(array.nbytes for array in arrays.values())
    print(
        f"read     {len(arrays)} arrays, {nbytes:,} bytes, checksum {checksum} from {source}",
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
    state = sizes.state
    wanted = {
        "params": optim.merge(state.params, state.frozen),
        "constants": state.constants,
    }
    tree = _place(values["init_from"], "dit", trainer.net.config, wanted)
    params, frozen = optim.split_trainable(tree["params"], trainer.trainable)
    return trainer.start(state, params, frozen, tree["constants"])


def codec_params(values: Mapping[str, Any], codec: Any, mesh: Mesh) -> Params:
    """The codec's weights, whole on every device (`{}` for a codec without).

    Raises:
        ValueError: the codec has weights, and the config does not say where they come from.
    """
    shapes = jax.eval_shape(codec.init, jax.random.key(0))
    everywhere = NamedSharding(mesh, sharding.P())
    source = _source(values, "codec", bool(jax.tree.leaves(shapes)))
    if source is None:
        return jax.jit(codec.init, out_shardings=everywhere)(jax.random.key(values["seed"]))
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes
    )
    return _place(source, "vae", codec, {"params": wanted})["params"]


def _source(values: Mapping[str, Any], section: str, needed: bool) -> str | None:
    """What `weights` of a section names; None where weights are random, or there are none."""
    source = values[section].get("weights")
    if needed and source is None:
        raise ValueError(
            f"config.{section}.weights is missing: name a file or an hf:// source, or say "
            f'"{RANDOM}" (random ones are not taken unasked)'
        )
    if not needed and source is not None:
        raise ValueError(f"config.{section}.weights: {values[section]['kind']} has no weights")
    return None if source == RANDOM else source


def embedder(values: Mapping[str, Any], mesh: Mesh) -> Callable[[str], np.ndarray]:
    """A function of one caption to its embedding `[s e]`; weights are read when it is first called.

    Raises:
        ValueError: the encoder has weights, and the config does not say where they come from.
    """
    text = build.text_encoder(values)
    if not hasattr(text, "init"):
        _source(values, "text", needed=False)
        return lambda caption: text.encode([caption])[0]
    source = _source(values, "text", needed=True)

    @functools.cache
    def params() -> Params:
        shapes = jax.eval_shape(text.init, jax.random.key(0))
        places = sharding.param_shardings(shapes, mesh)
        if source is None:
            return jax.jit(text.init, out_shardings=places)(jax.random.key(values["seed"]))
        wanted = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            places,
        )
        return _place(source, "text", text, {"params": wanted})["params"]

    return lambda caption: np.asarray(text.encode(params(), [caption]))[0]


def encoder(values: Mapping[str, Any], mesh: Mesh) -> Encoder:
    """Clips to latents and text embeddings, with the codec's weights on the mesh.

    Raises:
        ValueError: weights that are not named, or cannot be read.
    """
    codec = build.codec(values)
    weights = codec_params(values, codec, mesh)
    return Encoder(codec, weights, embedder(values, mesh), mesh, values["dtype"])
