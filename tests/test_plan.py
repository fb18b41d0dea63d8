"""The plan of a run: its memory against what was measured, its arithmetic, and the command."""

import dataclasses
import functools
import importlib
import pathlib
import re

import clips_on_disk
import commands
import pytest

from cosmos_jax import (
    build,
    plan,
    plan_measured,
    plan_search,
    plan_sources,
    plan_system,
)
from cosmos_jax.plan_measured import ALL, CONTROL, LARGE, ROWS, SMALL, Row
from experiments import transfer25_robotics_edge

PERFORMANCE = pathlib.Path(__file__).parents[1] / "docs" / "performance.md"
GIB = 2**30
TEXT_WIDTHS = {"transfer25_robotics_edge": 100_352, "predict1_av_multiview_waymo": 1024}


def changed(values, **changes):
    """A config with some values changed; in keys, `__` stands for the dot."""
    return plan_search.changed(values, {k.replace("__", "."): v for k, v in changes.items()})


@functools.cache
def full_size(recipe="transfer25_robotics_edge"):
    config = importlib.import_module(f"experiments.{recipe}").get_config()
    return build.check_config(config)


@functools.cache
def tiny():
    config = transfer25_robotics_edge.get_config("tiny")
    config.mesh.context = 1
    return build.check_config(config)


@functools.cache
def memory_of(row: Row):
    """The plan of a measured step, by all that it depends on."""
    values = changed(
        full_size(row.recipe),
        trainable=row.trainable,
        remat=row.remat,
        offload_optimizer=row.offload,
        data__size=row.clip[1],
        data__batch_size=row.batch,
        mesh=dict(zip(("data", "fsdp", "context"), row.mesh)),
    )
    planned = plan_system.system(values, None, cached=(512, TEXT_WIDTHS[row.recipe]))
    assert planned.sizes.tokens(row.clip[0]) == row.clip[2]
    return planned.memory(row.clip[0])


def planned_gib(row: Row) -> float:
    plain = dataclasses.replace(row, attention="cudnn", gib=0.0, tflops=0, source="")
    return memory_of(plain).total / GIB


@pytest.mark.core
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source} {row.gib} GiB")
def test_memory_is_within_15_percent_of_what_was_measured(row):
    assert planned_gib(row) == pytest.approx(row.gib, rel=0.15)


def test_host_memory_is_what_the_compiler_says():
    offload = Row(ALL, SMALL, "cudnn", 0.0, remat="offload", source="")
    assert memory_of(offload).host_saved / GIB == pytest.approx(7.6, rel=0.02)
    optimizer = Row(ALL, SMALL, "cudnn", 0.0, offload=True, source="")
    assert memory_of(optimizer).host_state / GIB == pytest.approx(27, rel=0.02)
    large = Row(ALL, LARGE, "cudnn", 0.0, remat="offload", source="")
    assert memory_of(large).host_saved / GIB == pytest.approx(24, rel=0.02)


@pytest.mark.core
def test_the_rows_are_those_of_the_documentation():
    text = PERFORMANCE.read_text()
    for row in ROWS:
        assert f"{row.gib} GiB" in text or f"{row.gib:g} GiB" in text, row
        assert not row.tflops or f"| {row.tflops} |" in text, row
        assert f"{row.clip[2]:,}" in text


@pytest.mark.core
def test_the_closest_row_is_of_the_same_kind_first():
    assert plan_measured.closest(False, "cudnn", 62_400, 1, 2048).tflops == 466
    assert plan_measured.closest(True, "fa3", 200_000, 1, 2048).tflops == 519
    assert plan_measured.closest(False, "fa3", 200_000, 1, 2048).tflops == 512
    assert plan_measured.closest(False, "fa3", 200_000, 8, 2048).tflops == 507
    assert plan_measured.closest(False, "fa3", 60_000, 8, 2048).tflops == 470
    assert plan_measured.closest(True, "xla", 60_000, 1, 2048).trainable == CONTROL
    assert plan_measured.closest(False, "fa3", 62_400, 2, 2048).width == 2048
    assert plan_measured.closest(False, "fa3", 62_400, 8, 4096).tflops == 498


