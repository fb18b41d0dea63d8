"""Folders to sample from: which views and samples there are, and what is wrong with them."""

import dataclasses
import json
import shutil

import clips_on_disk
import numpy as np
import pytest
import sampling_models

from cosmos_jax.data import video_writer
from cosmos_jax.generate import SampleConfig
from cosmos_jax.sampling import spec_folder
from cosmos_jax.sampling.model import NEGATIVE_PROMPT
from cosmos_jax.sampling.reading import open_job
from cosmos_jax.sampling.requests import Long

pytestmark = pytest.mark.core

CAMERAS = (*((name, i) for i, name in enumerate(clips_on_disk.CAMERAS)), ("cam_waist_left", 3))


def requests(root, cameras=CAMERAS, given=0, guidance=0, reference=False, seed=0, **changes):
    names = ("control", "prompt", "limit", "fps", "size", "negative_prompt")
    asked = {name: changes.pop(name) for name in names if name in changes}
    negative = asked.pop("negative_prompt", None)
    settings = SampleConfig(
        num_conditional_frames=given, guidance=guidance, seed=seed, negative_prompt=negative
    )
    model = sampling_models.model(cameras, reference, changes.pop("controlled", True), **changes)
    return spec_folder.requests(spec_folder.Folder(root, model, settings, **asked)), model


def jobs(root, long=None, **changes):
    found, model = requests(root, **changes)
    if long is not None:
        found = [dataclasses.replace(request, long=long) for request in found]
    return [open_job(request, model.config, model.controlled) for request in found]


def captions(root, **changes):
    return tuple(view.caption for view in requests(root, **changes)[0][0].views)


@pytest.fixture
def root(tmp_path):
    return clips_on_disk.write_clips(tmp_path / "clips", counts=(9, 10))


def test_samples_are_the_first_frames_of_every_view(root):
    found = jobs(root, given=1, seed=3)
    assert [job.request.name for job in found] == ["ep_0", "ep_1"]
    assert [job.request.settings.seed for job in found] == [3, 4]
    for episode, job in enumerate(found):
        views = [clips_on_disk.frames_of(episode, c, 1, 5) for c in range(3)]
        np.testing.assert_array_equal(job.controls(0), np.stack(views))
        true = np.stack([clips_on_disk.frames_of(episode, c, 0, 5) for c in range(3)])
        np.testing.assert_array_equal(job.given(), true[:, :1])
        np.testing.assert_array_equal(job.true(range(5)), true)
        assert [view.view_id for view in job.request.views] == [0, 1, 2]
        assert job.fps == 10 and job.truth


def test_views_are_those_that_have_files_in_the_models_order(root):
    shutil.rmtree(root / "control_input_edge" / "cam_high")
    order = (("cam_right_wrist", 5), ("cam_high", 0), ("cam_left_wrist", 2))
    job = jobs(root, limit=1, cameras=order)[0]
    assert [view.view_id for view in job.request.views] == [5, 2]
    np.testing.assert_array_equal(job.controls(0)[:, 0, 0, 0, 2], [150, 90])
    # The caption camera is not sampled: no caption, and no slot for a prompt.
    assert captions(root, cameras=order) == ("", "")
    with pytest.raises(ValueError, match=r"--prompt: .* camera cam_high, which is not among"):
        requests(root, cameras=order, prompt="Hello", caption_camera="cam_high")


def test_limit_takes_the_first_samples_only(root):
    (root / "control_input_edge" / "cam_high" / "ep_1.mp4").unlink()
    assert [job.request.name for job in jobs(root, limit=1)] == ["ep_0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(prompt="Hello"), ("Hello", "", "")),
        (dict(prompt="Hello", captions="each"), ("Hello",) * 3),
        (dict(prompt="Hello", caption_camera="cam_left_wrist"), ("", "Hello", "")),
        (dict(captions="none"), ("", "", "")),
    ],
    ids=str,
)
def test_captions(root, changes, words):
    assert captions(root, **changes) == words


def test_a_prompt_that_no_view_reads_is_refused(root):
    with pytest.raises(ValueError, match="--prompt: the model was trained without captions"):
        requests(root, prompt="Hello", captions="none")


def test_negative_prompts_go_where_text_goes(root):
    assert requests(root, negative_prompt="Noise", guidance=3)[0][0].negative == ("Noise", "", "")
    assert requests(root, negative_prompt="Noise", guidance=0)[0][0].negative is None
    assert requests(root, guidance=3)[0][0].negative is None


def test_a_caption_that_is_missing_beside_others_is_named(root):
    shutil.copytree(root / "captions" / "cam_high", root / "captions" / "cam_left_wrist")
    assert captions(root, captions="each") == ("Words 0.", "Words 0.", "")
    (root / "captions" / "cam_left_wrist" / "ep_1.json").unlink()
    with pytest.raises(ValueError, match=r"cam_left_wrist/ep_1\.json: missing caption"):
        requests(root, captions="each")


def test_prefixes_go_before_every_view(root):
    words = captions(root, view_prefixes=True)
    assert words[0].endswith("top-down view. Words 0.")
    assert words[1].endswith("left robot arm wrist, showing the gripper's perspective. ")


@pytest.mark.parametrize(
    ("chunks", "frames"),
    [(1, 5), (None, 9), (3, 13)],  # of clips of 5, overlap 1, and a control of 9
)
def test_padded_videos_end_with_their_control_unless_chunks_are_counted(root, chunks, frames):
    job = jobs(root, limit=1, reference=True, long=Long(chunks, whole=True))[0]
    assert job.plan.frames == frames


