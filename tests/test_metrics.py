import json
import struct
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosmos_jax import metrics
from cosmos_jax.data import video_writer

KEYS = {
    "step",
    "loss",
    "grad_norm",
    "lr",
    "seconds_per_step",
    "tokens_per_second",
    "model_tflops",
    "peak_memory_gib",
    "data_wait_fraction",
}


def writer(workdir, resumed_step=None, wandb="disabled", total_steps=10):
    return metrics.MetricWriter(
        workdir,
        total_steps=total_steps,
        resumed_step=resumed_step,
        wandb=wandb,
        config={"model": {"blocks": 2}, "job": {"project": "tests", "group": "a", "name": None}},
    )


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.core
def test_stopwatch_adds_up_parts_and_starts_again():
    clock = Clock()
    watch = metrics.Stopwatch(clock)
    for part, seconds in [("data_wait", 1.0), ("step", 6.0), ("encode", 3.0), ("step", 6.0)]:
        clock.now += 0.5  # between the parts
        with watch(part):
            clock.now += seconds
    assert watch.take() == {
        "data_wait": 1.0,
        "encode": 3.0,
        "step": 12.0,
        "checkpoint": 0.0,
        "evaluation": 0.0,
    }
    assert set(watch.take().values()) == {0.0}


def test_stopwatch_counts_a_part_that_fails_and_knows_its_parts():
    clock = Clock()
    watch = metrics.Stopwatch(clock)
    with pytest.raises(RuntimeError), watch("step"):
        clock.now += 2.0
        raise RuntimeError
    assert watch.take()["step"] == 2.0
    with pytest.raises(KeyError, match="naps"), watch("naps"):
        pass


@pytest.mark.core
def test_unsound_steps_are_counted_and_said(capsys):
    steps = metrics.Unsound(allowed=True)
    out = {"loss": jnp.float32("nan"), "grad_norm": 3.0}
    for step in range(1, metrics.PATIENCE + 1):
        steps.count(step, True, out)
    assert steps.total == metrics.PATIENCE and not steps.too_many
    assert "step 1 skipped: loss nan, gradient norm 3" in capsys.readouterr().out
    steps.count(21, False, out)
    steps.count(22, True, out)
    assert steps.total == metrics.PATIENCE + 1 and not steps.too_many
    for step in range(23, 23 + metrics.PATIENCE):
        steps.count(step, True, out)
    assert steps.too_many


@pytest.mark.core
def test_speed_counts_training_and_not_what_comes_between():
    seconds = {"data_wait": 1.0, "encode": 2.0, "step": 7.0, "checkpoint": 50.0, "evaluation": 90.0}
    got = metrics.speed(seconds, steps=5, tokens=5000, flops=20e12, devices=2)
    assert got["seconds_per_step"] == pytest.approx(2.0)
    assert got["tokens_per_second"] == pytest.approx(500.0)
    assert got["model_tflops"] == pytest.approx(1.0)  # 4 TFLOP in 2 s on 2 devices
    assert got["data_wait_fraction"] == pytest.approx(0.1)
    assert got["encode_fraction"] == pytest.approx(0.2)
    assert got["seconds/evaluation"] == 90.0
    assert "model_flops_share" not in got  # nobody states a CPU's


def test_the_share_of_a_known_devices_peak(monkeypatch):
    class H200:
        device_kind = "NVIDIA H200"

    monkeypatch.setattr(metrics.jax, "devices", lambda: [H200()])
    seconds = dict.fromkeys(metrics.PARTS, 0.0) | {"step": 2.0}
    got = metrics.speed(seconds, steps=1, tokens=1, flops=2 * 494.5e12, devices=1)
    assert got["model_flops_share"] == pytest.approx(0.5)


@pytest.mark.core
def test_a_line_has_every_key_and_is_on_disk_at_once(tmp_path, capsys):
    seconds = dict.fromkeys(metrics.PARTS, 1.0)
    with writer(tmp_path / "run", total_steps=200) as out:
        out.write(
            5,
            {"loss": jnp.float32(0.5), "grad_norm": 2.0, "lr": 1e-4}
            | metrics.speed(seconds, 5, tokens=35_000, flops=5e12, devices=8)
            | metrics.memory(),
        )
        (line,) = lines(tmp_path / "run")  # before the file is closed
    assert set(line) >= KEYS
    assert line["step"] == 5 and line["loss"] == 0.5
    assert 0.01 < line["peak_memory_gib"] < 1000
    shown = capsys.readouterr().out
    assert shown.startswith("step   5/200 (  2%, - left)  loss 0.5000  grad 2  lr 1.00e-04")
    assert "11,667 tokens/s" in shown and "wait 33%" in shown and "seconds/" not in shown


