"""Predict2.5's samples: one .json file with an inference type and samples by name.

Source: cosmos-predict2.5 (first release), cosmos_predict2/config.py (fields, defaults, ranges) and
inference.py (use). docs/sampling.md has the table of fields.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from cosmos_jax.diffusion import guiding
from cosmos_jax.sampling.fields import Fields
from cosmos_jax.sampling.model import NEGATIVE_PROMPT, PUBLISHED, Model
from cosmos_jax.sampling.requests import Long, Request, View

LATENTS = {"text2world": 0, "image2world": 1, "video2world": 2}
"""Given latent frames of each inference type."""
RATE = 16
TEMPORAL = 4


def requests(fields: Fields, model: Model, flags: Mapping[str, Any]) -> list[Request]:
    """The samples of a file.

    Args:
        fields: of its JSON object.
        model: to sample from.
        flags: fields that the command line overrides.

    Raises:
        ValueError: a field that is unknown or out of range, an input that is missing or not
            wanted, or a model of several views or with control.
    """
    fields.override(flags)
    kind = fields.choice("inference_type", list(LATENTS))
    given = guiding.pixel_frames(LATENTS[kind], TEMPORAL)
    negative = fields.text("negative_prompt", PUBLISHED)
    negative = NEGATIVE_PROMPT if negative == PUBLISHED else str(negative)
    settings = dataclasses.replace(
        model.settings,
        seed=fields.whole("seed", 1, 0),
        guidance=fields.number("guidance", 7, 0, 7),
        num_steps=fields.whole("num_steps", model.settings.num_steps, 1),
        num_conditional_frames=given,
        negative_prompt=negative,
    )
    # [TRAP] There the default is 77 and counts for nothing: a clip's frames come, whatever is said.
    size, frames = resolution(fields), fields.whole("num_output_frames", 0, 1)
    count, overlap = fields.whole("num_chunks", 1, 1), fields.whole("chunk_overlap", 1, 1)
    found = fields.parts("samples")
    fields.end()
    if len(model.cameras) != 1 or model.controlled:
        raise ValueError(
            f"{fields.where}: this is a specification for a model of one view without control"
        )
    views = [view(part, kind, given, model) for part in found.values()]
    return [
        Request(
            name=name,
            views=(one,),
            settings=settings,
            negative=(negative,) if settings.guidance else None,
            long=Long(count, overlap, pixels=model.reference),
            stride=1,
            out_fps=RATE,
            from_end=kind == "video2world",
            size=size,
            fit="cover",
            frames=None if model.reference or not frames else frames,
            form="time" if model.reference else None,
        )
        for name, one in zip(found, views, strict=True)
    ]


def resolution(fields: Fields) -> tuple[int, int] | None:
    """ "H,W", or None for the model's own ("none").

    Raises:
        ValueError: not of that form, or not a multiple of 16.
    """
    text = fields.text("resolution", "none")
    if text == "none":
        return None
    if not (match := re.fullmatch(r"(\d+),(\d+)", str(text))):
        raise ValueError(f'{fields.where}: resolution={text!r} must be "none" or "H,W"')
    size = int(match[1]), int(match[2])
    if any(n % 16 or not n for n in size):
        raise ValueError(f"{fields.where}: resolution={text}: both must be multiples of 16")
    return size


def view(fields: Fields, kind: str, given: int, model: Model) -> View:
    """The one view of a sample."""
    prompt, path = fields.prompt(), fields.path("input_path")
    fields.end()
    if prompt is None:
        raise ValueError(f"{fields.where}: prompt is missing")
    if given and path is None:
        raise ValueError(f"{fields.where}: {kind} needs an input_path")
    if not given and path is not None:
        raise ValueError(f"{fields.where}: {kind} reads no input_path; drop it")
    ((camera, view_id),) = model.cameras
    return View(camera, view_id, prompt, None, path, given)
