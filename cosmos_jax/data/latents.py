"""A folder of latents: all windows of all views of a data set, encoded once, read at random.

    1.0.0/index.json                                  what made them, of which files, which shards
    1.0.0/latents-train.array_record-00000-of-00042   records in order of (episode, first frame)
    1.0.0/features.json, dataset_info.json            what TFDS reads, written last

TFDS opens it: `tfds.builder_from_directory(FOLDER / "1.0.0")`, or, where the folder is called
latents, `tfds.data_source("latents", data_dir=PARENT, split="train")`. No TensorFlow is needed.
Below, `folder` is the one with these files.

A shard is written beside its name, its size is put in the index, and then it is renamed: no name
stands for half a shard, and work that was interrupted goes on with the shards that are missing.
Records carry checksums, which are verified whenever one is read (ArrayRecord's).
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cosmos_jax.data.layouts import Cameras, Episode
from cosmos_jax.data.video import FileError

VERSION, NAME, SPLIT, INDEX = "1.0.0", "latents", "train", "index.json"
TFDS_FILES = ("features.json", "dataset_info.json")
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
# Settings of captions.
WORDS = ("captions", "caption_camera", "caption_kind", "view_prefixes", "prefix_style")
ENDS = 1 << 16  # bytes; the table of an mp4's frames lies at one of its ends
AGAIN = "run python -m cosmos_jax.prepare latents again"
MEND = f"{AGAIN} with --overwrite, or do without it: config.data.latents=None"


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A video that went into a cache.

    Attributes:
        path: relative to the data set.
        bytes: its size.
        changed: time of the last change, in nanoseconds.
        ends: hash of its first and last bytes.
    """

    path: str
    bytes: int
    changed: int
    ends: str

    def same(self, root: Path) -> bool:
        """Whether the file is still the one it was, or a copy of it."""
        status = os.stat(root / self.path)
        if status.st_size != self.bytes:
            return False
        return status.st_mtime_ns == self.changed or _ends(root / self.path) == self.ends


def source_file(root: Path, path: str) -> SourceFile:
    """What is kept of a video of the data set `root`."""
    status = os.stat(path)
    return SourceFile(
        os.path.relpath(path, root), status.st_size, status.st_mtime_ns, _ends(Path(path))
    )


