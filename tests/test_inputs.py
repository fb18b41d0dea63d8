"""Folders to sample from: which views and clips there are, and what is wrong with them."""

import json
import shutil

import clips_on_disk
import numpy as np
import pytest

from cosmos_jax.data import inputs as input_clips
from cosmos_jax.data import layouts, video_writer

pytestmark = pytest.mark.core

MODEL = (*((name, i) for i, name in enumerate(clips_on_disk.CAMERAS)), ("cam_waist_left", 3))


def wanted(root, cameras=MODEL, prompt=None, needs_video=False, **changes):
    settings = dict(
        root=str(root),
        num_frames=5,
        size=clips_on_disk.SIZE,
        batch_size=4,
        control="auto",
        fps=10,
    )
    config = layouts.DataConfig(**settings | changes)
    return input_clips.Inputs(config, cameras, prompt, needs_video)


def read(root, limit=None, **changes):
    return [clip() for clip in input_clips.open_inputs(wanted(root, **changes), limit)]


@pytest.fixture
def root(tmp_path):
    return clips_on_disk.write_clips(tmp_path / "clips", counts=(9, 10))


def test_clips_are_the_first_frames_of_every_view(root):
    clips = read(root, needs_video=True)
    assert [clip.name for clip in clips] == ["ep_0", "ep_1"]
    for episode, clip in enumerate(clips):
        for kind, pixels in enumerate((clip.video, clip.control)):
            views = [clips_on_disk.frames_of(episode, c, kind, 5) for c in range(3)]
            np.testing.assert_array_equal(pixels, np.stack(views))
        assert clip.view_ids.tolist() == [0, 1, 2]
        assert clip.captions == (f"Words {episode}.", "", "")
        assert clip.fps == 10


def test_views_are_those_that_have_files_in_the_models_order(root):
    shutil.rmtree(root / "control_input_edge" / "cam_high")
    order = (("cam_right_wrist", 5), ("cam_high", 0), ("cam_left_wrist", 2))
    clip = read(root, limit=1, cameras=order)[0]
    assert clip.view_ids.tolist() == [5, 2]
    np.testing.assert_array_equal(clip.control[:, 0, 0, 0, 2], [150, 90])
    # The caption camera is not sampled: no caption, and no slot for a prompt.
    assert clip.captions == ("", "")
    with pytest.raises(ValueError, match=r"--prompt: .* camera cam_high, which is not among"):
        read(root, cameras=order, prompt="Hello", caption_camera="cam_high")


def test_limit_takes_the_first_clips_only(root):
    (root / "control_input_edge" / "cam_high" / "ep_1.mp4").unlink()
    assert [clip.name for clip in read(root, limit=1)] == ["ep_0"]


@pytest.mark.parametrize(
    ("changes", "captions"),
    [
        (dict(prompt="Hello"), ("Hello", "", "")),
        (dict(prompt="Hello", captions="each"), ("Hello",) * 3),
        (dict(prompt="Hello", caption_camera="cam_left_wrist"), ("", "Hello", "")),
        (dict(captions="none"), ("", "", "")),
    ],
    ids=str,
)
def test_captions(root, changes, captions):
    assert read(root, **changes)[0].captions == captions


def test_a_caption_that_is_missing_beside_others_is_named(root):
    shutil.copytree(root / "captions" / "cam_high", root / "captions" / "cam_left_wrist")
    assert read(root, captions="each")[0].captions == ("Words 0.", "Words 0.", "")
    (root / "captions" / "cam_left_wrist" / "ep_1.json").unlink()
    with pytest.raises(ValueError, match=r"cam_left_wrist/ep_1\.json: missing caption"):
        read(root, captions="each")


def test_prefixes_go_before_every_view(root):
    captions = read(root, view_prefixes=True)[0].captions
    assert captions[0].endswith("top-down view. Words 0.")
    assert captions[1].endswith("left robot arm wrist, showing the gripper's perspective. ")


