"""Two processes as one run: the numbers of one process, and an end for all when one dies."""

import socket
import time

import commands
import numpy as np
import pytest

from cosmos_jax import many_hosts

# Eight devices in all. Split over data each process reads its rows; split over context alone both
# read the same clips.
MESHES = {
    "data": dict(
        mesh__data=8,
        data__batch_size=8,
    ),
    "context": dict(
        mesh__data=1,
        mesh__context=8,
        data__batch_size=1,
        data__size="(128,32)",
        scene__size="(128,32)",
    ),
}
SHORT = dict(steps=2, preview__clips=0, validation__every=0)


def start(arguments, count, devices):
    """Starts the processes of one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = (f"--coordinator=localhost:{port}", f"--num_processes={count}")
    flags = [[*together, f"--process_id={i}"] if count > 1 else [] for i in range(count)]
    return [commands.Command("run_train.py", *arguments, *own, devices=devices) for own in flags]


def losses(workdir):
    return list(commands.losses(workdir).values())


@pytest.mark.parametrize("axis", MESHES)
def test_two_processes_of_four_devices_are_one_of_eight(tmp_path, axis):
    arguments = commands.demo(**SHORT, **MESHES[axis])
    for count in (1, 2):
        run = start([*arguments, f"--workdir={tmp_path / str(count)}"], count, 8 // count)
        assert [process.wait() for process in run] == [0] * count, [p.err for p in run]
        told = commands.metrics(tmp_path / str(count))[2]
        spread = {name: told[name] for name in told if name.startswith("hosts/")}
        assert bool(spread) == (count > 1)
        if spread:
            assert spread["hosts/longest_data_wait"] in (0, 1)
            assert 0 <= spread["hosts/step_spread"] < 2 and spread["hosts/data_wait_spread"] >= 0
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(one) == 2
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.core
def test_the_spread_over_processes_names_the_one_that_waits_for_data(monkeypatch):
    others = np.array([[2.0, 0.1], [2.2, 1.1], [1.8, 0.0]], np.float32)

    def gather(own):
        np.testing.assert_allclose(own, others[1], rtol=1e-6)
        return others

    monkeypatch.setattr(many_hosts.multihost_utils, "process_allgather", gather)
    found = many_hosts.spread({"seconds_per_step": 2.2, "data_wait_fraction": 0.5})
    assert found == pytest.approx(
        {
            "hosts/step_spread": 0.2,
            "hosts/data_wait_spread": 0.55,
            "hosts/longest_data_wait": 1,
        }
    )


def test_a_process_that_dies_ends_the_others(tmp_path):
    arguments = commands.demo(**SHORT | dict(steps=100), **MESHES["data"])
    run = start([*arguments, f"--workdir={tmp_path}"], 2, 4)
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() or '"step": 2' not in metrics.read_text():
        assert run[0].running, run[0].err
        time.sleep(0.5)
    run[1].kill()
    died = time.monotonic()
    assert run[0].wait() != 0
    assert time.monotonic() - died < 60
    assert run[0].err.strip(), "it says nothing"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cluster=slurm", "--process_id=0"], "--cluster=slurm finds"),
        (["--coordinator=localhost:1"], "go together"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "in 0..1"),
        (["--cluster=slurm"], "cannot be joined"),
        (["--cluster=lsf"], "slurm|ompi|k8s"),
    ],
)
def test_flags_that_do_not_fit_are_errors(tmp_path, flags, words):
    error = commands.error_of(
        "run_train.py", *commands.demo(), f"--workdir={tmp_path / 'run'}", *flags
    )
    assert words in error
    assert not (tmp_path / "run").exists()


def test_tasks_that_would_each_train_alone_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    process = commands.Command(
        "run_train.py", *commands.demo(), f"--workdir={tmp_path / 'run'}", fresh=True
    )
    assert process.wait() == 2
    assert "add --cluster=slurm" in process.err
