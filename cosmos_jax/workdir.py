"""What a run says of itself: the config that it keeps in its folder, and a summary at start."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh

from cosmos_jax.build import Sizes, check_config, codec
from cosmos_jax.data import pipeline
from cosmos_jax.data.layouts import Cameras

CONFIG_FILE = "config.json"


def keep_config(
    values: Mapping[str, Any], cameras: Cameras, caption_cameras: Sequence[str], folder: Path
) -> None:
    """Writes WORKDIR/config.json: the config, and the views and captions that its data set has.

    Says on the console what a restart changed.
    """
    path = folder / CONFIG_FILE
    kept = {"config": values, "cameras": cameras, "caption_cameras": caption_cameras}
    now = json.loads(json.dumps(kept))
    if path.exists():
        before = traverse_util.flatten_dict(json.loads(path.read_text("utf-8")), sep=".")
        after = traverse_util.flatten_dict(now, sep=".")
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                print(f"{key}: {before.get(key)} before, {after.get(key)} now", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(now, indent=1), "utf-8")
        draft.replace(path)


def read_config(folder: Path) -> tuple[dict[str, Any], Cameras]:
    """The config that a run was started with, and the views that it was trained on.

    The caption camera of the config is the one that the data set had.

    Raises:
        ValueError: the folder is not a run's.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG_FILE}: it is not a workdir of run_train.py")
    kept = json.loads(path.read_text("utf-8"))
    values = check_config(kept["config"])
    if values["data"]["captions"] == "front":
        values["data"]["caption_camera"] = kept["caption_cameras"][0]
    return values, tuple((name, view) for name, view in kept["cameras"])


def summary(
    values: Mapping[str, Any], mesh: Mesh, data: pipeline.DataSet, sizes: Sizes, text: str
) -> str:
    """What is about to run, in a few lines: data, views, stand-ins, sizes; `text` describes its."""
    train_set, held_out, views = data.train, data.validation, len(data.train.cameras)
    named = ", ".join(f"{camera or 'the view'}={view}" for camera, view in train_set.cameras)
    lines = [
        f"data     {train_set.config.root}: {len(train_set)} clips of {len(train_set.episodes)} "
        f"episodes to train on, {len(held_out)} of {len(held_out.episodes)} held out",
        f"views    {named} (camera=view id, in this order)",
        f"codec    {codec(values)}",
        *([f"latents  {train_set.latents.description}"] if train_set.latents else []),
        f"text     {text}",
        f"mesh     {dict(mesh.shape)} on {mesh.size} x {jax.devices()[0].device_kind}",
        f"sample   latents {(views, *sizes.latents)} (v t h w c), {sizes.tokens(views)} tokens, "
        f"{sizes.flops(views) / 1e12:.4g} TFLOP a training step",
    ]
    lines += [f"left out {file}: {reason}" for file, reason in data.skipped]
    return "\n".join(lines)
