"""The guides' JSON files: every field, its default and range, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import sampling_models

from cosmos_jax.data import video_writer
from cosmos_jax.generate import SampleConfig
from cosmos_jax.sampling import fields, inputs, spec_auto, spec_predict
from cosmos_jax.sampling.model import NEGATIVE_PROMPT
from cosmos_jax.sampling.reading import open_job
from cosmos_jax.sampling.requests import Long, check_names, with_seeds

pytestmark = pytest.mark.core

CAR = tuple(
    (f"ftheta_camera_{name}", i)
    for i, name in enumerate(
        [
            *("front_wide_120fov", "cross_right_120fov", "rear_right_70fov", "rear_tele_30fov"),
            *("rear_left_70fov", "cross_left_120fov", "front_tele_30fov"),
        ]
    )
)
TRAINED = dict(captions="front", caption_camera=CAR[0][0], view_prefixes=True)


@pytest.fixture
def files(tmp_path):
    """Videos of 9 frames named by what they show, in the specification's folder."""
    for name in ("front", "left", "tele", "front_hd", "left_hd", "tele_hd"):
        video_writer.write_video(
            tmp_path / f"{name}.mp4", np.full((9, 16, 24, 3), 80, np.uint8), 10
        )
    video_writer.write_picture(tmp_path / "first.png", np.full((16, 24, 3), 200, np.uint8))
    (tmp_path / "words.txt").write_text(" A road.\n")
    return tmp_path


def write(folder, held, name="spec.json"):
    path = folder / name
    path.write_text(held if isinstance(held, str) else json.dumps(held))
    return path


def spec(**changes):
    held = {
        "name": "drive",
        "prompt": "A road.",
        "num_conditional_frames": 0,
        "front_wide": {"control_path": "front_hd.mp4", "input_path": "front.mp4"},
        "cross_left": {"control_path": "left_hd.mp4", "input_path": "left.mp4"},
    }
    return {k: v for k, v in (held | changes).items() if v is not ...}


def auto(folder, model=None, flags=None, **changes):
    (found,) = fields.read_objects(write(folder, spec(**changes)))
    return spec_auto.request(found, model or sampling_models.model(CAR, **TRAINED), flags or {})


def test_a_sample_has_the_guides_defaults(files):
    request = auto(files, num_conditional_frames=...)
    assert request.name == "drive" and request.fps == 10 and request.combined
    assert request.settings == SampleConfig(
        num_steps=35,
        guidance=3,
        seed=0,
        control_weight=1.0,
        num_conditional_frames=1,
        negative_prompt=NEGATIVE_PROMPT,
    )
    assert request.long == Long()
    assert request.cameras == ["front_wide", "cross_left"]
    assert [view.view_id for view in request.views] == [0, 5]
    assert request.given == (1, 1)
    assert request.views[0].control == str(files / "front_hd.mp4")
    assert request.views[1].video == str(files / "left.mp4")
    # As in training: the sentence about every camera, and the prompt in the front's slot.
    assert request.views[0].caption.endswith("The camera is facing forward. A road.")
    assert request.views[1].caption.endswith("The camera is facing to the left. ")
    assert request.negative == (NEGATIVE_PROMPT, "")


def test_every_field_is_read(files):
    request = auto(
        files,
        prompt=...,
        prompt_path="words.txt",
        negative_prompt="Rain.",
        seed=7,
        guidance=5,
        num_conditional_frames=5,
        control_weight=0.5,
        fps=5,
        num_steps=12,
        enable_autoregressive=True,
        num_chunks=3,
        chunk_overlap=5,
        save_combined_views=False,
    )
    assert request.views[0].caption.endswith(". A road.")
    wanted = (request.settings.seed, request.settings.guidance, request.settings.num_steps)
    assert wanted == (7, 5, 12) and request.settings.control_weight == 0.5
    assert request.negative == ("Rain.", "")
    assert request.given == (5, 5) and request.fps == 5 and not request.combined
    assert request.long == Long(chunks=3, overlap=5)


