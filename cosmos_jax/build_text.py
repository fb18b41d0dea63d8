"""Where the text embeddings of a config come from: its encoder, or a cache that is its own.

Where a network's projection of the text (`text_project`) is not trained, the cache holds what comes
out of it, and the projection's checksum is part of the identity.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cosmos_jax import build, build_weights, checkpoints, sharding, text_cache, train
from cosmos_jax.encode import Text
from cosmos_jax.models import dit, layers
from cosmos_jax.train import Trainer
from cosmos_jax.types import Params

CACHE = "text_embeddings"  # in the folder of clips
PROJECTION = "text_project"  # of the network's parameters, and of an identity


def text(
    values: Mapping[str, Any],
    mesh: Mesh,
    sizes: build.Sizes,
    root: str | Path,
    captions: Sequence[str],
) -> Text:
    """Text embeddings: from the cache that holds all of the captions, else from the encoder.

    Args:
        values: the config.
        mesh: where the encoder's weights go.
        sizes: of the network.
        root: the folder of clips, in which "auto" looks for the cache.
        captions: all that the run needs.

    Raises:
        ValueError: a cache that is missing, damaged, or made by another encoder; an encoder whose
            weights are not named, or that several processes would have to call.
    """
    encoder, folder = build.text_encoder(values), cache_folder(values, root)
    if folder and not folder.is_dir() and values["text"]["cache"] == "auto":
        folder = None
    if folder and (found := cached(values, sizes, folder, captions)):
        return found
    if hasattr(encoder, "init") and jax.process_count() > 1:
        raise ValueError(
            f"{jax.process_count()} processes cannot encode text in the run: embed all captions "
            "first, with python -m cosmos_jax.prepare text in one process"
        )
    encode = embedder(values, mesh)
    return Text(
        lambda caption: np.asarray(encode([caption]))[0],
        (encoder.tokens, encoder.width),
        encoder.description,
        check=lambda params: None,
    )


def cache_folder(values: Mapping[str, Any], root: str | Path) -> Path | None:
    """Where the embeddings of a folder of clips lie or would lie; None where none are wanted."""
    if "cache" not in values["text"]:
        raise ValueError("config.text.cache is missing: auto, a folder of embeddings, or None")
    given = values["text"]["cache"]
    return Path(root) / CACHE if given == "auto" else given and Path(given)


def embedder(values: Mapping[str, Any], mesh: Mesh) -> Callable[[Sequence[str]], Any]:
    """A function of captions to embeddings `[b s e]`; weights are read when it is first called.

    Raises:
        ValueError: the encoder has weights, and the config does not say where they come from.
    """
    encoder = build.text_encoder(values)
    build_weights.part_source(values, "text", needed=hasattr(encoder, "init"))
    if not hasattr(encoder, "init"):
        return encoder.encode

    @functools.cache
    def params() -> Params:
        shapes = jax.eval_shape(encoder.init, jax.random.key(0))
        places = sharding.param_shardings(shapes, mesh)
        return build_weights.part_params(values, "text", "text", encoder, places)

    return lambda captions: encoder.encode(params(), captions)


def identity(values: Mapping[str, Any], projection: str | None) -> dict[str, Any]:
    """All that an embedding depends on beside the caption, as JSON.

    What lies in files is told by its content, so that a copy of the encoder serves as well; what
    lies on a hub by its name. `weights` is None where the config names none.

    Args:
        values: the config.
        projection: the `checksum` of the projection that embeddings have passed.

    Raises:
        ValueError: weights that cannot be opened.
    """
    encoder = build.text_encoder(values)
    settings = dataclasses.asdict(encoder)
    if "tokenizer" in settings:
        settings["tokenizer"] = _tokenizer(settings["tokenizer"])
    about = {
        "kind": values["text"]["kind"],
        **settings,
        "template": getattr(encoder, "template", None),
        "weights": weights(values, "text", "text", encoder) if hasattr(encoder, "init") else "none",
        PROJECTION: projection,
    }
    return json.loads(json.dumps(about))


def _tokenizer(name: str) -> str:
    """A folder's tokenizer by its files; of any other name, the name."""
    patterns = ("*token*.json", "vocab.*", "merges.*", "*.model")
    files = sorted({path for pattern in patterns for path in Path(name).glob(pattern)})
    if not files:
        return name
    held = hashlib.sha256()
    for path in files:
        held.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return f"files {held.hexdigest()[:16]}"


