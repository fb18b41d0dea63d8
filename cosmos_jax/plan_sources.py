"""What a run would read: its clips, its captions' embeddings and its weights; headers only."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cosmos_jax import build, build_text, build_weights, evaluations
from cosmos_jax.data.layouts import DataConfig
from cosmos_jax.plan_system import System

HUB, TFDS = "hf://", "tfds://"
WEIGHTS = ("*.safetensors", "*.distcp", "model/*.distcp", "*.pt", "*.pth")


@dataclasses.dataclass(frozen=True)
class Data:
    """What is known of the clips.

    Attributes:
        about: a line about them.
        views: the numbers of views that batches may have.
        cached: shape of the embeddings of the cache that the run would use, or None.
        text: a line about the text.
    """

    about: str
    views: tuple[int, ...]
    cached: tuple[int, int] | None
    text: str


def data(planned: System) -> Data:
    """Scans the data set of a config; a folder that is not there is said to be so.

    Raises:
        ValueError: bad settings, or bad data; TFDS does not have what it is asked for.
    """
    values = planned.values
    config = build.make(DataConfig, values["data"], "config.data")
    text = build.text_encoder(values).description
    if config.root == build.SYNTHETIC:
        cameras = build.part(values, "scene").cameras
        about = f"rendered when the run starts, cameras: {cameras}"
        return Data(about, _views(config, cameras), None, text)
    if not config.root.startswith(TFDS) and not Path(config.root).is_dir():
        cameras, source = _cameras(planned, config)
        about = f"{config.root} is not there: not scanned; cameras by {source}: {cameras}"
        return Data(about, _views(config, cameras), None, text)
    found = build.data(values, planned.trainer, Path(config.root))
    evaluations.check(planned.loop, planned.trainer, found)
    about = (
        f"{config.root}: {len(found.train)} clips of {len(found.train.episodes)} episodes to train "
        f"on, {len(found.validation)} of {len(found.validation.episodes)} held out, "
        f"{len(found.skipped)} files left out"
    )
    folder = build_text.cache_folder(values, found.train.config.root)
    if folder is None or (not folder.is_dir() and values["text"]["cache"] == "auto"):
        return Data(about, found.train.view_counts, None, text)
    cache = build_text.cached(values, planned.sizes, folder, found.captions)
    if cache is None:
        return Data(about, found.train.view_counts, None, text)
    return Data(about, found.train.view_counts, cache.shape, cache.description)


def _cameras(planned: System, config: DataConfig) -> tuple[int, str]:
    """How many cameras a data set that is not there is taken to have, and what says so."""
    if config.cameras != "all":
        names = config.cameras.split(",") if isinstance(config.cameras, str) else config.cameras
        return len(names), "config.data.cameras"
    return max(planned.sizes.network.view_rows, 1), "the network's view table"


def _views(config: DataConfig, cameras: int) -> tuple[int, ...]:
    fewest, most = config.views or (cameras, cameras)
    return tuple(range(fewest, most + 1))


def weights(planned: System, cached: bool) -> list[str]:
    """A line for each source of weights: those that are on this machine are opened and compared.

    Args:
        planned: the config's step.
        cached: embeddings come from a cache, and the text encoder is not needed.

    Raises:
        ValueError: weights that are not named, cannot be read, or are of another network.
    """
    values = {**planned.values, "attention": "xla"}  # the backend is no part of the weights
    lines = [_checked("init_from", values["init_from"], lambda: build_weights.check_source(values))]
    parts = [("codec", "vae", build.codec(values))]
    if not cached:
        parts.append(("text", "text", build.text_encoder(values)))
    for section, kind, part in parts:
        shapes = jax.eval_shape(part.init, jax.random.key(0)) if hasattr(part, "init") else {}
        source = build_weights.part_source(values, section, needed=bool(jax.tree.leaves(shapes)))
        if source is not None:
            lines.append(_opened(f"{section}.weights", source, kind, part))
        elif shapes:
            lines.append(f"{section}.weights={build_weights.RANDOM}")
    return lines


def _opened(name: str, source: str, kind: str, part: Any) -> str:
    return _checked(name, source, lambda: build_weights.open_weights(source, kind, part))


def _checked(name: str, source: str, check: Callable[[], Any]) -> str:
    if source.startswith(HUB) and not _downloaded(source):
        return f"{name}={source}: not checked, it is not on this machine"
    check()
    return f"{name}={source}" + (": fits" if source != build_weights.RANDOM else "")


def _downloaded(source: str) -> bool:
    """Whether a source of the hub is in the local cache; raises where its name is of no source."""
    try:
        path = build.load("converters.hub:resolve", "weights")(source)
    except ValueError as error:
        if error.__cause__ is None:  # not what the hub says, but what is wrong with the name
            raise
        return False
    return path.is_file() or any(file for pattern in WEIGHTS for file in path.glob(pattern))


def stay_offline() -> None:
    """Keeps the hub's client, which is not yet imported, from the network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