def test_frames_given_by_view_count_in_the_autoregressive_mode(files):
    own = {"num_conditional_frames_per_view": 5}
    views = {name: spec()[name] | own for name in ("front_wide", "cross_left")}
    assert auto(files, enable_autoregressive=True, **views).given == (5, 5)
    with pytest.raises(ValueError, match="counts with enable_autoregressive only"):
        auto(files, **views)
    with pytest.raises(ValueError, match="set in some views; set it in all or none"):
        auto(files, enable_autoregressive=True, front_wide=views["front_wide"])


def test_flags_go_before_fields(files):
    request = auto(files, flags={"seed": 9, "prompt": "Snow.", "prompt_path": None}, seed=1)
    assert request.settings.seed == 9 and request.views[0].caption.endswith("Snow.")


def test_a_flag_that_is_no_field_is_said_to_be_a_flag(files):
    with pytest.raises(ValueError, match=r"^--fps: .*spec\.json has no such field; drop the flag"):
        predict(files, flags={"fps": 16})


@pytest.mark.parametrize(
    ("said", "wanted"), [("published", NEGATIVE_PROMPT), ("", ""), ("Rain.", "Rain.")]
)
def test_negative_prompts_are_those_that_are_said(files, said, wanted):
    """ "published" stands for the guides' own; no words are no words."""
    assert auto(files, negative_prompt=said).negative == (wanted, "")
    assert auto(files, flags={"negative_prompt": said}).negative == (wanted, "")
    (request,), _ = predict(files, negative_prompt=said)
    assert request.negative == (wanted,) and request.settings.negative_prompt == wanted


def test_a_model_without_control_is_refused(files):
    model = sampling_models.model(CAR, controlled=False, **TRAINED)
    with pytest.raises(ValueError, match=r"spec\.json: .* for a model with control; this one has"):
        auto(files, model)


def test_the_prompt_goes_to_the_first_view_where_the_front_is_not_active(files):
    request = auto(files, front_wide=...)
    assert request.cameras == ["cross_left"]
    assert request.views[0].caption.endswith("to the left. A road.")


def test_the_reference_has_its_own_ways(files):
    model = sampling_models.model(CAR, reference=True, **TRAINED)
    request = auto(files, model, negative_prompt="Rain.", enable_autoregressive=True)
    assert [view.caption for view in request.views] == ["A road.", ""]
    assert request.negative == (NEGATIVE_PROMPT, "")
    assert request.long == Long(chunks=2, overlap=1, pixels=True, whole=True)
    assert request.model_fps == 30


def long_of(files, reference=False, held=None, **flags):
    path = write(files, spec(**held or {}))
    model = sampling_models.model(CAR, reference, **TRAINED)
    (request,) = inputs.read(sampling_models.wanted(path, reference, **flags), model)
    return request


def test_flags_make_long_videos_of_a_specification(files):
    assert long_of(files).long == Long()
    assert long_of(files, chunks=None).long == Long(chunks=None)
    assert long_of(files, chunks=3, overlap=5, cross_fade=True).long == Long(3, 5, cross_fade=True)
    exact = long_of(files, frames=9, overlap=5, pixels=True)
    assert (exact.frames, exact.long.overlap, exact.long.pixels) == (9, 5, True)
    theirs = long_of(files, reference=True, chunks=2)
    assert theirs.long == Long(2, pixels=True, whole=True) and theirs.model_fps == 30
    with pytest.raises(ValueError, match="--handover is for long videos"):
        long_of(files, pixels=True)
    with pytest.raises(ValueError, match="both say how long"):
        long_of(files, frames=9, chunks=2)


def test_one_chunk_of_a_long_video_is_a_clip_whose_views_may_be_given_frames_apart(files):
    one = dict(enable_autoregressive=True, num_chunks=1, chunk_overlap=5)
    request = long_of(files, held=one)
    assert (request.long.chunks, request.long.overlap, request.model_fps) == (1, 5, None)
    job = open_job(request, sampling_models.model(CAR, num_frames=9).config, True)
    assert job.plan.starts == [0] and job.plan.frames == 9
    own = {view: spec()[view] | {"num_conditional_frames_per_view": n} for view, n in GIVEN}
    assert long_of(files, held=one | own).given == (1, 5)
    assert long_of(files, reference=True, held=one).model_fps == 30
    # A length that is said by a flag is made of chunks that overlap as the file says.
    assert long_of(files, held=one, frames=9).long.overlap == 5
    # One chunk is what --num_chunks=1 asks for, whatever the file says, and no other mode.
    three = long_of(files, held=own | dict(enable_autoregressive=True, num_chunks=3), chunks=1)
    assert three.long.chunks == 1 and three.given == (1, 5)


