"""Predict1's post-training on Waymo: its numbers, weights, memory, training and samples."""

import dataclasses
import json
import math
import shutil

import clips_on_disk
import commands
import jax
import numpy as np
import pytest

from cosmos_jax import (
    build,
    build_sample,
    build_weights,
    plan,
    plan_system,
    preview,
    resume,
    sharding,
)
from cosmos_jax.data import video
from cosmos_jax.data.layouts import DataConfig
from experiments import predict1_av_multiview_waymo as recipe

FILE = "experiments/predict1_av_multiview_waymo.py"
CAMERAS = [f"pinhole_{name}" for name in recipe.CAMERAS]
IDS = {"default": (1, 0, 2, 4, 5), "reference": (0, 1, 2, 3, 4)}
PARAMETERS = {"default": 7_234_783_408, "reference": 7_234_734_223}


def values_of(variant, **changes):
    values = build.check_config(recipe.get_config(variant))
    for path, value in changes.items():
        *sections, last = path.split("__")
        place = values
        for name in sections:
            place = place[name]
        place[last] = value
    return values


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def system(values):
    mesh = one_device()
    with jax.set_mesh(mesh):
        trainer = build.trainer(values)
        return trainer, build.loop(values, mesh), build.sizes(values, mesh, trainer)


# ---- The recipe.


@pytest.mark.core
@pytest.mark.parametrize("variant", IDS)
def test_the_published_numbers(variant):
    values = values_of(variant)
    trainer, loop, sizes = system(values)
    optimizer = values["optimizer"]
    assert optimizer["lr"] == pytest.approx(4.957595192603974e-05, rel=1e-12)
    assert (optimizer["b1"], optimizer["b2"], optimizer["eps"]) == (0.9, 0.99, 1e-10)
    assert (optimizer["weight_decay"], optimizer["clip"], optimizer["lr_factors"]) == (0.1, 1.0, ())
    for step in (0, 1, 1999):  # the run ends before the warm-up does
        rate = (1 - 1e-6) / 2500 * step + 1e-6
        assert float(trainer.learning_rate(step)) == pytest.approx(2**-14.3 * rate, rel=1e-5)
    assert float(trainer.learning_rate(9_000_000)) == pytest.approx(2**-14.3)
    assert (loop.steps, loop.checkpoint.every, loop.batch) == (2000, 200, 1)
    assert (trainer.ema_rate, trainer.trainable) == (0.1, ".*")
    process = trainer.process
    assert (process.sigma_data, process.mean, process.std) == (0.5, 0.0, 1.0)
    assert (process.text_dropout, process.text_dropout_per_view) == (0.2, False)
    data = build.make(DataConfig, values["data"], "data")
    assert (data.num_frames, data.size, data.fps) == (57, (480, 848), 10)
    assert data.cameras == tuple(zip(CAMERAS, IDS[variant], strict=True))
    assert sizes.tokens(5) == 63_600 and sizes.latents == (8, 60, 106, 16)
    assert sizes.text == (512, 1024)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(sizes.state.params))
    assert count == PARAMETERS[variant] and not jax.tree.leaves(sizes.state.frozen)
    assert values["sample"]["guidance"] == 7 and values["sample"]["num_steps"] == 35
    assert values["init_base"] == (None if variant == "default" else "predict1_7b_multiview_av")
    network = trainer.net.config
    assert network.repeated_views == () and network.rope_ratios == (2.0, 1.0, 1.0)


@pytest.mark.core
def test_every_variant_builds():
    known = list(recipe.VARIANTS)
    for variant in ["default", *known, *(f"{name},tiny" for name in known if name != "tiny")]:
        values = values_of(variant)
        build.make(DataConfig, values["data"], "data")
        build_sample.sample_config(values)
        system(values)
    assert values_of("published")["model"]["repeated_views"] == (4, 5)
    caption = values_of("reference_captions")["data"]
    assert (caption["captions"], caption["prefix_style"]) == ("front", "instead")


