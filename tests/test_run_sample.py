"""`run_sample.py` as its users run it, and the sampler behind it on one and on many devices."""

import json
import shutil

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosmos_jax.data import video, video_writer
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.sampling import checkpoints, outputs

CAMERAS = ("camera_000", "camera_180")
CONTROL = "control_input_hdmap_bbox"


def command(output, *arguments, folder=None):
    """Arguments of run_sample.py for the tiny demo."""
    workdir = commands.trained()
    folder = folder or workdir / "synthetic"
    return [f"--checkpoint={workdir}", f"--input={folder}", f"--output={output}", *arguments]


def frames(path):
    return video.read_frames(video.probe(path), range(5)).astype(int)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """The output of a run with guidance, of two clips."""
    output = tmp_path_factory.mktemp("sampled") / "videos"
    arguments = command(output, "--guidance=1.5", "--max_samples=2", "--seed=7")
    done = commands.run("run_sample.py", *arguments, fresh=True)
    assert f"2/2 {output}/episode_0001.json" in done.out and "4 of 4 steps" in done.out
    return output


@pytest.fixture
def folder(tmp_path):
    """A folder of clips that a test may spoil."""
    return shutil.copytree(commands.trained() / "synthetic", tmp_path / "clips")


# ---- The command.


@pytest.mark.core
def test_every_clip_becomes_a_video_a_view_and_pictures_of_all(sampled):
    sizes = {}
    for path in sampled.rglob("*.mp4"):
        info = video.probe(path)
        assert (info.frames, float(info.fps)) == (5, 10)
        sizes[str(path.relative_to(sampled))] = info.size
    views = [f"/{kind}{c}.mp4" for kind in ("", "control/", "input/") for c in CAMERAS]
    assert sizes == {
        f"episode_000{i}{name}": size
        for i in range(2)
        for name, size in [
            *((view, (32, 48)) for view in views),
            *((f"_{kind}.mp4", (32, 96)) for kind in ("grid", "control", "input")),
            ("_comparison.mp4", (96, 96)),
        ]
    }
    assert video.probe(sampled / "episode_0000.png").size == (32, 96)
    grid = frames(sampled / "episode_0000_grid.mp4")
    for i, camera in enumerate(CAMERAS):
        view = frames(sampled / "episode_0000" / f"{camera}.mp4")
        assert np.abs(grid[:, :, 48 * i : 48 * (i + 1)] - view).mean() < 6  # both are compressed
        for kind, folder in (("control", CONTROL), ("input", "videos")):
            true = frames(commands.trained() / "synthetic" / folder / camera / "episode_0000.mp4")
            kept = frames(sampled / "episode_0000" / kind / f"{camera}.mp4")
            assert np.abs(kept - true).mean() < 6
    assert (sampled / "gallery.html").is_file()


def test_how_a_sample_was_made_is_kept_beside_it(sampled):
    told = json.loads((sampled / "episode_0001.json").read_text("utf-8"))
    workdir = commands.trained()
    caption = workdir / "synthetic" / "captions" / "camera_000" / "episode_0001.json"
    words = json.loads(caption.read_text("utf-8"))["caption"]
    assert told["prompt"] == dict(zip(CAMERAS, [words, ""]))
    assert (told["name"], told["cameras"]) == ("episode_0001", list(CAMERAS))
    assert (told["fps"], told["frames"], told["size"]) == (10.0, 5, [32, 48])
    assert told["seed"] == told["settings"]["seed"] == 8  # the second clip's
    assert (told["settings"]["num_steps"], told["settings"]["guidance"]) == (2, 1.5)
    assert told["evaluations"] == 2 and told["compat"] == "none"
    assert told["weights"]["source"] == str(workdir / "checkpoints" / "4")
    assert told["weights"]["which"] == "ema" and len(told["weights"]["checksum"]) == 16
    assert told["versions"]["jax"] == jax.__version__
    for place in ("views", "control", "input"):
        assert all((sampled / path).is_file() for path in told["files"][place].values())
    for place in ("grid", "control_grid", "input_grid", "comparison", "image"):
        assert (sampled / told["files"][place]).is_file()


