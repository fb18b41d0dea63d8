"""From a folder of videos to batches of clips, in an order that is a function of the sample index.

A run consumes an endless stream of samples, numbered from 0. Sample i belongs to epoch i // n of
the n windows, and each epoch is shuffled anew. A step takes `batch_size` samples in a row, and each
host reads the rows that its devices hold. Which threads, processes or hosts read is nowhere in
this, so a run goes on at any sample index on any machine.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import UInt8

from cosmos_jax.data import layouts, transforms, video
from cosmos_jax.data.layouts import Cameras, DataConfig, Episode, Problem
from cosmos_jax.types import Clip


def read_fitted(
    config: DataConfig, info: video.VideoInfo, frames: Sequence[int], is_control: bool
) -> UInt8[np.ndarray, "f y x 3"]:
    """Decodes frames of a file and brings them to `config.size` by the config's rule."""
    decoded = video.read_frames(info, frames)
    if config.video_size is not None and not is_control:
        decoded = transforms.stretch_truncated(decoded, config.video_size)
    return transforms.RESIZE_RULES[config.resize](decoded, config.size)


_COUNT, _VIEWS = 1, 2  # purposes of a draw, beside that of random starts


@dataclasses.dataclass(frozen=True)
class Clips:
    """Random access to every clip of some episodes: window w is a place in (episode, start)."""

    config: DataConfig
    cameras: Cameras
    episodes: tuple[Episode, ...]
    latents: Any = None  # `latents.Latents`: clips are read from a cache and not from the videos

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """For each episode, the number of windows in it and before it."""
        if self.config.starts != "every":
            return np.arange(1, len(self.episodes) + 1)
        step = self.config.window_stride
        return np.cumsum([(self._starts(e) + step - 1) // step for e in self.episodes])

    def _starts(self, episode: Episode) -> int:
        """Number of frames at which a clip can start."""
        info = episode.videos[0]
        return info.frames - self.config.frames_needed(info) + 1

    @property
    def caption_cameras(self) -> tuple[str, ...]:
        """The cameras whose captions are read."""
        layout = layouts.Layout(Path(self.config.root), self.cameras, self.config.control)
        return layouts.caption_cameras(layout, self.config)

    @functools.cached_property
    def _front(self) -> int:
        """Place of the front view: the caption camera's, or else the first."""
        if self.config.captions != "front":
            return 0
        return [name for name, _ in self.cameras].index(self.caption_cameras[0])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, window: int, seed: int, index: int) -> tuple[Episode, int]:
        """Episode and first frame of a window; `seed` and `index` matter to random starts only."""
        number = int(np.searchsorted(self._ends, window, side="right"))
        episode = self.episodes[number]
        if self.config.starts == "random":
            draw = np.random.default_rng((seed, index))
            return episode, int(draw.integers(self._starts(episode)))
        first = int(self._ends[number - 1]) if number else 0
        return episode, (window - first) * self.config.window_stride

    @property
    def view_counts(self) -> tuple[int, ...]:
        """The numbers of views that batches of training may have."""
        fewest, most = self.config.views or (len(self.cameras),) * 2
        return tuple(range(fewest, most + 1))

    def draw_views(self, seed: int, batch: int, index: int) -> tuple[int, ...]:
        """Places on the view axis of the views of sample `index`; see `DataConfig.views`.

        Args:
            batch: global sample index of the first sample of its batch, which all its samples
                share: with `seed` it decides their number.
        """
        v = len(self.cameras)
        if self.config.views is None:
            return tuple(range(v))
        count = np.random.default_rng((seed, batch, _COUNT)).choice(self.view_counts)
        drawn = np.random.default_rng((seed, index, _VIEWS)).permutation(v).tolist()
        if self.config.keep_front:
            drawn.remove(self._front)
            drawn.insert(0, self._front)
        return tuple(sorted(drawn[:count]))

    def clip(
        self, window: int, seed: int = 0, index: int = 0, views: Sequence[int] | None = None
    ) -> Clip:
        """Reads one clip; `views` are places on the view axis, None for all.

        Raises:
            video.FileError: a file that does not decode; the message names it and the frame.
        """
        episode, start = self.locate(window, seed, index)
        chosen = range(len(self.cameras)) if views is None else views
        first = episode.videos[0]
        stride = self.config.stride_of(first)
        rgb, control = (self.latents or self._pixels)(episode, start, chosen)
        return Clip(
            video=rgb,
            control=control,
            captions=tuple(episode.captions[i] for i in chosen),
            view_ids=np.array([self.cameras[i][1] for i in chosen], np.int32),
            fps=np.float32(first.fps / stride),
            index=np.int32(index),
            name=f"{episode.name}:{start}",
        )

    def _pixels(
        self, episode: Episode, start: int, views: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Decodes and resizes."""
        stride = self.config.stride_of(episode.videos[0])
        frames = range(start, start + self.config.num_frames * stride, stride)

        def read(files: Sequence[video.VideoInfo], is_control: bool) -> np.ndarray:
            return np.stack([read_fitted(self.config, files[i], frames, is_control) for i in views])

        return read(episode.videos, False), read(
            episode.controls, True
        ) if episode.controls else None


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A scanned data set. `skipped` lists the bad files whose episodes were left out."""

    train: Clips
    validation: Clips
    skipped: tuple[Problem, ...]

    @property
    def captions(self) -> list[str]:
        """All different captions, with their prefixes; "" is one."""
        episodes = (*self.train.episodes, *self.validation.episodes)
        return sorted({caption for episode in episodes for caption in episode.captions})


def split_episodes(
    episodes: Sequence[Episode], fraction: float | None
) -> tuple[tuple[Episode, ...], tuple[Episode, ...]]:
    """(training, validation); see `DataConfig.validation_fraction`.

    Raises:
        ValueError: no episode is left to train on.
    """
    n = len(episodes)
    if fraction is None:
        return tuple(episodes), tuple(episodes)
    cut = n - int(fraction * n) - 1
    if cut < 1:
        raise ValueError(
            f"{n} episodes leave none to train on beside those for validation; add episodes, or "
            "set data.validation_fraction=None to validate on the training episodes"
        )
    return tuple(episodes[:cut]), tuple(episodes[cut:])


def open_dataset(config: DataConfig) -> DataSet:
    """Scans all headers and captions of a data set, and splits it.

    Raises:
        layouts.BadDataError: lists every bad file that neither `skip_bad` nor `skip_short` is for.
        ValueError: no videos, cameras or control folder that do not exist, nothing left to read.
    """
    layout = layouts.find_layout(config.root, config.cameras, config.control)
    if config.views is not None and config.views[1] > len(layout.cameras):
        raise ValueError(
            f"data.views={config.views} draws up to {config.views[1]} views, and {config.root} has "
            f"{len(layout.cameras)}: {[name for name, _ in layout.cameras]}"
        )
    episodes, problems = layouts.scan(layout, config)
    # How reasons begin that do not stop a run: any, those of short clips, none.
    borne = "" if config.skip_bad else layouts.SHORT if config.skip_short else "\n"
    fatal = [problem for problem in problems if not problem[1].startswith(borne)]
    if fatal or (problems and not episodes):
        raise layouts.BadDataError(layout.root, fatal or problems)
    train, validation = split_episodes(episodes, config.validation_fraction)
    return DataSet(
        Clips(config, layout.cameras, train),
        Clips(config, layout.cameras, validation),
        tuple(problems),
    )


def shuffled_windows(windows: int, seed: int) -> grain.MapDataset:
    """Window of each global sample index, without end; every epoch is a new permutation."""
    return grain.MapDataset.range(windows).seed(seed).shuffle().repeat()


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Grain source: this host's samples. Element j is row j % r of step j // r, r rows a step."""

    clips: Clips
    order: grain.MapDataset
    seed: int
    start: int
    rows: tuple[int, ...]

    def __len__(self) -> int:
        steps = (len(self.order) - self.start) // self.clips.config.batch_size
        return min(steps * len(self.rows), sys.maxsize)

    def __getitem__(self, j: int) -> dict[str, Any]:
        step, row = divmod(j, len(self.rows))
        batch = self.start + step * self.clips.config.batch_size
        index = batch + self.rows[row]
        views = self.clips.draw_views(self.seed, batch, index)
        clip = self.clips.clip(self.order[index], self.seed, index, views)
        return {f.name: getattr(clip, f.name) for f in dataclasses.fields(Clip)}


def stack_clips(clips: Sequence[Mapping[str, Any]]) -> Clip:
    """The fields of several clips, stacked: arrays along a new first axis, the rest in tuples."""

    def stack(values: tuple[Any, ...]) -> Any:
        if isinstance(values[0], (np.ndarray, np.generic)):
            return np.expand_dims(values[0], 0) if len(values) == 1 else np.stack(values)
        return None if values[0] is None else values

    return Clip(**{name: stack(tuple(clip[name] for clip in clips)) for name in clips[0]})


class ClipIterator:
    """Stacked clips, step after step: this host's rows of the global batch. Close it after use.

    Attributes:
        samples: the global sample index at which the next batch starts: all before it are consumed.
        wait_seconds: time that `next` has waited for decoding, in all.
    """

    def __init__(
        self,
        clips: Clips,
        order: grain.MapDataset,
        seed: int,
        rows: Sequence[int],
        start: int = 0,
        state: Mapping[str, Any] | None = None,
    ):
        """Starts decoding.

        Args:
            clips: what the order's windows are windows of.
            order: the window of each global sample index.
            seed: for random starts.
            rows: rows of the global batch that this host reads.
            start: global sample index of the first batch.
            state: what `state` gave at this position. Where batch, rows and workers are as they
                were, Grain goes on from its own state, and every batch is checked against the
                sample index; otherwise the index alone says where to go on.

        Raises:
            ValueError: rows that are not distinct rows of the batch; a state of another position.
        """
        batch = clips.config.batch_size
        if not rows or len(set(rows)) < len(rows) or not set(rows) <= set(range(batch)):
            raise ValueError(f"rows {list(rows)} are not distinct rows of a batch of {batch}")
        self.samples, self.wait_seconds = start, 0.0
        self._config, self._rows = clips.config, tuple(rows)
        self._batches, self._since = 0, time.perf_counter()
        self._setting = {
            "seed": seed,
            "windows": len(clips),
            "batch_size": batch,
            "rows": list(rows),
            "num_workers": clips.config.num_workers,
        }
        if state is not None and not self._fits(state):
            state = None
        self._start = start if state is None else state["start"]
        self._iterator = self._grain(_Rows(clips, order, seed, self._start, self._rows))
        if state is not None:
            self._iterator.set_state(state["grain"])
        self._iterator.start_prefetch()

    def _fits(self, state: Mapping[str, Any]) -> bool:
        """Whether Grain can go on from its own state."""
        if state["samples"] != self.samples:
            raise ValueError(
                f"the state of the data is that after {state['samples']} samples, and the run goes "
                f"on after {self.samples}; restore both from one checkpoint"
            )
        changed = [key for key, value in self._setting.items() if state[key] != value]
        for key in {"seed", "windows"}.intersection(changed):
            logging.warning(
                "data: %s was %s and is %s: samples come in another order than before",
                *(key, state[key], self._setting[key]),
            )
        return not changed

    def _grain(self, source: _Rows) -> grain.DatasetIterator:
        if not flags.FLAGS.is_parsed():  # Grain reads flags, which only absl programs parse
            flags.FLAGS.mark_as_parsed()
        config = self._config
        options = grain.ReadOptions(
            num_threads=config.num_threads, prefetch_buffer_size=config.prefetch
        )
        dataset = grain.MapDataset.source(source).to_iter_dataset(options)
        if config.num_workers:
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(config.num_workers))
        # Clips are stacked here and not in the workers, which would deal out batches, not samples.
        return iter(dataset.batch(len(self._rows), drop_remainder=True, batch_fn=stack_clips))

    def __iter__(self) -> "ClipIterator":
        return self

    def __next__(self) -> Clip:
        """The next batch.

        Raises:
            video.FileError: a file that does not decode; the message names it and the frame.
        """
        begin = time.perf_counter()
        clip = next(self._iterator)
        self.wait_seconds += time.perf_counter() - begin
        expected = [self.samples + row for row in self._rows]
        if clip.index.tolist() != expected:
            raise ValueError(
                f"Grain's state disagrees with the sample index: it read samples "
                f"{clip.index.tolist()} where {expected} are due"
            )
        self._batches += 1
        self.samples += self._config.batch_size
        return clip

    def metrics(self) -> dict[str, float]:
        """Samples that this host read per second since the iterator was made, and its waiting."""
        rate = self._batches * len(self._rows) / (time.perf_counter() - self._since)
        return {
            "loader_samples_per_second": rate,
            "loader_wait_seconds": self.wait_seconds,
        }

    def state(self) -> dict[str, Any]:
        """The position after the last batch, for a checkpoint: a dict of JSON values."""
        own = {"samples": self.samples, "start": self._start, "grain": self._iterator.get_state()}
        return json.loads(json.dumps(own | self._setting, default=int))

    def close(self) -> None:
        """Stops the readers."""
        self._iterator.close()


def train_iterator(
    clips: Clips,
    seed: int,
    rows: Sequence[int],
    start: int = 0,
    state: Mapping[str, Any] | None = None,
) -> ClipIterator:
    """The endless stream of training batches, from global sample index `start` on.

    See `ClipIterator` for the arguments and errors.
    """
    order = shuffled_windows(len(clips), seed)
    return ClipIterator(clips, order, seed, rows, start, state)
