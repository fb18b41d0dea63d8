"""Latents from TFDS: `data.root="tfds://NAME[:VERSION]"`, or the folder of such a data set.

Any data source of TFDS serves that has the features of `prepare latents`: latents, control (for a
network with one), captions, view_ids, fps, episode, first_frame, and cameras. What made its latents
is not known, and taken to be the codec of the config.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_jax import build
from cosmos_jax.data import latents
from cosmos_jax.data.latents import Index, StoredEpisode
from cosmos_jax.data.layouts import Cameras, DataConfig
from cosmos_jax.progress import Progress

SCHEME = "tfds://"
FIELDS = ("latents", "captions", "cameras", "view_ids", "fps", "episode", "first_frame")
ORIGIN = "of unknown origin"


def located(config: DataConfig) -> DataConfig:
    """The config with the folder in place of the name of a data set of TFDS.

    Raises:
        ValueError: TFDS knows no such data set, or it is not on this machine.
    """
    import tensorflow_datasets as tfds

    if config.latents != "auto":
        raise ValueError(
            f"data.root={config.root} is a data set of latents: leave data.latents at 'auto'"
        )
    name = config.root.removeprefix(SCHEME)
    try:
        folder = Path(tfds.builder(name, try_gcs=False).data_path)
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"data.root={config.root}: {str(error).splitlines()[0]}") from error
    if not (folder / latents.TFDS_FILES[-1]).is_file():
        raise ValueError(f"data.root={config.root}: {folder} is not there; make it with TFDS first")
    return dataclasses.replace(config, root=str(folder))


@dataclasses.dataclass(frozen=True)
class _Record:
    """What a record says of itself."""

    episode: str
    start: int
    fps: float
    captions: tuple[str, ...]


def read_index(
    values: Mapping[str, Any], config: DataConfig, folder: Path
) -> tuple[Index, np.ndarray]:
    """An index of a data set of TFDS that has none; every record is read once.

    Returns:
        The index, in order of (episode, first frame), and the number of each record in this order.

    Raises:
        ValueError: features that are missing or of another shape, or windows that are not evenly
            spaced from the start of each episode.
    """
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(folder)
    if missing := [name for name in FIELDS if name not in info.info.features]:
        raise ValueError(f"{folder} has no feature {missing[0]!r}, and latents need {FIELDS}")
    feature = info.info.features["latents"]
    shape = build.latent_shape(build.codec(values), config.num_frames, config.size)
    kind = np.dtype(feature.np_dtype).name
    if len(feature.shape) != 5 or feature.shape[1:] != shape or kind not in latents.DTYPES:
        raise ValueError(
            f"{folder}: latents are {kind} {feature.shape} (v t h w c), and the config's are "
            f"{('views', *shape)} of {' or '.join(latents.DTYPES)}"
        )
    if config.view_prefixes or config.caption_kind is not None:
        raise ValueError(
            f"{folder}: captions are as they are; unset data.view_prefixes and data.caption_kind"
        )
    records, cameras = _read(info.as_data_source(latents.SPLIT), config, folder)
    order = np.array(sorted(range(len(records)), key=lambda i: _place(records[i])))
    stride, episodes = _episodes([records[i] for i in order], config, folder)
    words = {key: getattr(config, key) for key in latents.WORDS}
    if config.captions == "front" and config.caption_camera is None:
        spoken = [name for (name, _), text in zip(cameras, episodes[0].captions) if text]
        words["caption_camera"] = spoken[0] if spoken else cameras[0][0]
    identity = {"latents": list(shape), "stored": kind, "codec.weights": ORIGIN}
    control = "control" if "control" in info.info.features else None
    index = Index(identity, words, cameras, control, stride, tuple(episodes), len(records), [])
    return index, order


def _read(source: Any, config: DataConfig, folder: Path) -> tuple[list[_Record], Cameras]:
    """What all records say, and the views of the first, which the others must have too."""
    progress, records, found = Progress("read", len(source), "records"), [], set()
    try:
        for held in source:
            names = tuple(name.decode() for name in held["cameras"])
            found.add(tuple(zip(names, held["view_ids"].tolist(), strict=True)))
            spoken = config.captions != "none"
            words = tuple(text.decode() if spoken else "" for text in held["captions"])
            about = held["episode"].decode(), held["first_frame"], held["fps"]
            records.append(_Record(*about, words))
            progress.add(1)
    except (RuntimeError, ValueError) as error:  # the first is ArrayRecord's
        raise ValueError(f"{folder}: {str(error).split(';')[0]}") from error
    if len(found) != 1:
        raise ValueError(f"{folder}: records are of different views: {sorted(found)[:3]}")
    return records, found.pop()


def _place(record: _Record) -> tuple[str, int]:
    return record.episode, record.start


def _episodes(
    records: Sequence[_Record], config: DataConfig, folder: Path
) -> tuple[int | None, list[StoredEpisode]]:
    """The windows' stride (None: one an episode), and the episodes, of sorted records."""
    grouped = {k: list(v) for k, v in itertools.groupby(records, key=lambda r: r.episode)}
    strides = {b.start - a.start for v in grouped.values() for a, b in itertools.pairwise(v)}
    starts = {group[0].start for group in grouped.values()}
    if starts != {0} or len(strides) > 1 or strides == {0}:
        raise ValueError(
            f"{folder}: windows of an episode start at frame 0 and are evenly spaced, and here "
            f"first ones are at {sorted(starts)[:5]} and distances {sorted(strides)[:5]}"
        )
    stride, episodes = next(iter(strides), None), []
    for name, group in grouped.items():
        rates = {Fraction(record.fps).limit_denominator(1001) for record in group}
        if len(rates) > 1 or (config.fps and abs(float(min(rates)) / config.fps - 1) > 1e-3):
            raise ValueError(f"{folder}: {name} has {rates} fps, and data.fps={config.fps}")
        # As many frames as let `Clips` find these windows; rates are those of clips.
        every = config.stride or 1
        frames = (config.num_frames - 1) * every + 1 + (len(group) - 1) * (stride or 1)
        fps = str(min(rates) * every)
        captions = group[0].captions
        episodes.append(StoredEpisode(name, frames, fps, len(group), captions, ()))
    return stride, episodes
