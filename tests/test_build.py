"""Config to objects: settings are stated once, recipes build, and the published sizes come out."""

import dataclasses
import importlib
import json
import math
import pathlib
import subprocess

import clips_on_disk
import jax
import pytest
import tiny

from cosmos_jax import (
    build,
    build_sample,
    build_weights,
    loop,
    optim,
    sharding,
    train,
    versions,
    workdir,
)
from cosmos_jax.data import layouts
from cosmos_jax.encode import Text
from cosmos_jax.generate import SampleConfig
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.models.dit import DiT, DiTConfig
from experiments import base, demo

pytestmark = pytest.mark.core

ONE = dict(data=1, fsdp=1, context=1)
RECIPES = sorted(
    path.stem
    for path in pathlib.Path(base.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "base")
)
CLASSES = {
    "process": train.Process,
    "data": layouts.DataConfig,
    "validation": loop.ValidationConfig,
    "checkpoint": loop.CheckpointConfig,
    "preview": loop.PreviewConfig,
    "sample": SampleConfig,
    "log": loop.LogConfig,
}
# A data set has to be told one of two rates; ten frames a second is the recipes' choice.
CHOSEN = {("data", "fps")}


def values_of(config, **changes):
    """The plain values of a config, with changes of dotted keys (`__` for the dot)."""
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = config
        for name in sections:
            place = place[name]
        with place.ignore_type(), place.unlocked():
            place[last] = value
    return build.check_config(config)


def demo_values(**changes):
    return values_of(demo.get_config(), **changes)


def one_device():
    return sharding.make_mesh(**ONE, devices=jax.devices()[:1])


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# ---- Every setting is stated once.


@pytest.mark.parametrize("section", [*CLASSES, "scene", "text"])
def test_the_base_config_lists_every_setting_with_its_default(section):
    values = build.plain(base.get_config())[section]
    cls = CLASSES[section] if section in CLASSES else build.load(values.pop("kind"), section)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if section == "text":
        assert values.pop("weights") is None  # no field: where parameters come from
        assert values.pop("cache") == "auto"  # nor this: where embeddings come from
    assert values.keys() == fields.keys()
    for name, field in fields.items():
        if field.default is not dataclasses.MISSING and (section, name) not in CHOSEN:
            assert values[name] == field.default, f"{section}.{name}"


def test_the_base_config_has_every_section_and_setting():
    assert build.plain(base.get_config()).keys() == {*build.SECTIONS, *build.SETTINGS}
    assert build.plain(base.get_config())["mesh"] == ONE


def test_the_optimiser_is_each_recipes_own():
    assert not base.get_config().optimizer and not base.get_config().model
    fields = {field.name for field in dataclasses.fields(optim.OptimConfig)}
    for name in RECIPES:
        config = importlib.import_module(f"experiments.{name}").get_config()
        assert set(config.optimizer) == fields, name


# ---- Recipes and published networks.


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_at_its_full_size(name):
    config = importlib.import_module(f"experiments.{name}").get_config()
    with_weights = {} if name == "demo" else {"codec__weights": "random"}
    values = values_of(config, **with_weights, mesh__data=1)
    mesh = one_device()
    with jax.set_mesh(mesh):
        trainer = build.trainer(values)
        loop = build.loop(values, mesh)
        sizes = build.sizes(values, mesh, trainer)
        step = jax.jit(trainer.step)
        after, metrics = jax.eval_shape(step, sizes.state, sizes.batch(loop.batch, views=3))
    build_sample.sample_config(values)
    assert count(sizes.state.params) > 0
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, sizes.state)
    assert metrics.keys() == {"loss", "grad_norm", "lr", "unsound"}


def test_the_robotics_recipe_trains_the_control_branch_of_the_published_network():
    config = importlib.import_module("experiments.transfer25_robotics_edge").get_config()
    values = values_of(config, codec__weights="random")
    trainer = build.trainer(values)
    with jax.set_mesh(one_device()):
        sizes = build.sizes(values, one_device(), trainer)
    assert count(sizes.state.params) == 328_763_392
    assert count(sizes.state.params) + count(sizes.state.frozen) == 2_387_995_697
    assert sizes.latents == (8, 60, 104, 16)
    assert sizes.tokens(5) == 62_400
    peak = values["optimizer"]["lr"] * values["optimizer"]["f_max"]
    assert float(trainer.learning_rate(1000)) == pytest.approx(peak, rel=1e-6)
    assert peak == pytest.approx(2**-14.5, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "parameters", "control"),
    [  # spec 1.1
        ("predict25_2b", 2_059_174_912, 0),
        ("predict25_14b", 14_368_047_104, 0),
        ("predict25_2b_auto_multiview", 2_059_232_305, 0),
        ("transfer25_2b_auto_multiview", 2_387_995_697, 328_763_392),
        ("agibot_2b", 2_566_832_128, 0),
        ("agibot_2b_control", 2_931_913_728, 365_081_600),
    ],
)
def test_published_networks_have_their_published_number_of_parameters(name, parameters, control):
    config = build.VARIANTS[name]
    inputs = train.network_inputs(16, config.text_features, bool(config.control_blocks), frames=1)
    params = jax.eval_shape(lambda: DiT(config).init(jax.random.key(0), **inputs))["params"]
    assert count(params) == parameters
    assert count(params["control"] if control else {}) == control
    assert config.rope_dtype == "bfloat16"  # the published ranges are rounded (spec 1.3)