@pytest.mark.core
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_it_fits_on_any_usual_number_of_devices(devices):
    values = values_of("default")
    mesh = sharding.make_mesh(**values["mesh"], devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        build.loop(values, mesh)
        build.sizes(values, mesh, build.trainer(values))


def test_eight_devices_of_80_gib_hold_it():
    planned, data = plan.plan(values_of("default"), 8)
    table = plan.memory_table(planned, data.views[-1])
    assert data.views == (5,)
    held = sum(table[name] for name in ("parameters", "optimizer", "ema", "gradients"))
    assert held == pytest.approx(PARAMETERS["default"] * 20 / 8 / 2**30, rel=1e-3)
    assert table[plan.IN_ALL] < 60
    offloaded, _ = plan.plan(values_of("default", offload_optimizer=True, remat="offload"), 2)
    assert plan.memory_table(offloaded, 5)[plan.IN_ALL] < 80


def test_the_plan_counts_the_tokenizer():
    planned = plan_system.system(values_of("default"), 8)
    lines = "\n".join(plan._work(planned, (5,), None))
    assert "8,125.2 TFLOP of the model a step, 35.839 of the video encoder" in lines
    assert "s of video encoding at the speed of the Wan2.1 VAE (this tokenizer's was not" in lines


def test_clips_that_the_tokenizer_does_not_hold_are_refused_at_start():
    assert system(values_of("default", data__num_frames=114))[2].latents == (16, 60, 106, 16)
    with pytest.raises(ValueError, match="num_frames=121: CV8x8x8 codes 57 frames together"):
        system(values_of("default", data__num_frames=121))


# ---- Training.


def write_clips(root):
    """Two episodes with words for every camera, and one that is too short."""
    clips_on_disk.write_clips(root, (10, 11, 5), CAMERAS, None)
    shutil.rmtree(root / "captions")
    for camera in CAMERAS:
        (root / "metas" / camera).mkdir(parents=True)
        for i in range(3):
            (root / "metas" / camera / f"ep_{i}.txt").write_text(f"Words {i} {camera}.")
    return root


def arguments(root, workdir, variant, *more):
    return [
        f"--config={FILE}:{variant}",
        f"--config.data.root={root}",
        f"--workdir={workdir}",
        *more,
    ]


STEPS = ("--config.steps=4", "--config.optimizer.lr=0.02")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    """A tiny run of four steps on two devices, and what it said."""
    workdir = tmp_path_factory.mktemp("run")
    done = commands.run("run_train.py", *arguments(clips, workdir, "tiny", *STEPS), devices=2)
    return workdir, done.out


def test_the_tiny_variant_trains_on_five_cameras(trained):
    workdir, out = trained
    views = ", ".join(f"{camera}={i}" for camera, i in zip(CAMERAS, IDS["default"]))
    assert f"views    {views} (" in out and "'context': 2} on 2 x " in out
    assert "left out 5 files" in out and "ep_2.mp4: too few frames: 5, and a clip needs 9" in out
    found = commands.metrics(workdir)
    assert set(commands.losses(workdir)) == {1, 2, 3, 4}
    assert "val/control_gap" not in found[4]
    per_view = [found[4][f"val/loss/view/{camera}"] for camera in CAMERAS]
    assert len(set(per_view)) == 5 and np.isfinite(per_view).all()
    samples = {path.name for path in (workdir / "samples" / "step_000004").glob("*.mp4")}
    assert samples >= {"sample_00_compare_regular.mp4", "sample_00_compare_ema.mp4"}


def test_cameras_without_their_ids_are_an_error(clips, tmp_path):
    """Published ids of Waymo's cameras are not those of the network that is kept."""
    names = "--config.data.cameras=pinhole_front,pinhole_front_left"
    said = commands.error_of("run_train.py", *arguments(clips, tmp_path / "run", "tiny", names))
    assert "data.cameras=('pinhole_front,pinhole_front_left',): write pairs, (('CAMERA'" in said


def test_a_run_that_was_stopped_ends_with_the_same_bits(clips, trained, tmp_path):
    """Resumed at step 2 on as many devices."""
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "4")
    commands.run("run_train.py", *arguments(clips, workdir, "tiny", *STEPS), devices=2)
    assert commands.losses(workdir) == commands.losses(trained[0])
    ours, theirs = (commands.arrays(folder, 4) for folder in (workdir, trained[0]))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert not np.array_equal(commands.arrays(workdir, 2)[name], array)


