"""What samples: a run's previews, and what `run_sample.py` builds of a config changed by flags."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cosmos_jax import build_weights, sharding
from cosmos_jax import preview as previews
from cosmos_jax.build import SYNTHETIC, Sizes, codec, latent_shape, make
from cosmos_jax.data import pipeline
from cosmos_jax.data.inputs import Inputs
from cosmos_jax.data.layouts import Cameras, DataConfig
from cosmos_jax.diffusion import guiding
from cosmos_jax.encode import Encoder, Text
from cosmos_jax.generate import Generator, SampleConfig
from cosmos_jax.train import Trainer
from cosmos_jax.types import TrainState


def sample_config(values: Mapping[str, Any], **changes: Any) -> SampleConfig:
    """`config.sample`, changed by keyword arguments.

    Raises:
        ValueError: a setting out of range; given frames that do not fill latent frames, or that are
            more than the clip's.
    """
    config = make(SampleConfig, {**values["sample"], **changes}, "config.sample")
    given, frames = config.num_conditional_frames, values["data"]["num_frames"]
    guiding.latent_frames(given, codec(values).temporal)
    if given > frames:
        raise ValueError(f"num_conditional_frames={given} exceeds the {frames} frames of a clip")
    return config


def generator(values: Mapping[str, Any], mesh: Mesh, trainer: Trainer, **changes: Any) -> Generator:
    """The sampler of `config.sample`, changed by keyword arguments (see `sample_config`)."""
    config = sample_config(values, **changes)
    return Generator(trainer.net, codec(values), trainer.process, config, mesh)


def preview(
    values: Mapping[str, Any],
    mesh: Mesh,
    trainer: Trainer,
    encoder: Encoder,
    data: pipeline.DataSet,
    folder: Path,
) -> Callable[[TrainState, int], Path]:
    """A function (state, step) that samples held-out clips and returns the videos' folder."""
    sampler = generator(values, mesh, trainer)
    clips = previews.held_out_clips(data, values["preview"]["clips"])
    shown = previews.true_pixels(sampler, encoder, data, clips)
    cameras = [camera for camera, _ in data.validation.cameras]

    def sample(state: TrainState, step: int) -> Path:
        variables = previews.sampling_variables(state, ema=True)
        pixels = previews.sample_clips(sampler, encoder, variables, clips, sampler.config.seed)
        place = folder / f"step_{step:06d}"
        if jax.process_index() == 0:
            previews.write_preview(place, cameras, shown, pixels)
        return place

    return sample


def inputs(
    values: Mapping[str, Any],
    cameras: Cameras,
    folder: Path,
    changes: Mapping[str, Any],
    control: str | None,
    fps: float | None,
    prompt: str | None,
) -> Inputs:
    """What `run_sample.py` reads: the run's data settings, changed by flags.

    Raises:
        ValueError: flags that are out of range, or that have no meaning for the model.
    """
    data = {**values["data"], "root": str(folder)}
    data |= {} if fps is None else {"fps": fps, "stride": None}
    data |= {} if control is None else {"control": control}
    config = make(DataConfig, data, "config.data")
    if prompt is not None and config.captions == "none":
        raise ValueError("--prompt: the model was trained without captions (config.data.captions)")
    given = sample_config(values, **changes).num_conditional_frames
    return Inputs(config, cameras, prompt, needs_video=given > 0)


def negative_captions(
    values: Mapping[str, Any], views: Sequence[str], prompt: str | None, guidance: float
) -> tuple[str, ...] | None:
    """Captions of the unconditional branch: the negative prompt where a view is trained with text.

    Raises:
        ValueError: a negative prompt that no branch reads.
    """
    if prompt is None:
        return None
    if guidance == 0:
        raise ValueError("--negative_prompt has no meaning with --guidance=0; set a guidance")
    data = values["data"]
    speaks = {view: data["captions"] == "each" or view == data["caption_camera"] for view in views}
    return tuple(prompt if speaks[view] else "" for view in views)


def text(
    values: Mapping[str, Any],
    mesh: Mesh,
    sizes: Sizes,
    workdir: Path,
    captions: Sequence[str],
    cache: str | None,
) -> Text:
    """Text embeddings for sampling (`build_weights.text`): by default as the run had them.

    Args:
        values: the run's config.
        mesh: where the encoder's weights go.
        sizes: of the network.
        workdir: the run's folder, in which rendered clips lie.
        captions: all that will be said.
        cache: folder of a cache, "auto", or "none"; None: the run's setting.
    """
    section, root = dict(values["text"]), values["data"]["root"]
    if cache is not None:
        section["cache"] = None if cache == "none" else cache
    if root == SYNTHETIC:
        root = workdir / SYNTHETIC
    return build_weights.text({**values, "text": section}, mesh, sizes, root, sorted({*captions}))


def sampling_mesh(values: Mapping[str, Any], trainer: Trainer, text: str | None) -> Mesh:
    """The mesh for sampling: as written, "data=2,context=4", or the largest context that fits.

    Raises:
        ValueError: the text is not of that form, or the mesh does not fit the devices.
    """
    if text is not None:
        parts = [part.partition("=") for part in text.split(",")]
        if not all(name in sharding.AXES and size.isdecimal() for name, _, size in parts):
            raise ValueError(f"--mesh={text}: write it as data=2,context=4 (axes {sharding.AXES})")
        sizes = dict.fromkeys(sharding.AXES, 1) | {name: int(size) for name, _, size in parts}
        return sharding.make_mesh(sizes["data"], sizes["fsdp"], sizes["context"])
    section = values["data"]
    t, h, *_ = latent_shape(codec(values), section["num_frames"], section["size"])
    rows, devices = h // trainer.net.config.patch, jax.devices()
    fits = [n for n in range(1, len(devices) + 1) if t % n == 0 or rows % n == 0]
    return sharding.make_mesh(context=fits[-1], devices=devices[: fits[-1]])