def test_frames_are_taken_at_the_wanted_rate(root):
    clip = read(root, fps=5)[0]
    np.testing.assert_array_equal(clip.control[0, :, 0, 0, 0], 5 * np.arange(0, 9, 2))
    assert clip.fps == 5
    with pytest.raises(ValueError, match=r"10 fps is not a multiple of data\.fps=4"):
        read(root, fps=4)


def test_video_is_read_where_frames_are_given_only(root):
    assert not read(root)[0].video.any()
    shutil.rmtree(root / "videos")
    assert read(root)[0].video.shape == (3, 5, 16, 24, 3)
    with pytest.raises(ValueError, match="6 bad files") as error:
        read(root, needs_video=True)
    for camera in clips_on_disk.CAMERAS:
        for episode in ("ep_0", "ep_1"):
            assert f"\n  {root}/videos/{camera}/{episode}.mp4: missing" in str(error.value)


def test_every_bad_file_is_listed_with_its_reason(root):
    folder = root / "control_input_edge"
    (folder / "cam_high" / "ep_0.mp4").unlink()
    short = clips_on_disk.frames_of(1, 0, 1, 3)
    video_writer.write_video(folder / "cam_high" / "ep_1.mp4", short, 10)
    (folder / "cam_left_wrist" / "ep_1.mp4").write_bytes(b"not a video")
    (root / "captions" / "cam_high" / "ep_1.json").write_text(json.dumps({"caption": " "}))
    with pytest.raises(ValueError, match="4 bad files") as error:
        input_clips.open_inputs(wanted(root), None)
    lines = str(error.value).splitlines()[1:]
    assert [line.split(": ")[0].split("/")[-3:] for line in lines] == [
        ["control_input_edge", "cam_high", "ep_0.mp4"],
        ["captions", "cam_high", "ep_1.json"],
        ["control_input_edge", "cam_high", "ep_1.mp4"],
        ["control_input_edge", "cam_left_wrist", "ep_1.mp4"],
    ]
    assert "missing" in lines[0]
    assert "empty caption" in lines[1]
    assert "2 frames too short: 3, and a clip of 5 frames at stride 1 needs 5" in lines[2]
    assert "not a video" in lines[3]


def test_control_folders(root):
    shutil.copytree(root / "control_input_edge", root / "control_input_depth")
    with pytest.raises(ValueError, match=r"several control_input_\* folders .* --control"):
        read(root)
    assert len(read(root, control="control_input_depth")) == 2
    with pytest.raises(ValueError, match="control_input_seg: no such control folder"):
        read(root, control="control_input_seg")
    shutil.rmtree(root / "control_input_edge")
    shutil.rmtree(root / "control_input_depth")
    with pytest.raises(ValueError, match=r"no control_input_\* folders"):
        read(root)


def test_folders_that_hold_nothing_for_the_model(root, tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder of clips"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"cam_right_wrist: the model knows no such camera, only"):
        read(root, cameras=MODEL[:2])
    shutil.rmtree(root / "control_input_edge")
    (root / "control_input_edge").mkdir()
    with pytest.raises(ValueError, match=r"no CAMERA/NAME\.mp4 for any of the model's cameras"):
        read(root)


def test_a_network_without_control_reads_video_alone(root):
    clip = read(root, control=None)[0]
    assert clip.control is None
    np.testing.assert_array_equal(clip.video[0], clips_on_disk.frames_of(0, 0, 0, 5))


def test_one_view_needs_no_folder_of_its_own(root):
    (root / "loose" / "control_input_edge").mkdir(parents=True)
    source = root / "control_input_edge" / "cam_high" / "ep_1.mp4"
    shutil.copy(source, root / "loose" / "control_input_edge")
    clips = read(root / "loose", cameras=(("", 0),))
    assert [clip.name for clip in clips] == ["ep_1"]
    assert clips[0].control.shape == (1, 5, 16, 24, 3)