GIVEN = (("front_wide", 1), ("cross_left", 5))


BAD = {
    "unknown field": (dict(guidence=3), "unknown field guidence; did you mean guidance?"),
    "unknown view": (dict(front={}), "unknown field front; did you mean front_"),
    "unknown in view": (
        dict(front_wide={"control": "front_hd.mp4"}),
        "front_wide: unknown field control; did you mean control_path?",
    ),
    "no name": (dict(name=...), "name is missing"),
    "no prompt": (dict(prompt=...), "prompt is missing"),
    "both prompts": (dict(prompt_path="words.txt"), "prompt or prompt_path, not both"),
    "guidance": (dict(guidance=8), "guidance=8 must be 0..7"),
    "control weight": (dict(control_weight=1.5), "control_weight=1.5 must be 0..1"),
    "kind": (dict(seed="one"), 'seed="one" is not a whole number'),
    "bool": (dict(num_steps=True), "num_steps=true is not a whole number"),
    "no view": (dict(front_wide=..., cross_left=...), "no view has a control_path"),
    "not active": (dict(rear={"input_path": "left.mp4"}), "the view is not active"),
    "no file": (dict(rear={"control_path": "no.mp4"}), "control_path: there is no file"),
    "no input": (
        dict(num_conditional_frames=1, cross_left={"control_path": "left_hd.mp4"}),
        "every active view needs an input_path; missing: cross_left",
    ),
    "own frames": (
        dict(front_wide=spec()["front_wide"] | {"num_conditional_frames_per_view": 3}),
        "num_conditional_frames_per_view=3 must be one of",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_fields_are_named(case, files):
    changes, words = BAD[case]
    with pytest.raises(ValueError) as error:
        auto(files, **changes)
    assert words in str(error.value) and str(files / "spec.json") in str(error.value)


def test_a_model_of_other_cameras_is_told_apart(files):
    robot = sampling_models.model((("cam_high", 0), ("cam_left_wrist", 5)))
    with pytest.raises(ValueError, match="knows no view front_wide; it was trained on"):
        auto(files, robot)
    some = sampling_models.model(CAR[:2], **TRAINED)
    with pytest.raises(ValueError, match="knows no view cross_left"):
        auto(files, some)


def test_a_control_that_is_shorter_than_a_clip_says_how_many_frames_lack(files):
    video_writer.write_video(files / "left_hd.mp4", np.zeros((6, 16, 24, 3), np.uint8), 10)
    request = auto(files, fps=5)
    model = sampling_models.model(CAR)
    with pytest.raises(ValueError, match=r"left_hd\.mp4: 2 frames too short: 3 at the wanted rate"):
        open_job(request, model.config, True)
    video_writer.write_video(files / "left_hd.mp4", np.zeros((30, 16, 24, 3), np.uint8), 30)
    job = open_job(auto(files), model.config, True)  # every third frame of it
    assert job.plan.frames == 5 and len(job.controls(0)[1]) == 5
    by_stride = dataclasses.replace(auto(files), fps=None, stride=1)
    with pytest.raises(ValueError, match=r"different frame rates \[10.0, 30.0\]"):
        open_job(by_stride, model.config, True)


def test_files_of_several_samples(files):
    one, two = json.dumps(spec()), json.dumps(spec(name="other"))
    found = fields.read_objects(write(files, f"{one}\n\n{two}\n", "several.jsonl"))
    model = sampling_models.model(CAR, **TRAINED)
    names = [spec_auto.request(each, model, {}).name for each in found]
    assert names == ["drive", "other"]
    assert len(fields.read_objects(write(files, [spec(), spec()]))) == 2
    for text, words in (("{", "not JSON"), ("[]", "holds no sample"), ("3", "not an object")):
        with pytest.raises(ValueError, match=words):
            fields.read_objects(write(files, text))
    odd = json.dumps(spec(prompt="One.\u2028Two."), ensure_ascii=False)
    (found,) = fields.read_objects(write(files, f"{odd}\n", "odd.jsonl"))
    assert found.text("prompt") == "One.\u2028Two."
    (files / "latin.json").write_bytes(b'{"name": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"latin\.json: not UTF-8"):
        fields.read_objects(files / "latin.json")
    with pytest.raises(ValueError, match=r"several\.jsonl:2: not JSON"):
        fields.read_objects(write(files, f"{one}\n{{", "several.jsonl"))


# ---- Names.


def test_seeds_make_names(files):
    request = auto(files, seed=3)
    found = with_seeds([request], 2)
    assert [r.name for r in found] == ["drive_seed3", "drive_seed4"]
    assert [r.settings.seed for r in found] == [3, 4]
    assert with_seeds([request], 1) == [request]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "a"], "two samples are named 'a'"),
        (["a", "a_grid"], "the outputs of 'a' and 'a_grid' overlap"),
        (["a/b"], "'a/b' is no name of an output"),
        ([".."], "is no name of an output"),
        (["run"], r"run\.json is the folder's own"),
        (["metrics"], r"metrics\.json is the folder's own"),
    ],
)
def test_outputs_that_would_overlap_are_refused(files, names, words):
    with pytest.raises(ValueError, match=words):
        check_names([auto(files, name=name) for name in names])


