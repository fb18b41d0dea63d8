"""The command, on folders of every layout."""

import json
import pathlib
import shutil
import subprocess
import sys

import generated
import numpy as np
import pytest

from cosmos_jax.data import video_writer
from cosmos_jax.evaluate import folders, measure, run, summary

ROOT = pathlib.Path(__file__).parents[1]
CAMERAS = ("cam_high", "cam_left_wrist")


def write(path, seed=0, **changes):
    video_writer.write_video(path, generated.moving(seed, **changes), 8.0)


def evaluated(folder, **changes):
    return run.evaluate(run.Job(folder, **changes), measure.Settings(few=2), lambda line: None)


def value(result, metric, checkpoint=""):
    return result["checkpoints"][checkpoint]["metrics"][metric]["value"]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """An output folder of two checkpoints; tests only read it."""
    folder = tmp_path_factory.mktemp("out")
    for step, grain in ((100, 30), (200, 4)):
        for name in ("a", "b"):
            generated.write_sample(folder / f"step_{step:06d}", name, grain)
    return folder


@pytest.mark.core
@pytest.mark.parametrize("pattern", ["videos/{c}/{n}.mp4", "{c}/{n}.mp4", "{n}/{c}.mp4"])
def test_layouts_of_names_and_cameras(tmp_path, pattern):
    for camera in CAMERAS:
        for name in ("ep_1", "ep_0"):
            path = tmp_path / pattern.format(c=camera, n=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found = folders.find(tmp_path)
    assert [sample.name for sample in found] == ["ep_0", "ep_1"]
    assert all(sorted(sample.views) == sorted(CAMERAS) for sample in found)
    assert found[0].views[CAMERAS[0]] == tmp_path / pattern.format(c=CAMERAS[0], n="ep_0")


@pytest.mark.core
def test_a_flat_folder_has_one_camera(tmp_path):
    for name in ("b", "a", ".partial"):
        (tmp_path / f"{name}.mp4").touch()
    assert [(one.name, list(one.views)) for one in folders.find(tmp_path)] == [
        ("a", ["view"]), ("b", ["view"]),
    ]  # fmt: skip
    assert folders.checkpoints(tmp_path) == {"": tmp_path}


@pytest.mark.core
def test_layouts_that_cannot_be_told_apart_are_errors(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "two.mp4").touch()
    with pytest.raises(ValueError, match="--layout=camera/name or --layout=name/camera"):
        folders.find(tmp_path)
    assert folders.find(tmp_path, "camera/name")[0].name == "two"
    assert folders.find(tmp_path, "name/camera")[0].name == "one"
    assert folders.find(tmp_path, known={"two"})[0].name == "one"
    (tmp_path / "one" / "two.mp4").unlink()
    with pytest.raises(ValueError, match=r"no videos; expected NAME\.json"):
        folders.find(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        folders.find(tmp_path / "absent")


@pytest.mark.core
def test_sidecars_name_their_files(sampled):
    (first, second) = folders.sidecars(sampled / "step_000100")
    assert first.name == "a" and list(first.views) == generated.CAMERAS
    assert first.control["rear"] == sampled / "step_000100" / "a" / "control" / "rear.mp4"
    assert second.input.keys() == second.views.keys()
    assert list(folders.checkpoints(sampled)) == ["step_000100", "step_000200"]


@pytest.mark.core
@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not JSON"),
        ('{"name": "a", "cameras": ["x"], "files": {}}', r"files\.views must be"),
        ('{"name": "a", "cameras": ["x"], "files": {"views": {"y": "y.mp4"}}}', "the same cameras"),
        ('{"name": "a", "cameras": ["x"], "files": {"views": {"x": "x"}, "input": {"z": "z"}}}',
         "not a camera"),
    ],
)  # fmt: skip
def test_damaged_sidecars_are_errors(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        folders.sidecars(tmp_path)


@pytest.mark.core
def test_other_json_is_not_a_sidecar(tmp_path):
    (tmp_path / "run.json").write_text('{"weights": 1}')
    (tmp_path / "list.json").write_text("[1]")
    assert folders.sidecars(tmp_path) == []


@pytest.mark.core
def test_checkpoints_without_sidecars(tmp_path):
    for part in ("step_000020", "step_000003"):
        write(tmp_path / part / "clip.mp4")
    assert list(folders.checkpoints(tmp_path)) == ["step_000003", "step_000020"]
    for part in ("early", "late"):
        write(tmp_path / "deep" / part / "clip" / "cam_high.mp4")
    assert list(folders.checkpoints(tmp_path / "deep")) == ["early", "late"]
    assert [folders.step_of(name) for name in ("early", "step_000020")] == [None, 20]


def test_checkpoints_are_measured_and_compared(sampled):
    result = evaluated(sampled)
    json.dumps(result, allow_nan=False)
    assert list(result["checkpoints"]) == ["step_000100", "step_000200"]
    assert value(result, "psnr", "step_000200") > value(result, "psnr", "step_000100") + 5
    sample = result["checkpoints"]["step_000100"]["samples"]["a"]
    assert (sample["frames"], sample["skipped"], sample["size"]) == (11, 1, [32, 48])
    assert sample["metrics"]["seam"]["value"] > 0  # its boundary is one frame earlier
    checkpoints = summary.of_result(json.loads(json.dumps(result)))
    assert summary.verdicts(checkpoints)["psnr"].best == "step_000200"
    text = summary.report(checkpoints)
    assert "step_000200" in text and "mean place over the metrics: step_000200" in text
    for name, metric in result["metrics"].items():
        assert metric["settings"], name
    assert result["settings"]["resize"] == "none" and result["settings"]["few"] == 2


def test_two_folders_of_videos(tmp_path):
    for i, camera in enumerate(CAMERAS):
        write(tmp_path / "made" / "clip" / f"{camera}.mp4", seed=i, grain=9)
        write(tmp_path / "set" / "videos" / camera / "clip.mp4", seed=i)
        write(tmp_path / "set" / "videos" / camera / "other.mp4", seed=5 + i)
        write(tmp_path / "set" / "control_input_edge" / camera / "clip.mp4", seed=i)
    result = evaluated(
        tmp_path / "made",
        reference=tmp_path / "set",
        control=tmp_path / "set" / "control_input_edge",
        train=tmp_path / "set",
    )
    assert 20 < value(result, "psnr") < 40 and value(result, "edge_f1") > 0.5
    said = result["settings"]  # its own true videos are no training videos
    assert (said["train_videos"], said["train_left_out"]) == (2, 2)
    near = result["checkpoints"][""]["metrics"]["train_distance"]
    assert near["value"] == pytest.approx(near["real"], rel=0.2) and near["value"] > 10


def test_what_was_memorised_is_found(tmp_path):
    write(tmp_path / "made" / "new.mp4", seed=1, grain=3)
    write(tmp_path / "true" / "new.mp4", seed=0)
    for seed in (1, 2):
        write(tmp_path / "train" / f"{seed}.mp4", seed=seed)
    result = evaluated(
        tmp_path / "made", reference=tmp_path / "true", train=tmp_path / "train", train_frames=12
    )
    (sign,) = [
        sign
        for sign in summary.signs(summary.of_result(result)[""].samples)
        if "overfitted" in sign
    ]
    assert "nearer to training frames" in sign


def test_cameras_are_paired_by_what_they_are(tmp_path):
    write(tmp_path / "made" / "clip" / "front_wide.mp4", grain=9)
    write(tmp_path / "true" / "ftheta_camera_front_wide_120fov" / "clip.mp4")
    assert 20 < value(evaluated(tmp_path / "made", reference=tmp_path / "true"), "psnr") < 40


def test_features_of_the_user(tmp_path):
    write(tmp_path / "made" / "x.mp4", grain=20)
    write(tmp_path / "true" / "x.mp4")
    colour = "cosmos_jax.evaluate.pictures:colour"
    both = {"reference": tmp_path / "true", "features": colour}
    found = evaluated(tmp_path / "made", **both)["checkpoints"][""]["metrics"]["frechet_frames"]
    assert found["value"] > 0 and found["reasons"] == []
    alone = evaluated(tmp_path / "made", features=colour)["checkpoints"][""]["metrics"]
    assert alone["frechet_frames"]["value"] is None
    assert "no true video" in alone["frechet_frames"]["reasons"][0]


def test_clips_of_frames(tmp_path, monkeypatch):
    write(tmp_path / "made" / "x.mp4", grain=20)
    write(tmp_path / "true" / "x.mp4")
    seen = []

    def network(clips):
        seen.append(clips.shape)
        return clips.mean((2, 3))[:, :2].reshape(len(clips), -1).astype(np.float64)

    monkeypatch.setattr(generated, "network", network, raising=False)
    found = evaluated(
        tmp_path / "made",
        reference=tmp_path / "true",
        features="generated:network",
        features_of="clips",
        clip_frames=5,
    )["checkpoints"][""]["metrics"]["frechet_clips"]
    assert seen == [(2, 5, 32, 48, 3)] * 2  # 12 frames; the last 2 are no clip
    assert found["value"] > 0 and "2 clips for 6 features" in found["reasons"][0]


@pytest.mark.parametrize(
    "true, changes, message",
    [
        ({"frames": 15}, {}, r"12 generated frames, 15 reference frames \(3 more\)"),
        ({"size": (32, 64)}, {}, r"32x48, the reference's 32x64; .*--resize"),
        ({}, {"stride": 2}, "with stride=2 are not the 8 fps of the generated video"),
        ({}, {"frames": 13}, "12 frames at stride 1, not the 13 asked for"),
        ({}, {"skip": 12}, "none left"),
    ],
)
def test_videos_that_do_not_fit_are_errors(tmp_path, true, changes, message):
    write(tmp_path / "made" / "x.mp4")
    write(tmp_path / "true" / "x.mp4", **true)
    with pytest.raises(ValueError, match=message):
        evaluated(tmp_path / "made", reference=tmp_path / "true", **changes)


def test_videos_are_cut_and_resized_when_that_is_said(tmp_path):
    write(tmp_path / "made" / "x.mp4")
    write(tmp_path / "true" / "x.mp4", frames=15, size=(64, 96))
    result = evaluated(tmp_path / "made", reference=tmp_path / "true", frames=10, resize="stretch")
    assert result["checkpoints"][""]["samples"]["x"]["frames"] == 10
    assert result["settings"]["resize"] == "stretch" and value(result, "psnr") > 5


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frames": 0}, "frames=0 must be at least 1"),
        ({"skip": -1}, "must not be negative"),
        ({"resize": "best"}, "resize='best' is none of"),
        ({"features_of": "views"}, "features_of='views' is none of"),
    ],
)
def test_jobs_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        run.Job(pathlib.Path("x"), **changes)


