"""Predict1's multiview samples: .json or .jsonl files with a prompt for each driving camera.

Source: cosmos-predict1, text2world_multiview.py (flags, defaults, batch files) and its pipeline
(order of the views). docs/sampling.md has the table of fields, and of what `--compat=reference`
changes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cosmos_jax.data import cameras as published
from cosmos_jax.data import layouts
from cosmos_jax.sampling.fields import Fields
from cosmos_jax.sampling.model import NEGATIVE_PROMPT, PUBLISHED, Model
from cosmos_jax.sampling.requests import Request, View

CAR = "The video is captured from a camera mounted on a car. The camera is facing "
DEFAULTS = {
    "left": CAR + "to the left. ",
    "right": CAR + "to the right.",
    "back": CAR + "backwards.",
    "back_left": CAR + "the rear left side.",
    "back_right": CAR + "the rear right side.",
}
"""What the published sampler says of a view without a prompt."""
PROMPTS = {"front": "prompt"} | {view: f"prompt_{view}" for view in DEFAULTS}
"""The field of each view, in the order of the published sampler."""
WAYMO = {
    "pinhole_front": "front",
    "pinhole_front_left": "left",
    "pinhole_front_right": "right",
    "pinhole_side_left": "back_left",
    "pinhole_side_right": "back_right",
}
"""The views that Waymo's cameras stand for."""
RATE = 24  # frames a second that the published sampler tells the network


def is_of(fields: Fields, model: Model) -> bool:
    """Whether an object is of this form: words without a name, for a model without control."""
    words = any(fields.has(field) for field in PROMPTS.values())
    return words and not model.controlled and not fields.has("name")


def request(fields: Fields, model: Model, flags: Mapping[str, Any], name: str) -> Request:
    """One sample.

    Args:
        fields: of its JSON object.
        model: to sample from.
        flags: fields that the command line overrides.
        name: of a sample without `video_save_name`.

    Raises:
        ValueError: a field that is unknown or out of range, a front camera without a prompt, or a
            prompt for a view that the model does not have.
    """
    fields.override(flags)
    name = fields.text("video_save_name") or name
    said = {} if (front := fields.prompt()) is None else {"front": front}
    for view in DEFAULTS:
        if (text := fields.text(PROMPTS[view])) is not None:
            said[view] = text
    negative = fields.text("negative_prompt", model.settings.negative_prompt)
    settings = dataclasses.replace(
        model.settings,
        seed=fields.whole("seed", 1, 0),
        guidance=fields.number("guidance", 7, 0, float("inf")),
        num_steps=fields.whole("num_steps", model.settings.num_steps, 1),
        num_conditional_frames=fields.whole("num_conditional_frames", 0, 0, 0),
        negative_prompt=NEGATIVE_PROMPT if negative == PUBLISHED else negative,
    )
    if model.reference:  # where it is accepted and not read
        settings = dataclasses.replace(settings, negative_prompt=None)
    rate = fields.whole("fps", RATE, 1) if model.reference or fields.has("fps") else None
    fields.end()
    if front is None:
        raise ValueError(f"{fields.where}: prompt is missing")
    views = reference_views(model, said) if model.reference else own(model, said, fields.where)
    cameras = [view.camera for view in views]
    return Request(
        name=name,
        views=views,
        settings=settings,
        negative=model.negative(cameras, settings.negative_prompt) if settings.guidance else None,
        fps=model.config.fps if rate is None else rate,
        stride=model.config.stride if rate is None else None,
        form="time" if model.reference else None,
    )


def own(model: Model, said: Mapping[str, str], where: str) -> tuple[View, ...]:
    """The model's cameras in the order of its training, worded as they were trained.

    Raises:
        ValueError: cameras of no car that is known here, or a prompt that no camera reads.
    """
    known = WAYMO | {view: view for view in PROMPTS}
    if strange := [camera for camera, _ in model.cameras if camera not in known]:
        raise ValueError(
            f"{where}: prompts of views are for Waymo's cameras {[*WAYMO]} or for {[*PROMPTS]}; "
            f"the model was trained on {strange[0]!r}"
        )
    stands = [known[camera] for camera, _ in model.cameras]
    if unread := [view for view in said if view not in stands]:
        raise ValueError(
            f"{where}: {PROMPTS[unread[0]]}: the model has no such camera, only "
            f"{[camera for camera, _ in model.cameras]}"
        )
    silent = dict.fromkeys(stands, "") if model.config.view_prefixes else DEFAULTS
    texts = {**silent, **said}
    return tuple(
        View(camera, view_id, worded(model, camera, texts[view]), None, None, 0)
        for (camera, view_id), view in zip(model.cameras, stands, strict=True)
    )


def worded(model: Model, camera: str, text: str) -> str:
    """A view's words: behind the camera's sentence where that was trained, else alone.

    A text that begins with this sentence has it once; one that begins with another such sentence is
    taken as it is.
    """
    if not model.config.view_prefixes:
        return text
    text = text.removeprefix(published.prefix(camera)).strip()
    return text if text.startswith(CAR) else layouts.view_caption(model.config, camera, text)


def reference_views(model: Model, said: Mapping[str, str]) -> tuple[View, ...]:
    """As the published sampler has them: front first, ids 0, 1, 2, ... whatever was trained.

    [TRAP] Post-training on Waymo gives id 0 to the front left camera. A network that keeps the six
    published views, of which it was trained on five, has their ids.
    """
    texts, five = {**DEFAULTS, **said}, len(model.cameras) < len(PROMPTS)
    order = [view for view in PROMPTS if not (five and view == "back")][: len(model.cameras)]
    numbered = {i for _, i in model.cameras} == set(range(len(order)))
    ids = range(len(order)) if numbered else [list(PROMPTS).index(view) for view in order]
    return tuple(View(view, i, texts[view], None, None, 0) for i, view in zip(ids, order))
