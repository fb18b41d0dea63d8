import json
from fractions import Fraction

import pytest
from clips_on_disk import CAMERAS, write_clips

from cosmos_jax.data import layouts, video, video_writer
from cosmos_jax.data.cameras import prefix as view_prefix

pytestmark = pytest.mark.core

AV = [
    "front_wide_120fov",
    "cross_right_120fov",
    "rear_right_70fov",
    "rear_tele_30fov",
    "rear_left_70fov",
    "cross_left_120fov",
    "front_tele_30fov",
]


def empty_cameras(root, names, folder="videos"):
    for name in names:
        (root / folder / name).mkdir(parents=True)
        (root / folder / name / "a.mp4").touch()
    return root


def config(root, **changes):
    defaults = {"num_frames": 5, "size": (16, 24), "batch_size": 1, "num_threads": 2}
    stride = {} if "fps" in changes else {"stride": 2}
    return layouts.DataConfig(
        **{"root": str(root), "cache_dir": f"{root}-cache", **defaults, **stride, **changes}
    )


def scan(root, **changes):
    settings = config(root, **changes)
    layout = layouts.find_layout(settings.root, settings.cameras, settings.control)
    return layouts.scan(layout, settings)


class TestCameras:
    @pytest.mark.parametrize("prefix", ["ftheta_camera_", "camera_"])
    def test_driving_cameras_come_in_published_order(self, tmp_path, prefix):
        empty_cameras(tmp_path, sorted(prefix + name for name in AV))
        cameras = layouts.find_cameras(tmp_path, "all")
        assert cameras == tuple((prefix + name, i) for i, name in enumerate(AV))

    def test_a_part_of_a_published_set_keeps_its_ids(self, tmp_path):
        empty_cameras(tmp_path, ["cam_waist_right", "cam_left_wrist"])
        expected = (("cam_left_wrist", 1), ("cam_waist_right", 4))
        assert layouts.find_cameras(tmp_path, "all") == expected

    def test_unknown_cameras_are_sorted(self, tmp_path):
        empty_cameras(tmp_path, ["pinhole_side", "pinhole_front"])
        expected = (("pinhole_front", 0), ("pinhole_side", 1))
        assert layouts.find_cameras(tmp_path, "all") == expected

    def test_a_list_keeps_its_order(self, tmp_path):
        empty_cameras(tmp_path, ["cam_high", "cam_left_wrist", "b", "a"])
        find = layouts.find_cameras
        expected = (("cam_left_wrist", 1), ("cam_high", 0))
        assert find(tmp_path, "cam_left_wrist,cam_high") == expected
        assert find(tmp_path, "b,a") == (("b", 0), ("a", 1))
        assert find(tmp_path, (("b", 3), ("cam_high", 2))) == (("b", 3), ("cam_high", 2))
        assert find(tmp_path, {"a": 5, "b": 2}) == (("b", 2), ("a", 5))

    def test_files_without_camera_folders_are_one_view(self, tmp_path):
        empty_cameras(tmp_path, [""])
        assert layouts.find_cameras(tmp_path, "all") == (("", 0),)

    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            ("cam_hihg", r"no \.mp4 files for cameras \['cam_hihg'\].*\['cam_high', 'x'\]"),
            ("cam_high,cam_high", "a camera is given twice"),
            ((("cam_high", 1), ("x", 1)), "a view id is given twice"),
            ((), r"no \.mp4 files for cameras \[\]"),
        ],
    )
    def test_wrong_choices(self, tmp_path, choice, message):
        empty_cameras(tmp_path, ["cam_high", "x"])
        with pytest.raises(ValueError, match=message):
            layouts.find_cameras(tmp_path, choice)

    @pytest.mark.parametrize("files", [[], ["videos/cam/readme.txt"], ["videos/cam/.hidden.mp4"]])
    def test_a_root_without_videos(self, tmp_path, files):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True)
            (tmp_path / file).touch()
        with pytest.raises(ValueError, match=rf"^{tmp_path}: no videos; expected .*CAMERA/NAME"):
            layouts.find_cameras(tmp_path, "all")

    def test_videos_beside_camera_folders(self, tmp_path):
        empty_cameras(tmp_path, ["", "cam_high"])
        with pytest.raises(ValueError, match=r"a\.mp4 lies beside camera folders"):
            layouts.find_cameras(tmp_path, "all")