def test_every_variant_has_its_number():
    assert len(build.VARIANTS) == 6


# ---- Keys.


def test_a_wrong_key_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match=r"config\.date is not .* did you mean config\.data\?"):
        values_of(base.get_config(), date={})
    with pytest.raises(ValueError, match=r"config\.sample\.step is not .* config\.sample\.num_st"):
        build_sample.sample_config(demo_values(sample__step=3))
    with pytest.raises(ValueError, match=r"config\.model\.mlp_widht is .* config\.model\.mlp_wid"):
        build.network(demo_values(model__mlp_widht=3))
    with pytest.raises(ValueError, match=r"config\.log\.q is not a setting; known keys: \['every'"):
        build.loop(demo_values(log__q=3), one_device())
    with pytest.raises(ValueError, match=r"config\.mesh\.dat is .* config\.mesh\.data"):
        build.mesh(demo_values(mesh__dat=1))


def test_what_has_no_default_must_be_there():
    config = demo.get_config()
    del config.optimizer.lr
    with pytest.raises(ValueError, match=r"config\.optimizer\.lr is missing"):
        build.trainer(build.check_config(config))
    del config.sample
    with pytest.raises(ValueError, match=r"config\.sample is missing"):
        build.check_config(config)


def test_the_networks_compute_settings_are_the_runs_and_not_the_models():
    with pytest.raises(ValueError, match=r"config\.model\.dtype is not a setting"):
        build.network(demo_values(model__dtype="bfloat16"))
    config = build.network(demo_values(dtype="bfloat16", remat="full")).config
    assert (config.dtype, config.remat, config.attention) == ("bfloat16", "full", "xla")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(dtype="float16"), r"config\.dtype='float16' must be float32 or bfloat16"),
        (dict(attention="flash"), r"config\.attention='flash' must be auto or one of"),
        (dict(attention="cudnn"), r"config\.attention='cudnn' needs an NVIDIA GPU"),
        (dict(model__base="agibot_2"), r"'agibot_2' is none of .* did you mean 'agibot_2b'\?"),
        (dict(model__heads=5), "width [0-9]+ does not divide by heads 5"),
    ],
    ids=str,
)
def test_networks_that_cannot_be(changes, match):
    with pytest.raises(ValueError, match=match):
        build.network(demo_values(**changes))


