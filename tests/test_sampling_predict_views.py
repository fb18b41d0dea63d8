"""Predict2.5's multiview JSON: every field, its default and range, and what is refused."""

import json

import numpy as np
import pytest
import sampling_models

from cosmos_jax.data import video_writer
from cosmos_jax.sampling import inputs
from cosmos_jax.sampling.model import NEGATIVE_PROMPT
from cosmos_jax.sampling.reading import open_job
from cosmos_jax.sampling.requests import ONE_CLIP, Long

pytestmark = pytest.mark.core

NAMES = (
    *("front_wide_120fov", "cross_right_120fov", "rear_right_70fov", "rear_tele_30fov"),
    *("rear_left_70fov", "cross_left_120fov", "front_tele_30fov"),
)
CAR = tuple((f"ftheta_camera_{name}", i) for i, name in enumerate(NAMES))
FRONT, LEFT = {"video_path": "front.mp4"}, {"video_path": "left.mp4"}


@pytest.fixture
def files(tmp_path):
    """Videos of 9 frames, 30 a second, in the specification's folder."""
    for name, level in (("front", 80), ("left", 120)):
        frames = np.full((9, 16, 24, 3), level, np.uint8) + np.arange(9, dtype=np.uint8).reshape(
            -1, 1, 1, 1
        )
        video_writer.write_video(tmp_path / f"{name}.mp4", frames, 30, crf=0)
    (tmp_path / "words.txt").write_text(" A road.\n")
    return tmp_path


def car(reference=False, **changes):
    trained = dict(captions="front", caption_camera=CAR[0][0], view_prefixes=True, fps=30)
    return sampling_models.model(CAR, reference, controlled=False, **trained | changes)


def read(folder, reference=False, model=None, flags=None, long=None, **changes):
    """The request of a file, as `run_sample.py` reads it."""
    held = {"prompt": "A road.", "front_wide": FRONT, "cross_left": LEFT} | changes
    path = folder / "spec.json"
    path.write_text(json.dumps({k: v for k, v in held.items() if v is not ...}))
    wanted = sampling_models.wanted(path, reference, settings=flags, **long or {})
    (request,) = inputs.read(wanted, model or car(reference))
    return request


def test_a_sample_of_the_first_release_has_its_defaults(files):
    request = read(files)
    assert request.name == "output" and request.fps == 30 and request.form is None
    settings = request.settings
    assert (settings.seed, settings.guidance, settings.num_steps) == (0, 3, 35)
    assert request.given == (5, 5)  # two latent frames
    assert request.cameras == ["front_wide", "cross_left"]
    assert [view.view_id for view in request.views] == [0, 5]
    videos = [str(files / "front.mp4"), str(files / "left.mp4")]
    assert [view.video for view in request.views] == videos
    assert request.views[0].caption.endswith("The camera is facing forward. A road.")
    assert request.views[1].caption.endswith("The camera is facing to the left. ")
    assert request.negative == (NEGATIVE_PROMPT, "") and request.long == ONE_CLIP


def test_every_field_is_read(files):
    request = read(
        files,
        name="drive",
        prompt=...,
        prompt_path="words.txt",
        inference_type="image2world",
        negative_prompt="Rain.",
        seed=7,
        guidance=5,
        num_steps=12,
        fps=15,
        n_views=2,
        stack_mode="height",
        enable_autoregressive=True,
        num_chunks=3,
        chunk_overlap=5,
    )
    assert request.name == "drive" and request.views[0].caption.endswith(". A road.")
    wanted = (request.settings.seed, request.settings.guidance, request.settings.num_steps)
    assert wanted == (7, 5, 12)
    assert request.negative == ("Rain.", "") and request.given == (1, 1)
    assert request.fps == 15 and request.form == "height"
    assert request.long == Long(chunks=3, overlap=5)
    job = open_job(request, car(num_frames=9).config, False)
    assert job.plan.frames == 9 + 2 * 4 and job.fps == 15


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        (dict(num_input_frames=0), 0),
        (dict(num_input_frames=1), 1),
        (dict(num_input_frames=2), 5),
        (dict(inference_type="text2world"), 0),
        (dict(inference_type="video2world"), 5),
    ],
)
def test_the_first_frames_of_every_view_are_given(files, changes, given):
    request = read(files, **changes)
    assert request.given == (given, given)
    job = open_job(request, car().config, False)
    levels = job.given()[:, :, 0, 0, 0] if given else np.zeros((2, 0))
    np.testing.assert_array_equal(levels, np.add.outer([80, 120], np.arange(given)))
    assert job.truth  # beside the sample: its own video


