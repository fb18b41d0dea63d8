"""The guide's files of T5 embeddings (`converters.t5_files`): made into our cache, and written."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosmos_jax import build, build_text, text_cache
from cosmos_jax.models.t5 import one_after_another
from cosmos_jax.prepare import captions
from cosmos_jax.types import APART


def read(values: Mapping[str, Any], overwrite: bool) -> None:
    """Makes the cache of a data set from the guide's files in it; no encoder is asked.

    That they are of the encoder of the config, nothing in them tells: it is taken to be so.

    Args:
        values: the config.
        overwrite: replaces a cache that is there; else it gets what it lacks.

    Raises:
        ValueError: bad data; a file that is missing, damaged or of another encoder; two clips with
            the same words and different embeddings.
    """
    root, folder = captions.places(values)
    encoder, identity = build.text_encoder(values), build_text.identity(values, None)
    found: dict[str, np.ndarray] = {}
    for camera, name, caption in _spoken(values, folder):
        sentences = files().rows_of(root, camera, name, caption.split(APART))
        rows = one_after_another(sentences, encoder.tokens)
        if rows.shape[1] != encoder.width:
            raise ValueError(
                f"config.text makes {encoder.width} numbers a token, and the guide's files hold "
                f"{rows.shape[1]}"
            )
        if not np.array_equal(found.setdefault(caption, rows), rows):
            raise ValueError(
                f"{root}: clip {name} of {camera} has the words of another one, "
                f"{caption.split(APART)[-1]!r}, and another embedding; write one of them again"
            )
    cache = None
    if not overwrite and (folder / text_cache.INDEX).is_file():
        cache = text_cache.open_cache(folder)
        text_cache.check_identity(cache, identity)
    cache = cache or text_cache.new_cache(folder, identity)
    with text_cache.Writer(cache) as writer:
        for caption in cache.unusable(found):
            writer.add(caption, found[caption])
    print(f"{folder}: {len(cache.entries)} captions, from the guide's files in {root}", flush=True)


def write(values: Mapping[str, Any]) -> None:
    """Embeds the sentences of a data set, and writes the guide's files; those there are kept.

    Raises:
        ValueError: bad data or weights.
    """
    root, folder = captions.places(values)
    wanted: dict[Path, str] = {}
    for camera, name, caption in _spoken(values, folder):
        for sentence in caption.split(APART):
            pair = files().places_of(root, camera, name, sentence)
            if not any(path.is_file() for path in pair):
                wanted[pair[0]] = sentence
    sentences = sorted(set(wanted.values()))
    print(
        f"{root}: {len(wanted)} files of {len(sentences)} different sentences to write", flush=True
    )
    mesh = build.mesh(values)
    with jax.set_mesh(mesh):
        encode = build_text.embedder(values, mesh)
        size = mesh.shape["data"] * mesh.shape["fsdp"]
        for sentence, rows in captions.embedded(sentences, size, encode):
            length = int(np.flatnonzero(rows.any(1))[-1]) + 1
            for path in [path for path, its in wanted.items() if its == sentence]:
                files().write(path, rows[:length].astype(np.float16))


def files() -> Any:
    """`converters.t5_files`, loaded where the guide asks for it."""
    return importlib.import_module("converters.t5_files")


def _spoken(values: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str, str]]:
    """Camera, clip and caption of every view of a data set.

    Raises:
        ValueError: bad data, or captions that are not made of the guide's sentences.
    """
    section = values["data"]
    if not section["view_prefixes"] or section["prefix_style"] == "joined":
        raise ValueError(
            "the guide embeds the sentence about a camera and the caption of a clip apart: set "
            'config.data.view_prefixes=True and config.data.prefix_style="apart"'
        )
    data = build.data(values, build.trainer(values), folder)
    episodes = {e.name: e for e in (*data.train.episodes, *data.validation.episodes)}
    for name, episode in sorted(episodes.items()):
        for (camera, _), caption in zip(data.train.cameras, episode.captions, strict=True):
            yield camera, name, caption