def weights(values: Mapping[str, Any], section: str, kind: str, part: Any) -> str | None:
    """A part's weights: random ones by their seed, files by a fingerprint, others by name."""
    source = values[section].get("weights")
    if source is None or source.startswith("hf://"):
        return source
    if source == build_weights.RANDOM:
        return f"random, seed {values['seed']}"
    opened = build_weights.open_weights(source, kind, part)
    held = (opened.tensors or opened.sets)[opened.choose(None)]
    return f"files {build.load('converters.weights:fingerprint', 'weights')(held)}"


def projects(sizes: build.Sizes) -> bool:
    """Whether a cache for this network holds projected text: it has a projection and keeps it.

    One that leaves the width as it is cannot be told from none, and is left to the network.
    """
    config = sizes.network
    has = config.text_features not in (0, config.text_width)
    return has and PROJECTION not in sizes.state.params


def checksum(projection: Params) -> str:
    """Of a projection in the compute dtype, on any mesh."""
    return checkpoints.digest(projection)


def cached(
    values: Mapping[str, Any], sizes: build.Sizes, folder: Path, captions: Sequence[str]
) -> Text | None:
    """Embeddings from a cache; None, with a line on the console, where it lacks captions.

    Raises:
        ValueError: there is no cache, or it is damaged or stale.
    """
    cache = text_cache.open_cache(folder)
    encoder, passed = build.text_encoder(values), cache.identity.get(PROJECTION)
    # Text before the projection serves every run. Projected text serves those that keep theirs;
    # whether it is the same is seen when it is there (`Text.check`).
    fits = passed is None or projects(sizes)
    wanted = identity(values, passed if fits else "none that is kept as it is")
    if wanted["weights"] is None:  # the config says nothing against the cache's
        wanted["weights"] = cache.identity.get("weights")
    text_cache.check_identity(cache, wanted)
    if missing := cache.missing(captions):
        print(
            f"text     cache {folder} lacks {len(missing)} of {len(captions)} captions, as "
            f"{missing[0]!r}: the encoder is used for all",
            flush=True,
        )
        return None
    if faults := [fault for caption in captions if (fault := cache.fault(caption))]:
        raise ValueError(
            f"{faults[0]}, and {len(faults) - 1} files more are damaged; run python -m "
            "cosmos_jax.prepare text again"
        )

    def check(params: Params) -> None:
        if passed is not None:
            here = {**wanted, PROJECTION: checksum(params[PROJECTION])}
            text_cache.check_identity(cache, here)

    width = encoder.width if passed is None else sizes.network.text_width
    how = "" if passed is None else ", projected"
    weights = f", weights: {wanted['weights']}" if hasattr(encoder, "init") else ""
    about = f"cache {folder} ({len(captions)} captions{how}) of {encoder.description}{weights}"
    return Text(cache.read, (encoder.tokens, width), about, check)


def projection(
    values: Mapping[str, Any], mesh: Mesh, trainer: Trainer, sizes: build.Sizes
) -> Params:
    """The weights of the network's projection before the first step, in the compute dtype.

    Raises:
        ValueError: the source cannot be read, or is of another network.
    """
    wanted = sizes.state.frozen[PROJECTION]
    if values["init_from"] != build_weights.RANDOM:
        tree = {"params": {PROJECTION: wanted}}
        place = functools.partial(build_weights.place, values["init_from"], "dit")
        held = build.load("cosmos_jax.pretrained:source_config", "config.init_from")
        config = held(values, trainer.net.config)
        return place(config, tree)["params"][PROJECTION]
    places = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    key = jax.random.fold_in(jax.random.key(trainer.seed), train.INIT)
    # The compiler drops the rest of the network.
    init = jax.jit(lambda k: trainer.init(k, sizes.inputs).frozen[PROJECTION], out_shardings=places)
    return init(key)


def projected(
    config: dit.DiTConfig, params: Params, encode: Callable[[Sequence[str]], Any]
) -> Callable[[Sequence[str]], Float[Array, "b s e"]]:
    """An encoder of captions and then the projection, as the network does it, compiled."""

    @jax.jit
    def project(params: Params, text: Array) -> Array:
        x = text[:, None].astype(config.dtype)
        return layers.gelu(dit.text_projection(config).apply({"params": params}, x))[:, 0]

    return lambda captions: project(params, encode(captions))
