"""The data set doctor: what it says of good and spoilt data sets, and what --fix does to them."""

import dataclasses
import json
import shutil

import av
import numpy as np
import pytest
from commands import Command, demo, error_of, run

from cosmos_jax.data import layouts, pipeline, video, video_writer
from cosmos_jax.data.layouts import DataConfig
from cosmos_jax.data.video import FileError
from cosmos_jax.prepare import doctor, mend, motion, prompt_files, report

PREPARE = "cosmos_jax/prepare/__main__.py"
CAMERAS = ("cam_high", "cam_left_wrist")
SIZE = (32, 48)
CONTROL = "control_input_edge"


def scene(count, camera, seed):
    """A wandering square before a pattern of the camera; all cameras move at the same moments."""
    paces = np.random.default_rng(seed).choice([0, 0, 1, 3, 6], count).cumsum()
    rows = np.arange(SIZE[0])[:, None, None]
    frames = np.empty((count, *SIZE, 3), np.uint8)
    for frame, pace in zip(frames, paces, strict=True):
        frame[:] = 110 + 50 * np.sin((rows + 2 * pace) / (3 + camera))
        at = (7 * camera + pace) % (SIZE[1] - 10)
        frame[8:20, at : at + 10] = (230, 40, 90)
    return frames


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("pristine")
    for e, count in enumerate((40, 40, 44, 40)):
        for c, camera in enumerate(CAMERAS):
            frames = scene(count, c, e)
            video_writer.write_video(root / "videos" / camera / f"ep_{e}.mp4", frames, 10, crf=12)
            inverse = 255 - frames
            video_writer.write_video(root / CONTROL / camera / f"ep_{e}.mp4", inverse, 10, crf=12)
        folder = root / "captions" / CAMERAS[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"ep_{e}.json").write_text(json.dumps({"caption": f"Robot arm number {e}."}))
    return root


@pytest.fixture
def root(pristine, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(pristine, tmp_path / "data")


def config_of(root, **changes):
    settings = dict(num_frames=9, size=SIZE, batch_size=1, stride=1, validation_fraction=None)
    return DataConfig(str(root), **(settings | changes))


def examine(root, content=True, **changes):
    config = config_of(root, **changes)
    return doctor.examine(config, lambda: pipeline.open_dataset(config), content, 512)


def would_train(root, **changes):
    """The truth: every frame of every window is read as training reads it."""
    try:
        clips = pipeline.open_dataset(config_of(root, **changes)).train
        for window in range(len(clips)):
            clips.clip(window)
        return True
    except ValueError:
        return False


def said(found, level):
    return [(f.file, f.what) for f in found.findings if f.level == level]


def decoded(path):
    info = video.probe(path)
    return video.read_frames(info, range(info.frames))


def rewrite(path, change, fps=10):
    video_writer.write_video(path, change(decoded(path)), fps, crf=12)


# ---- A good data set.


def test_a_good_data_set(root):
    found = examine(root)
    assert found.count("error") == found.count("warning") == 0, found.findings
    text = report.as_text(found)
    row = "cam_left_wrist  1   video    4 of 4  0         32x48  10   40-44   h264 yuv420p"
    assert row in text
    assert (
        "train: 132 windows of 9 frames in 4 episodes (32-36 each); 0 of 164 frames in no" in text
    )
    assert "captions: 4, 4 different, 4 words, about 5 tokens" in text
    assert {t.verdict for *_, t in found.timings} == {"together"}
    assert len(found.timings) == 4 * 3
    assert would_train(root)


def test_json_says_all_and_nothing_is_written_into_the_data_set(root, tmp_path):
    before = sorted(root.rglob("*"))
    arguments = ["--num_frames=9", "--size=32,48", f"--json={tmp_path / 'r.json'}"]
    out = run(PREPARE, "check", f"--root={root}", *arguments).out
    assert out.rstrip().endswith("training would work: 0 errors, 0 warnings (above)")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["would_train"] is True and content["fixes"] == []
    assert content["cameras"] == [{"name": n, "view_id": i} for i, n in enumerate(CAMERAS)]
    assert len(content["files"]) == 16 and len(content["timings"]) == 12
    first = content["files"][0]
    assert first["path"] == "videos/cam_high/ep_0.mp4" and first["size"] == [32, 48]
    assert (first["frames"], first["fps"], first["seconds"]) == (40, 10.0, 4.0)
    assert content["captions"][1]["file"] == "captions/cam_high/ep_1.json"
    assert content["captions"][1]["text"] == "Robot arm number 1."
    assert sum(row["windows"] for row in content["windows"]) == 132
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(window_stride=7),
        dict(stride=3, window_stride=5),
        dict(starts="first"),
        dict(starts="random", stride=2),
        dict(num_frames=1, stride=4, window_stride=2),
    ],
)
def test_windows_and_unused_frames_are_those_of_the_pipeline(root, changes):
    config = config_of(root, **changes)
    data = pipeline.open_dataset(config)
    rows = {row.episode: row for row in report.windows_of(data)}
    used = {name: set() for name in rows}
    for window in range(len(data.train)):
        for index in range(60 if config.starts == "random" else 1):
            episode, start = data.train.locate(window, 0, index)
            used[episode.name] |= {start + k * config.stride for k in range(config.num_frames)}
    assert sum(row.windows for row in rows.values()) == len(data.train)
    for name, row in rows.items():
        assert row.unused == row.frames - len(used[name])