@pytest.mark.core
def test_thresholds():
    assert run.thresholds("medium") == (100.0, 200.0) and run.thresholds("60,140") == (60.0, 140.0)
    for text in ("60", "loud", "1,2,3"):
        with pytest.raises(ValueError, match="neither LOW,HIGH nor"):
            run.thresholds(text)


def command(*arguments):
    argv = [sys.executable, "-m", "cosmos_jax.evaluate", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_numbers_a_table_and_the_gallery(sampled, tmp_path):
    out = shutil.copytree(sampled, tmp_path / "out")
    done = command(f"--generated={out}", "--few=1", "--workers=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "PSNR [dB]" in done.stdout and f"{out}/gallery.html" in done.stdout
    assert summary.of_result(json.loads((out / "metrics.json").read_text()))
    assert '"PSNR"' in (out / "gallery.html").read_text()
    elsewhere = tmp_path / "new" / "m.json"
    one = out / "step_000100"
    done = command(f"--generated={one}", f"--output={elsewhere}", "--few=1", "--frames=4")
    assert done.returncode == 0 and elsewhere.is_file() and not (one / "gallery.html").exists()


def test_the_command_refuses_in_one_line(sampled, tmp_path):
    for name in ("bad", "none"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "x.mp4").write_bytes(b"no video")
    write(tmp_path / "other" / "y.mp4")
    for arguments, message in (
        ([], "--generated is missing"),
        ([f"--generated={tmp_path / 'nowhere'}"], "no such folder"),
        ([f"--generated={tmp_path / 'bad'}"], "x.mp4: cannot be read: truncated, damaged or not"),
        ([f"--generated={tmp_path / 'other'}", f"--reference={tmp_path / 'bad'}"],
         "no pairs: the samples are y of cameras view"),
        ([f"--generated={tmp_path / 'other'}", f"--train={tmp_path / 'none'}"], "no videos"),
        ([f"--generated={sampled}", "--edges=much"], "neither LOW,HIGH nor"),
        ([f"--generated={sampled}", "--features=net.pt"], "no such file, and not package"),
    ):  # fmt: skip
        done = command(*arguments)
        assert done.returncode == 2, done.stdout
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_given_frames_are_those_of_the_sidecar(tmp_path):
    def skipped(**changes):
        said = generated.write_sample(tmp_path, "a", cameras=["front"], boundaries=[])
        said = {key: value for key, value in (said | changes).items() if value is not None}
        (tmp_path / "a.json").write_text(json.dumps(said))
        return evaluated(tmp_path)["checkpoints"][""]["samples"]["a"]["skipped"]

    assert skipped() == 1  # the most of the request's views
    assert skipped(request=None, settings={"num_conditional_frames": 5}) == 5
    with pytest.raises(ValueError, match="a: its sidecar does not say how many frames were given"):
        skipped(request=None, settings={})
