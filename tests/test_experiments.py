"""The published recipes: their numbers, that every variant builds, and that the tiny ones train."""

import dataclasses
import importlib
import itertools
import math
import pathlib
import time

import clips_on_disk
import commands
import jax
import pytest

from cosmos_jax import build, build_sample, cli, sharding
from cosmos_jax.data import pipeline, video_writer
from experiments import base

FOLDER = pathlib.Path(base.__file__).parent
RECIPES = sorted(p.stem for p in FOLDER.glob("*25_*.py"))
DEFAULTS = {"eps": 1e-8, "f_start": 1e-6}
TRANSFER = dict(lr=8.63e-5, weight_decay=1e-3, b1=0.9, b2=0.999, f_max=0.5, f_min=0.2, clip=0.1)
PREDICT = TRANSFER | dict(lr=3e-5, f_max=0.99, f_min=0.4, clip=1.0)
NEMO = TRANSFER | dict(lr=4.3158e-5)
AGIBOT = dict(lr=1e-4, weight_decay=0.1, b1=0.9, b2=0.99, f_max=0.99, f_min=0.4, clip=1.0)

# Published: optimiser; warm-up, cycle; steps, steps between checkpoints; probabilities of 0, 1, 2
# given latent frames; text dropout; frames, rows, columns; cameras; tokens of a clip; trained and
# all parameters. Sources: each recipe's docstring.
PUBLISHED = {
    "transfer25_auto_multiview": (
        *(TRANSFER, (1000, 100_000), (5000, 200), (0.5, 0.25, 0.25), 0.2),
        *((29, 720, 1280), 7, 201_600, (328_763_392, 2_387_995_697)),
    ),
    "transfer25_auto_multiview:some_views": (
        *(TRANSFER, (1000, 100_000), (5000, 200), (0.5, 0.25, 0.25), 0.2),
        *((29, 720, 1280), 7, 201_600, (328_763_392, 2_387_995_697)),
    ),
    "transfer25_robotics_edge": (
        *(TRANSFER, (1000, 100_000), (5000, 200), (0.5, 0.25, 0.25), 0.2),
        *((29, 480, 832), 5, 62_400, (328_763_392, 2_387_995_697)),
    ),
    "transfer25_robotics_edge:fork29": (
        *(TRANSFER, (1000, 100_000), (5000, 200), (0.5, 0.25, 0.25), 0.2),
        *((29, 432, 768), 5, 51_840, (328_763_392, 2_387_995_697)),
    ),
    "transfer25_robotics_edge:guide93": (
        *(TRANSFER, (1000, 100_000), (5000, 200), (0.5, 0.25, 0.25), 0.2),
        *((93, 480, 832), 5, 187_200, (328_763_392, 2_387_995_697)),
    ),
    "predict25_video2world_nemo": (
        *(NEMO, (2000, 100_000), (1000, 200), (0.5, 0.25, 0.25), 0.2),
        *((93, 704, 1280), 1, 84_480, (2_059_174_912, 2_059_174_912)),
    ),
    "predict25_auto_multiview": (
        *(PREDICT, (100, 400_000), (400_000, 500), (0.5, 0.25, 0.25), 0.0),
        *((29, 720, 1280), 7, 201_600, (2_059_232_305, 2_059_232_305)),
    ),
    "transfer25_agibot": (
        *(AGIBOT, (500, 30_000), (10_000, 500), (0.5, 0.5), 0.2),
        *((93, 432, 768), 3, 93_312, (365_081_600, 2_931_913_728)),
    ),
    "transfer25_agibot:guide": (
        *(AGIBOT | {"lr": 5e-5}, (1000, 400_000), (5000, 500), (0.5, 0.5), 0.2),
        *((93, 432, 768), 3, 93_312, (365_081_600, 2_931_913_728)),
    ),
}
HUB = "hf://nvidia/"
WEIGHTS = {
    "transfer25_auto_multiview": "Cosmos-Transfer2.5-2B/auto/multiview/"
    "4ecc66e9-df19-4aed-9802-0d11e057287a_ema_bf16.pt",
    "transfer25_robotics_edge": "Cosmos-Transfer2.5-2B/auto/multiview/"
    "4ecc66e9-df19-4aed-9802-0d11e057287a_ema_bf16.pt",
    "predict25_video2world_nemo": "Cosmos-Predict2.5-2B/base/pre-trained/"
    "d20b7120-df3e-4911-919d-db6e08bad31c_ema_bf16.pt",
    "predict25_auto_multiview": "Cosmos-Predict2.5-2B/auto/multiview/"
    "524af350-2e43-496c-8590-3646ae1325da_ema_bf16.pt",
    "transfer25_agibot": "Cosmos-Experimental/"
    "fffbd388-89c9-4604-ad4f-6c6b36272c48/model_ema_bf16.pt",
    "transfer25_agibot:depth": "Cosmos-Experimental/"
    "32514ba1-6d05-4ce5-997d-a3b5bf894cab/model_ema_bf16.pt",
    "transfer25_agibot:seg": "Cosmos-Experimental/"
    "c5a9a58b-7f3e-4b45-9e5d-8f7b3d4e5a6c/model_ema_bf16.pt",
    "transfer25_agibot:vis": "Cosmos-Experimental/"
    "2eca9f80-bf8f-4257-b05f-278065d21500/model_ema_bf16.pt",
}
AV = "ftheta_camera_"
CAMERAS = {
    "transfer25_auto_multiview": tuple(
        AV + name
        for name in (
            *("front_wide_120fov", "cross_right_120fov", "rear_right_70fov", "rear_tele_30fov"),
            *("rear_left_70fov", "cross_left_120fov", "front_tele_30fov"),
        )
    ),
    "transfer25_robotics_edge": (
        *("cam_high", "cam_left_wrist", "cam_right_wrist", "cam_waist_left", "cam_waist_right"),
    ),
    "predict25_video2world_nemo": ("",),
    "transfer25_agibot": ("head_color", "hand_left", "hand_right"),
}
CAMERAS["predict25_auto_multiview"] = CAMERAS["transfer25_auto_multiview"]