# ---- Predict2.5.


def predict(folder, reference=False, flags=None, **changes):
    held = {
        "inference_type": "image2world",
        "samples": {"a": {"prompt": "A road.", "input_path": "first.png"}},
    }
    held = {k: v for k, v in (held | changes).items() if v is not ...}
    (found,) = fields.read_objects(write(folder, held))
    model = sampling_models.model((("", 0),), reference, controlled=False)
    return spec_predict.requests(found, model, flags or {}), model


def test_predict_samples_have_the_guides_defaults(files):
    (request,), model = predict(files)
    assert request.name == "a" and request.cameras == [""] and request.given == (1,)
    assert (request.settings.seed, request.settings.guidance) == (1, 7)
    assert request.negative == (NEGATIVE_PROMPT,) and request.views[0].caption == "A road."
    job = open_job(request, model.config, False)
    assert job.fps == 16 and job.plan.frames == 5 and not job.truth
    np.testing.assert_array_equal(job.given(), np.full((1, 1, 16, 24, 3), 200))


def test_predict_conditions_on_the_end_of_a_video(files):
    video = np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1) * np.ones((16, 24, 3), np.uint8) * 20
    video_writer.write_video(files / "moving.mp4", video, 24, crf=0)
    samples = {"b": {"prompt": "x", "input_path": "moving.mp4"}}
    (request,), model = predict(files, inference_type="video2world", samples=samples)
    job = open_job(request, model.config, False)
    assert request.given == (5,)
    np.testing.assert_array_equal(job.given()[0, :, 0, 0, 0], 20 * np.arange(4, 9))


def test_predict_frames_and_size_are_what_is_asked_for(files):
    (request,), model = predict(files, num_output_frames=12, resolution="32,48")
    job = open_job(request, model.config, False)
    assert job.plan.frames == 12 and job.plan.starts == [0, 4, 8] and job.config.size == (32, 48)
    (request,), _ = predict(files, reference=True, num_output_frames=12)
    assert open_job(request, model.config, False).plan.frames == 5  # ignored there


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(inference_type="world"), "must be one of"),
        (dict(samples=...), "samples is missing or empty"),
        (dict(samples={"a": {"prompt": "x"}}), "image2world needs an input_path"),
        (dict(samples={"a": {"input_path": "first.png"}}), "prompt is missing"),
        (dict(inference_type="text2world"), "text2world reads no input_path"),
        (dict(resolution="30,48"), "multiples of 16"),
        (dict(resolution="big"), 'must be "none" or "H,W"'),
        (dict(samples={"a": {"prompt": "x", "input": "y"}}), "a: unknown field input"),
    ],
)
def test_bad_predict_fields_are_named(files, changes, words):
    with pytest.raises(ValueError) as error:
        predict(files, **changes)
    assert words in str(error.value)