@pytest.mark.core
def test_console_tells_the_time_that_is_left(tmp_path, capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(metrics.time, "monotonic", clock)
    with writer(tmp_path, total_steps=100) as out:
        clock.now = 1000.0  # compilation does not count
        out.write(10, {"loss": 1.0})
        clock.now = 1020.0
        out.write(20, {"loss": 1.0})
        out.write(20, {"val/loss": 0.25})
    last = capsys.readouterr().out.splitlines()
    assert last[1] == "step  20/100 ( 20%, 0:02:40 left)  loss 1.0000"
    assert last[2] == "step  20/100 ( 20%, 0:02:40 left)  val/loss 0.25"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), jnp.float32("-inf")])
def test_a_number_that_is_not_finite_is_null_in_the_file(tmp_path, capsys, value):
    with writer(tmp_path) as out:
        out.write(1, {"loss": value})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "loss": null}\n'
    assert f"loss {float(value):.4f}" in capsys.readouterr().out


@pytest.mark.core
@pytest.mark.parametrize("resumed, kept", [(4, [2, 4, 4]), (None, []), (3, [2]), (9, [2, 4, 4, 6])])
def test_lines_that_will_be_made_again_are_dropped(tmp_path, resumed, kept):
    with writer(tmp_path) as out:
        for step in (2, 4, 6):
            out.write(step, {"loss": step})
            if step == 4:
                out.write(step, {"val/loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    with writer(tmp_path, resumed_step=resumed) as out:
        out.write(10, {"loss": 10.0})
    assert [line["step"] for line in lines(tmp_path)] == [*kept, 10]


def test_unknown_wandb_mode_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'on' is not one of disabled, offline, online"):
        writer(tmp_path, wandb="on")
    assert not list(tmp_path.iterdir())


def test_wandb_is_imported_only_when_asked_for(tmp_path):
    program = (
        "import sys; from cosmos_jax import metrics\n"
        f"w = metrics.MetricWriter({str(tmp_path)!r}, total_steps=1, resumed_step=None,"
        " wandb='disabled', config={})\n"
        "w.write(1, {'loss': 1.0}); w.close(); assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


class Process:
    """Only the second of two processes."""

    def __call__(self):
        return 1


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metrics.jax, "process_index", Process())
    with writer(tmp_path / "run", wandb="offline") as out:
        out.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def records(path):
    """What a file of W&B holds: LevelDB's log format after 7 bytes, of short records in one block
    (checksum, length, type, data)."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert len(data) < 32_768
    place = 7
    while place + 7 < len(data):
        length, kind = struct.unpack_from("<HB", data, place + 4)
        assert kind == 1  # whole
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[place + 7 : place + 7 + length])
        yield record
        place += 7 + length


def logged(path):
    """The run's record, and the rows of numbers, of an offline W&B run."""
    deadline = time.monotonic() + 60
    while not (held := list(records(path))) or held[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, f"{path} is not complete"
        time.sleep(0.1)
    start, rows = None, []
    for record in held:
        if record.WhichOneof("record_type") == "run":
            start = record.run
        if record.WhichOneof("record_type") == "history":
            told = record.history.item
            items = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in told}
            rows.append({key: value for key, value in items.items() if key[0] != "_"})
    return start, rows


def test_wandb_keeps_what_a_resumed_run_says_again(tmp_path, monkeypatch):
    """W&B drops what is logged at a step of its own before the last one: it has only ours."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    with writer(tmp_path, wandb="offline") as out:
        for step in (1, 2, 3, 2, 3, 4):
            out.write(step, {"loss": 10.0 * step})
        samples = tmp_path / "samples" / "step_4"
        for name in ("a_compare_ema", "a_grid"):
            video_writer.write_video(samples / f"{name}.mp4", np.zeros((1, 16, 16, 3), np.uint8), 5)
        out.videos(4, samples)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (sent,) = folder.rglob("*.mp4")
    assert sent.name.startswith("a_compare_ema")
    _, rows = logged(next(folder.glob("*.wandb")))
    assert [row["step"] for row in rows] == [1, 2, 3, 2, 3, 4, 4]
    assert all(row["loss"] == 10 * row["step"] for row in rows[:-1])
    assert "samples/a_compare_ema" in rows[-1]


def test_wandb_offline_goes_on_in_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for resumed in (None, 1):
        with writer(tmp_path, resumed_step=resumed, wandb="offline") as out:
            out.write(len(ids) + 1, {"loss": 0.5, "val/loss": 0.25})
        ids.append((tmp_path / "wandb_run_id.txt").read_text().strip())
    assert ids[0] == ids[1]
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert runs and all(ids[0] in run.name for run in runs)
    last = max(runs, key=lambda run: run.stat().st_mtime_ns)
    start, rows = logged(last / f"run-{ids[0]}.wandb")
    assert (start.project, start.run_group, start.display_name) == ("tests", "a", tmp_path.name)
    keys = {item.key: json.loads(item.value_json) for item in start.config.update}
    assert keys["versions"]["jax"] == jax.__version__ and keys["model"] == {"blocks": 2}
    assert rows == [{"step": 2.0, "loss": 0.5, "val/loss": 0.25}]
    with writer(tmp_path, resumed_step=None, wandb="offline"):
        assert (tmp_path / "wandb_run_id.txt").read_text().strip() != ids[0]
