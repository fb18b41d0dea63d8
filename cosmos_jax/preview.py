"""Held-out clips sampled during a run, from each set of weights, with every number of given frames
and every weight of the control that the config names."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from cosmos_jax import build, build_sample, lettering, optim, sharding, videos
from cosmos_jax.data import pipeline, video_writer
from cosmos_jax.encode import Encoder
from cosmos_jax.generate import Generator, SampleConfig
from cosmos_jax.loop import PreviewConfig
from cosmos_jax.train import Trainer
from cosmos_jax.types import Batch, Clip, Params, TrainState

WEIGHTS = ("regular", "ema")
WIDEST = 2560  # columns of a picture that stacks samples
Rows = Sequence[tuple[str, UInt8[np.ndarray, "v f y x 3"]]]


def make(
    values: Mapping[str, Any],
    mesh: Mesh,
    trainer: Trainer,
    encoder: Encoder,
    data: pipeline.DataSet,
) -> Callable[[TrainState, Path], None]:
    """A function (state, folder) that samples held-out clips, and writes their videos there.

    Raises:
        ValueError: settings that do not fit the model or the data.
    """
    config = build.make(PreviewConfig, values["preview"], "config.preview")
    check(config, trainer)
    combinations = settings(values, config)
    sampler = build_sample.generator(values, mesh, trainer)
    clips = held_out_clips(data, config.clips)
    shown = true_pixels(sampler, encoder, data, clips)
    cameras = [camera for camera, _ in data.validation.cameras]
    rows = range(config.clips)

    def sample(state: TrainState, folder: Path) -> None:
        batch = encoder(clips, rows, len(rows))
        for which in config.weights:
            variables = sampling_variables(state, which)
            sampled = {
                title: sample_pixels(sampler, encoder, variables, batch, how)
                for title, how in combinations.items()
            }
            if jax.process_index() == 0:
                write_compared(folder, which, cameras, shown, sampled)
        if jax.process_index() == 0:
            write_last(folder, cameras, shown, sampled)

    return sample


def check(config: PreviewConfig, trainer: Trainer) -> None:
    """Raises a ValueError where settings do not fit the model."""
    controlled = bool(trainer.net.config.control_blocks)
    if unknown := [name for name in config.weights if name not in WEIGHTS]:
        raise ValueError(f"config.preview.weights: {unknown[0]!r} is none of {WEIGHTS}")
    if "ema" in config.weights and not trainer.ema_rate:
        raise ValueError(
            "config.preview.weights: config.ema_rate=0 keeps no average; set ('regular',)"
        )
    if not config.weights or not config.conditional_frames:
        raise ValueError("config.preview: weights and conditional_frames name at least one each")
    if any(config.conditional_frames) and not build_sample.solver(trainer).takes_given:
        raise ValueError(
            "config.preview.conditional_frames: the network takes no given frames; set it to (0,)"
        )
    if controlled != bool(config.control_weights):
        raise ValueError(
            "config.preview.control_weights: the network has a control branch; name at least one"
            if controlled
            else "config.preview.control_weights: the network has no control branch; set it to ()"
        )


def settings(values: Mapping[str, Any], config: PreviewConfig) -> dict[str, SampleConfig]:
    """{title: how to sample}, given frames by control weights, in the order of the config.

    Raises:
        ValueError: a setting out of range.
    """
    shared = {"guidance": config.guidance, "num_steps": config.num_steps}
    found = {}
    for given, weight in itertools.product(
        config.conditional_frames, config.control_weights or (None,)
    ):
        title = f"sampled, {given} frame{'s' * (given != 1)} given"
        changes = {**shared, "num_conditional_frames": given}
        if weight is not None:
            title += f", control {weight:g}"
            changes["control_weight"] = weight
        found[title] = build_sample.sample_config(values, **changes)
    return found


def held_out_clips(data: pipeline.DataSet, count: int) -> Clip:
    """`count` held-out clips in one stack, spread over the validation episodes.

    Raises:
        ValueError: see `check_count`.
    """
    check_count(data, count)
    held_out = data.validation
    picked = [held_out.clip(i * len(held_out) // count) for i in range(count)]
    return pipeline.stack_clips([vars(clip) for clip in picked])


def check_count(data: pipeline.DataSet, count: int) -> None:
    """Raises a ValueError where fewer than `count` clips are held out."""
    if not 1 <= count <= len(data.validation):
        raise ValueError(f"config.preview.clips={count} must lie in 1..{len(data.validation)}")


def true_pixels(
    generator: Generator, encoder: Encoder, data: pipeline.DataSet, clips: Clip
) -> Clip:
    """Held-out clips of latents as pixels: of the videos where they are there, else decoded."""
    held_out = data.validation
    if held_out.latents is None:
        return clips
    if held_out.latents.videos:
        pixels = dataclasses.replace(held_out, latents=None)
        return held_out_clips(dataclasses.replace(data, validation=pixels), len(clips.video))

    def decode(latents: np.ndarray) -> np.ndarray:
        rows = range(len(latents))
        return generator.pixels(encoder.params, encoder.latents(latents, rows, len(rows)))

    control = None if clips.control is None else decode(clips.control)
    return dataclasses.replace(clips, video=decode(clips.video), control=control)


def sampling_variables(state: TrainState, which: str) -> dict[str, Params]:
    """The network's variables, with the "regular" weights (the masters) or the "ema"."""
    trained = state.params if which == "regular" else jax.tree.map(sharding.on_device, state.ema)
    return {"params": optim.merge(trained, state.frozen), "constants": state.constants}


