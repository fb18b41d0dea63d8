"""Predict2.5's multiview samples: .json or .jsonl files with a block for each driving camera.

Source: cosmos-predict2.5, multiview_config.py of the first release (num_input_frames, n_views) and
of later ones (name, inference_type, enable_autoregressive): fields, defaults, ranges; multiview.py:
use. docs/sampling.md has the table of fields, and of what `--compat=reference` changes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cosmos_jax.diffusion import guiding
from cosmos_jax.sampling import spec_auto
from cosmos_jax.sampling.as_reference import Form
from cosmos_jax.sampling.fields import Fields
from cosmos_jax.sampling.model import NEGATIVE_PROMPT, PUBLISHED, Model
from cosmos_jax.sampling.requests import ONE_CLIP, Long, Request, View
from cosmos_jax.sampling.spec_auto import VIEWS
from cosmos_jax.sampling.spec_predict import LATENTS, TEMPORAL

STACKS: dict[str, Form] = {"time": "time", "height": "height"}
"""What `stack_mode` names."""
VIDEO = ("video_path", "input_path")
"""Names of a view's video: the published one, and that of the other guides."""


def is_of(fields: Fields, model: Model) -> bool:
    """Whether an object is of this form: views or frames given, for views without control."""
    told = [*VIEWS, "inference_type", "num_input_frames"]
    several = not model.controlled and len(model.cameras) > 1
    return several and not fields.has("samples") and any(fields.has(name) for name in told)


def request(fields: Fields, model: Model, flags: Mapping[str, Any], name: str) -> Request:
    """One sample.

    Args:
        fields: of its JSON object.
        model: to sample from.
        flags: fields that the command line overrides.
        name: of a sample without `name`.

    Raises:
        ValueError: a field that is unknown, out of range or without effect, views that the model
            does not know, or videos that are not named.
    """
    fields.override(flags)
    name, prompt = fields.text("name") or name, fields.prompt()
    if prompt is None:
        raise ValueError(f"{fields.where}: prompt is missing")
    negative = fields.text("negative_prompt", PUBLISHED)
    if negative == PUBLISHED or model.reference:
        negative = NEGATIVE_PROMPT
    guidance = fields.number("guidance", 3, 0, 7)
    settings = dataclasses.replace(
        model.settings,
        seed=fields.whole("seed", 0, 0),
        # [TRAP] There g is of uncond + g (cond - uncond), in this sampler alone.
        guidance=guidance - model.guidance_excess if model.reference else guidance,
        num_steps=fields.whole("num_steps", model.settings.num_steps, 1),
        num_conditional_frames=given_frames(fields),
        negative_prompt=negative,
    )
    check_control(fields, model)
    form = stack(fields, model)
    rate = fields.whole("fps", 30, 1)
    several = fields.switch("enable_autoregressive", False)
    count, overlap = fields.whole("num_chunks", 2, 1), fields.whole("chunk_overlap", 1, 1)
    videos = views(fields, model, settings.num_conditional_frames)
    fields.end()
    cameras = [spec_auto.camera(model, view, fields.where) for view in videos]
    captions = spec_auto.captions(model, cameras, prompt)
    return Request(
        name=name,
        views=tuple(
            View(view, VIEWS.index(view), text, None, path, settings.num_conditional_frames)
            for (view, path), text in zip(videos.items(), captions, strict=True)
        ),
        settings=settings,
        negative=model.negative(cameras, negative) if settings.guidance else None,
        long=Long(count, overlap, pixels=model.reference) if several else ONE_CLIP,
        fps=rate,
        form=form,
    )


def given_frames(fields: Fields) -> int:
    """Given pixel frames: of `inference_type`, or of the first release's `num_input_frames`, which
    counts latent frames.

    Raises:
        ValueError: both are there.
    """
    latents = fields.whole("num_input_frames", 2, 0, 2)
    if fields.has("inference_type"):
        if fields.has("num_input_frames"):
            raise ValueError(f"{fields.where}: give inference_type or num_input_frames, not both")
        latents = LATENTS[fields.choice("inference_type", list(LATENTS))]
    return guiding.pixel_frames(latents, TEMPORAL)


def check_control(fields: Fields, model: Model) -> None:
    """Raises a ValueError for `control_weight`, which is accepted and not read there."""
    fields.number("control_weight", 1.0, 0, 1)
    if fields.has("control_weight") and not model.reference:
        raise ValueError(f"{fields.where}: control_weight: the model has no control; drop it")


def stack(fields: Fields, model: Model) -> Form | None:
    """How NAME.mp4 holds the views: as `stack_mode` says; without it, only the reference has it."""
    if fields.has("stack_mode"):
        return STACKS[fields.choice("stack_mode", list(STACKS))]
    return "time" if model.reference else None


def views(fields: Fields, model: Model, given: int) -> dict[str, str | None]:
    """The video of every view that has a block; where none has, all views of the model, or the
    first `n_views`.

    Raises:
        ValueError: another number of blocks than `n_views`, or frames to be given of a view without
            a video.
    """
    wanted = fields.whole("n_views", 0, 1)
    videos = {view: video(fields.part(view)) for view in VIEWS if fields.has(view)}
    if not videos:
        known = sorted(view_id for _, view_id in model.cameras if view_id < len(VIEWS))
        videos = dict.fromkeys((VIEWS[i] for i in known[: wanted or None]), None)
    if wanted and wanted != len(videos):
        raise ValueError(f"{fields.where}: n_views={wanted}, and there are {len(videos)} views")
    if missing := [view for view, path in videos.items() if given and path is None]:
        raise ValueError(
            f"{fields.where}: {given} frames are given, so every view needs a video_path; "
            f"missing: {', '.join(missing)}"
        )
    return videos


def video(fields: Fields) -> str | None:
    """A view's video.

    Raises:
        ValueError: it has two names.
    """
    paths = [path for name in VIDEO if (path := fields.path(name)) is not None]
    fields.end()
    if len(paths) > 1:
        raise ValueError(f"{fields.where}: give video_path or input_path, not both")
    return paths[0] if paths else None