def test_words_alone_are_of_all_views_of_the_model(files):
    request = read(files, front_wide=..., cross_left=..., inference_type="text2world")
    assert request.cameras[0] == "front_wide" and request.cameras[3] == "rear"
    assert [view.view_id for view in request.views] == [*range(7)]
    assert open_job(request, car().config, False).fps == 30
    two = dict(front_wide=..., cross_left=..., n_views=2, num_input_frames=0)
    assert read(files, **two).cameras == ["front_wide", "cross_right"]
    empty = read(files, front_wide={}, cross_left=..., num_input_frames=0)
    assert empty.cameras == ["front_wide"] and empty.views[0].video is None


def test_the_other_guides_name_of_a_video_is_known(files):
    assert read(files, front_wide={"input_path": "front.mp4"}).views[0].video.endswith("front.mp4")


def test_the_reference_has_its_own_ways(files):
    request = read(files, True, negative_prompt="Rain.", control_weight=0.5)
    assert request.settings.guidance == 2  # of uncond + 3 (cond - uncond)
    assert [view.caption for view in request.views] == ["A road.", ""]
    assert request.negative == (NEGATIVE_PROMPT, "") and request.form == "time"
    assert read(files, True, stack_mode="height").form == "height"
    assert read(files, True, guidance=1).negative is None  # the conditional branch alone


def test_flags_go_before_fields(files):
    request = read(files, flags={"seed": 9}, long={"chunks": 2}, seed=1)
    assert request.settings.seed == 9 and request.long == Long(chunks=2)


BAD = {
    "unknown field": (dict(guidence=3), "unknown field guidence; did you mean guidance?"),
    "unknown in view": (
        dict(front_wide={"control_path": "front.mp4"}),
        "front_wide: unknown field control_path",
    ),
    "no prompt": (dict(prompt=...), "prompt is missing"),
    "guidance": (dict(guidance=8), "guidance=8 must be 0..7"),
    "frames": (dict(num_input_frames=3), "num_input_frames=3 must be 0..2"),
    "kind": (dict(inference_type="world"), "inference_type='world' must be one of"),
    "both kinds": (
        dict(inference_type="text2world", num_input_frames=0),
        "inference_type or num_input_frames, not both",
    ),
    "stack": (dict(stack_mode="width"), "stack_mode='width' must be one of"),
    "control": (dict(control_weight=1.0), "control_weight: the model has no control; drop it"),
    "count of views": (dict(n_views=7), "n_views=7, and there are 2 views"),
    "no video": (dict(cross_left={}), "every view needs a video_path; missing: cross_left"),
    "no views": (dict(front_wide=..., cross_left=..., inference_type="image2world"), "missing: fr"),
    "both videos": (dict(front_wide=FRONT | {"input_path": "left.mp4"}), "not both"),
    "no file": (dict(front_wide={"video_path": "no.mp4"}), "video_path: there is no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_fields_are_named(case, files):
    changes, words = BAD[case]
    with pytest.raises(ValueError) as error:
        read(files, **changes)
    assert words in str(error.value) and str(files / "spec.json") in str(error.value)


def test_what_the_model_cannot_do_is_said(files):
    with pytest.raises(ValueError, match="knows no view cross_left; it was trained on"):
        read(files, model=sampling_models.model(CAR[:2], controlled=False))
    with pytest.raises(ValueError, match=r"^--num_conditional_frames: .* no such field"):
        read(files, flags={"num_conditional_frames": 1})
    with pytest.raises(ValueError, match=r"30 fps is not a multiple of data\.fps=20"):
        open_job(read(files, fps=20), car().config, False)