def test_frames_are_taken_at_the_wanted_rate(root):
    job = jobs(root, fps=5)[0]
    np.testing.assert_array_equal(job.controls(0)[0, :, 0, 0, 0], 5 * np.arange(0, 9, 2))
    assert job.fps == 5
    with pytest.raises(ValueError, match=r"10 fps is not a multiple of data\.fps=4"):
        jobs(root, fps=4)


def test_a_long_video_lasts_as_long_as_its_control(root):
    nine, ten = jobs(root, long=Long(chunks=None))
    assert (nine.plan.frames, nine.plan.starts, nine.plan.boundaries) == (9, [0, 4], [5])
    assert (ten.plan.frames, ten.plan.starts) == (10, [0, 4, 8])
    # The last chunk is filled with the last frame.
    levels = ten.controls(2)[0, :, 0, 0, 0].tolist()
    assert levels == [40, 45, 45, 45, 45]
    assert [job.plan.frames for job in jobs(root, long=Long(chunks=2))] == [9, 9]
    assert [job.plan.frames for job in jobs(root, long=Long(chunks=None, whole=True))] == [9, 9]


def test_video_is_needed_where_frames_are_given_only(root):
    shutil.rmtree(root / "videos")
    assert not jobs(root)[0].truth
    with pytest.raises(ValueError, match="sample 'ep_0': 3 bad files") as error:
        jobs(root, given=1)
    for camera in clips_on_disk.CAMERAS:
        assert f"\n  video of view '{camera}': none is given, 1 frames needed" in str(error.value)


def test_every_bad_file_is_listed_with_its_reason(root):
    folder = root / "control_input_edge"
    short = clips_on_disk.frames_of(1, 0, 1, 3)
    video_writer.write_video(folder / "cam_high" / "ep_1.mp4", short, 10)
    (folder / "cam_left_wrist" / "ep_1.mp4").write_bytes(b"not a video")
    (folder / "cam_right_wrist" / "ep_1.mp4").unlink()
    found, model = requests(root)
    open_job(found[0], model.config, True)
    with pytest.raises(ValueError, match="sample 'ep_1': 3 bad files") as error:
        open_job(found[1], model.config, True)
    text = str(error.value)
    assert "cam_left_wrist/ep_1.mp4: cannot be read: truncated, damaged or not a video" in text
    assert "cam_right_wrist/ep_1.mp4: missing" in text
    assert "cam_high/ep_1.mp4: 2 frames too short: 3 at the wanted rate, and a clip has 5" in text
    (root / "captions" / "cam_high" / "ep_1.json").write_text(json.dumps({"caption": " "}))
    with pytest.raises(ValueError, match=r"1 bad captions:\n.*ep_1\.json: empty caption"):
        requests(root)


def test_control_folders(root):
    shutil.copytree(root / "control_input_edge", root / "control_input_depth")
    with pytest.raises(ValueError, match=r"several control_input_\* folders .* --control"):
        requests(root)
    assert len(jobs(root, control="control_input_depth")) == 2
    with pytest.raises(ValueError, match="control_input_seg: no such control folder"):
        requests(root, control="control_input_seg")
    shutil.rmtree(root / "control_input_edge")
    (root / "control_input_depth").rename(root / "control")  # the robotics guide's name
    assert jobs(root)[0].control[0].path.startswith(f"{root}/control/cam_high")
    shutil.rmtree(root / "control")
    with pytest.raises(ValueError, match=r"no control_input_\* folders"):
        requests(root)


def test_folders_that_hold_nothing_for_the_model(root, tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder of clips"):
        requests(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"cam_right_wrist: the model knows no such camera, only"):
        requests(root, cameras=CAMERAS[:2])
    shutil.rmtree(root / "control_input_edge")
    (root / "control_input_edge").mkdir()
    with pytest.raises(ValueError, match=r"no CAMERA/NAME\.mp4 for any of the model's cameras"):
        requests(root)


def test_a_network_without_control_reads_video_alone(root):
    job = jobs(root, controlled=False, given=5)[0]
    assert job.control is None and job.controls(0) is None
    np.testing.assert_array_equal(job.given()[0], clips_on_disk.frames_of(0, 0, 0, 5))
    with pytest.raises(ValueError, match="--control: the model has no control branch"):
        requests(root, controlled=False, control="control_input_edge")


def test_one_view_needs_no_folder_of_its_own(root):
    (root / "loose" / "control_input_edge").mkdir(parents=True)
    source = root / "control_input_edge" / "cam_high" / "ep_1.mp4"
    shutil.copy(source, root / "loose" / "control_input_edge")
    found = jobs(root / "loose", cameras=(("", 0),))
    assert [job.request.name for job in found] == ["ep_1"]
    assert found[0].controls(0).shape == (1, 5, 16, 24, 3)


# ---- What the reference does.


def test_the_reference_says_something_of_every_camera(root):
    words = captions(root, reference=True, limit=1)
    assert words[0].endswith("top-down view. Words 0.")
    assert words[1].endswith(f"gripper's perspective. {spec_folder.REFERENCE_CAPTION}")
    words = captions(root, reference=True, limit=1, prompt="Hello")
    assert all(text.endswith(". Hello") for text in words)
    request = requests(root, reference=True, guidance=3)[0][0]
    assert request.negative == (NEGATIVE_PROMPT,) * 3


def test_the_reference_takes_the_control_for_a_video_that_is_missing_and_fills_short_ones(root):
    shutil.rmtree(root / "videos")
    short = clips_on_disk.frames_of(0, 0, 1, 3)
    video_writer.write_video(root / "control_input_edge" / "cam_high" / "ep_0.mp4", short, 10)
    job, whole = jobs(root, reference=True, given=1)
    assert not whole.truth  # there is nothing to compare with
    np.testing.assert_array_equal(job.given(), job.controls(0)[:, :1])
    first, second = job.controls(0)[0, 2:4]
    np.testing.assert_array_equal(first, second)
