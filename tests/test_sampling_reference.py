"""What the published samplers do: the robotics sampler's resize, words, frames and files."""

import dataclasses
import json
import shutil

import clips_on_disk
import numpy as np
import pytest
import sampling_models
from test_sampling_folder import captions, jobs, requests

from cosmos_jax.data import video, video_writer
from cosmos_jax.sampling import as_reference, inputs, spec_folder
from cosmos_jax.sampling.requests import check_names

pytestmark = pytest.mark.core


@pytest.fixture
def root(tmp_path):
    return clips_on_disk.write_clips(tmp_path / "clips", counts=(9, 10))


def asked(root, **changes):
    """The requests that `run_sample.py --compat=reference` makes of a folder."""
    cameras = tuple((camera, i) for i, camera in enumerate(clips_on_disk.CAMERAS))
    settings = changes.pop("settings", {})
    model = sampling_models.model(cameras, reference=True)
    wanted = sampling_models.wanted(root, reference=True, settings=settings, **changes)
    return inputs.read(wanted, model)


# ---- Resize.


def test_rows_are_filtered_and_columns_cropped_as_worked_out_by_hand():
    """8x11 to 4x4: the ratio is 1/2 and the scaled size (4, int(5.5)), of which columns 0..3 stay.

    An output row weighs the four input rows about its centre by 1/8, 3/8, 3/8, 1/8; at the border
    one of them is missing, and the others weigh 3/7, 3/7, 1/7. Columns shrink by 11/5: the first
    one weighs the first three by 8/21, 9/21, 4/21.
    """
    frames = np.zeros((1, 8, 11, 3), np.uint8)
    frames[:, 1], frames[:, 4] = 80, 240
    resized = as_reference.cover_truncated(frames, (4, 4))
    assert resized.shape == (1, 4, 4, 3)
    assert (resized == np.array([34, 40, 90, 0])[:, None, None]).all()  # 240/7 = 34.3
    columns = np.zeros((1, 8, 11, 3), np.uint8)
    columns[:, :, 0] = columns[:, :, 10] = 250
    first, *rest = as_reference.cover_truncated(columns, (4, 4))[0, 0, :, 0]
    assert first == 95 and not any(rest)  # the last scaled column is cropped away


def test_a_row_that_truncation_loses_is_black():
    assert int(16 / 49 * 49) == 15
    resized = as_reference.cover_truncated(np.full((1, 49, 98, 3), 200, np.uint8), (16, 24))
    assert (resized[:, :15] == 200).all() and (resized[:, 15] == 0).all()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("size", "target", "scaled", "corner"),
    [
        ((30, 50), (16, 24), (16, 26), (0, 1)),
        ((24, 20), (16, 24), (28, 24), (6, 0)),  # enlarged; 28.8 rows
        ((36, 45), (16, 22), (17, 22), (0, 0)),  # half a row over: rounded to even
        ((37, 40), (16, 22), (20, 22), (2, 0)),
    ],
)
def test_the_resize_is_torchs_to_the_truncated_size(size, target, scaled, corner):
    import torch

    frames = np.random.RandomState(0).randint(0, 256, (2, *size, 3), np.uint8)
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    whole = torch.nn.functional.interpolate(planes, scaled, mode="bilinear", antialias=True)
    levels = whole.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    (top, left), (h, w) = corner, target
    ours = as_reference.cover_truncated(frames, target).astype(int)
    assert np.abs(ours - levels[:, top : top + h, left : left + w]).max() <= 1
    assert (ours == levels[:, top : top + h, left : left + w]).mean() > 0.999


def test_frames_of_the_size_stay_as_they_are():
    frames = np.random.RandomState(0).randint(0, 256, (1, 16, 24, 3), np.uint8)
    np.testing.assert_array_equal(as_reference.cover_truncated(frames, (16, 24)), frames)