class TestControl:
    def test_the_only_folder_is_found_and_any_can_be_named(self, tmp_path):
        empty_cameras(tmp_path, ["cam_high"])
        empty_cameras(tmp_path, ["cam_high"], "control_input_depth")
        assert layouts.find_layout(tmp_path, "all", "auto").control == "control_input_depth"
        empty_cameras(tmp_path, ["cam_high"], "masks")
        layout = layouts.find_layout(tmp_path, "all", "masks")
        assert layout.control_video("cam_high", "a") == str(tmp_path / "masks/cam_high/a.mp4")
        assert layouts.find_layout(tmp_path, "all", None).control is None

    def test_several_none_or_a_wrong_one(self, tmp_path):
        empty_cameras(tmp_path, ["cam_high"])
        with pytest.raises(ValueError, match=r"no control_input_.* folder; set data.control"):
            layouts.find_layout(tmp_path, "all", "auto")
        for kind in ("edge", "depth"):
            empty_cameras(tmp_path, ["cam_high"], f"control_input_{kind}")
        with pytest.raises(ValueError, match="control_input_depth, control_input_edge; set data"):
            layouts.find_layout(tmp_path, "all", "auto")
        with pytest.raises(ValueError, match=r"no such control folder.*'control_input_edge'\]"):
            layouts.find_layout(tmp_path, "all", "control_input_egde")


class TestCaptions:
    def captions(self, root, **changes):
        episodes, problems = scan(root, **changes)
        return [e.captions for e in episodes], problems

    def test_the_front_cameras_words_fill_its_own_slot(self, tmp_path):
        write_clips(tmp_path / "d", counts=(9, 9))
        assert self.captions(tmp_path / "d")[0] == [("Words 0.", "", ""), ("Words 1.", "", "")]

    def test_the_caption_camera_may_be_another(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(9,))
        (root / "captions" / CAMERAS[2]).mkdir()
        (root / "captions" / CAMERAS[2] / "ep_0.txt").write_text(" At the wrist.\n")
        assert self.captions(root)[0] == [("Words 0.", "", "")]
        assert self.captions(root, caption_camera=CAMERAS[2])[0] == [("", "", "At the wrist.")]

    def test_each_camera_can_have_its_own(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(9,))
        for camera in CAMERAS[1:]:
            (root / "metas" / camera).mkdir(parents=True)
            (root / "metas" / camera / "ep_0.txt").write_text(f"{camera}!")
        expected = ("Words 0.", "cam_left_wrist!", "cam_right_wrist!")
        assert self.captions(root, captions="each")[0] == [expected]

    def test_published_sentences_precede_all_views(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(9,))
        ((front, left, right),), _ = self.captions(root, view_prefixes=True)
        above = "The video is captured from a camera mounted above the robot workspace, providing "
        assert front == above + "a top-down view. Words 0."
        wrist = "The video is captured from a camera mounted on the {} robot arm wrist, showing "
        assert left == wrist.format("left") + "the gripper's perspective. "
        assert right == wrist.format("right") + "the gripper's perspective. "

    def test_none_reads_no_file(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(9,))
        (root / "captions" / CAMERAS[0] / "ep_0.json").unlink()
        assert self.captions(root, captions="none") == ([("", "", "")], [])

    @pytest.mark.parametrize(
        ("content", "kind", "expected"),
        [
            ({"caption": " kept "}, None, " kept "),
            ({"qwen": {"long": "L", "short": "S"}}, None, "L"),
            ({"qwen": {"long": "L", "short": "S"}}, "short", "S"),
        ],
    )
    def test_forms_of_json(self, tmp_path, content, kind, expected):
        root = write_clips(tmp_path / "d", counts=(9,))
        (root / "captions" / CAMERAS[0] / "ep_0.json").write_text(json.dumps(content))
        assert self.captions(root, caption_kind=kind)[0] == [(expected, "", "")]

    @pytest.mark.parametrize(
        ("content", "kind", "reason"),
        [
            ('{"caption": "  "}', None, "empty caption"),
            ('{"caption": 3}', None, "holds no caption; expected"),
            ('["words"]', None, "holds no caption; expected"),
            ('{"qwen": {"long": "L"}}', "short", 'holds no caption; expected {model: {"short"'),
            ('{"caption": "wor', None, "cannot be read: "),
            (None, None, "missing caption"),
            (None, "short", "missing caption"),
        ],
    )
    def test_bad_captions_name_the_file(self, tmp_path, content, kind, reason):
        root = write_clips(tmp_path / "d", counts=(9, 9))
        path = root / "captions" / CAMERAS[0] / "ep_0.json"
        path.unlink() if content is None else path.write_text(content)
        if kind:
            good = root / "captions" / CAMERAS[0] / "ep_1.json"
            good.write_text(json.dumps({"m": {kind: "Words 1."}}))
        captions, ((file, why),) = self.captions(root, caption_kind=kind)
        assert (file, why.startswith(reason)) == (str(path), True)
        assert captions == [("Words 1.", "", "")]

    def test_no_captions_at_all(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(9,))
        (root / "captions").rename(root / "words")
        with pytest.raises(ValueError, match=r"no captions for .*data\.captions='none'"):
            self.captions(root)
        with pytest.raises(ValueError, match="no view 'cam'"):
            self.captions(root, caption_camera="cam")

    def test_a_camera_without_a_published_sentence(self):
        with pytest.raises(ValueError, match="no published prefix for camera 'roof'"):
            view_prefix("roof")