def test_the_same_command_goes_on_and_another_is_refused(sampled):
    arguments = command(sampled, "--guidance=1.5", "--max_samples=2", "--seed=7")
    before = {path: path.stat().st_mtime_ns for path in sampled.rglob("*.mp4")}
    done = commands.run("run_sample.py", *arguments)
    assert done.out.count("is there already") == 2
    assert "weights " not in done.out and "text " not in done.out  # neither is read
    assert {path: path.stat().st_mtime_ns for path in sampled.rglob("*.mp4")} == before
    error = commands.error_of("run_sample.py", *arguments, "--num_steps=3")
    assert "holds the samples of another run (other samples)" in error
    error = commands.error_of("run_sample.py", *arguments, "--guardrail=builtins:dict")
    assert "holds the samples of another run (other guardrail)" in error


def test_a_sample_of_which_a_file_is_gone_is_made_again(sampled, tmp_path):
    output = shutil.copytree(sampled, tmp_path / "videos")
    (output / "episode_0001" / "camera_180.mp4").unlink()
    arguments = command(output, "--guidance=1.5", "--max_samples=2", "--seed=7")
    done = commands.run("run_sample.py", *arguments, "--batch=2")
    assert "episode_0000.json is there already" in done.out and "2 of 2 steps" in done.out
    theirs, ours = (frames(f / "episode_0001" / "camera_180.mp4") for f in (sampled, output))
    np.testing.assert_array_equal(ours, theirs)


def test_samples_of_a_batch_are_counted_once(tmp_path):
    done = commands.run("run_sample.py", *command(tmp_path / "videos", "--batch=3"))
    assert "2 of 2 steps" in done.out and "3/3 " in done.out


def test_eight_devices_sample_the_same_videos(sampled, tmp_path):
    arguments = command(tmp_path / "videos", "--guidance=1.5", "--max_samples=1", "--seed=7")
    mesh = "--mesh=data=2,fsdp=2,context=2"
    commands.run("run_sample.py", *arguments, mesh, devices=8)
    for camera in CAMERAS:
        one, many = (
            frames(folder / "episode_0000" / f"{camera}.mp4")
            for folder in (sampled, tmp_path / "videos")
        )
        assert np.abs(one - many).max() <= 2


def test_given_frames_weights_prompt_and_one_checkpoint_can_be_chosen(sampled, tmp_path, folder):
    shutil.rmtree(folder / CONTROL / "camera_180")
    arguments = command(tmp_path / "videos", folder=folder)[1:]
    arguments = [
        f"--checkpoint={commands.trained() / 'checkpoints' / '2'}",
        *arguments,
        "--weights=regular",
        "--prompt=A quiet street",
        "--negative_prompt=Noise",
        "--num_conditional_frames=5",
        "--max_samples=1",
        "--num_steps=3",
        "--control_weight=0.5",
        "--guidance=1",
    ]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "note.txt").write_text("kept")
    assert "is not empty" in commands.error_of("run_sample.py", *arguments)
    commands.run("run_sample.py", *arguments, "--overwrite")
    told = json.loads((tmp_path / "videos" / "episode_0000.json").read_text("utf-8"))
    weights, settings = told["weights"], told["settings"]
    assert weights["source"].endswith("checkpoints/2") and weights["which"] == "regular"
    assert told["prompt"] == {"camera_000": "A quiet street"}
    wanted = (settings["num_steps"], settings["control_weight"], settings["guidance"])
    assert wanted == (3, 0.5, 1) and told["negative_prompt"] == "Noise"
    # All frames are given: what comes out is what the codec keeps of them.
    true = frames(folder / "videos" / "camera_000" / "episode_0000.mp4")
    kept = DCTCodec().encode({}, jnp.asarray(true[None, None] / 127.5 - 1))
    kept = np.clip((np.asarray(DCTCodec().decode({}, kept))[0, 0] + 1) * 127.5, 0, 255)
    made = frames(tmp_path / "videos" / "episode_0000" / "camera_000.mp4")
    assert np.abs(made - kept).mean() < 3
    unlike = frames(sampled / "episode_0000" / "camera_000.mp4")
    assert np.abs(unlike - kept).mean() > 30