# ---- Spoilt ones.


def truncate(root):
    path = root / "videos" / "cam_high" / "ep_1.mp4"
    path.write_bytes(path.read_bytes()[:-60])


def scribble(root):
    path = root / CONTROL / "cam_left_wrist" / "ep_0.mp4"
    content = bytearray(path.read_bytes())
    start = content.find(b"mdat") + 2500
    content[start : start + 300] = bytes(300)
    path.write_bytes(content)


def shorten(root):
    rewrite(root / "videos" / "cam_left_wrist" / "ep_2.mp4", lambda f: f[:-2])


def cut_in_half(root):
    rewrite(root / "videos" / "cam_left_wrist" / "ep_2.mp4", lambda f: f[:20])


def other_rate(root):
    rewrite(root / CONTROL / "cam_high" / "ep_3.mp4", lambda f: f, fps=12)


def lose_video(root):
    (root / "videos" / "cam_left_wrist" / "ep_3.mp4").unlink()


def lose_control(root):
    (root / CONTROL / "cam_left_wrist" / "ep_3.mp4").unlink()


def lose_caption(root):
    (root / "captions" / "cam_high" / "ep_0.json").unlink()


def empty_caption(root):
    (root / "captions" / "cam_high" / "ep_0.json").write_text('{"caption": " "}')


@pytest.mark.parametrize(
    "spoil, file, what, mending",
    [
        (truncate, "videos/cam_high/ep_1.mp4", "truncated", "--fix"),
        (scribble, f"{CONTROL}/cam_left_wrist/ep_0.mp4", "damaged", "--fix"),
        (shorten, "videos/cam_left_wrist/ep_2.mp4", "42 frames, but", "--fix"),
        (cut_in_half, "videos/cam_left_wrist/ep_2.mp4", "20 frames, but", "--fix"),
        (other_rate, f"{CONTROL}/cam_high/ep_3.mp4", "12 fps, but", "--fix"),
        (lose_video, "videos/cam_left_wrist/ep_3.mp4", "missing view", "--fix"),
        (lose_control, f"{CONTROL}/cam_left_wrist/ep_3.mp4", "missing control", "edges --root="),
        (lose_caption, "captions/cam_high/ep_0.json", "missing caption", "prompts --root="),
        (empty_caption, "captions/cam_high/ep_0.json", "empty caption", "prompts --root="),
    ],
)
def test_what_would_fail_is_an_error_with_a_cure(root, spoil, file, what, mending):
    spoil(root)
    found = examine(root)
    hits = [f for f in found.findings if f.file == file and f.level == "error"]
    assert hits and any(what in f.what for f in hits), found.findings
    assert all(mending in f.mend for f in hits)
    assert not would_train(root)
    try:
        pipeline.open_dataset(config_of(root))
        assert spoil is scribble  # headers do not show it, frames do
    except layouts.BadDataError as error:
        names = {str(root / f.file) for f in found.findings if f.level == "error"}
        assert {file for file, _ in error.problems} <= names


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(num_frames=41), "too few frames"),
        (dict(stride=None, fps=4), "not a multiple of data.fps=4"),
        (dict(validation_fraction=0.9), "leave none to train on"),
        (dict(caption_camera="cam_left_wrist"), "missing caption"),
        (dict(resize="robotics", video_size=(32, 320)), "cannot be mirrored out"),
    ],
)
def test_settings_that_the_data_does_not_fit(root, changes, message):
    found = examine(root, content=False, **changes)
    assert any(message in what for _, what in said(found, "error")), found.findings
    assert not would_train(root, **changes)