def _ends(path: Path) -> str:
    with path.open("rb") as file:
        begin = file.read(ENDS)
        file.seek(max(0, path.stat().st_size - ENDS))
        return hashlib.sha256(begin + file.read()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class StoredEpisode:
    """An episode of a cache.

    Attributes:
        name: as the files are called.
        frames: of each of its videos.
        fps: of its videos, as a fraction.
        windows: how many records it has.
        captions: one a view.
        files: videos and then controls, in the order of the views.
    """

    name: str
    frames: int
    fps: str
    windows: int
    captions: tuple[str, ...]
    files: tuple[SourceFile, ...]


@dataclasses.dataclass
class Index:
    """What is in a cache.

    Attributes:
        identity: all that latents of given pixels depend on, by the names of the settings, as JSON.
        words: the settings of the captions.
        cameras: views and ids, in the order of the view axis.
        control: name of the control folder, or None.
        window_stride: frames between windows; None: one window of each episode, at its start.
        episodes: sorted by name.
        shard_records: records of a shard; the last may have fewer.
        shards: bytes of each; None: not written yet.
    """

    identity: dict[str, Any]
    words: dict[str, Any]
    cameras: Cameras
    control: str | None
    window_stride: int | None
    episodes: tuple[StoredEpisode, ...]
    shard_records: int
    shards: list[int | None]

    @property
    def records(self) -> int:
        """Windows in all."""
        return sum(episode.windows for episode in self.episodes)

    @property
    def shape(self) -> tuple[int, ...]:
        """v, t, h, w, c of a record."""
        return len(self.cameras), *self.identity["latents"]

    @property
    def dtype(self) -> Any:
        """Type in which latents are kept."""
        return DTYPES[self.identity["stored"]]

    @property
    def record_bytes(self) -> int:
        """Bytes of the latents of a record."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize * (1 + bool(self.control))

    def shard(self, folder: Path, number: int) -> Path:
        """The file of a shard, by the naming of TFDS."""
        name = f"{NAME}-{SPLIT}.array_record-{number:05d}-of-{len(self.shards):05d}"
        return folder / name

    def shard_range(self, number: int) -> range:
        """Numbers of the records of a shard."""
        first = number * self.shard_records
        return range(first, min(first + self.shard_records, self.records))

    def missing(self, folder: Path) -> list[int]:
        """Numbers of the shards that are not there whole, as far as their sizes tell."""
        here = [self.shard(folder, i) for i in range(len(self.shards))]
        sizes = [path.stat().st_size if path.is_file() else None for path in here]
        return [i for i, size in enumerate(sizes) if size is None or size != self.shards[i]]


def place(folder: Path) -> Path:
    """The folder with the files of a cache: itself, or the version below it."""
    return folder if (folder / TFDS_FILES[-1]).is_file() else folder / VERSION


def write_index(index: Index, folder: Path) -> None:
    """Writes the index whole, or not at all."""
    path = folder / INDEX
    draft = path.with_name(f".{INDEX}.draft")
    draft.write_text(json.dumps(dataclasses.asdict(index), ensure_ascii=False), "utf-8")
    draft.replace(path)


def read_index(folder: Path) -> Index:
    """Reads the index of a cache, which need not be complete.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        what = f"has no {INDEX}" if folder.is_dir() else "is not there"
        raise ValueError(f"{folder} {what}: it is no cache of latents; {MEND}")
    try:
        held = json.loads(path.read_text("utf-8"))
        episodes = []
        for episode in held.pop("episodes"):
            files = tuple(SourceFile(**file) for file in episode.pop("files"))
            captions = tuple(episode.pop("captions"))
            episodes.append(StoredEpisode(**episode, captions=captions, files=files))
        cameras = tuple((name, view) for name, view in held.pop("cameras"))
        index = Index(**held, cameras=cameras, episodes=tuple(episodes))
        assert index.dtype and len(index.shape) == 5 and index.records > 0
        return index
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {MEND}") from error


def open_index(folder: Path) -> Index:
    """Reads the index of a cache that is complete.

    Raises:
        ValueError: see `read_index`; or shards are missing.
    """
    index = read_index(folder)
    if missing := index.missing(folder):
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(index.shards)} shards, as "
            f"{index.shard(folder, missing[0]).name}; {AGAIN} to finish it, or do without it: "
            "config.data.latents=None"
        )
    if not all((folder / name).is_file() for name in TFDS_FILES):
        raise ValueError(f"{folder} lacks {' or '.join(TFDS_FILES)}; {AGAIN} to finish it")
    return index


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what the identity of a cache is not the one that is wanted."""
    return [
        f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in dict.fromkeys([*there, *here])
        if there.get(key) != here.get(key)
    ]


def stale(folder: Path, told: Sequence[str]) -> ValueError:
    """The error about a cache that is not the one that is wanted."""
    more = f" (and {len(told) - 5} things more)" if len(told) > 5 else ""
    return ValueError(f"{folder} is stale: {'; '.join(told[:5])}{more}; {MEND}")


def changed_files(index: Index, root: Path, episodes: Sequence[Episode], threads: int) -> list[str]:
    """What is wrong with a cache for these episodes: they are not in it, or their files changed."""
    stored = {episode.name: episode for episode in index.episodes}

    def look(episode: Episode) -> list[str]:
        if episode.name not in stored:
            return [f"it lacks the episode {episode.name}"]
        files = {file.path: file for file in stored[episode.name].files}
        paths = [os.path.relpath(x.path, root) for x in (*episode.videos, *episode.controls)]
        return [f"{p} has changed" for p in paths if p not in files or not files[p].same(root)]

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return [line for lines in pool.map(look, episodes) for line in lines]


@dataclasses.dataclass(frozen=True)
class Latents:
    """Reads clips of a complete cache: `pipeline.Clips.latents`.

    Attributes:
        folder: of the cache.
        window_stride: see `Index`.
        places: number of each episode's first record.
        views: for each view of the run, its place in the records.
        control: whether to read the control.
        videos: whether the videos that it was made of are here too.
        order: for each record in order of (episode, first frame), its number; None: that order.
        description: for logs.
    """

    folder: Path
    window_stride: int | None
    places: dict[str, int]
    views: tuple[int, ...]
    control: bool
    videos: bool
    order: np.ndarray | None
    description: str

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.folder).as_data_source(SPLIT)

    def __call__(
        self, episode: Episode, start: int, views: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents `[v t h w c]` of a window's video and control.

        Raises:
            FileError: a record that is damaged, or not the one that the index promises.
        """
        number = self.places[episode.name] + start // (self.window_stride or 1)
        if self.order is not None:
            number = int(self.order[number])
        try:
            held = self._records[number]
        except (RuntimeError, ValueError, KeyError) as error:  # the first names no file of ours
            raise self._damaged(number, str(error).split(";")[0]) from error
        if (held["episode"].decode(), held["first_frame"]) != (episode.name, start):
            there = f"{held['episode'].decode()}:{held['first_frame']}"
            raise self._damaged(number, f"it is {there}, not {episode.name}:{start}")
        rows = [self.views[i] for i in views]
        return held["latents"][rows], held["control"][rows] if self.control else None

    def _damaged(self, number: int, reason: str) -> FileError:
        if self.order is not None:
            return FileError(str(self.folder), f"record {number} is damaged ({reason})")
        index = read_index(self.folder)
        path = index.shard(self.folder, number // index.shard_records)
        return FileError(
            str(path), f"record {number} is damaged ({reason}); delete the file and {AGAIN}"
        )
