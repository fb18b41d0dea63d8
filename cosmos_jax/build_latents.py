"""Data sets whose clips come as latents from a cache that is their own: `config.data.latents`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosmos_jax import build, build_text, build_tfds
from cosmos_jax.data import latents, layouts, pipeline
from cosmos_jax.data.latents import Index, StoredEpisode
from cosmos_jax.data.layouts import DataConfig, Episode, Layout
from cosmos_jax.data.video import VideoInfo

PIXELS = ("num_frames", "size", "fps", "stride", "resize", "video_size")


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """All that the latents of given videos depend on, as JSON, by the names of the settings.

    `codec.weights` is None where the config names none; see `build_text.weights`.

    Raises:
        ValueError: weights that cannot be opened; frames that the codec cannot take.
    """
    codec, data = build.codec(values), values["data"]
    # Frames at a time are a matter of memory, never of numbers.
    settings = {k: v for k, v in dataclasses.asdict(codec).items() if not k.endswith("_chunk")}
    if "dtype" in settings:
        settings["dtype"] = jnp.dtype(settings["dtype"]).name
    params = jax.eval_shape(codec.init, jax.random.key(0))
    config = build.make(DataConfig, data, "config.data")
    about = {
        "codec": values["codec"]["kind"],
        **{f"codec.{key}": value for key, value in settings.items()},
        "codec.weights": build_text.weights(values, "codec", "vae", codec) if params else "none",
        "dtype": values["dtype"],
        **{f"data.{key}": getattr(config, key) for key in PIXELS},
        "latents": build.latent_shape(codec, config.num_frames, config.size),
        "stored": _stored(values, codec, params),
    }
    return json.loads(json.dumps(about))


def _stored(values: Mapping[str, Any], codec: Any, params: Any) -> str:
    """The type in which latents lose nothing: that in which the codec gives them."""
    data = values["data"]
    pixels = jax.ShapeDtypeStruct((1, 1, data["num_frames"], *data["size"], 3), values["dtype"])
    return jax.eval_shape(codec.encode, params, pixels).dtype.name


def window_stride(config: DataConfig) -> int | None:
    """Frames between the windows that a data set has; None: one of each episode, at its start."""
    return {"every": config.window_stride, "random": 1, "first": None}[config.starts]


def dataset(values: Mapping[str, Any], config: DataConfig, folder: Path) -> pipeline.DataSet:
    """The data set of a config with clips of latents, in the order of those of pixels.

    Args:
        values: the config.
        config: its data settings, with the folder of clips as root.
        folder: the cache.

    Raises:
        ValueError: the cache is missing, incomplete, damaged or stale, or lacks windows, views or
            the control; or see `pipeline.open_dataset`.
    """
    folder, root = latents.place(folder), Path(config.root)
    index, order = _opened(values, config, folder)
    _check_windows(index, config, folder)
    if videos := (root / "videos").is_dir():
        data = pipeline.open_dataset(config)
        control = layouts.find_layout(root, config.cameras, config.control).control
        threads, all_episodes = config.num_threads, (data.train.episodes, data.validation.episodes)
        episodes = {episode.name: episode for some in all_episodes for episode in some}
        told = latents.changed_files(index, root, list(episodes.values()), threads)
    else:
        data = _without_videos(index, config, folder)
        control, told = data.train.config.control, []
    if control not in (None, index.control):
        told = [f"data.control is {index.control!r} there and {control!r} here"]
    places = {name: i for i, (name, _) in enumerate(index.cameras)}
    if absent := [name for name, _ in data.train.cameras if name not in places]:
        told = [f"it lacks the camera {name}" for name in absent]
    if told:
        raise latents.stale(folder, told)
    firsts, count = {}, 0
    for episode in index.episodes:
        firsts[episode.name], count = count, count + episode.windows
    source = latents.Latents(
        folder,
        index.window_stride,
        firsts,
        tuple(places[name] for name, _ in data.train.cameras),
        control is not None,
        videos,
        order,
        f"cache {folder}: {count} clips, {index.identity['stored']}, weights: "
        f"{index.identity['codec.weights']}" + ("" if videos else "; no videos"),
    )
    return dataclasses.replace(
        data,
        train=dataclasses.replace(data.train, latents=source),
        validation=dataclasses.replace(data.validation, latents=source),
    )


def _opened(
    values: Mapping[str, Any], config: DataConfig, folder: Path
) -> tuple[Index, np.ndarray | None]:
    """The index, and the order of records that are not in its; see `dataset` for errors."""
    if not (folder / latents.INDEX).is_file() and (folder / latents.TFDS_FILES[-1]).is_file():
        return build_tfds.read_index(values, config, folder)
    index, wanted = latents.open_index(folder), identity(values)
    if wanted["codec.weights"] is None:  # the config says nothing against the cache's
        wanted["codec.weights"] = index.identity["codec.weights"]
    if told := latents.differences(index.identity, wanted):
        raise latents.stale(folder, told)
    return index, None


def _check_windows(index: Index, config: DataConfig, folder: Path) -> None:
    """Raises a ValueError where windows that a run reads are not in the cache."""
    there, here = index.window_stride, window_stride(config)
    if here is not None and (there is None or here % there):
        held = "one window of each episode" if there is None else f"windows {there} frames apart"
        raise ValueError(
            f"{folder} holds {held}, and data.starts={config.starts!r} with data.window_stride="
            f"{config.window_stride} needs windows {here} frames apart; change the setting, or "
            f"{latents.MEND}"
        )


def _without_videos(index: Index, config: DataConfig, folder: Path) -> pipeline.DataSet:
    """The data set as the cache describes it.

    Raises:
        ValueError: captions by other settings than those that the cache was made with.
    """
    root = Path(config.root)
    words = {"prefix_style": "joined", **index.words}  # of caches from before there were others
    wanted = {key: getattr(config, key) for key in latents.WORDS}
    if wanted["caption_camera"] is None:
        wanted["caption_camera"] = words["caption_camera"]
    told = [
        f"data.{line} (and there are no videos in {root})"
        for line in latents.differences(words, wanted)
    ]
    if told:
        raise latents.stale(folder, told)
    names = [name for name, _ in index.cameras]
    cameras = index.cameras
    if config.cameras != "all":
        cameras = layouts.choose_cameras(sorted(names), config.cameras, folder)
    control = index.control if config.control == "auto" else config.control
    settings = {"control": control, "caption_camera": words["caption_camera"]}
    config = dataclasses.replace(config, **settings)
    layout, places = Layout(root, cameras, control), [names.index(name) for name, _ in cameras]
    stored = index.episodes[: config.episodes]
    episodes = [_episode(held, layout, config.size, places) for held in stored]
    train, validation = pipeline.split_episodes(episodes, config.validation_fraction)
    return pipeline.DataSet(
        pipeline.Clips(config, cameras, train), pipeline.Clips(config, cameras, validation), ()
    )


def _episode(
    held: StoredEpisode, layout: Layout, size: tuple[int, int], places: Sequence[int]
) -> Episode:
    """An episode of some of a cache's views; its files need not be there."""
    fps, frames = Fraction(held.fps), range(held.frames)
    names = [name for name, _ in layout.cameras]
    videos = [layout.video(name, held.name) for name in names]
    controls = [layout.control_video(name, held.name) for name in names if layout.control]
    infos = [[VideoInfo(p, size, fps, frames) for p in paths] for paths in (videos, controls)]
    captions = tuple(held.captions[place] for place in places)
    return Episode(held.name, tuple(infos[0]), tuple(infos[1]), captions)


def new_index(
    values: Mapping[str, Any], clips: pipeline.Clips, stride: int | None, shard_bytes: int
) -> Index:
    """The index of a cache of all windows of `clips`, none of which is written yet."""
    config, root = clips.config, Path(clips.config.root)
    words = {key: getattr(config, key) for key in latents.WORDS}
    if config.captions == "front":
        words["caption_camera"] = clips.caption_cameras[0]
    episodes = []
    for episode in clips.episodes:
        first = episode.videos[0]
        starts = first.frames - config.frames_needed(first) + 1
        files = [latents.source_file(root, x.path) for x in (*episode.videos, *episode.controls)]
        episodes.append(
            StoredEpisode(
                episode.name,
                first.frames,
                str(first.fps),
                1 if stride is None else -(-starts // stride),
                episode.captions,
                tuple(files),
            )
        )
    control = layouts.find_layout(root, config.cameras, config.control).control
    about = identity(values)
    index = Index(about, words, clips.cameras, control, stride, tuple(episodes), 1, [])
    index.shard_records = max(1, shard_bytes // index.record_bytes)
    index.shards = [None] * -(-index.records // index.shard_records)
    return index
