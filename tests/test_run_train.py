"""`run_train.py` as its users run it: trains, goes on where it stopped, refuses bad input."""

import json
import os
import random
import shutil
import time

import commands
import numpy as np
import pytest

from cosmos_jax import checkpoints, stopped
from cosmos_jax.data import video

KEYS = {
    "loss",
    "grad_norm",
    "lr",
    "seconds_per_step",
    "tokens_per_second",
    "model_tflops",
    "peak_memory_gib",
    "data_wait_fraction",
    "encode_fraction",
}
VALIDATION = {"val/loss", "val/control_gap", "val/control_gap_stderr"}


def tree(folder):
    """Every file below a folder, with its contents."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """The workdir of a run of two steps."""
    workdir = tmp_path_factory.mktemp("halfway") / "run"
    # The rendered data set is a function of its config: take the one that is there.
    shutil.copytree(commands.trained() / "synthetic", workdir / "synthetic")
    commands.run("run_train.py", *commands.demo(steps=2), f"--workdir={workdir}")
    return workdir


def copy_of(workdir, place):
    return shutil.copytree(workdir, place / "run")


# ---- Training.


@pytest.mark.core
def test_a_run_logs_every_key_and_keeps_its_checkpoints():
    workdir = commands.trained()
    rows = commands.metrics(workdir)
    assert list(rows) == [0, 1, 2, 3, 4]
    for step in range(1, 5):
        assert rows[step].keys() >= KEYS
        assert all(np.isfinite(rows[step][key]) and rows[step][key] >= 0 for key in KEYS)
        assert rows[step]["tokens_per_second"] > 0
        assert rows[step]["model_tflops"] > 0
    for step in range(5):
        assert (rows[step].keys() >= VALIDATION) == (step % 2 == 0)
    assert rows[0]["val/control_gap"] == 0  # hints start at zero
    assert rows[0]["seconds_to_first_step"] > 0
    assert rows[4]["val/loss"] < rows[0]["val/loss"]
    assert checkpoints.complete_steps(workdir / "checkpoints") == [2, 4]
    assert (workdir / "checkpoints" / checkpoints.LATEST).read_text() == "4\n"


def test_the_learning_rate_is_the_schedules():
    rates = [row["lr"] for row in commands.metrics(commands.trained()).values() if "lr" in row]
    multipliers = [1e-6 + (1 - 1e-6) * n / 10 for n in range(4)]
    np.testing.assert_allclose(rates, [4e-3 * m for m in multipliers], rtol=1e-6)


def test_a_run_writes_sample_videos():
    samples = commands.trained() / "samples" / "step_000004"
    sizes = {}
    for path in samples.rglob("*.mp4"):
        info = video.probe(path)
        assert info.frames == 5
        assert float(info.fps) == 10
        sizes[str(path.relative_to(samples))] = info.size
    assert sizes == {
        "sample_00/camera_000.mp4": (32, 48),
        "sample_00/camera_180.mp4": (32, 48),
        "sample_00_grid.mp4": (32, 96),
        "sample_00_control.mp4": (32, 96),
        # Names; then true, control and two times two samples, each below a line of words.
        "sample_00_compare_regular.mp4": (12 + 6 * (12 + 32), 96),
        "sample_00_compare_ema.mp4": (12 + 6 * (12 + 32), 96),
    }
    compared, grid, control = (
        video.read_frames(video.probe(samples / f"sample_00_{kind}.mp4"), range(5)).astype(int)
        for kind in ("compare_ema", "grid", "control")
    )
    rows = [compared[:, 44 * i + 24 : 44 * (i + 1) + 12] for i in range(6)]
    assert np.abs(rows[1] - control).mean() < 6  # both are compressed
    assert np.abs(rows[5] - grid).mean() < 6  # the last of what was sampled is at full size too
    # The given frame is the true one's, here up to what the codec keeps of it.
    given, free = (
        [np.abs(rows[i] - rows[0])[:, 0].mean() for i in some] for some in ((4, 5), (2, 3))
    )
    assert max(given) < 0.9 * min(free), (given, free)


def test_a_finished_run_has_nothing_to_do():
    before = tree(commands.trained())
    again = commands.run("run_train.py", *commands.demo(), f"--workdir={commands.trained()}")
    assert "nothing to do: step 4 of 4 is done" in again.out
    assert tree(commands.trained()) == before


def test_what_a_killed_run_did_not_come_to_is_made_up_for(tmp_path):
    workdir = copy_of(commands.trained(), tmp_path)
    before, held = tree(workdir), checkpoints.read_record(workdir / "checkpoints" / "4").metrics
    assert held["val/loss"] == commands.metrics(workdir)[4]["val/loss"]
    shutil.rmtree(workdir / "samples")
    (workdir / "samples" / ".step_000004.draft").mkdir(parents=True)  # killed while sampling
    path = workdir / "checkpoints" / "4" / "record" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {}}))
    arguments = [*commands.demo(), f"--workdir={workdir}"]
    assert "going on from step 4" in commands.run("run_train.py", *arguments).out
    assert set(tree(workdir)) == set(before)
    assert checkpoints.read_record(path.parents[1]).metrics == held
    assert "nothing to do" in commands.run("run_train.py", *arguments).out


# ---- Going on.


def assert_same_run(workdir, steps=4):
    """Losses and every array of the last checkpoint are bit for bit those of the whole run."""
    assert commands.losses(workdir) == commands.losses(commands.trained())
    want, have = (commands.arrays(folder, steps) for folder in (commands.trained(), workdir))
    assert want.keys() == have.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(have[name], array, name)


@pytest.mark.core
def test_two_steps_and_two_more_are_four_steps_bit_for_bit(halfway, tmp_path):
    workdir = copy_of(halfway, tmp_path)
    done = commands.run("run_train.py", *commands.demo(), f"--workdir={workdir}")
    assert "going on from step 2" in done.out
    assert "config.steps: 2 before, 4 now" in done.out
    assert_same_run(workdir)
    rows, whole = commands.metrics(workdir), commands.metrics(commands.trained())
    assert {key: rows[4][key] for key in VALIDATION} == {key: whole[4][key] for key in VALIDATION}


def test_a_run_goes_on_on_another_mesh(halfway, tmp_path):
    workdir = copy_of(halfway, tmp_path)
    mesh = dict(mesh__data=2, mesh__fsdp=2, mesh__context=2)
    done = commands.run("run_train.py", *commands.demo(**mesh), f"--workdir={workdir}", devices=8)
    assert "'data': 2, 'fsdp': 2, 'context': 2" in done.out
    whole, resumed = commands.losses(commands.trained()), commands.losses(workdir)
    np.testing.assert_allclose(list(resumed.values()), list(whole.values()), rtol=1e-4)
    want, have = (commands.arrays(folder, 4) for folder in (commands.trained(), workdir))
    start = commands.arrays(halfway, 2)
    for name, array in want.items():
        if name.startswith("params/"):
            moved = np.abs(array - start[name]).max()
            assert np.abs(have[name] - array).max() <= 0.02 * moved + 1e-7, name


def kill_when(workdir, ready, delay):
    """Starts the command, and kills it `delay` seconds after `ready()`."""
    arguments = commands.demo(checkpoint__every=1)
    command = commands.Command("run_train.py", *arguments, f"--workdir={workdir}")
    deadline = time.monotonic() + 300
    while not ready():
        assert command.running and time.monotonic() < deadline, command.out + command.err
        time.sleep(0.001)
    time.sleep(delay)
    assert command.running, "too late to kill it"
    command.kill()


def test_a_run_that_is_told_to_stop_saves_and_goes_on(tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(commands.trained() / "synthetic", workdir / "synthetic")
    changes = dict(checkpoint__every=4, preview__clips=0, validation__every=1)
    arguments = [*commands.demo(**changes), f"--workdir={workdir}"]
    command = commands.Command("run_train.py", *arguments)
    while "step 1/4" not in command.out:
        assert command.running, command.out + command.err
        time.sleep(0.001)
    command.terminate()
    assert command.wait() == 4
    (saved,) = checkpoints.complete_steps(workdir / "checkpoints")
    assert 1 <= saved < 4
    assert command.err == f"run_train.py: error: stopped by SIGTERM; step {saved} is saved\n"
    # It did not stay to validate that step, which the next start makes up for.
    assert checkpoints.read_record(workdir / "checkpoints" / str(saved)).metrics == {}
    assert "val/loss" not in commands.metrics(workdir)[saved]
    commands.run("run_train.py", *arguments)
    assert commands.losses(workdir) == commands.losses(commands.trained())
    scores = [
        {s: row["val/loss"] for s, row in commands.metrics(folder).items() if "val/loss" in row}
        for folder in (workdir, commands.trained())
    ]
    assert list(scores[0]) == [0, 1, 2, 3, 4]
    assert {step: scores[0][step] for step in (0, 2, 4)} == scores[1]
    assert not (workdir / "samples").exists()  # preview.clips=0
    assert (workdir / "report.html").is_file()


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path):
    workdir = tmp_path / "run"
    folder = workdir / "checkpoints"
    shutil.copytree(commands.trained() / "synthetic", workdir / "synthetic")
    # While the first checkpoint is being written, and at some moment after the second.
    kill_when(workdir, lambda: any(folder.glob(f"1{checkpoints.TMP}*")), 0)
    assert checkpoints.complete_steps(folder) in ([], [1])
    kill_when(workdir, lambda: (folder / "2").exists(), random.uniform(0, 0.3))
    saved = checkpoints.complete_steps(folder)[-1]
    for step in checkpoints.complete_steps(folder):
        commands.arrays(workdir, step)  # is whole
    last = commands.run("run_train.py", *commands.demo(checkpoint__every=1), f"--workdir={workdir}")
    assert f"going on from step {saved} " in last.out
    assert_same_run(workdir)
    assert not [p for p in folder.iterdir() if checkpoints.TMP in p.name]


def test_a_window_of_steps_is_traced(halfway, tmp_path):
    workdir = copy_of(halfway, tmp_path)
    arguments = [*commands.demo(preview__clips=0), f"--workdir={workdir}"]
    for text, words in (
        ("2:1", "means steps 2 to 2; this start takes steps 3 to 4"),
        ("3:3", "means steps 3 to 5; this start takes steps 3 to 4"),
        ("3:0", "means steps 3 to 2"),
        ("3", "write START:STEPS"),
    ):
        assert words in commands.error_of("run_train.py", *arguments, f"--profile={text}")
    assert not (workdir / "profile").exists()
    done = commands.run("run_train.py", *arguments, "--profile=3:1")
    assert f"profile  steps 3 to 3: {workdir / 'profile'}" in done.out
    (trace,) = (workdir / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000
    assert commands.losses(workdir) == commands.losses(commands.trained())


# ---- What goes wrong on the way.


def test_a_loss_that_is_not_finite_stops_the_run(halfway, tmp_path):
    workdir = copy_of(halfway, tmp_path)
    before = commands.arrays(halfway, 2)
    command = commands.Command(
        "run_train.py", *commands.demo(optimizer__lr=1e30), f"--workdir={workdir}"
    )
    assert command.wait() == 3, command.err
    assert command.err.count("\n") == 1
    assert command.err.startswith("run_train.py: error: the loss of step 4 is nan; stopped. ")
    assert "The checkpoint of step 2 is kept. Lower config.optimizer.lr" in command.err
    assert checkpoints.complete_steps(workdir / "checkpoints") == [2]
    for name, array in commands.arrays(workdir, 2).items():
        np.testing.assert_array_equal(array, before[name])
    assert list(commands.losses(workdir)) == [1, 2, 3]


def test_a_stopped_run_says_what_is_kept():
    inf, nan = float("inf"), float("nan")
    first = stopped.message(5, inf, None)
    assert "of step 5 is inf; stopped. No checkpoint was written yet. Lower" in first
    assert "step 4 is kept; delete it if this comes again. Lower" in stopped.message(5, nan, 4)
    assert "step 3 is kept. Lower" in stopped.message(5, nan, 3)
    skipped = stopped.message(30, 1.5, 20)  # a loss like any other: it was the gradient
    assert skipped.startswith("too many steps in a row, up to 30, were skipped; stopped. ")
    assert "loss" not in skipped


def test_a_full_disk_keeps_the_previous_checkpoint(halfway, tmp_path):
    workdir = copy_of(halfway, tmp_path)
    command = commands.Command(
        "run_train.py", *commands.demo(), f"--workdir={workdir}", largest_file=100_000
    )
    assert command.wait() == 2
    error = command.err.splitlines()[-1]  # tensorstore's threads may have complained before
    assert error.startswith("run_train.py: error: the checkpoint of step 4 could not be written to")
    assert "that of step 2 is complete" in error
    assert checkpoints.complete_steps(workdir / "checkpoints") == [2]
    # With room again, the same command finishes the run and clears what was left.
    commands.run("run_train.py", *commands.demo(), f"--workdir={workdir}")
    assert_same_run(workdir)
    assert not list((workdir / "checkpoints").glob(f"*{checkpoints.TMP}*"))


# ---- Bad input.

BAD = {
    "unknown section": (dict(modle__width=8), ["--config.modle.width; did you mean model?"]),
    "unknown key": (dict(data__num_frame=5), ["--config.data.num_frame; did you mean num_frames?"]),
    "unlisted key": (
        dict(model__patch=4),
        ["--config.model.patch; the experiment's file does not"],
    ),
    "unknown key, None": (dict(data__strid=None), ["--config.data.strid; did you mean stride?"]),
    "value of another type": (dict(steps="many"), ["steps", "many"]),
    "no steps": (dict(steps=0), ["config.steps=0", "at least 1"]),
    "mesh": (dict(mesh__data=3), ["'data': 3", "needs 3 devices", "there are 1"]),
    "batch": (
        dict(mesh__data=4, mesh__fsdp=2),
        ["batch of 4", "data x fsdp = 8", "multiples of 8", "[1, 2, 4]"],
    ),
    "context": (
        dict(mesh__data=1, mesh__context=8),
        ["context=8", "2 latent frames", "2 patch rows", "[1, 2]"],
    ),
    "zero frames": (dict(data__num_frames=0), ["num_frames=0"]),
    "frames": (dict(data__num_frames=6), ["num_frames=6", "1 + 4 k", "[5, 9, 13"]),
    "size": (dict(data__size="(32,40)"), ["size=(32, 40)", "multiples of 16", "(32, 32)"]),
    "one size": (dict(data__size="(32,)"), ["config.data.size=(32,)", "(rows, columns)"]),
    "trainable": (dict(trainable="contrl/.*"), ["'contrl/.*'", "no parameter", "control"]),
    "trainable is no regex": (dict(trainable="(("), ["'(('", "not a regex"]),
    "base": (dict(model__base="predict25"), ["'predict25'", "did you mean 'predict25_2b'"]),
    "text": (dict(text__width=8), ["config.text.width=8", "takes text of 16"]),
    "part": (dict(codec__kind="dct"), ["config.codec.kind='dct'", "package.module:name"]),
    "schedule": (dict(steps=101), ["101 training steps", "cycle_length=100"]),
    "average": (dict(ema_rate=2), ["EMA rate 2.0", "(0, 0.288)"]),
    "timestep": (dict(process__conditional_frame_timestep=5000), ["=5000.0", "0..1000"]),
    "probabilities": (
        dict(process__num_conditional_latents="(0.5,0.4)"),
        ["{0: 0.5, 1: 0.4}", "sum to 1"],
    ),
    "counts": (
        dict(process__num_conditional_latents="(0.25,0.25,0.25,0.25)"),
        ["[0, 1, 2, 3]", "0..2"],
    ),
    "control": (dict(data__control=None), ["config.data.control", "control branch"]),
    "cameras": (dict(data__cameras="front"), ["'front'", "camera_000"]),
    "validation clips": (dict(validation__clips=3), ["config.validation.clips=3", "batch_size=4"]),
    "too many clips": (dict(validation__clips=8), ["8 clips are wanted", "holds 4"]),
    "one pair": (dict(data__batch_size=1, validation__clips=1), ["standard error"]),
    "checkpoints": (dict(checkpoint__keep_last=1), ["config.checkpoint.keep_last=1", "at least 2"]),
    "preview weights": (dict(preview__weights="('best',)"), ["'best' is none of", "ema"]),
    "no average to preview": (dict(ema_rate=0), ["ema_rate=0 keeps no average", "('regular',)"]),
    "previews of nothing": (dict(preview__conditional_frames="()"), ["at least one each"]),
    "no preview's control": (dict(preview__control_weights="()"), ["name at least one"]),
    "preview's given frames": (dict(preview__conditional_frames="(0,2)"), ["0, 1, 5"]),
    "preview clips": (dict(preview__clips=5), ["config.preview.clips=5", "1..4"]),
    "given frames": (dict(sample__num_conditional_frames=3), ["frames=3", "0, 1, 5"]),
    "too many given frames": (dict(sample__num_conditional_frames=9), ["=9", "5 frames"]),
    "wandb": (dict(log__wandb="maybe"), ["config.log.wandb='maybe'", "offline"]),
    "moved": (dict(log__project="mine"), ["--config.log.project; it is --config.job.project now"]),
    "log": (dict(log__every=0), ["config.log.every=0", "at least 1"]),
    "short videos": (dict(data__num_frames=9), ["too few frames: 8, and a clip needs 9"]),
    "fps": (dict(data__fps=4), ["10 fps is not a multiple of data.fps=4"]),
}
DEVICES = {"batch": 8, "context": 8}
LISTS = {"short videos", "fps"}  # the line, and one for each bad file


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(case, tmp_path):
    changes, words = BAD[case]
    workdir, root = tmp_path / "run", commands.trained() / "synthetic"
    error = commands.error_of(
        "run_train.py",
        *commands.demo(data__root=root, **changes),
        f"--workdir={workdir}",
        devices=DEVICES.get(case, 1),
    )
    assert all(word in error for word in words), error
    assert ("\n" in error) == (case in LISTS), error
    assert not workdir.exists()


def test_what_is_missing_is_named(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    nameless = commands.demo(job__name="")
    assert "config.job.name='' is no name" in commands.error_of("run_train.py", *nameless)
    exact = ("--deterministic", "--config.attention=fa3")
    assert "FlashAttention-3 is not" in commands.error_of("run_train.py", *commands.demo(), *exact)
    assert "argument 'train'" in commands.error_of("run_train.py", *commands.demo(), "train")
    assert "--config=experiments/NAME.py is missing" in commands.error_of("run_train.py", workdir)
    nowhere = commands.error_of("run_train.py", "--config=experiments/dmo.py", workdir)
    assert "experiments/dmo.py" in nowhere and "\n" not in nowhere
    empty = tmp_path / "empty"
    empty.mkdir()
    for root in (empty, tmp_path / "nowhere"):
        error = commands.error_of("run_train.py", *commands.demo(data__root=root), workdir)
        assert str(root) in error and "no videos; expected" in error and "\n" not in error
    assert os.listdir(tmp_path) == ["empty"] and not os.listdir(empty)


def test_a_bad_size_is_told_before_the_scene_is_rendered(tmp_path):
    workdir = tmp_path / "run"
    arguments = [*commands.demo(data__size="(32,40)"), f"--workdir={workdir}"]
    assert "multiples of 16" in commands.error_of("run_train.py", *arguments)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            dict(model__mlp_width=96),
            ["params/blocks/mlp/down/kernel", "float32[2, 64, 32] there", "float32[2, 96, 32]"],
        ),
        (dict(trainable="control/.*"), ["params/blocks/", "absent in this run"]),
        (dict(model__control_blocks="(1,)"), ["model/network/control_blocks/0 is 0 there and 1"]),
    ],
    ids=["shape", "trainable", "option"],
)
def test_a_checkpoint_of_another_model_is_refused(change, words):
    workdir = commands.trained()
    before = tree(workdir)
    error = commands.error_of("run_train.py", *commands.demo(**change), f"--workdir={workdir}")
    assert "is a checkpoint of another model: " in error and "\n" not in error
    assert all(word in error for word in words), error
    assert tree(workdir) == before
