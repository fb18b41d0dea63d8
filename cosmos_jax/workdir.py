"""What a run says of itself: the config that it keeps in its folder, and a summary at start."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cosmos_jax.build import Sizes, codec, load
from cosmos_jax.data import pipeline
from cosmos_jax.data.layouts import Cameras

CONFIG_FILE = "config.json"


def keep_config(
    values: Mapping[str, Any], cameras: Cameras, caption_cameras: Sequence[str], folder: Path
) -> None:
    """Writes WORKDIR/config.json: the config, and the views and captions that its data set has,
    and the versions of what runs it.

    Says on the console what a restart changed.
    """
    path = folder / CONFIG_FILE
    kept = {"config": values, "cameras": cameras, "caption_cameras": caption_cameras}
    kept["versions"] = load("cosmos_jax.versions:versions", CONFIG_FILE)()
    now = json.loads(json.dumps(kept))
    if path.exists() and jax.process_index() == 0:
        changes = load("cosmos_jax.resume:changes", CONFIG_FILE)
        for line in changes(json.loads(path.read_text("utf-8")), now):
            print(line, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(now, indent=1), "utf-8")
        draft.replace(path)


def read_config(folder: Path) -> tuple[dict[str, Any], Cameras]:
    """See `resume.read_config`."""
    return load("cosmos_jax.resume:read_config", CONFIG_FILE)(folder)


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
    if data.skipped:
        lines.append(f"left out {len({file for file, _ in data.skipped})} files:")
    lines += [f"left out {file}: {reason}" for file, reason in data.skipped]
    return "\n".join(lines)