def test_a_folder_is_fitted_by_this_resize(tmp_path):
    root = clips_on_disk.write_clips(tmp_path / "clips", counts=(9,))
    ramp = np.random.RandomState(1).randint(0, 256, (9, 30, 50, 3), np.uint8)
    path = root / "control_input_edge" / "cam_high" / "ep_0.mp4"
    video_writer.write_video(path, ramp, 10, crf=0)
    (job,) = jobs(root, reference=True)
    expected = as_reference.cover_truncated(ramp[:5], (16, 24))
    np.testing.assert_array_equal(job.controls(0)[0], expected)
    (ours,) = jobs(root)
    assert (ours.controls(0)[0] != expected).any()


# ---- Words.


def test_words_are_of_txt_before_json_and_stock_where_a_file_lacks(root):
    left = root / "captions" / "cam_left_wrist"
    left.mkdir()
    (left / "ep_0.txt").write_text(" Text. \n")
    (left / "ep_0.json").write_text(json.dumps({"caption": "JSON."}))
    (left / "ep_1.json").write_text(json.dumps({"other": "Nothing."}))
    words = [[v.caption.split(". ", 1)[1] for v in r.views] for r in asked(root)]
    stock = spec_folder.REFERENCE_CAPTION
    assert words == [["Words 0.", "Text.", stock], ["Words 1.", stock, stock]]
    (left / "ep_1.json").write_text(json.dumps(["Words"]))
    with pytest.raises(ValueError, match=r"1 bad captions:\n.*ep_1\.json: holds no caption"):
        asked(root)
    (left / "ep_1.json").write_text("{")
    with pytest.raises(ValueError, match=r"1 bad captions:\n.*ep_1\.json: cannot be read"):
        asked(root)


def test_a_caption_of_one_view_is_no_other_views(root):
    words = captions(root, reference=True, limit=1)
    assert words[1].endswith(f"gripper's perspective. {spec_folder.REFERENCE_CAPTION}")


# ---- Frames.


def test_every_frame_of_a_file_is_taken_and_ten_a_second_told(root):
    path = root / "control_input_edge" / "cam_high" / "ep_0.mp4"
    video_writer.write_video(path, clips_on_disk.frames_of(0, 0, 1, 9), 25, crf=0)
    job, _ = jobs(root, reference=True)
    assert job.fps == 10
    np.testing.assert_array_equal(job.controls(0)[0, :, 0, 0, 0], 5 * np.arange(5))
    assert jobs(root, reference=True, fps=15)[0].fps == 15
    with pytest.raises(ValueError, match="25 fps is not a multiple"):
        jobs(root)


def test_the_first_camera_decides_whether_there_are_videos(root):
    (root / "videos" / "cam_high" / "ep_0.mp4").unlink()
    (root / "videos" / "cam_left_wrist" / "ep_1.mp4").unlink()
    without, broken = requests(root, reference=True, given=1)[0]
    assert all(view.video == view.control for view in without.views)
    assert [view.video == view.control for view in broken.views] == [False] * 3
    with pytest.raises(ValueError, match=r"videos/cam_left_wrist/ep_1\.mp4: missing"):
        jobs(root, reference=True, given=1)


def test_a_video_shorter_than_the_given_frames_goes_on_with_its_last(root):
    short = clips_on_disk.frames_of(0, 0, 0, 3)
    video_writer.write_video(root / "videos" / "cam_high" / "ep_0.mp4", short, 10, crf=0)
    job, _ = jobs(root, reference=True, given=5)
    assert job.given()[0, :, 0, 0, 0].tolist() == [0, 5, 10, 10, 10]
    with pytest.raises(ValueError, match="2 frames too short: 3 of 5 given"):
        jobs(root, given=5)


def test_the_control_folder_of_the_guide_goes_before_the_data_sets(root):
    shutil.copytree(root / "control_input_edge", root / "control")
    assert "/control/cam_high/" in requests(root, reference=True)[0][0].views[0].control
    chosen = requests(root, reference=True, control="control_input_edge")[0][0]
    assert "/control_input_edge/" in chosen.views[0].control