LONG = ("--num_chunks=all", "--max_samples=1", "--num_conditional_frames=1", "--num_seeds=2")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Two seeds of a video of two chunks, of which the control fills three frames of the last."""
    output = tmp_path_factory.mktemp("long") / "videos"
    commands.run("run_sample.py", *command(output, *LONG, "--batch=2"))
    return output


def test_a_long_video_ends_where_its_control_does(long):
    for seed in (0, 1):
        told = json.loads((long / f"episode_0000_seed{seed}.json").read_text("utf-8"))
        assert (told["frames"], told["boundaries"], told["seed"]) == (8, [5], seed)
        chunks = told["chunks"]["camera_180"]
        assert [(part["begin"], part["end"]) for part in chunks["parts"]] == [(0, 5), (5, 8)]
        (seam,) = chunks["seams"]
        # Like the other borders of latent frames, as far as an untrained network has any likeness.
        assert seam["frame"] == 5 and 0.3 < seam["ratio"] < 2
        for path in told["files"]["views"].values():
            assert video.probe(long / path).frames == 8
    assert not list(long.glob(".*.chunks"))


@pytest.mark.parametrize("handover", ["latents", "pixels"])
def test_a_chunk_begins_with_the_frame_that_it_was_handed(long, tmp_path, handover):
    """Blending the frame that both chunks have changes it by no more than coding it again does."""
    output = tmp_path / "videos"
    flags = (*LONG[:-1], "--cross_fade", f"--handover={handover}")
    commands.run("run_sample.py", *command(output, *flags))
    for camera in CAMERAS:
        kept, blended = (
            video.read_frames(video.probe(path / f"{camera}.mp4"), range(8)).astype(int)
            for path in (long / "episode_0000_seed0", output / "episode_0000")
        )
        assert np.abs(kept[4] - blended[4]).mean() < 3
        assert np.abs(kept[3] - kept[5]).mean() > 10


def test_a_long_video_that_was_interrupted_goes_on_with_its_finished_chunks(long, tmp_path):
    """Killed between two chunks, and begun again without batches: the same videos."""
    output, stop = tmp_path / "videos", tmp_path / "stop.py"
    stop.write_text(
        "import os, pathlib\n"
        "from cosmos_jax.sampling import kept_chunks\n"
        "write = kept_chunks.KeptChunks.write\n"
        "killed = pathlib.Path(__file__).with_name('killed')\n"
        "def kill(self, chunk, latents):\n"
        "    write(self, chunk, latents)\n"
        "    if not killed.exists():\n"
        "        killed.touch()\n"
        "        os._exit(9)\n"
        "kept_chunks.KeptChunks.write = kill\n"
        "def allow(prompt=None, frames=None):\n"
        "    pass\n"
    )
    arguments = command(output, *LONG, "--guardrail=stop:allow")
    died = commands.Command("run_sample.py", *arguments, paths=[tmp_path])
    assert died.wait() == 9
    assert len(list(output.glob(".*.chunks/*.npy"))) == 1
    commands.run("run_sample.py", *arguments, paths=[tmp_path])
    first = json.loads((output / "episode_0000_seed0.json").read_text("utf-8"))
    assert first["evaluations"] == 2  # of the second chunk alone: 2 steps
    for path in long.rglob("*seed*/camera_*.mp4"):
        info = video.probe(output / path.relative_to(long))
        ours = video.read_frames(info, range(8)).astype(int)
        theirs = video.read_frames(video.probe(path), range(8)).astype(int)
        assert np.abs(ours - theirs).max() <= 2


def test_a_specification_is_sampled_like_a_folder(sampled, tmp_path):
    root = commands.trained() / "synthetic"
    car = {
        f"camera_{angle:03d}": f"ftheta_camera_{name}"
        for angle, name in ((0, "front_wide_120fov"), (180, "cross_right_120fov"))
    }
    run = shutil.copytree(commands.trained(), tmp_path / "run")
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["cameras"] = [[car[name], view] for name, view in config["cameras"]]
    config["caption_cameras"] = [car["camera_000"]]
    (run / "config.json").write_text(json.dumps(config))
    words = json.loads((root / "captions/camera_000/episode_0000.json").read_text("utf-8"))
    control = "control_input_hdmap_bbox/{}/episode_0000.mp4"
    spec = {
        "name": "episode_0000",
        "prompt": words["caption"],
        "negative_prompt": "",
        "seed": 7,
        "guidance": 1.5,
        "num_conditional_frames": 0,
        "num_steps": 2,
        "front_wide": {"control_path": control.format("camera_000")},
        "cross_right": {"control_path": control.format("camera_180")},
    }
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    for kind in ("control_input_hdmap_bbox",):
        (tmp_path / kind).symlink_to(root / kind)
    arguments = [f"--checkpoint={run}", f"--input={path}", f"--output={tmp_path / 'videos'}"]
    assert "fps=10 must be" not in commands.run("run_sample.py", *arguments).out
    for name, camera in zip(("front_wide", "cross_right"), CAMERAS):
        ours = frames(tmp_path / "videos" / "episode_0000" / f"{name}.mp4")
        theirs = frames(sampled / "episode_0000" / f"{camera}.mp4")
        assert ours.shape == theirs.shape
    path.write_text(json.dumps(spec | {"guidence": 3}))
    error = commands.error_of("run_sample.py", *arguments[:2], f"--output={tmp_path / 'other'}")
    assert "unknown field guidence; did you mean guidance?" in error


def test_several_checkpoints_make_the_same_samples_and_are_compared(tmp_path):
    output = tmp_path / "videos"
    arguments = command(output, "--checkpoints=all", "--max_samples=1")
    done = commands.run("run_sample.py", *arguments)
    assert "mean place over the metrics" in done.out
    told = {
        step: json.loads((output / f"step_{step:06d}" / "episode_0000.json").read_text("utf-8"))
        for step in (2, 4)
    }
    assert told[2]["weights"]["checksum"] != told[4]["weights"]["checksum"]
    assert told[2]["request"] == told[4]["request"]
    assert set(json.loads((output / "metrics.json").read_text())["checkpoints"]) == {
        "step_000002",
        "step_000004",
    }
    error = commands.error_of("run_sample.py", *command(tmp_path / "x", "--checkpoints=2,3"))
    assert "has no step '3'; it has [2, 4]" in error
    one = f"--checkpoint={commands.trained() / 'checkpoints' / '2'}"
    error = commands.error_of("run_sample.py", one, *command(tmp_path / "x", "--checkpoints=4")[1:])
    assert "--checkpoints=4: give the run, " in error
    # What is finished and measured is neither sampled nor measured again; a lost video is both.
    again = commands.run("run_sample.py", *arguments)
    assert again.out.count("is there already") == 2 and "mean place" not in again.out
    (output / "step_000004" / "episode_0000.png").unlink()
    again = commands.run("run_sample.py", *arguments)
    assert again.out.count("weights ") == 1 and "mean place" in again.out
    # Another run takes its place, in the folder itself.
    commands.run("run_sample.py", *command(output, "--max_samples=1", "--overwrite"))
    kept = {path.name for path in output.iterdir()}
    assert not kept & {"step_000002", "step_000004", "metrics.json"}
    assert "step_000004" not in (output / "gallery.html").read_text("utf-8")


def test_exported_weights_make_the_same_videos(sampled, tmp_path):
    weights = tmp_path / "model.safetensors"
    commands.run("converters/convert.py", f"--source={commands.trained()}", f"--target={weights}")
    arguments = command(tmp_path / "videos", "--guidance=1.5", "--max_samples=1", "--seed=7")[1:]
    experiment = [*commands.demo(), "--config.data.cameras=camera_000,camera_180"]
    commands.run("run_sample.py", f"--checkpoint={weights}", *arguments, *experiment)
    for camera in CAMERAS:
        ours = frames(tmp_path / "videos" / "episode_0000" / f"{camera}.mp4")
        theirs = frames(sampled / "episode_0000" / f"{camera}.mp4")
        assert np.abs(ours - theirs).max() <= 2
    again = commands.run("run_sample.py", f"--checkpoint={weights}", *arguments, *experiment)
    assert "is there already" in again.out and "weights " not in again.out
    given = [f"--checkpoint={weights}", *command(tmp_path / "other")[1:]]
    error = commands.error_of("run_sample.py", *given, *experiment, f"--checkpoints={weights}x")
    assert f"{weights}x: no such weights" in error
    error = commands.error_of("run_sample.py", *given)
    assert "say with --config=experiments/NAME.py what the weights are of" in error


def test_a_guardrail_sees_prompts_and_frames(tmp_path):
    (tmp_path / "guard.py").write_text(
        "import numpy as np\n"
        "def blacken(prompt=None, frames=None):\n"
        "    return None if frames is None else np.zeros_like(frames)\n"
        "def refuse(prompt=None, frames=None):\n"
        "    if prompt is not None:\n"
        "        raise ValueError('too bold')\n"
        "seen = []\n"
        "def first(prompt=None, frames=None):\n"
        "    seen.append(prompt)\n"
        "    if seen.count(None) == 1:\n"
        "        raise ValueError('too bright')\n"
    )
    output, more = tmp_path / "videos", dict(paths=[tmp_path])
    arguments = command(output, "--max_samples=1")
    error = commands.error_of("run_sample.py", *arguments, "--guardrail=guard:refuse", **more)
    assert "sample 'episode_0000': refused: too bold" in error and not output.exists()
    commands.run("run_sample.py", *arguments, "--guardrail=guard:blacken", **more)
    assert frames(output / "episode_0000" / "camera_000.mp4").max() <= 2
    assert frames(output / "episode_0000" / "control" / "camera_000.mp4").max() > 100
    # Refused frames are not written, and the other samples are.
    output = tmp_path / "others"
    arguments = command(output, "--max_samples=2", "--guardrail=guard:first")
    told = commands.Command("run_sample.py", *arguments, **more)
    assert told.wait() == 2
    assert "episode_0000.json: refused: too bright" in told.err
    assert f"not written: {output}/episode_0000.json" in told.err
    assert [path.name for path in output.glob("episode_*.json")] == ["episode_0001.json"]
    assert not (output / "episode_0000").exists()


def test_the_reference_names_files_as_the_robotics_sampler(tmp_path, folder):
    arguments = command(tmp_path / "videos", "--compat=reference", folder=folder)
    error = commands.error_of("run_sample.py", *arguments)
    assert "no published prefix for camera 'camera_000'" in error
    robot = {"camera_000": "cam_high", "camera_180": "cam_left_wrist"}
    for kind in (CONTROL, "videos", "captions"):
        for path in (folder / kind).iterdir():
            path.rename(path.with_name(robot[path.name]))
    weights = tmp_path / "model.safetensors"
    commands.run("converters/convert.py", f"--source={commands.trained()}", f"--target={weights}")
    names = f"--config.data.cameras={','.join(robot.values())}"
    arguments += ["--max_samples=1", "--num_conditional_frames=2", *commands.demo(), names]
    commands.run("run_sample.py", f"--checkpoint={weights}", *arguments[1:])
    output, name = tmp_path / "videos", "episode_0000"
    sizes = {f"{name}_{kind}.mp4": (32, 96) for kind in ("generated", "control")}
    sizes |= {f"{name}_views/{camera}.mp4": (32, 48) for camera in robot.values()}
    told = json.loads((output / f"{name}.json").read_text("utf-8"))
    assert sorted(told["files"]["reference"]) == sorted(sizes)
    for file, size in sizes.items():
        info = video.probe(output / file)
        assert (info.size, info.frames, float(info.fps)) == (size, 5, 10)
    assert [view["given"] for view in told["request"]["views"]] == [5, 5]  # two latent frames
    shown = frames(output / f"{name}_views" / "cam_high.mp4")
    grid = frames(output / f"{name}_generated.mp4")
    assert np.abs(grid[:, :, :48] - shown).mean() < 6


def test_overwriting_removes_what_the_earlier_run_says_it_wrote_and_nothing_else(
    sampled, tmp_path, folder
):
    output = shutil.copytree(sampled, tmp_path / "videos")
    mine = [output / "notes.txt", output / "notes.json", output / "episode_0001" / "mine.mp4"]
    mine.append(output / "episode_0000" / "mine.mp4")
    shutil.copytree(sampled, output / "apart")  # the output of another run
    mine += (output / "apart").rglob("*.*")
    for path in mine[:4]:
        path.write_text("{}")
    shutil.rmtree(folder / "videos")
    arguments = command(output, "--max_samples=1", "--overwrite", "--control_weight=0.5")
    commands.run("run_sample.py", *arguments[:1], f"--input={folder}", *arguments[2:])
    assert all(path.is_file() for path in mine)
    left = {str(path.relative_to(output)) for path in output.rglob("*.*")}
    left = {path for path in left if not path.startswith("apart")}
    assert left == {
        *("notes.txt", "notes.json", "run.json", "gallery.html"),
        *("episode_0001/mine.mp4", "episode_0000/mine.mp4"),
        *(f"episode_0000.{kind}" for kind in ("json", "png")),
        *(f"episode_0000_{kind}.mp4" for kind in ("grid", "control")),
        *(f"episode_0000/{kind}{c}.mp4" for kind in ("", "control/") for c in CAMERAS),
    }
    assert "episode_0001" not in (output / "gallery.html").read_text("utf-8")


def test_weights_are_told_apart_without_reading_them(tmp_path):
    held = commands.trained() / "checkpoints"
    copied = shutil.copytree(held, tmp_path / "checkpoints")  # with the times of the files
    of_files = checkpoints.of_files
    assert of_files(held / "4") == of_files(copied / "4") != of_files(held / "2")
    next(path for path in sorted((copied / "4").rglob("*")) if path.is_file()).touch()
    assert of_files(held / "4") != of_files(copied / "4")


def test_a_sidecar_names_no_file_outside_its_folder(tmp_path):
    output, beside = tmp_path / "videos", tmp_path / "beside.mp4"
    output.mkdir()
    names = ["../beside.mp4", str(beside), "a.mp4", "gone.mp4", "a/view.mp4"]
    (output / "a").mkdir()
    for path in (beside, output / "a.mp4", output / "a" / "view.mp4"):
        path.touch()
    held = {"name": "a", "fingerprint": "", "weights": {}, "files": {"views": names}}
    (output / "a.json").write_text(json.dumps(held))
    (output / "b.json").write_text(json.dumps(held))  # not under its name
    assert outputs.remove(output / "a.json") and not outputs.remove(output / "b.json")
    assert beside.is_file() and [path.name for path in output.iterdir()] == ["b.json"]


def test_a_plan_reads_no_weights_and_writes_nothing(tmp_path):
    output = tmp_path / "videos"
    arguments = ("--plan", "--num_chunks=all", "--plan_devices=4", "--guidance=2")
    done = commands.run("run_sample.py", *command(output, *arguments))
    assert "8 frames of 32x48 in 2 chunks of 24 tokens, 4 evaluations" in done.out
    assert "on each of 4 devices" in done.out
    assert not output.exists()


# ---- Bad input.


def unreadable(folder):
    (folder / CONTROL / "camera_000" / "episode_0001.mp4").write_bytes(b"nothing")


def without_view(folder):
    (folder / CONTROL / "camera_180" / "episode_0002.mp4").unlink()


def without_control(folder):
    shutil.rmtree(folder / CONTROL)


def without_videos(folder):
    shutil.rmtree(folder / "videos")


def too_short(folder):
    path = folder / CONTROL / "camera_000" / "episode_0000.mp4"
    video_writer.write_video(path, np.zeros((2, 32, 48, 3), np.uint8), 10)


def unknown_camera(folder):
    (folder / CONTROL / "camera_180").rename(folder / CONTROL / "camera_090")


def untouched(folder):
    pass


BAD = {
    "unreadable": (unreadable, [], ["1 bad files", "episode_0001.mp4: ", "not a video"]),
    "missing view": (without_view, [], ["1 bad files", "camera_180/episode_0002.mp4: missing"]),
    "chunks": (untouched, ["--num_chunks=some"], ["--num_chunks=some must be a number, or all"]),
    "overlap": (
        untouched,
        ["--num_chunks=2", "--chunk_overlap=2"],
        ["chunk_overlap=2 must be 1, 5, 9"],
    ),
    "frames": (untouched, ["--num_frames=9"], ["9 frames are wanted, and the control has 8"]),
    "idle overlap": (untouched, ["--chunk_overlap=5"], ["--chunk_overlap is for long videos"]),
    "idle handover": (untouched, ["--handover=pixels"], ["--handover is for long videos"]),
    "frames and chunks": (
        untouched,
        ["--num_frames=7", "--num_chunks=2"],
        ["both say how long a video is"],
    ),
    "interval": (untouched, ["--guidance_interval=0.9,0.1"], ["guidance_interval=(0.9, 0.1)"]),
    "interval's form": (untouched, ["--guidance_interval=1"], ["must be two numbers"]),
    "guardrail": (untouched, ["--guardrail=nowhere:f"], ["--guardrail='nowhere:f'"]),
    "size": (untouched, ["--size=30,48"], ["(30, 48) must be multiples of 16"]),
    "config": (untouched, ["--config=experiments/demo.py"], ["--config:", "drop it"]),
    "no control": (without_control, [], ["no control_input_* folders"]),
    "other control": (untouched, ["--control=control_input_edge"], ["no such control folder"]),
    "too short": (too_short, [], ["3 frames too short: 2 at the wanted rate, and a clip has 5"]),
    "unknown camera": (unknown_camera, [], ["camera_090: the model knows no such camera"]),
    "no videos": (
        without_videos,
        ["--num_conditional_frames=1"],
        ["2 bad files", "video of view 'camera_000': none is given, 1 frames needed"],
    ),
    "given frames": (untouched, ["--num_conditional_frames=3"], ["frames=3", "0, 1, 5"]),
    "too many": (
        untouched,
        ["--num_conditional_frames=9"],
        ["9 given frames exceed the 5 of a clip"],
    ),
    "fps": (untouched, ["--fps=4"], ["10 fps is not a multiple of data.fps=4"]),
    "steps": (untouched, ["--num_steps=0"], ["num_steps=0"]),
    "mesh": (untouched, ["--mesh=data=3"], ["needs 3 devices", "there are 1"]),
    "mesh's form": (untouched, ["--mesh=data:2"], ["--mesh=data:2", "data=2,context=4"]),
    "flag": (untouched, ["--num_step=2"], ["num_step"]),
    "word": (untouched, ["now"], ["unexpected argument 'now'"]),
    "weights": (untouched, ["--weights=best"], ["weights", "ema|regular"]),
}
LISTS = {"unreadable", "missing view", "too short", "no videos", "fps"}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(case, folder, tmp_path):
    spoil, arguments, words = BAD[case]
    spoil(folder)
    output = tmp_path / "videos"
    error = commands.error_of("run_sample.py", *command(output, folder=folder), *arguments)
    assert all(word in error for word in words), error
    assert ("\n" in error) == (case in LISTS), error
    assert not output.exists()


def test_places_that_are_not_what_they_should_be(tmp_path):
    given = dict(checkpoint=commands.trained(), input=commands.trained() / "synthetic")
    given["output"] = tmp_path / "videos"

    def error(**changes):
        flags = given | changes
        return commands.error_of(
            "run_sample.py", *(f"--{k}={v}" for k, v in flags.items() if v is not None)
        )

    for name in given:
        assert error(**{name: None}).startswith(f"--{name} is missing: ")
    assert "holds no complete checkpoint" in error(checkpoint=tmp_path)
    assert "is not a folder of clips" in error(input=tmp_path / "nowhere")
    (tmp_path / "file").write_text("kept")
    assert f"{tmp_path}/file is not a folder" in error(output=tmp_path / "file")
    assert f"{tmp_path} is not empty" in error(output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    alone = tmp_path / "checkpoints" / "4"
    shutil.copytree(commands.trained() / "checkpoints" / "4", alone)
    assert "has no config.json: it is not a workdir" in error(checkpoint=alone)