def test_skip_bad_turns_errors_into_warnings(root):
    truncate(root)
    found = examine(root, skip_bad=True)
    assert found.count("error") == 0 and would_train(root, skip_bad=True)
    assert [file for file, _ in said(found, "warning")] == ["videos/cam_high/ep_1.mp4"]
    assert {row.episode for row in found.windows} == {"ep_0", "ep_2", "ep_3"}


@pytest.mark.parametrize("lag", [-3, 3])
def test_a_late_control_and_a_late_camera_are_suspected_with_their_numbers(root, lag):
    for path in (CONTROL, "videos"):
        camera = "cam_left_wrist" if path == "videos" else "cam_high"
        rewrite(root / path / camera / "ep_2.mp4", lambda f: np.roll(f, lag, axis=0))
    found = examine(root)
    word = "3 frames behind" if lag > 0 else "3 frames ahead of"
    assert found.count("error") == 0
    for file in (f"{CONTROL}/cam_high/ep_2.mp4", "videos/cam_left_wrist/ep_2.mp4"):
        what = [w for f, w in said(found, "warning") if f == file]
        assert what and f"seems to run {word} videos/cam_high/ep_2.mp4" in what[0], found.findings
        assert "correlation 0." in what[0]
    lags = {second: t.lag for e, _, second, t in found.timings if e == "ep_2"}
    assert lags["videos/cam_left_wrist/ep_2.mp4"] == lag


def test_still_and_short_videos_tell_nothing(root):
    for camera in CAMERAS:
        rewrite(root / CONTROL / camera / "ep_0.mp4", lambda f: np.zeros_like(f))
    rewrite(root / "videos" / "cam_high" / "ep_1.mp4", lambda f: np.repeat(f[:1], 40, 0))
    found = examine(root)
    verdicts = {second: t.verdict for _, _, second, t in found.timings}
    assert verdicts[f"{CONTROL}/cam_high/ep_0.mp4"] == "cannot tell"
    assert verdicts["videos/cam_left_wrist/ep_1.mp4"] == "cannot tell"
    assert said(found, "warning") == [
        ("videos/cam_high/ep_1.mp4", "39 of 39 frames repeat the one before")
    ]


@pytest.mark.core
def test_lags_are_found_and_few_frames_are_not_enough():
    changes = np.random.default_rng(0).gamma(1, 9, (60, 64)).astype(np.float32)
    late = np.roll(changes, 5, axis=0)
    for kind in ("camera", "control"):
        timing = motion.compare(changes, late, kind)
        assert (timing.lag, timing.verdict) == (5, "suspicion") and timing.best > 0.9
        assert motion.compare(late, changes, kind).lag == -5
        assert motion.compare(changes, changes[:40], kind).verdict == "together"
        assert motion.compare(changes[:11], late, kind).verdict == "cannot tell"
    other = np.random.default_rng(1).gamma(1, 9, (60, 64)).astype(np.float32)
    assert motion.compare(changes, other, "control").verdict == "cannot tell"


