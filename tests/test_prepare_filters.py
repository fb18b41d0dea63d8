"""Control videos from RGB: the filters against OpenCV's arrays, and the commands that use them."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import error_of, run

from cosmos_jax import progress
from cosmos_jax.data import video, video_writer
from cosmos_jax.data.video import FileError
from cosmos_jax.prepare import blur_filter, canny, render, streams

PREPARE = "cosmos_jax/prepare/__main__.py"
STRENGTHS = ["very_low", "low", "medium", "high", "very_high"]
# Made with OpenCV 4.11 (Canny, bilateralFilter, resize) and torch 2.13 (antialiased bicubic).
EXPECTED = np.load(pathlib.Path(__file__).parent / "data" / "control_filters.npz")


def moving(count, size=(48, 64), seed=0):
    """Squares that wander over a dark ground, at a pace that changes."""
    rng = np.random.default_rng(seed)
    frames = np.full((count, *size, 3), 40, np.uint8)
    paces = rng.integers(0, 4, count).cumsum()
    for frame, pace in zip(frames, paces, strict=True):
        for k, colour in enumerate([(220, 60, 60), (60, 220, 60), (90, 90, 240)]):
            row, column = (
                (5 + 11 * k + pace) % (size[0] - 12),
                (9 + 17 * k + 2 * pace) % (size[1] - 12),
            )
            frame[row : row + 10, column : column + 12] = colour
    return frames


@pytest.fixture
def root(tmp_path):
    for c, camera in enumerate(("cam_high", "cam_left_wrist")):
        for e, count in enumerate((9, 6)):
            path = tmp_path / "data" / "videos" / camera / f"ep_{e}.mp4"
            video_writer.write_video(path, moving(count, seed=10 * c + e), 10, crf=10)
    return tmp_path / "data"


def decoded(path):
    info = video.probe(path)
    return video.read_frames(info, range(info.frames))


def outputs(root, target):
    return sorted(p for p in (root / target).rglob("*") if p.is_file())


# ---- Filters.


@pytest.mark.core
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", ["scene", "noise", "grey"])
def test_edges_are_opencvs(name, strength):
    pixels = EXPECTED[name]
    bits = np.unpackbits(EXPECTED[f"{name}_edges_{strength}"], axis=1)[:, : pixels.shape[1]]
    found = canny.canny(pixels, *canny.STRENGTHS[strength])
    np.testing.assert_array_equal(found, bits.astype(bool))
    if name != "noise":
        assert 0 < found.sum() < found.size / 2


@pytest.mark.core
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (2, 2, 1), (40, 60, 3)])
def test_nothing_has_no_edges_and_thresholds_only_take_away(shape):
    assert not canny.canny(np.full(shape, 77, np.uint8), 0, 0).any()
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sets = [canny.canny(pixels, *canny.STRENGTHS[s]) for s in STRENGTHS]
    for more, fewer in itertools.pairwise(sets):
        assert not (fewer & ~more).any()


@pytest.mark.core
def test_edges_are_white_on_black():
    picture = canny.Edges(50, 100)(EXPECTED["scene"])
    assert picture.shape == EXPECTED["scene"].shape and picture.dtype == np.uint8
    assert set(np.unique(picture)) == {0, 255}


@pytest.mark.core
@pytest.mark.parametrize("low, high", [(-1, 5), (9, 5), (5, 2041), (float("nan"), 5)])
def test_thresholds_that_make_no_sense(low, high):
    with pytest.raises(ValueError, match="thresholds are due with 0 <= low <= high <= 2040"):
        canny.Edges(low, high)


@pytest.mark.core
def test_the_bilateral_filter_is_opencvs():
    off = np.abs(blur_filter.bilateral(EXPECTED["scene"]).astype(int) - EXPECTED["scene_bilateral"])
    assert off.max() <= 1 and off.mean() < 1e-3


@pytest.mark.core
@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_blur_is_the_published_one(strength):
    ours = blur_filter.Blur(strength)(EXPECTED["scene"])
    off = np.abs(ours.astype(int) - EXPECTED[f"scene_blur_{strength}"])
    assert off.max() <= 4 and off.mean() < 0.25


@pytest.mark.core
def test_a_frame_too_small_to_blur():
    with pytest.raises(ValueError, match="15x40 cannot be made 16 times smaller"):
        blur_filter.Blur("high")(np.zeros((15, 40, 3), np.uint8))


# ---- Streams.


@pytest.mark.core
def test_frames_come_one_by_one_as_they_were_written(tmp_path):
    frames, path = moving(7), tmp_path / "v.mp4"
    streams.write(path, iter(frames), (48, 64), video.Fraction(30000, 1001), 7, 0, "a comment")
    info = video.probe(path)
    np.testing.assert_array_equal(np.stack(list(streams.read(info))), frames)
    assert info.fps == video.Fraction(30000, 1001)
    assert streams.comment_of(str(path)) == "a comment"
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.core
@pytest.mark.parametrize("size, count", [((48, 64), 8), ((47, 64), 7)])
def test_a_video_that_does_not_come_out_right_is_not_there(tmp_path, size, count):
    frames = moving(7)[:, : size[0]]
    with pytest.raises(FileError, match=r"(7 frames were written, not 8|even rows and columns)$"):
        streams.write(tmp_path / "v.mp4", iter(frames), size, video.Fraction(10), count, 18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.core
def test_a_damaged_frame_is_named(tmp_path):
    path = tmp_path / "v.mp4"
    video_writer.write_video(path, moving(12), 10, crf=10)
    content, info = bytearray(path.read_bytes()), video.probe(path)
    start = content.find(b"mdat")
    content[start + 900 : start + 1500] = bytes(600)
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"v\.mp4: (frame \d+|cannot be read)"):
        list(streams.decode(info))


@pytest.mark.core
def test_words_for_times():
    words = [progress.duration(s) for s in (3.4, 89, 100, 3600, 2 * 3600 + 5 * 60)]
    assert words == ["3 s", "89 s", "2 min", "60 min", "2 h 05 min"]


# ---- Commands.


def test_edges_of_every_video_and_nothing_done_twice(root):
    first = run(PREPARE, "edges", f"--root={root}", "--workers=1").out
    assert "control_input_edge: 30 of 30 frames" in first
    assert "4 videos made, 0 were there already" in first
    made = outputs(root, "control_input_edge")
    assert len(made) == 4
    for path in made:
        source = root / "videos" / path.relative_to(root / "control_input_edge")
        rgb, info = decoded(source), video.probe(path)
        assert (info.frames, info.fps, info.size) == (len(rgb), 10, (48, 64))
        edges = np.stack([canny.Edges(100, 200)(frame) for frame in rgb])
        off = np.abs(decoded(path).astype(int) - edges)
        assert off.max() <= 64 and off.mean() < 1 and ((decoded(path) > 127) == (edges > 127)).all()
    before = [p.stat().st_mtime_ns for p in made]
    assert "0 videos made, 4 were there already" in run(PREPARE, "edges", f"--root={root}").out
    assert [p.stat().st_mtime_ns for p in made] == before


def test_what_was_stopped_or_has_changed_is_made_again(root):
    run(PREPARE, "edges", f"--root={root}", "--workers=1")
    gone, short, changed, kept = outputs(root, "control_input_edge")
    gone.unlink()
    gone.with_name(f".{gone.name}.1.partial").write_bytes(b"half")
    short.write_bytes(short.read_bytes()[:500])
    source = root / "videos" / changed.relative_to(root / "control_input_edge")
    video_writer.write_video(source, moving(9, seed=77), 10, crf=10)
    before = kept.stat().st_mtime_ns
    again = run(PREPARE, "edges", f"--root={root}", "--workers=1").out
    assert "3 videos made, 1 were there already" in again
    assert kept.stat().st_mtime_ns == before
    assert len(outputs(root, "control_input_edge")) == 4
    edges = np.stack([canny.Edges(100, 200)(frame) for frame in decoded(source)])
    np.testing.assert_array_equal(decoded(changed) > 127, edges > 127)


def test_other_settings_need_another_folder_or_overwrite(root):
    run(PREPARE, "edges", f"--root={root}", "--workers=1")
    said = error_of(PREPARE, "edges", f"--root={root}", "--strength=low")
    assert "holds 4 videos that would be written over" in said
    assert "made with other settings (cosmos_jax edges low=100 high=200" in said
    run(PREPARE, "edges", f"--root={root}", "--strength=low", "--overwrite", "--workers=1")
    path = outputs(root, "control_input_edge")[0]
    assert streams.comment_of(str(path)).startswith("cosmos_jax edges low=50 high=100, of ")
    video_writer.write_video(path, decoded(path), 10)
    said = error_of(PREPARE, "edges", f"--root={root}", "--low=50", "--high=100")
    assert "holds 1 videos" in said and "not made by this command" in said
    out = run(
        PREPARE, "edges", f"--root={root}", "--low=9", "--high=99.5", "--target=control_input_x"
    )
    assert "4 videos made" in out.out
    assert "low=9 high=99.5" in streams.comment_of(str(outputs(root, "control_input_x")[0]))


def test_blur_in_two_processes(root):
    out = run("-m", "cosmos_jax.prepare", "blur", f"--root={root}", "--workers=2", fresh=True).out
    assert "4 videos made" in out
    path = root / "control_input_vis" / "cam_high" / "ep_0.mp4"
    rgb = decoded(root / "videos" / "cam_high" / "ep_0.mp4")
    blurred = np.stack([blur_filter.Blur("medium")(frame) for frame in rgb])
    assert np.abs(decoded(path).astype(int) - blurred).mean() < 2
    assert streams.comment_of(str(path)).startswith("cosmos_jax blur strength=medium, of ")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_stopped_command(root, how):
    """Ctrl-C goes to all processes of the terminal, a kill to one."""
    for path in (root / "videos").rglob("*.mp4"):
        video_writer.write_video(path, moving(400), 10, crf=10)
    command = [sys.executable, "-m", "cosmos_jax.prepare", "blur", f"--root={root}", "--workers=2"]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list(root.rglob("*.partial"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.kill()
    assert process.wait(30) == -how
    begun = time.monotonic()
    while members(process.pid):
        assert time.monotonic() - begun < 30, members(process.pid)
        time.sleep(0.05)


def members(group):
    """The processes of a group that have not ended."""
    found = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True)
    rows = [line.split() for line in found.stdout.splitlines()]
    return [stat for pgid, stat in rows if int(pgid) == group and not stat.startswith("Z")]


def test_a_damaged_source_stops_no_other(root):
    bad = root / "videos" / "cam_high" / "ep_1.mp4"
    bad.write_bytes(bad.read_bytes()[:700])
    wrong = root / "videos" / "cam_left_wrist" / "ep_0.mp4"
    video_writer.write_video(wrong, np.zeros((3, 31, 41, 3), np.uint8), 10, crf=0)
    said = error_of(PREPARE, "edges", f"--root={root}", "--workers=1")
    assert "2 videos made, 0 were there already, 2 could not be made" in said
    assert f"check --root={root} --fix" in said
    assert [p.parent.name for p in outputs(root, "control_input_edge")] == [
        "cam_high",
        "cam_left_wrist",
    ]


def test_a_full_disk_leaves_no_half_file(root):
    said = error_of(PREPARE, "edges", f"--root={root}", "--workers=1", largest_file=1200)
    assert "File too large" in said
    assert outputs(root, "control_input_edge") == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--root is missing: Folder of the data set"),
        (["--root=/nowhere"], "--root=/nowhere is not a folder"),
        (["--root=ROOT/videos"], "no videos; expected"),
        (
            ["--root=ROOT", "--target=edges"],
            "--target=edges must be a name that begins with control_",
        ),
        (["--root=ROOT", "--low=5"], "--low and --high go together"),
        (
            ["--root=ROOT", "--low=5", "--high=6", "--strength=low"],
            "--strength stands for --low and",
        ),
        (["--root=ROOT", "--low=9", "--high=6"], "thresholds are due with"),
        (["--root=ROOT", "--strength=most"], "value should be one of <very_low|low|medium|high|"),
        (["--root=ROOT", "--workers=0"], "flag --workers"),
        (["--root=ROOT", "more"], "unexpected argument 'more'"),
    ],
)
def test_flags_that_are_wrong(root, arguments, message):
    given = [a.replace("ROOT", str(root)) for a in arguments]
    assert message in error_of(PREPARE, "edges", *given)
    assert not (root / "control_input_edge").exists()


@pytest.mark.parametrize("command", ["check", "prompts", "edges", "blur"])
def test_help_says_what_a_command_does(command):
    said = run(PREPARE, command, "--help").out
    assert f"\n    python -m cosmos_jax.prepare {command} --root=" in said
    assert "\n  --root: " in said
    assert ("\n  --workers: " in said) == (command in ("edges", "blur"))


@pytest.mark.parametrize("command", ["text", "latents"])
def test_help_of_a_command_with_a_recipe_lists_its_flags(command):
    said = run(PREPARE, command, "--help").out
    assert "\n  --config: " in said and "\n  --root: " in said


@pytest.mark.core
def test_the_plan_names_each_output(root):
    plan = render.plan(root, "control_input_edge", "a b", overwrite=False, workers=2)
    below = [str(job.output.relative_to(root)) for job in plan.jobs]
    assert below == [
        f"control_input_edge/{camera}/ep_{e}.mp4"
        for camera in ("cam_high", "cam_left_wrist")
        for e in (0, 1)
    ]
    assert (plan.finished, plan.broken) == (0, ())