@pytest.mark.parametrize(
    ("count", "chunks", "given"),
    [
        (None, 1, 1),
        (0, 1, 0),
        (1, 1, 1),
        (2, 1, 5),
        (0, None, 0),
        (1, None, 1),
        (2, 3, 1),
        (4, 3, 1),
        (5, 3, 5),
    ],
)
def test_given_frames_are_latent_ones_and_in_long_videos_pixel_ones(root, count, chunks, given):
    long = {} if chunks == 1 else {"chunks": chunks}
    settings = {} if count is None else {"num_conditional_frames": count}
    request, _ = asked(root, settings=settings, **long)
    assert request.given == (given,) * 3
    assert request.settings.num_conditional_frames == given
    assert request.model_fps == (None if chunks == 1 else 30)


def test_ours_counts_pixel_frames(root):
    model = sampling_models.model(tuple((c, i) for i, c in enumerate(clips_on_disk.CAMERAS)))
    wanted = sampling_models.wanted(root, settings={"num_conditional_frames": 5})
    assert inputs.read(wanted, model)[0].given == (5, 5, 5)
    with pytest.raises(ValueError, match="--num_conditional_frames=-1 must be at least 0"):
        asked(root, settings={"num_conditional_frames": -1})


# ---- Files.


@pytest.mark.parametrize(
    ("views", "rows", "columns"),
    [(1, 1, 1), (3, 1, 3), (4, 2, 2), (5, 2, 3), (6, 2, 3), (7, 3, 3), (9, 3, 3), (10, 3, 4)],
)
def test_the_robotics_sampler_writes_a_grid_of_all_views(tmp_path, views, rows, columns):
    cameras = [f"cam_{i}" for i in range(views)]
    levels = np.arange(views, dtype=np.uint8).reshape(-1, 1, 1, 1, 1) * 20 + 30
    sampled = np.broadcast_to(levels, (views, 2, 16, 32, 3))
    files = as_reference.write(tmp_path, "a", cameras, sampled, sampled // 2, 10.0, "robotics")
    each = [f"a_views/{camera}.mp4" for camera in cameras]
    assert files == [*each, "a_generated.mp4", "a_control.mp4"]
    for file, factor in (("a_generated.mp4", 1), ("a_control.mp4", 2)):
        info = video.probe(tmp_path / file)
        assert info.size == (16 * rows, 32 * columns) and info.frames == 2
        cells = video.read_frames(info, [1])[0, 8::16, 16::32, 0].reshape(-1)
        shown = [*levels.ravel() // factor, *[0] * (rows * columns - views)]
        np.testing.assert_allclose(cells, shown, atol=3)


def test_names_of_the_robotics_samplers_files_may_not_overlap(root):
    first, second = asked(root)
    rename = {"a": first, "a_views": second}
    both = [dataclasses.replace(request, name=name) for name, request in rename.items()]
    with pytest.raises(ValueError, match="the outputs of 'a' and 'a_views' overlap"):
        check_names(both)
    check_names([dataclasses.replace(request, form=None) for request in both])


@pytest.mark.parametrize(
    ("form", "size", "frames"), [("time", (16, 24), 4), ("height", (32, 24), 2)]
)
def test_one_video_holds_all_views(tmp_path, form, size, frames):
    sampled = np.zeros((2, 2, 16, 24, 3), np.uint8)
    sampled[1] = 200
    assert as_reference.write(tmp_path, "a", ["x", "y"], sampled, None, 10.0, form) == ["a.mp4"]
    info = video.probe(tmp_path / "a.mp4")
    assert (info.size, info.frames) == (size, frames)
    last = video.read_frames(info, [frames - 1])[0]
    assert last[-4, 12, 0] > 190 and (last[4, 12, 0] < 10) == (form == "height")


def test_views_and_a_grid_of_nine(tmp_path):
    sampled = np.full((2, 2, 16, 24, 3), 90, np.uint8)
    files = as_reference.write(tmp_path, "a", ["x", "y"], sampled, None, 10.0, "views")
    assert files == ["a_x.mp4", "a_y.mp4", "a_grid.mp4"]
    info = video.probe(tmp_path / "a_grid.mp4")
    assert info.size == (48, 72)
    cells = video.read_frames(info, [0])[0, 8::16, 12::24, 0]
    np.testing.assert_allclose(cells, [[90, 90, 0], [0, 0, 0], [0, 0, 0]], atol=3)