def test_cudnn_goes_by_head_where_bits_must_be_the_same(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    assert build.attention_backend("auto", "bfloat16") == "cudnn"
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_gpu_deterministic_ops=true")
    assert build.attention_backend("auto", "bfloat16") == "cudnn_by_head"
    assert build.attention_backend("cudnn", "bfloat16") == "cudnn_by_head"
    assert build.attention_backend("auto", "float32") == "xla"


@pytest.mark.parametrize(
    "kind",
    ["dct", "cosmos_jax.models.dct_codec", "cosmos_jax.models.nothing:DCTCodec", "json:Codec", ""],
)
def test_a_part_that_cannot_be_found_is_named(kind):
    with pytest.raises(ValueError, match=r"config\.codec\.kind=.* must be package\.module:name"):
        build.codec(demo_values(codec__kind=kind))


def test_parts_are_made_of_their_sections():
    assert build.codec(demo_values()) == DCTCodec()
    text = build.text_encoder(demo_values(text__tokens=7))
    assert (text.tokens, text.width) == (7, 64)
    with pytest.raises(ValueError, match=r"config\.text\.token is not .* config\.text\.tokens"):
        build.text_encoder(demo_values(text__token=7))


def test_random_codec_weights_are_taken_when_asked_for_only():
    values = values_of(base.get_config())
    with pytest.raises(ValueError, match=r'config\.codec\.weights is missing.*"random"'):
        build_weights.encoder(values, one_device(), Text(str.encode, (1, 1), "", print))


# ---- Data.


def test_view_ids_must_lie_in_the_networks_table(tmp_path):
    root = clips_on_disk.write_clips(tmp_path / "clips")
    given = dict(data__root=str(root), data__num_frames=5, data__size=(16, 32))
    given |= dict(data__cache_dir=str(tmp_path / "cache"))
    values = demo_values(**given)
    found = build.data(values, build.trainer(values), tmp_path / "rendered")
    assert found.train.cameras == (("cam_high", 0), ("cam_left_wrist", 1), ("cam_right_wrist", 2))
    values = demo_values(**given, data__cameras=(("cam_high", 7),))
    with pytest.raises(ValueError, match=r"cam_high has view id 7, and .* knows ids 0 to 6"):
        build.data(values, build.trainer(values), tmp_path / "rendered")


def test_a_network_of_one_view_takes_one_camera(tmp_path):
    recipe = importlib.import_module("experiments.predict25_video2world_nemo").get_config("tiny")
    recipe.data.root = str(clips_on_disk.write_clips(tmp_path / "clips"))
    values = build.check_config(recipe)
    with pytest.raises(ValueError, match="has 3 cameras, and the network knows 1; choose"):
        build.data(values, build.trainer(values), tmp_path)
    values["data"]["cameras"] = "cam_high"
    found = build.data(values, build.trainer(values), tmp_path)
    assert found.train.cameras == (("cam_high", 0),)


def test_network_and_data_must_agree_on_control(tmp_path):
    root = str(clips_on_disk.write_clips(tmp_path / "clips"))
    with_branch = demo_values(data__root=root, data__control=None)
    with pytest.raises(ValueError, match="the network has a control branch"):
        build.data(with_branch, build.trainer(with_branch), tmp_path / "rendered")
    network = {
        key: value
        for key, value in demo_values()["model"].items()
        if key not in ("control_blocks", "control_channels", "hint_widths")
    }
    without = demo_values(data__root=root)
    without["model"] = network | {"base": "predict25_2b_auto_multiview"}
    with pytest.raises(ValueError, match="the network has no control branch; set it to None"):
        build.data(without, build.trainer(without), tmp_path / "rendered")


@pytest.mark.parametrize(
    ("frames", "size", "latents"),
    [(1, (16, 16), (1, 2, 2)), (29, (480, 832), (8, 60, 104)), (93, (704, 1280), (24, 88, 160))],
)
def test_sizes_of_latents(frames, size, latents):
    assert build.latent_shape(DCTCodec(), frames, size) == (*latents, 16)


@pytest.mark.parametrize(
    ("frames", "size", "match"),
    [
        (0, (16, 16), "num_frames=0 must be 1"),
        (28, (16, 16), "num_frames=28 must be 1"),
        (5, (16, 24), r"size=\(16, 24\) must be multiples of 16"),
        (5, (8, 16), "multiples of 16"),
        (5, (0, 16), "multiples of 16"),
        (5, (16,), r"size=\(16,\) must be \(rows, columns\)"),
    ],
)
def test_sizes_that_do_not_fit(frames, size, match):
    with pytest.raises(ValueError, match=match):
        build.latent_shape(DCTCodec(), frames, size)


# ---- The config of a finished run.


def test_a_kept_config_is_read_back(tmp_path, capsys):
    values, cameras = demo_values(), (("left", 3), ("right", 0))
    workdir.keep_config(values, cameras, ("left",), tmp_path / "run")
    heard = values | {"data": values["data"] | {"caption_camera": "left"}}
    assert workdir.read_config(tmp_path / "run") == (heard, cameras)
    assert capsys.readouterr().out == ""
    workdir.keep_config(demo_values(steps=7, seed=1), cameras, ("left",), tmp_path / "run")
    said = capsys.readouterr().out
    assert said == "config.seed: 0 before, 1 now\nconfig.steps: 100 before, 7 now\n"
    assert [path.name for path in (tmp_path / "run").iterdir()] == [workdir.CONFIG_FILE]
    with pytest.raises(ValueError, match=r"has no config\.json: it is not a workdir"):
        workdir.read_config(tmp_path)
    kept = json.loads((tmp_path / "run" / workdir.CONFIG_FILE).read_text("utf-8"))
    assert kept["versions"]["jax"] == jax.__version__
    assert kept["versions"].keys() >= {"python", "numpy", "flax", "orbax-checkpoint", "grain"}


def test_the_commit_is_that_of_the_files(tmp_path):
    assert versions.commit_of(tmp_path / "no_checkout.py") is None

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    for name in ("code.py", "other.py"):
        (tmp_path / name).write_text("1")
    git("add", "code.py")
    git("commit", "--quiet", "--message=code")
    assert versions.commit_of(tmp_path / "code.py") == git("rev-parse", "HEAD")
    assert versions.commit_of(tmp_path / "other.py") is None  # in somebody's checkout, not ours
    (tmp_path / "code.py").write_text("2")
    assert versions.commit_of(tmp_path / "code.py") == git("rev-parse", "HEAD") + "+"


def older(folder, values, cameras):
    """Makes the config of a workdir that of an earlier version."""
    workdir.keep_config(values, cameras, ("left",), folder)
    path = folder / workdir.CONFIG_FILE
    kept = json.loads(path.read_text("utf-8"))
    del kept["versions"], kept["config"]["accumulate"], kept["config"]["adapter"]
    del kept["config"]["data"]["latents"], kept["config"]["text"]["cache"]
    kept["config"]["log"]["project"] = "mine"
    path.write_text(json.dumps(kept), "utf-8")


def test_the_config_of_an_earlier_version_is_filled_and_that_is_said(tmp_path, capsys):
    values, cameras = demo_values(), (("left", 3), ("right", 0))
    older(tmp_path, values, cameras)
    heard = values | {"data": values["data"] | {"caption_camera": "left"}}
    assert workdir.read_config(tmp_path) == (heard, cameras)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "is of an earlier version; settings that it lacks: " in said
    for setting in ("accumulate=1", "adapter.rank=0", "data.latents=auto", "text.cache=auto"):
        assert f"config.{setting}" in said
    # What is there is never replaced.
    assert "steps" not in said and "project" not in said
    # A run that goes on has the settings of its command, and says what is new in them.
    workdir.keep_config(values, cameras, ("left",), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("settings that config.json did not have: config.accumulate=1, ")
    assert lines[1] == "settings that there are no more: config.log.project=mine"


def test_a_setting_that_moved_is_an_error_that_says_where_to():
    values = demo_values()
    values["log"]["project"] = "mine"
    with pytest.raises(ValueError, match=r"^config\.log\.project is config\.job\.project now$"):
        build.loop(values, sharding.make_mesh(devices=jax.devices()[:1]))


def test_meshes_for_sampling():
    values = demo_values()  # 3 latent frames of 6 patch rows
    trainer = build.trainer(values)

    def mesh(text, guided=False):
        return build_sample.sampling_mesh(values, trainer, text, guided)

    assert dict(mesh(None).shape) == ONE | {"context": 6}
    # Guidance has two branches: half of the devices each.
    assert dict(mesh(None, guided=True).shape) == ONE | {"data": 2, "context": 3}
    written = mesh("data=4,context=2")
    assert dict(written.shape) == dict(data=4, fsdp=1, context=2)
    with pytest.raises(ValueError, match=r"context=4 divides neither the 3 .* nor the 6 "):
        mesh("data=2,context=4")
    # Videos of another size have to fit too, here of 5 patch rows.
    other = build_sample.sampling_mesh(values, trainer, None, False, [(80, 160)])
    assert dict(other.shape) == ONE | {"context": 3}
    with pytest.raises(ValueError, match=r"context=2 divides neither the 3 .* nor the 5 "):
        build_sample.sampling_mesh(values, trainer, "data=4,context=2", False, [(80, 160)])
    for text in ("data", "rows=2", "data=two", ""):
        with pytest.raises(ValueError, match=f"--mesh={text}: write it as data=2,context=4"):
            mesh(text)
    with pytest.raises(ValueError, match=r"needs 2 devices .* there are 8"):
        mesh("data=2")


def test_settings_of_a_sample():
    values = demo_values()
    changed = build_sample.sample_config(values, num_steps=3, num_conditional_frames=5)
    assert changed == SampleConfig(num_steps=3, guidance=0.0, num_conditional_frames=5)
    for changes, match in [
        (dict(num_conditional_frames=3), "num_conditional_frames=3: .* give 0, 1, 5, 9"),
        (dict(num_conditional_frames=13), "=13 exceeds the 9 frames of a clip"),
        (dict(num_steps=0), "num_steps=0"),
        (dict(seed=-1), "seed=-1"),
        (dict(control_weight=-0.5), r"control_weight=-0\.5"),
    ]:
        with pytest.raises(ValueError, match=match):
            build_sample.sample_config(values, **changes)


def test_what_a_run_may_change_on_its_way_is_not_the_model():
    """Precision, attention and rematerialisation may change between two starts of one run."""

    def model(**changes):
        values = demo_values(mesh__data=1, **changes)
        with jax.set_mesh(one_device()):
            return build.sizes(values, one_device(), build.trainer(values)).model

    assert model() == model(dtype="bfloat16", remat="full", steps=3, data__batch_size=8)
    assert model() != model(trainable="control/.*")
    assert model()["network"].keys() < {field.name for field in dataclasses.fields(DiTConfig)}


def test_shapes_of_a_batch_are_those_that_a_step_takes():
    values = demo_values(mesh__data=1)
    with jax.set_mesh(one_device()):
        sizes = build.sizes(values, one_device(), build.trainer(values))
    own = dataclasses.replace(sizes, network=tiny.config(), latents=(2, 4, 4, 16), text=(3, 8))
    want, have = tiny.batch(range(2)), own.batch(2, views=tiny.VIEWS)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(have), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