def test_one_clip_can_be_learnt(clips, tmp_path):
    more = ("--config.steps=30", "--config.validation.every=30", "--config.preview.clips=0")
    rate = ("--config.optimizer.lr=0.02", "--config.optimizer.eps=1e-8")
    given = arguments(clips, tmp_path / "run", "reference,overfit,tiny", *more, *rate)
    done = commands.run("run_train.py", *given)
    assert "1 clips of 1 episodes to train on, 1 of 1 held out" in done.out
    found = commands.metrics(tmp_path / "run")
    assert found[30]["val/loss"] < found[0]["val/loss"] - 0.5


# ---- Weights of the published network in the example's.


def start(source, **changes):
    """The first state of the example's network from a run of the published one."""
    base = {"init_from": str(source), "init_base": "predict1_7b_multiview_av"}
    values = values_of("reference,tiny", **base | changes)
    trainer, _, sizes = system(values)
    mesh = one_device()
    with jax.set_mesh(mesh):
        build_weights.check_source(values)
        return build_weights.initial_state(values, mesh, trainer, sizes)


def flat(tree):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {sharding.path_name(path): np.asarray(leaf) for path, leaf in paths}


def test_what_the_example_lacks_starts_fresh_and_is_told(trained, capsys):
    state = flat(start(trained[0]).params)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith(("fresh", "unused"))] == [
        "fresh    embed/kernel (80, 32), in place of (92, 32)",
        "fresh    view/embedding (5, 3), in place of (6, 6)",
        "unused   view_repeat/bias (6,) of the weights",
        "unused   view_repeat/kernel (1, 6) of the weights",
    ]
    held = {
        name.removeprefix("ema/"): array
        for name, array in commands.arrays(trained[0], 4).items()
        if name.startswith("ema/")
    }
    fresh = {"embed/kernel", "view/embedding"}
    assert state.keys() - fresh == held.keys() - fresh - {"view_repeat/bias", "view_repeat/kernel"}
    for name in state.keys() - fresh:
        np.testing.assert_array_equal(state[name], held[name], err_msg=name)
    assert all(np.abs(state[name]).max() > 0.1 for name in fresh)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"init_from": "random"}, "init_base='predict1_7b_multiview_av' needs weights"),
        ({"init_control": "copy"}, "needs weights in config.init_from, and config.init_control"),
        ({"init_base": "predict1_7b_multiview"}, "did you mean 'predict1_7b_multiview_av'"),
        ({"init_base": None}, "embed/kernel|view"),
    ],
)
def test_bad_sources_are_errors(trained, changes, fault):
    with pytest.raises(ValueError, match=fault):
        start(trained[0], **changes)


# ---- Sampling.


def frames(path):
    return video.read_frames(video.probe(path), range(9)).astype(int)


def test_five_views_are_sampled_from_prompts(trained, tmp_path):
    spec = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "A street.", "prompt_left": "Houses."},
        {"prompt": "Rain.", "video_save_name": "rain", "seed": 3, "fps": 5},
    ]
    spec.write_text("\n".join(map(json.dumps, lines)))
    output = tmp_path / "videos"
    given = (f"--checkpoint={trained[0]}", f"--input={spec}")
    commands.run("run_sample.py", *given, f"--output={output}", "--batch=2")
    for name, fps, seed in (("0", 10, 1), ("rain", 5, 3)):
        for camera in CAMERAS:
            info = video.probe(output / name / f"{camera}.mp4")
            assert (info.frames, float(info.fps), info.size) == (9, fps, (32, 48))
        told = json.loads((output / f"{name}.json").read_text())
        assert told["settings"]["guidance"] == 7 and told["settings"]["seed"] == seed
        assert told["evaluations"] == 2
        assert [view["view_id"] for view in told["request"]["views"]] == list(IDS["default"])
        assert "\x1e" not in "".join(told["prompt"].values())
    grid = frames(output / "0_grid.mp4")
    cells = ((0, 1, 2), (3, None, 4))  # front left, front, front right; side left, -, side right
    for row, column in np.ndindex(2, 3):
        cell = grid[:, 32 * row : 32 * (row + 1), 48 * column : 48 * (column + 1)]
        view = cells[row][column]
        want = 0 if view is None else frames(output / "0" / f"{CAMERAS[view]}.mp4")
        assert np.abs(cell - want).mean() < 8  # both are compressed
    second = tmp_path / "second"
    commands.run("run_sample.py", *given, f"--output={second}", "--max_samples=1", "--solver=2ab")
    told = json.loads((second / "0.json").read_text())
    assert (told["settings"]["solver"], told["evaluations"]) == ("2ab", 3)
    assert np.abs(frames(second / "0_grid.mp4") - grid).max() > 8
    error = commands.error_of(
        "run_sample.py", *given, f"--output={tmp_path / 'x'}", "--num_conditional_frames=1"
    )
    assert "num_conditional_frames=1 must be 0..0" in error