def config_of(name):
    """The config of "recipe:variant"."""
    recipe, *variant = name.split(":")
    return importlib.import_module(f"experiments.{recipe}").get_config(*variant)


def values_of(name):
    return build.check_config(config_of(name))


def variants_of(recipe):
    return importlib.import_module(f"experiments.{recipe}").VARIANTS


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def system(values):
    """Trainer, loop and sizes of a recipe, without memory."""
    mesh = one_device()
    with jax.set_mesh(mesh):
        trainer = build.trainer(values)
        return trainer, build.loop(values, mesh), build.sizes(values, mesh, trainer)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.core
def test_there_are_five_recipes_and_each_has_its_variants():
    assert len(RECIPES) == 5
    assert {name.split(":")[0] for name in PUBLISHED} == set(RECIPES) == CAMERAS.keys()
    for recipe in RECIPES:
        assert {"overfit", "tiny"} <= variants_of(recipe).keys()


@pytest.mark.core
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers(name):
    optimizer, cycle, steps, given, dropout, size, views, tokens, parameters = PUBLISHED[name]
    values = values_of(name)
    trainer, loop, sizes = system(values)
    named = dict(warm_up_steps=cycle[0], cycle_length=cycle[1]) | DEFAULTS | optimizer
    assert values["optimizer"].pop("lr_factors") == ()
    assert values["optimizer"] == pytest.approx(named, rel=1e-4)
    assert (loop.steps, loop.checkpoint.every) == steps
    process = trainer.process
    assert process.num_conditional_latents == given and process.text_dropout == dropout
    assert process.text_dropout_per_view == ("agibot" in name)
    assert process.time_levels == (1000 if "nemo" in name else None)
    assert (process.shift, process.conditional_frame_timestep) == (5.0, -1.0)
    assert trainer.ema_rate == 0.1
    data = build.make(pipeline.DataConfig, values["data"], "data")
    assert (data.num_frames, *data.size) == size
    assert data.batch_size == (8 if "nemo" in name else 1)
    assert sizes.tokens(views) == tokens
    frozen = count(sizes.state.frozen)
    assert (count(sizes.state.params), count(sizes.state.params) + frozen) == parameters
    assert trainer.trainable == ("control/.*" if name.startswith("transfer") else ".*")
    assert data.views == ((4, 7) if name.endswith("some_views") else None) and data.keep_front


