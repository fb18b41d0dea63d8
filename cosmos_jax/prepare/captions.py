"""Embeds the captions of a data set into its cache, as `python -m cosmos_jax.prepare text` does."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cosmos_jax import build, build_text, text_cache
from cosmos_jax.progress import Progress

Encode = Callable[[Sequence[str]], Any]


def embed(values: Mapping[str, Any], overwrite: bool) -> None:
    """Fills the cache of the data set of a config.

    Args:
        values: the config.
        overwrite: embeds anew what is there.

    Raises:
        ValueError: bad data or weights; a cache of another encoder; a full disk.
    """
    _, folder = places(values)
    mesh = build.mesh(values)
    with jax.set_mesh(mesh):
        captions, encode, identity = prepared(values, mesh, folder)
        cache = None
        if not overwrite and (folder / text_cache.INDEX).is_file():
            cache = text_cache.open_cache(folder)
            text_cache.check_identity(cache, identity)
        todo = cache.unusable(captions) if cache else captions
        there = len(captions) - len(todo)
        print(f"captions {len(captions)} different ones, {there} in {folder} already", flush=True)
        # A device embeds one caption at a time, as in training, so that the numbers are the same.
        size = mesh.shape["data"] * mesh.shape["fsdp"]
        if todo:  # weights are read, and programs compiled, before an older cache is deleted
            one = np.asarray(encode(todo[:1] * size))[0]
            check_room(folder, len(todo), one.nbytes, "captions", "config.text.cache")
        cache = cache or text_cache.new_cache(folder, identity)
        with text_cache.Writer(cache) as writer:
            for caption, embedding in embedded(todo, size, encode):
                writer.add(caption, embedding)
    nbytes = sum(entry.bytes for entry in cache.entries.values())
    print(f"{folder}: {len(cache.entries)} captions, {nbytes:,} bytes", flush=True)


def places(values: Mapping[str, Any]) -> tuple[Path, Path]:
    """The folder of clips of a config, and that of its embeddings.

    Raises:
        ValueError: clips that are in no folder, no cache that is wanted, or several processes.
    """
    root = values["data"]["root"]
    if root == build.SYNTHETIC:
        raise ValueError(
            "--root is missing: the clips of config.data.root='synthetic' lie in "
            "WORKDIR/synthetic of a run"
        )
    if root.startswith("tfds://") and values["text"]["cache"] == "auto":
        raise ValueError(f"{root} is no folder to keep embeddings in: name one, config.text.cache")
    folder = build_text.cache_folder(values, root)
    if folder is None:
        raise ValueError("config.text.cache=None: no run would read a cache; leave it at auto")
    if jax.process_count() > 1:
        raise ValueError(f"{jax.process_count()} processes: start the command in one of them alone")
    return Path(root), folder


def prepared(
    values: Mapping[str, Any], mesh: Mesh, folder: Path
) -> tuple[list[str], Encode, dict[str, Any]]:
    """The captions, what embeds them, and the identity of a cache with these embeddings."""
    trainer = build.trainer(values)
    sizes = build.sizes(values, mesh, trainer)
    if (Path(values["data"]["root"]) / "videos").is_dir():  # then latents have no say in it
        values = {**values, "data": {**values["data"], "latents": None}}
    captions = build.data(values, trainer, folder).captions
    encode, projection = build_text.embedder(values, mesh), None
    about = build.text_encoder(values).description
    if build_text.projects(sizes):
        params = build_text.projection(values, mesh, trainer, sizes)
        projection = build_text.checksum(params)
        encode = build_text.projected(sizes.network, params, encode)
        about += f", projected to {sizes.network.text_width} because the projection is not trained"
    print(f"text     {about}", flush=True)
    return captions, encode, build_text.identity(values, projection)


def check_room(folder: Path, count: int, nbytes: int, units: str, setting: str) -> None:
    """Raises a ValueError where a disk has no room for so many units of so many bytes.

    Args:
        folder: on that disk; it need not be there yet.
        count: how many.
        nbytes: of each.
        units: what they are.
        setting: that names another folder.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free, wanted = shutil.disk_usage(there).free, count * nbytes
    print(
        f"to write {count} {units}, {nbytes:,} bytes each: "
        f"{wanted / 2**30:.2f} GiB, and {free / 2**30:.1f} GiB are free",
        flush=True,
    )
    if wanted > free:
        raise ValueError(
            f"{there} has {free / 2**30:.1f} GiB free and the {units} take "
            f"{wanted / 2**30:.1f} GiB; make room, or name another folder: {setting}"
        )


def embedded(
    captions: Sequence[str], size: int, encode: Encode
) -> Iterator[tuple[str, np.ndarray]]:
    """Each caption with its embedding; `size` of them are encoded together, always."""
    progress = Progress("embedded", len(captions), "captions")
    for first in range(0, len(captions), size):
        some = list(captions[first : first + size])
        filled = some + some[-1:] * (size - len(some))
        yield from zip(some, np.asarray(encode(filled)))
        progress.add(len(some))