class TestFrameRate:
    @pytest.mark.parametrize(
        ("file_fps", "fps", "stride", "expected"),
        [(30, 10.0, None, 3), (10, 10.0, None, 1), (29.97, None, 3, 3), (29.97, 9.99, None, 3)],
    )
    def test_strides(self, file_fps, fps, stride, expected):
        info = video.VideoInfo("v.mp4", (2, 2), Fraction(str(file_fps)), range(30))
        settings = config("d", fps=fps, stride=stride)
        assert settings.stride_of(info) == expected
        assert settings.frames_needed(info) == 4 * expected + 1

    @pytest.mark.parametrize(("file_fps", "fps"), [(30, 7), (10, 30), (29.97, 10), (25, 10)])
    def test_rates_that_do_not_divide(self, file_fps, fps):
        info = video.VideoInfo("v.mp4", (2, 2), Fraction(str(file_fps)), range(30))
        with pytest.raises(ValueError, match=rf"^v\.mp4: {file_fps} fps is not a multiple of"):
            config("d", fps=fps).stride_of(info)


class TestScan:
    def test_a_good_data_set(self, tmp_path):
        root = write_clips(tmp_path / "d")
        episodes, problems = scan(root)
        assert problems == []
        assert [e.name for e in episodes] == ["ep_0", "ep_1", "ep_2"]
        assert [i.path for i in episodes[1].videos] == [
            str(root / "videos" / camera / "ep_1.mp4") for camera in CAMERAS
        ]
        assert [i.frames for i in episodes[1].controls] == [11, 11, 11]

    def test_everything_wrong_is_listed_with_its_reason(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(10,) * 9)
        views, control = root / "videos", root / "control_input_edge"
        (views / CAMERAS[1] / "ep_0.mp4").unlink()
        (control / CAMERAS[2] / "ep_1.mp4").unlink()
        for e, (count, fps, folder) in {
            2: (12, 10, views),
            3: (10, 20, views),
            4: (12, 10, control),
            5: (10, 30, control),
        }.items():
            frames = layouts.video.read_frames(
                video.probe(views / CAMERAS[0] / "ep_6.mp4"), [0] * count
            )
            video_writer.write_video(folder / CAMERAS[1] / f"ep_{e}.mp4", frames, fps)
        truncated = views / CAMERAS[2] / "ep_6.mp4"
        truncated.write_bytes(truncated.read_bytes()[:-20])
        (control / CAMERAS[0] / "ep_7.mp4").write_bytes(b"")
        (root / "captions" / CAMERAS[0] / "ep_7.json").write_text('{"caption": ""}')
        episodes, problems = scan(root)
        assert [e.name for e in episodes] == ["ep_8"]
        reasons = {
            file.removeprefix(f"{root}/"): why.replace(f"{root}/", "") for file, why in problems
        }
        assert reasons == {
            "videos/cam_left_wrist/ep_0.mp4": "missing view",
            "control_input_edge/cam_right_wrist/ep_1.mp4": "missing control",
            "videos/cam_left_wrist/ep_2.mp4": "12 frames, but videos/cam_high/ep_2.mp4 has 10",
            "videos/cam_left_wrist/ep_3.mp4": "20 fps, but videos/cam_high/ep_3.mp4 has 10",
            "control_input_edge/cam_left_wrist/ep_4.mp4": "12 frames, but videos/cam_high/ep_4.mp4"
            " has 10",
            "control_input_edge/cam_left_wrist/ep_5.mp4": "30 fps, but videos/cam_high/ep_5.mp4"
            " has 10",
            "videos/cam_right_wrist/ep_6.mp4": "truncated: the header promises 10 frames, the file "
            "holds 9",
            "control_input_edge/cam_high/ep_7.mp4": "cannot be read: truncated, damaged or not a "
            "video",
            "captions/cam_high/ep_7.json": "empty caption",
        }

    def test_too_few_frames(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(8, 9), cameras=CAMERAS[:1], control=None)
        episodes, problems = scan(root, control=None)
        assert [e.name for e in episodes] == ["ep_1"]
        file, why = problems[0]
        assert file.endswith("cam_high/ep_0.mp4")
        assert why == "too few frames: 8, and a clip needs 9"

    def test_a_rate_that_does_not_divide(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(9,), cameras=CAMERAS[:2])
        ((file, why),) = scan(root, fps=4.0)[1]
        assert file.endswith("videos/cam_high/ep_0.mp4")
        assert "10 fps is not a multiple of data.fps=4" in why

    def test_one_view_with_metas(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(9,), cameras=("",), control=None)
        (root / "captions").rename(root / "old")
        (root / "metas").mkdir()
        (root / "metas" / "ep_0.txt").write_text(" A robot. \n")
        episodes, problems = scan(root, control=None)
        assert problems == []
        assert episodes[0].captions == ("A robot.",)
        assert episodes[0].videos[0].path == str(root / "videos" / "ep_0.mp4")

    def test_nothing_is_written_into_the_data(self, tmp_path):
        root = write_clips(tmp_path / "d", counts=(9,))
        before = sorted(root.rglob("*"))
        scan(root)
        assert sorted(root.rglob("*")) == before
        assert (tmp_path / "d-cache").is_dir()