@pytest.mark.core
def test_rates_of_the_schedules():
    def rate(name, step):
        return float(system(values_of(name))[0].learning_rate(step))

    assert rate("transfer25_auto_multiview", 1000) == pytest.approx(2**-14.5, rel=1e-3)
    # The run ends in the middle of its warm-up.
    assert rate("predict25_video2world_nemo", 1000) == pytest.approx(2**-14.5 / 4, rel=1e-4)
    assert rate("predict25_auto_multiview", 100) == pytest.approx(0.99 * 3e-5)
    assert rate("transfer25_agibot", 9999) == pytest.approx(
        1e-4 * (0.4 + 0.59 * (30_000 - 9999) / 29_500)
    )


@pytest.mark.core
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_published_files(name):
    values = values_of(name)
    assert values["init_from"] == HUB + WEIGHTS[name]
    assert values["codec"]["weights"] == HUB + "Cosmos-Predict2.5-2B/tokenizer.pth"
    assert values["text"]["weights"].startswith(HUB + "Cosmos-Reason1-7B@3210bec0")
    kind = name.partition(":")[2] or {"transfer25_auto_multiview": "hdmap_bbox"}.get(name, "edge")
    control = f"control_input_{kind}" if name.startswith("transfer") else None
    assert values["data"]["control"] == control


@pytest.mark.core
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_variant_builds(recipe):
    """Abstractly; a whole step of the tiny one (of full size: tests/test_build.py)."""
    known = list(variants_of(recipe))
    pairs = [f"{name},tiny" for name in known if name != "tiny"]
    seen = set()
    for variant in ["default", *known, *pairs]:
        values = values_of(f"{recipe}:{variant}")
        seen.add(values["job"]["name"])
        build.make(pipeline.DataConfig, values["data"], "data")
        build_sample.sample_config(values)
        if variant in pairs:
            continue
        trainer, loop, sizes = system(values)
        if variant != "tiny":
            continue
        with jax.set_mesh(one_device()):
            batch = sizes.batch(loop.batch, len(CAMERAS[recipe]))
            after, _ = jax.eval_shape(trainer.step, sizes.state, batch)
        shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (after, sizes.state)]
        assert shapes[0] == shapes[1]
    assert len(seen) == 1 + len(known) + len(pairs)