def sample_pixels(
    generator: Generator, encoder: Encoder, variables: Any, batch: Batch, config: SampleConfig
) -> UInt8[np.ndarray, "b v f y x 3"]:
    """Samples a batch, all of which every process holds; the unconditional branch has no text."""
    nothing = generator.net.no_text(variables["params"], batch.text.shape[-1])
    uncond = jnp.zeros_like(batch.text) + nothing.astype(batch.text.dtype)
    latents = generator.latents(variables, batch, uncond, config.seed, config)
    return generator.pixels(encoder.params, latents)


def write_compared(
    folder: Path,
    which: str,
    cameras: Sequence[str],
    clips: Clip,
    sampled: Mapping[str, UInt8[np.ndarray, "b v f y x 3"]],
) -> None:
    """Writes NAME_compare_WEIGHTS.mp4 of each clip: true over control over all that was sampled."""
    for i, video in enumerate(clips.video):
        control = [] if clips.control is None else [("control", clips.control[i])]
        rows = [("true", video), *control, *((title, x[i]) for title, x in sampled.items())]
        path = folder / f"sample_{i:02d}_compare_{which}.mp4"
        video_writer.write_video(path, labelled_rows(cameras, rows), float(clips.fps[i]))


def write_last(
    folder: Path,
    cameras: Sequence[str],
    clips: Clip,
    sampled: Mapping[str, UInt8[np.ndarray, "b v f y x 3"]],
) -> None:
    """Writes the last of what was sampled at full size: each camera, their grid, the control's."""
    for i, views in enumerate(list(sampled.values())[-1]):
        control = None if clips.control is None else clips.control[i]
        name, fps = f"sample_{i:02d}", float(clips.fps[i])
        videos.write_sample(folder, name, cameras, views, control, fps)


def labelled_rows(cameras: Sequence[str], rows: Rows) -> UInt8[np.ndarray, "f gy gx 3"]:
    """Clips above each other, cameras side by side, with their names; at most 2,560 columns wide.

    Pictures are made smaller, by means over squares of 2 or 4, where they would be wider.
    """
    views, frames, _, columns, _ = rows[0][1].shape
    factor = next((n for n in (1, 2) if views * columns // n <= WIDEST), 4)
    cell = columns // factor
    scale = 2 if cell >= 480 else 1
    strips = [lettering.line(camera or "the view", cell, scale) for camera in cameras]
    parts = [np.concatenate(strips, axis=1)]
    for title, clip in rows:
        v, f, y, x, _ = clip.shape
        small = clip.reshape(v, f, y // factor, factor, x // factor, factor, 3)
        small = small.mean(axis=(3, 5)).round().astype(np.uint8)
        parts += [lettering.line(title, views * cell, scale), np.concatenate(list(small), axis=2)]
    still = [np.broadcast_to(p, (frames, *p.shape)) if p.ndim == 3 else p for p in parts]
    return np.concatenate(still, axis=1)
