"""What `run_sample.py` builds: the config of a finished run, changed by flags, to objects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cosmos_jax import sharding
from cosmos_jax.build import codec, latent_shape, make, sample_config
from cosmos_jax.data.inputs import Inputs
from cosmos_jax.data.layouts import Cameras, DataConfig
from cosmos_jax.train import Trainer


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
