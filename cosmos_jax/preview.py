"""Clips to sampled videos: during a run (true over control over sampled), and from a checkpoint."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosmos_jax import optim, sharding, videos
from cosmos_jax.data import pipeline, video_writer
from cosmos_jax.encode import Encoder
from cosmos_jax.generate import Generator
from cosmos_jax.types import Clip, Params, TrainState


def held_out_clips(data: pipeline.DataSet, count: int) -> Clip:
    """`count` held-out clips in one stack, spread over the validation episodes.

    Raises:
        ValueError: there are fewer.
    """
    held_out = data.validation
    if not 1 <= count <= len(held_out):
        raise ValueError(f"config.preview.clips={count} must lie in 1..{len(held_out)}")
    picked = [held_out.clip(i * len(held_out) // count) for i in range(count)]
    return pipeline.stack_clips([vars(clip) for clip in picked])


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


def sampling_variables(state: TrainState, ema: bool) -> dict[str, Params]:
    """The network's variables: the average where it is asked for and kept, else the masters."""
    trained = state.params
    if ema and state.ema is not None:
        trained = jax.tree.map(sharding.on_device, state.ema)
    return {"params": optim.merge(trained, state.frozen), "constants": state.constants}


def sample_clips(
    generator: Generator,
    encoder: Encoder,
    variables: Any,
    clips: Clip,
    seed: int,
    negative: Sequence[str] | None = None,
) -> np.ndarray:
    """Samples a stack of clips, all of which every process holds.

    Args:
        generator: the sampler.
        encoder: of clips to latents and text.
        variables: the network's.
        clips: control, text and given frames.
        seed: of the noise of the first clip; the next takes seed + 1.
        negative: captions of the unconditional branch, one a view; None: no text at all.

    Returns:
        uint8 `[b v f y x 3]`.
    """
    rows = range(len(clips.video))
    batch = encoder(clips, rows, len(rows))
    nothing = generator.net.no_text(variables["params"], batch.text.shape[-1])
    uncond = jnp.zeros_like(batch.text) + nothing.astype(batch.text.dtype)
    if negative is not None:
        uncond = jnp.asarray(encoder.embed([negative] * len(rows)), uncond.dtype)
    latents = generator.latents(variables, batch, uncond, seed)
    return generator.pixels(encoder.params, latents)


def write_preview(
    folder: Path, cameras: Sequence[str], clips: Clip, sampled: np.ndarray
) -> list[Path]:
    """Writes each sampled clip, and `NAME_compare.mp4`: true over control over sampled."""
    paths = []
    for i, pixels in enumerate(sampled):
        name, control = f"sample_{i:02d}", None if clips.control is None else clips.control[i]
        paths += videos.write_sample(folder, name, cameras, pixels, control, float(clips.fps[i]))
        rows = [clips.video[i], *([] if control is None else [control]), pixels]
        paths.append(folder / f"{name}_compare.mp4")
        stacked = videos.stack_rows(*(videos.grid(row) for row in rows))
        video_writer.write_video(paths[-1], stacked, float(clips.fps[i]))
    return paths