@pytest.mark.core
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_recipes_fit_on_any_usual_number_of_devices(recipe, devices):
    values = values_of(recipe)
    mesh = sharding.make_mesh(**values["mesh"], devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        build.loop(values, mesh)
        build.sizes(values, mesh, build.trainer(values))


# ---- Choosing a variant, and where a run goes.


@pytest.mark.core
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_unknown_variant_names_the_known_ones(recipe):
    known = ", ".join(["default", *variants_of(recipe)])
    for wrong in ("overfitt", "", "tiny,", "tiny, overfit"):
        with pytest.raises(ValueError, match=rf"no variant '.*'; known: {known}$"):
            config_of(f"{recipe}:{wrong}")


def test_an_unknown_variant_is_one_line_and_status_2():
    name = "experiments/transfer25_agibot.py:deep"
    error = commands.error_of("run_train.py", f"--config={name}", "--workdir=/nowhere")
    known = "default, depth, seg, vis, guide, overfit, tiny"
    assert error.endswith(f"the experiment has no variant 'deep'; known: {known}")
    assert "\n" not in error and "Traceback" not in error and name in error


@dataclasses.dataclass
class Flag:
    value: str | None
    name: str = "workdir"


@pytest.mark.core
def test_where_a_run_goes(monkeypatch):
    config = config_of("transfer25_agibot:depth,overfit")
    monkeypatch.delenv("COSMOS_JAX_OUTPUT_ROOT", raising=False)
    path = pathlib.Path("cosmos_jax/transfer25/agibot_depth_overfit")
    assert cli.job_folder(Flag(None), config) == "runs" / path
    monkeypatch.setenv("COSMOS_JAX_OUTPUT_ROOT", "/big/disk")
    assert cli.job_folder(Flag(None), config) == "/big/disk" / path
    assert cli.job_folder(Flag("elsewhere"), config) == pathlib.Path("elsewhere")
    for key, wrong in itertools.product(("project", "group", "name"), ("", "a/b", "..", None)):
        bad = config_of("transfer25_agibot")
        bad.job[key] = wrong
        with pytest.raises(ValueError, match=rf"config\.job\.{key}=.* give --workdir"):
            cli.job_folder(Flag(None), bad)
    with pytest.raises(ValueError, match=r"config\.job\.group=None is no name"):
        cli.job_folder(Flag(None), base.get_config())
    assert cli.job_folder(Flag("here"), base.get_config()) == pathlib.Path("here")


# ---- Training.


def write_recipe_clips(root, recipe):
    """Two or more episodes in the layout that a recipe expects."""
    values = values_of(recipe)
    data = values["data"]
    if recipe == "predict25_video2world_nemo":
        for episode in range(2):
            frames = clips_on_disk.frames_of(episode, 0, 0, 10)
            video_writer.write_video(root / "videos" / f"ep_{episode}.mp4", frames, 16, crf=0)
            (root / "metas").mkdir(exist_ok=True)
            (root / "metas" / f"ep_{episode}.txt").write_text(f"Words {episode}.")
        return root
    fps = data["fps"] or 10
    cameras = CAMERAS[recipe]
    return clips_on_disk.write_clips(root, (10, 10), cameras, data["control"], fps)


def start(recipe, variant, folder, *arguments):
    """Starts a run on clips in the layout of a recipe."""
    root = write_recipe_clips(folder / "clips", recipe)
    given = f"--config=experiments/{recipe}.py:{variant}", f"--config.data.root={root}"
    workdir = f"--workdir={folder / 'run'}"
    command = commands.Command("run_train.py", *given, workdir, *arguments, devices=2)
    return command, folder / "run"


FAST = "--config.preview.clips=0"
# Rates that move a tiny network from random weights in a few steps.
RATE = ("--config.optimizer.lr=0.02", "--config.optimizer.clip=1.0", "--config.optimizer.f_max=1.0")
OVERFIT = (FAST, "--config.steps=25", "--config.validation.every=25", *RATE)
VIEWS = (FAST, "--config.steps=4", "--config.data.views=(1,2)", "--config.data.keep_front=False")
RUNS = {
    **{name: (name, "tiny", ()) for name in RECIPES},
    **{f"{name}:overfit": (name, "overfit,tiny", OVERFIT) for name in RECIPES},
    "some views": ("transfer25_agibot", "tiny", VIEWS),
}
AT_ONCE = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All runs, a few at once, each on two devices: {name: (command, workdir)}."""
    started = {}
    for name, (recipe, variant, arguments) in RUNS.items():
        while sum(command.running for command, _ in started.values()) >= AT_ONCE:
            time.sleep(0.05)
        started[name] = start(recipe, variant, tmp_path_factory.mktemp("run"), *arguments)
    return started


def finished(run):
    """A finished run's output, losses by step and all metrics by step."""
    command, workdir = run
    assert command.wait() == 0, command.out + command.err
    losses = commands.losses(workdir)
    assert all(math.isfinite(loss) for loss in losses.values())
    return command.out, losses, commands.metrics(workdir)


@pytest.mark.parametrize("recipe", RECIPES)
def test_tiny_variants_train(recipe, runs):
    out, losses, metrics = finished(runs[recipe])
    cameras = ", ".join(f"{name or 'the view'}={i}" for i, name in enumerate(CAMERAS[recipe]))
    assert f"views    {cameras} (" in out
    assert set(losses) == {1, 2}
    assert "val/loss" in metrics[2]
    assert ("val/control_gap" in metrics[2]) == recipe.startswith("transfer")
    assert "'context': 2} on 2 x " in out
    workdir = runs[recipe][1]
    assert (workdir / "checkpoints" / "2").is_dir()
    compared = {p.name for p in (workdir / "samples" / "step_000002").glob("*_compare_*.mp4")}
    assert compared == {"sample_00_compare_regular.mp4", "sample_00_compare_ema.mp4"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_clip_can_be_learnt(recipe, runs):
    out, _, metrics = finished(runs[f"{recipe}:overfit"])
    assert "1 clips of 1 episodes to train on, 1 of 1 held out" in out
    assert "'context': 2} on 2 x " in out
    assert metrics[25]["val/loss"] < 0.8 * metrics[0]["val/loss"]
    assert "val/control_gap" not in metrics[25]


def test_batches_of_fewer_views_train(runs):
    _, losses, _ = finished(runs["some views"])
    assert set(losses) == {1, 2, 3, 4}