def test_the_published_order_can_be_had(trained, tmp_path):
    spec = tmp_path / "prompts.json"
    spec.write_text(json.dumps({"prompt": "A street.", "prompt_back": "Nobody reads this."}))
    output = tmp_path / "videos"
    given = (f"--checkpoint={trained[0]}", f"--input={spec}", f"--output={output}")
    commands.run("run_sample.py", *given, "--compat=reference", "--num_steps=1")
    info = video.probe(output / "output.mp4")
    assert (info.frames, float(info.fps)) == (5 * 9, 24)
    views = json.loads((output / "output.json").read_text())["request"]["views"]
    names = ["front", "left", "right", "back_left", "back_right"]
    assert [view["camera"] for view in views] == names
    for i, name in enumerate(names):
        view = frames(output / "output" / f"{name}.mp4")
        part = video.read_frames(info, range(9 * i, 9 * i + 9)).astype(int)
        assert np.abs(part - view).mean() < 8


def test_a_folder_of_clips_gives_the_words(clips, trained, tmp_path):
    output = tmp_path / "videos"
    given = (f"--checkpoint={trained[0]}", f"--input={clips}", f"--output={output}")
    error = commands.error_of("run_sample.py", *given, "--num_conditional_frames=5")
    assert "the network takes no given frames" in error and not output.exists()
    commands.run("run_sample.py", *given, "--max_samples=1", "--guidance_interval=0.5,1")
    told = json.loads((output / "ep_0.json").read_text())
    front = "The video is captured from a camera mounted on a car. The camera is facing forward."
    assert told["prompt"]["pinhole_front"] == f"{front} Words 0 pinhole_front."


def test_the_video_network_goes_on_from_given_frames(clips, tmp_path):
    workdir, output = tmp_path / "run", tmp_path / "videos"
    done = commands.run("run_train.py", *arguments(clips, workdir, "video,tiny"))
    assert "step 2/2" in done.out
    given = (f"--checkpoint={workdir}", f"--input={clips}", f"--output={output}")
    commands.run("run_sample.py", *given, "--max_samples=1", "--num_frames=13")
    told = json.loads((output / "ep_0.json").read_text())
    assert (told["frames"], told["boundaries"]) == (13, [9])
    assert told["settings"]["num_conditional_frames"] == 1
    for camera in CAMERAS:  # a flat picture, which the codec keeps
        shown = frames(output / "ep_0" / f"{camera}.mp4")[0]
        true = frames(clips / "videos" / camera / "ep_0.mp4")[0].mean((0, 1))
        assert np.abs(shown.mean((0, 1)) - true).max() < 12


@pytest.mark.core
def test_previews_without_given_frames_only():
    trainer, loop, _ = system(values_of("tiny"))
    preview.check(loop.preview, trainer)
    given = dataclasses.replace(loop.preview, conditional_frames=(0, 1))
    with pytest.raises(ValueError, match=r"takes no given frames; set it to \(0,\)"):
        preview.check(given, trainer)


@pytest.mark.core
def test_a_kept_config_of_another_process_is_filled_with_nothing_of_rectified_flow():
    values = values_of("tiny")
    del values["init_base"], values["sample"]["cache_threshold"]
    filled = resume.filled(values)
    assert filled["process"] == values["process"] and filled["init_base"] is None
    assert filled["sample"]["cache_threshold"] == 0
    assert build.check_config(filled)["process"]["kind"].endswith("EDMProcess")