@pytest.mark.core
def test_what_moves_is_measured_once_for_each_state_of_a_file(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    video_writer.write_video(path, scene(6, 0, 0), 10)
    first = motion.measure_once(video.probe(path), tmp_path / "cache")
    assert first.shape == (5, 64) and first.max() > 1
    video_writer.write_video(path, scene(9, 0, 0), 10)
    assert motion.measure_once(video.probe(path), tmp_path / "cache").shape == (8, 64)
    monkeypatch.setattr(motion, "measure", None)
    np.testing.assert_allclose(
        motion.measure_once(video.probe(path), tmp_path / "cache")[:5], first, 0.2, 0.2
    )


def test_notes_and_warnings_about_what_is_not_an_error(root):
    (root / "videos" / "cam_high" / "ep_9.MOV").write_bytes(b"")
    shutil.copy(root / CONTROL / "cam_high" / "ep_0.mp4", root / CONTROL / "cam_high" / "alone.mp4")
    (root / "captions" / "cam_high" / "ep_0.json").write_text(
        json.dumps({"caption": "word " * 900})
    )
    (root / "captions" / "cam_high" / "ep_1.json").write_text(
        json.dumps({"caption": "Robot arm number 2."})
    )
    found = examine(root, content=False, size=(32, 80))
    warnings, notes = said(found, "warning"), said(found, "note")
    assert ("videos/cam_high/ep_9.MOV", "is not read: only files named NAME.mp4 are") in warnings
    assert any("tokens, and the text encoder keeps 512" in what for _, what in warnings)
    assert any("data.resize=cover crops 40% of the picture" in what for _, what in warnings)
    assert (f"{CONTROL}/cam_high/alone.mp4", "belongs to no video") in notes
    assert ("", "2 captions are shared by several clips") in notes
    found = examine(root, content=False, cameras="cam_high")
    assert ("", "the recipe does not use the cameras ['cam_left_wrist']") in said(found, "note")


# ---- --fix.


def originals(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def uneven(root):
    path = root / "videos" / "cam_high" / "ep_0.mp4"
    frames = decoded(path)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = 10 * number + (25 if number > 20 else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def foreign(root):
    path = root / "videos" / "cam_left_wrist" / "ep_1.mp4"
    frames = decoded(path)
    path.unlink()
    with av.open(str(path.with_suffix(".mkv")), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    "spoil, episodes, cut",
    [
        (truncate, 4, {"ep_1"}),
        (scribble, 3, set()),
        (shorten, 4, {"ep_2"}),
        (cut_in_half, 3, set()),
        (other_rate, 4, set()),
        (lose_video, 3, set()),
        (uneven, 4, set()),
        (foreign, 4, set()),
    ],
)
def test_fix_mends_or_moves_aside_and_keeps_every_original(root, spoil, episodes, cut):
    clean = {p: decoded(p) for p in root.rglob("*.mp4")}
    spoil(root)
    before = originals(root)
    assert list(mend.mend(examine(root)))
    found = examine(root)
    assert found.count("error") == found.count("warning") == 0, found.findings
    assert would_train(root)
    data = pipeline.open_dataset(config_of(root)).train
    assert len(data.episodes) == episodes
    after = originals(root)
    for path, content in before.items():
        kept = [p for p in (path, mend.SET_ASIDE / path) if after.get(p) == content]
        assert kept, f"{path} is lost"
    for episode in data.episodes:
        for info in (*episode.videos, *episode.controls):
            path = root / info.path
            expected = clean[path][: info.frames]
            assert info.frames >= len(clean[path]) - 5 and info.fps == 10
            assert info.frames == len(clean[path]) or episode.name in cut
            assert np.abs(decoded(path).astype(int) - expected).mean() < 3
    assert not list(mend.mend(examine(root)))
    assert originals(root) == after


def test_the_command_says_what_it_mended(root, tmp_path):
    shorten(root)
    arguments = [
        f"--root={root}",
        "--num_frames=9",
        "--size=32,48",
        f"--json={tmp_path / 'r.json'}",
    ]
    assert error_of(PREPARE, "check", *arguments).startswith("training would fail: 1 errors")
    assert json.loads((tmp_path / "r.json").read_text())["would_train"] is False
    out = run(PREPARE, "check", *arguments, "--fix").out
    fixes = json.loads((tmp_path / "r.json").read_text())["fixes"]
    assert fixes == [
        f"{kind}/{camera}/ep_2.mp4: encoded again, 42 frames at 10 fps"
        for kind in ("videos", CONTROL)
        for camera in CAMERAS
        if (kind, camera) != ("videos", "cam_left_wrist")
    ]
    assert all(f"fixed: {line}\n" in out for line in fixes)
    assert out.endswith("training would work: 0 errors, 0 warnings (above)\n")


def test_fix_of_a_file_twice_keeps_both_originals(root):
    path = root / "videos" / "cam_high" / "ep_0.mp4"
    for _ in range(2):
        uneven(root)
        assert list(mend.mend(examine(root, content=False)))
    folder = root / mend.SET_ASIDE / "videos" / "cam_high"
    assert sorted(p.name for p in folder.iterdir()) == ["ep_0.2.mp4", "ep_0.mp4"]
    assert isinstance(video.probe(path).pts, range)


def test_fix_that_would_take_most_of_the_data_set_is_refused(root):
    before = originals(root)
    said = error_of(PREPARE, "check", f"--root={root}", "--num_frames=41", "--size=32,48", "--fix")
    assert "--fix would move 3 of 4 episodes aside, such as ep_0 (40 frames are too few" in said
    assert originals(root) == before


def test_a_full_disk_loses_nothing(root):
    shorten(root)
    before = originals(root)
    arguments = [f"--root={root}", "--num_frames=9", "--size=32,48", "--fix"]
    process = Command(PREPARE, "check", *arguments, largest_file=3000)
    assert process.wait() == 2, process.err
    assert "error: [Errno 27] File too large: " in process.err
    assert originals(root) == before


# ---- With a recipe.


def test_a_recipe_judges_as_its_run_would(root):
    tiny = demo(data__size="(32,48)", data__num_frames=5, data__fps=5, validation__clips=4)
    out = run(PREPARE, "check", f"--root={root}", *tiny).out
    assert "train: 0" not in out and "validation: " in out and "training would work" in out
    for changes, message in [
        (["--num_frames=6"], "config.data.num_frames=6 must be 1 + 4 k"),
        (["--control=none"], "the network has a control branch and needs a control folder"),
        (["--config.validation.clips=400"], "400 clips are wanted for validation"),
    ]:
        process = Command(PREPARE, "check", f"--root={root}", "--nocontent", *tiny, *changes)
        assert process.wait() == 2
        assert "error: training would fail: 1 errors" in process.err
        assert message in process.out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--root is missing: Folder of the data set"),
        (["--root=/nowhere"], "--root=/nowhere is not a folder"),
        (["--root=ROOT/captions"], "no videos; expected"),
        (["--root=ROOT", "--size=48"], "--size=48 must be ROWS,COLUMNS"),
        (["--root=ROOT", "--fps=5", "--stride=2"], "--fps and --stride exclude each other"),
        (["--root=ROOT", "--cameras=cam_hihg"], "no .mp4 files for cameras ['cam_hihg']"),
        (["--root=ROOT", "--control=control_input_x"], "no such control folder"),
        (["--root=ROOT", "--config=nothing.py"], "nothing.py"),
        (["--root=ROOT", "--nocontent", "--json=/nowhere/r.json"], "/nowhere/r.json"),
    ],
)
def test_flags_that_are_wrong(root, arguments, message):
    given = [argument.replace("ROOT", str(root)) for argument in arguments]
    assert message in error_of(PREPARE, "check", *given)


def test_a_recipe_with_control_and_none_there(root):
    shutil.rmtree(root / CONTROL)
    said = error_of(PREPARE, "check", f"--root={root}", *demo())
    assert f"make one with: python -m cosmos_jax.prepare edges --root={root}" in said


# ---- Prompts.


def captions_of(root, name="ep_0", cameras=CAMERAS):
    layout = layouts.Layout(root, tuple((c, i) for i, c in enumerate(cameras)), None)
    found = {}
    for camera in cameras:
        try:
            found[camera] = layouts.read_caption(layout, camera, name, None)
        except FileError:
            found[camera] = None
    return found


def test_a_prompt_for_every_clip_keeps_what_is_there(root):
    lose_caption(root)
    out = run(PREPARE, "prompts", f"--root={root}", "--prompt=A räven, softly.").out
    assert f"{root}: 1 captions of cam_high written as captions, 3 kept" in out
    assert captions_of(root) == {"cam_high": "A räven, softly.", "cam_left_wrist": None}
    assert captions_of(root, "ep_1")["cam_high"] == "Robot arm number 1."
    assert examine(root, content=False).count("error") == 0
    out = run(PREPARE, "prompts", f"--root={root}", "--prompt=New.", "--overwrite").out
    assert "4 captions of cam_high written as captions, 0 kept" in out
    assert captions_of(root, "ep_1")["cam_high"] == "New."


def test_prompts_per_view(root):
    shutil.rmtree(root / "captions")
    arguments = [f"--root={root}", "--prompt=Same.", "--layout=metas_per_view"]
    assert "8 captions of cam_high, cam_left_wrist" in run(PREPARE, "prompts", *arguments).out
    assert captions_of(root) == dict.fromkeys(CAMERAS, "Same.")
    assert (root / "metas" / "cam_left_wrist" / "ep_3.txt").read_text() == "Same.\n"
    assert not [p for p in root.rglob("*") if "partial" in p.name]
    assert "0 captions" in run(PREPARE, "prompts", *arguments).out


@pytest.mark.parametrize(
    "layout, file", [("metas", "metas/a.txt"), ("captions", "captions/a.json")]
)
def test_prompts_of_one_view(root, tmp_path, layout, file):
    single = tmp_path / "single"
    (single / "videos").mkdir(parents=True)
    shutil.copy(root / "videos" / "cam_high" / "ep_0.mp4", single / "videos" / "a.mp4")
    assert prompt_files.default_layout(single) == "metas"
    cameras = prompt_files.speakers(single, layout, None)
    assert prompt_files.write_prompt(single, " Fox. ", layout, cameras, False) == (1, 0)
    assert (single / file).is_file()
    assert captions_of(single, "a", ("",)) == {"": "Fox."}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--root=ROOT"], "--prompt is missing"),
        (["--root=ROOT", "--prompt= "], "--prompt is empty"),
        (["--root=ROOT", "--prompt=x", "--layout=metas"], "use metas_per_view or captions"),
        (["--root=ROOT", "--prompt=x", "--cameras=cam_up"], "no .mp4 files for cameras ['cam_up']"),
        (["--root=/nowhere", "--prompt=x"], "--root=/nowhere is not a folder"),
        (
            ["--root=ROOT", "--prompt=x", "--layout=metas_per_view", "--overwrite"],
            "captions/cam_high/ep_0.json is read before",
        ),
    ],
)
def test_prompts_that_cannot_be_written(root, arguments, message):
    before = originals(root)
    given = [argument.replace("ROOT", str(root)) for argument in arguments]
    assert message in error_of(PREPARE, "prompts", *given)
    assert originals(root) == before


def test_an_empty_caption_is_not_taken_for_one(root):
    empty_caption(root)
    said = error_of(PREPARE, "prompts", f"--root={root}", "--prompt=x")
    assert "ep_0.json: empty caption; --overwrite replaces it" in said


@pytest.mark.core
def test_findings_of_one_kind_are_counted_beyond_a_screen(root):
    found = examine(root, content=False)
    many = tuple(report.Finding("warning", f"file {i}", "is odd") for i in range(100))
    text = report.as_text(dataclasses.replace(found, findings=many))
    assert "... and 60 more of this kind" in text and "file 39" in text and "file 40" not in text


@pytest.mark.core
@pytest.mark.parametrize("count", [16, 40, 120])
def test_cameras_that_share_nothing_are_seldom_suspected(count):
    rng = np.random.default_rng(count)
    curves = rng.random((200, 2, count, 64)).astype(np.float32)
    verdicts = [motion.compare(a, b, "camera").verdict for a, b in curves]
    assert verdicts.count("suspicion") <= 2