@pytest.mark.core
def test_what_is_saved_is_what_remat_names():
    @functools.cache
    def planned(remat):
        return plan_system.system(changed(tiny(), remat=remat, trainable=".*"), 1)

    @functools.cache
    def saved(remat, kernel="cudnn"):
        return dataclasses.replace(planned(remat), kernel=kernel).memory(5).saved

    tokens, width, heads, blocks = 90, 32, 2, 3  # with that of the control branch
    array = 4 * tokens * width * blocks
    logs = 4 * tokens * heads * blocks
    assert saved("attention") - saved("full") == array + logs
    assert saved("attention_inputs") - saved("attention") == 3 * array
    assert saved("attention") - saved("attention", "xla") == logs
    assert saved("attention") - saved("offload") == array
    scores = 4 * heads * tokens * (tokens + 4) * blocks  # of self-attention and of four text tokens
    assert saved("none", "xla") - saved("none") >= scores - logs
    assert saved("none") > saved("attention_inputs")


@pytest.mark.core
def test_shards_and_parts_of_a_batch():
    values = changed(tiny(), data__batch_size=8, validation__clips=8, mesh__data=-1)
    whole = plan_system.system(values, 1).memory(5)
    halves = plan_system.system(changed(values, accumulate=2), 1).memory(5)
    assert halves.gradients == 2 * whole.gradients
    assert halves.saved == pytest.approx(whole.saved / 2, rel=0.05)
    spread = plan_system.system(values, 8).memory(5)
    assert spread.parameters == whole.parameters and spread.batch == whole.batch // 8
    split = changed(values, mesh__data=1, mesh__fsdp=8)
    assert plan_system.system(split, 8).memory(5).parameters < whole.parameters / 7


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, devices, message",
    [
        ({"mesh__context": 4}, 8, "needs 4 devices"),
        ({"mesh__context": -1}, 7, "context sizes that fit"),
        ({"mesh__data": -1}, 2, "does not divide over data x fsdp"),
        ({"mesh__rows": 1}, 1, "config.mesh.rows"),
        ({"attention": "fa4"}, 1, "must be auto or one of"),
        ({"attention": "fa3"}, 1, "bfloat16"),
        ({"remat": "some"}, 1, "remat"),
        ({"trainable": "nothing"}, 1, "matches no parameter"),
    ],
)
def test_bad_settings(changes, devices, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_system.system(changed(tiny(), **changes), devices)


@pytest.mark.core
def test_an_axis_of_minus_one_takes_the_devices():
    values = changed(full_size(), text=tiny()["text"] | {"width": 100_352})
    assert dict(plan_system.system(values, 4).mesh.shape) == {"data": 1, "fsdp": 1, "context": 4}
    one = plan_system.system(values, None)
    assert (one.mesh.size, one.kernel) == (1, "cudnn")


def test_search_finds_what_fits():
    planned = plan_system.system(changed(tiny(), trainable=".*", remat="full"), 1)
    limit = 0.9 * planned.gib(5)
    found = plan_search.search(planned, 5, limit, None)
    single = plan_system.system(changed(planned.values, offload_optimizer=True), 1)
    assert found[0] == plan_search.Setting("--config.offload_optimizer=True", single.gib(5))
    assert any("--plan_devices=2" in setting.flags for setting in found)
    assert all(setting.gib <= limit for setting in found)


@pytest.mark.core
def test_search_looks_at_meshes_of_the_same_devices():
    values = changed(tiny(), data__batch_size=4, validation__clips=4, mesh__data=-1)
    planned = plan_system.system(values, 4)
    found = [tuple(mesh.values()) for mesh in plan_search._meshes(planned)]
    assert found == [(1, 4, 1), (1, 2, 2), (1, 1, 4)]
    sizes = list(plan_search._sizes(planned))
    assert sizes[0] == (32, 48) and all(y % 16 == x % 16 == 0 for y, x in sizes)


@pytest.mark.core
def test_flags_are_those_of_the_command_line():
    change = {"data.size": (32, 48), "remat": "full", plan_search.PREPARE: True}
    assert plan_search.flags(change) == [
        "--config.data.size='(32, 48)'",
        "--config.remat=full",
        plan_search.PREPARE,
    ]
    assert plan_search.changed(tiny(), change)["data"]["size"] == (32, 48)


def test_the_work_of_a_step():
    values = changed(full_size(), trainable=".*", steps=3600)
    planned = plan_system.system(values, 1)
    lines = "\n".join(plan._work(planned, (5,), None))
    assert "3,814 TFLOP" in lines
    # Measured: 8.18 s, and 10 videos of 0.158 s.
    assert "8.18 s a step at 466 TFLOP/s" in lines and "1.58 s of video" in lines
    assert "9.76 hours for 3,600 steps" in lines
    stated = plan.expected_speed(planned, 5, 932.0)
    assert stated.encode_tflops == pytest.approx(
        2 * plan.expected_speed(planned, 5, None).encode_tflops
    )


def test_data_sets_are_scanned(tmp_path):
    cameras = ("cam_high", "cam_left_wrist")
    clips_on_disk.write_clips(tmp_path, (10, 11), cameras, "control_input_edge")
    values = changed(tiny(), data__root=str(tmp_path), data__cameras="all", data__views=(1, 2))
    planned = plan_system.system(values, 1)
    data = plan_sources.data(planned)
    assert data.views == (1, 2) and "of 1 episodes to train on" in data.about
    lines = list(plan.report(planned, data, 139.0))
    assert any("18 or 36 tokens" in line for line in lines), lines
    with pytest.raises(ValueError, match="draws up to 3 views"):
        plan_sources.data(plan_system.system(changed(values, data__views=(1, 3)), 1))


@pytest.mark.core
def test_data_sets_that_are_not_there():
    data = plan_sources.data(plan_system.system(tiny(), 1))
    assert data.views == (5,) and "not scanned" in data.about
    values = changed(tiny(), data__cameras="all")
    assert plan_sources.data(plan_system.system(values, 1)).views == (7,)


def test_the_command_needs_no_gpu_no_weights_and_no_network():
    config = "--config=experiments/transfer25_robotics_edge.py"
    asked = ("--plan_devices=8", "--plan_memory_gib=20", "--plan_tflops=450")
    out = commands.run("run_train.py", config, "--plan", *asked).out
    assert out.count("not checked") == 3 and "/path/to/clips is not there" in out
    assert "8 devices; attention cudnn" in out and "62,400 tokens" in out
    assert re.search(r"the step +\d+\.\d+ GiB", out) and "fits     yes" in out
    assert "at 450 TFLOP/s a device (as stated)" in out


def test_the_command_compiles_on_these_devices(tmp_path):
    out = commands.run("run_train.py", *commands.demo(), "--plan=compile", devices=2).out
    assert "2 devices; attention xla" in out
    found = dict(re.findall(r"^compiler +(.+?)  +(\S+) GiB", out, re.MULTILINE))
    assert float(found["arguments"]) > 0 and float(found["temporary"]) > 0
    held = re.findall(r"^memory +(?:parameters|frozen|optimizer|ema|batch) +(\S+)", out, re.M)
    # What the step is given, in the plan and to the compiler.
    assert float(found["arguments"]) == pytest.approx(sum(map(float, held)), rel=0.02)


def test_the_command_refuses(tmp_path):
    demo = commands.demo()
    assert "belongs to --plan" in commands.error_of("run_train.py", *demo, "--plan_devices=2")
    said = commands.error_of("run_train.py", *demo, "--plan", "--config.init_from=/nowhere.pt")
    assert "/nowhere.pt" in said
    said = commands.error_of("run_train.py", *demo, "--plan", "--config.init_from=hf://nvidia")
    assert "not of the form" in said
    said = commands.error_of("run_train.py", *demo, "--plan=compile", "--plan_devices=2")
    assert "drop --plan_devices" in said
    assert "compile" in commands.error_of("run_train.py", *demo, "--plan=guess")
    said = commands.error_of("run_train.py", *demo, "--plan", "--config.preview.weights=('all',)")
    assert "'all' is none of" in said


def test_held_out_clips_that_a_run_would_miss_are_an_error(tmp_path):
    clips_on_disk.write_clips(tmp_path, (10, 11, 12), ("cam_high",), "control_input_edge")
    given = dict(data__root=str(tmp_path), data__cameras="all")

    def ask(**changes):
        plan_sources.data(plan_system.system(changed(tiny(), **given | changes), 1))

    ask(validation__clips=4, preview__clips=4)
    with pytest.raises(ValueError, match="5 clips are wanted for validation and the split holds 4"):
        ask(validation__clips=5)
    with pytest.raises(ValueError, match=r"config.preview.clips=5 must lie in 1..4"):
        ask(validation__clips=4, preview__clips=5)
    with pytest.raises(ValueError, match="'val/los' is none of val/loss"):
        ask(checkpoint__best="val/los")
    with pytest.raises(ValueError, match=r"best needs config.validation.every"):
        ask(checkpoint__best="val/loss", validation__every=0)
    ask(validation__every=0, preview__clips=0, validation__clips=5)
