"""The auto-multiview guide's samples: .json or .jsonl files with a block for each driving camera.

Source: cosmos-transfer2.5, multiview_config.py (fields, defaults, ranges), multiview.py (use).
docs/sampling.md has the table of fields, and of what `--compat=reference` changes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cosmos_jax.sampling.fields import Fields
from cosmos_jax.sampling.model import NEGATIVE_PROMPT, PUBLISHED, Model
from cosmos_jax.sampling.requests import ONE_CLIP, Long, Request, View

VIEWS = (
    *("front_wide", "cross_right", "rear_right", "rear"),
    *("rear_left", "cross_left", "front_tele"),
)
"""Names of the views; a view's place is its id."""
GIVEN = (0, 1, 5)
RATE = 30  # what the reference tells the network in its autoregressive mode, whatever is asked


@dataclasses.dataclass(frozen=True)
class Block:
    """The block of an active view: one that names a control."""

    view: str
    control: str
    video: str | None
    given: int


def request(fields: Fields, model: Model, flags: Mapping[str, Any]) -> Request:
    """One sample.

    Args:
        fields: of its JSON object.
        model: to sample from.
        flags: fields that the command line overrides.

    Raises:
        ValueError: a field that is unknown or out of range, views that the model does not know,
            files that are not named, or a model without control.
    """
    fields.override(flags)
    name, prompt = fields.text("name"), fields.prompt()
    if name is None or prompt is None:
        raise ValueError(f"{fields.where}: {'name' if name is None else 'prompt'} is missing")
    negative = fields.text("negative_prompt", PUBLISHED)
    if negative == PUBLISHED or model.reference:
        negative = NEGATIVE_PROMPT
    settings = dataclasses.replace(
        model.settings,
        seed=fields.whole("seed", 0, 0),
        guidance=fields.number("guidance", 3, 0, 7),
        control_weight=fields.number("control_weight", 1.0, 0, 1),
        num_steps=fields.whole("num_steps", model.settings.num_steps, 1),
        num_conditional_frames=fields.whole("num_conditional_frames", 1, 0),
        negative_prompt=negative,
    )
    rate = fields.whole("fps", 10, 1)
    several = fields.switch("enable_autoregressive", False)
    count, overlap = fields.whole("num_chunks", 2, 1), fields.whole("chunk_overlap", 1, 1)
    combined = fields.switch("save_combined_views", True)
    blocks = [
        found for view in VIEWS if (found := block(fields.part(view), view, model)) is not None
    ]
    fields.end()
    if not model.controlled:
        raise ValueError(
            f"{fields.where}: this is a specification for a model with control; this one has none: "
            "sample a folder of its videos and captions"
        )
    if not blocks:
        raise ValueError(f"{fields.where}: no view has a control_path; give at least one")
    given = counts(blocks, settings.num_conditional_frames, several, fields.where)
    cameras = [camera(model, found.view, fields.where) for found in blocks]
    long = Long(count, overlap, pixels=model.reference, whole=model.reference)
    return Request(
        name=name,
        views=tuple(
            View(found.view, VIEWS.index(found.view), caption, found.control, found.video, n)
            for found, caption, n in zip(
                blocks, captions(model, cameras, prompt), given, strict=True
            )
        ),
        settings=settings,
        negative=model.negative(cameras, settings.negative_prompt) if settings.guidance else None,
        long=long if several else ONE_CLIP,
        fps=rate,
        model_fps=RATE if several and model.reference else None,
        combined=combined,
        form=("time" if combined else "views") if model.reference else None,
    )


def block(fields: Fields, view: str, model: Model) -> Block | None:
    """A view's block; None where it names no control."""
    video, control = fields.path("input_path"), fields.path("control_path")
    given = fields.whole("num_conditional_frames_per_view", 0, 0, 5)
    fields.end()
    if given not in GIVEN:
        raise ValueError(
            f"{fields.where}: num_conditional_frames_per_view={given} must be one of {GIVEN}"
        )
    if control is None and video is not None and not model.reference:
        raise ValueError(f"{fields.where}: input_path without control_path: the view is not active")
    return None if control is None else Block(view, control, video, given)


def counts(blocks: list[Block], everywhere: int, several: bool, where: str) -> list[int]:
    """Given pixel frames of each view.

    As in the reference, the views' own numbers count in the autoregressive mode, where they are not
    all zero; unlike there, they are refused elsewhere and not ignored.

    Raises:
        ValueError: own numbers in some views only, or outside that mode; frames to be given of a
            view without `input_path`.
    """
    own = [found.given for found in blocks]
    if any(own) and not several:
        raise ValueError(
            f"{where}: num_conditional_frames_per_view counts with enable_autoregressive only; "
            "set num_conditional_frames"
        )
    if any(own) and not all(own):
        raise ValueError(
            f"{where}: num_conditional_frames_per_view is set in some views; set it in all or none"
        )
    given = own if any(own) else [everywhere] * len(blocks)
    if missing := [b.view for b, n in zip(blocks, given, strict=True) if n and b.video is None]:
        raise ValueError(
            f"{where}: {given[0]} frames are given, so every active view needs an input_path; "
            f"missing: {', '.join(missing)}"
        )
    return given


def camera(model: Model, view: str, where: str) -> str:
    """The model's name of a view.

    Raises:
        ValueError: the model does not know the view.
    """
    known = {view_id: name for name, view_id in model.cameras}
    name = known.get(VIEWS.index(view))
    if name is None or view not in name:
        raise ValueError(
            f"{where}: the model knows no view {view}; it was trained on "
            f"{[name for name, _ in model.cameras]}"
        )
    return name


def captions(model: Model, cameras: list[str], prompt: str) -> tuple[str, ...]:
    """Captions of the views; the reference puts no sentence about the camera before them."""
    if not model.reference:
        return model.prompted(cameras, prompt)
    spoken = model.speakers(cameras)
    return tuple(prompt if name in spoken else "" for name in cameras)
