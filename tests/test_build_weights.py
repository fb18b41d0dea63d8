"""A run from weights that somebody has trained: read, checked before the first step, or refused."""

import re

import commands
import jax
import numpy as np
import pytest
import tiny
from commands import demo, error_of, run, trained

from cosmos_jax import canary

NEW = dict(steps=1, canary="None", validation__every=0)


def last(workdir):
    return workdir / "checkpoints" / "4"


def test_a_run_starts_from_exported_weights(tmp_path):
    """Export of a run, as .pt; a new run from it has the same weights before its first step."""
    run("converters/convert.py", f"--source={trained()}", f"--target={tmp_path}/three")
    done = run(
        "run_train.py",
        *demo(init_from=f"{tmp_path}/three/model_ema_fp32.pt", optimizer__lr=0.0, **NEW),
        f"--workdir={tmp_path}/new",
    )
    told = re.search(r"read +(\d+) arrays, [\d,]+ bytes, checksum (\w+)", done.out)
    audit = run("converters/convert.py", f"--source={tmp_path}/three/model_ema_fp32.pt", "--audit")
    assert told and f"checksum {told[2]}" in audit.out.splitlines()[-1]
    before = commands.arrays(trained(), 4)
    after = commands.arrays(tmp_path / "new", 1)
    for name in (n for n in before if n.startswith("ema/")):
        np.testing.assert_array_equal(after[name.replace("ema/", "params/")], before[name])


def test_a_workdir_is_a_source_too_and_the_canary_sings(tmp_path):
    """Two steps of training are no pretrained weights: the canary stops the run."""
    flags = demo(init_from=trained(), **NEW | dict(canary=0.01))
    command = commands.Command("run_train.py", *flags, f"--workdir={tmp_path}/new")
    assert command.wait() == 3
    assert "loss / baseline" in command.out and "probably not in place" in command.err
    assert not (tmp_path / "new" / "checkpoints" / "1").exists()


def test_weights_of_another_network_are_refused_before_work(tmp_path):
    told = error_of(
        "run_train.py",
        *demo(init_from=trained(), model__mlp_width=32, **NEW),
        f"--workdir={tmp_path}/new",
    )
    assert "another network: mlp_width is 64 there and 32 here" in told
    run("converters/convert.py", f"--source={trained()}", f"--target={tmp_path}/three")
    told = error_of(
        "run_train.py",
        *demo(init_from=f"{tmp_path}/three/model.pt", model__mlp_width=32, **NEW),
        f"--workdir={tmp_path}/new",
    )
    assert "mlp.layer1.weight: shape (64, 32), but the network needs (32, 32)" in told


@pytest.mark.core
def test_the_baseline_is_the_best_linear_predictor():
    """Least squares on drawn data: 1 / (s^2 + (1 - s)^2)."""
    random = np.random.default_rng(0)
    x0, eps = random.standard_normal((2, 200_000))
    for s in (0.1, 0.5, 0.9):
        x, v = s * eps + (1 - s) * x0, eps - x0
        best = np.mean((v - x * (x @ v) / (x @ x)) ** 2)
        assert abs(best - float(canary.baseline(jax.numpy.float32(s)))) < 0.02 * best


@pytest.mark.core
def test_a_network_that_says_nothing_is_above_the_canarys_limit():
    trainer = tiny.trainer(".*")
    state = jax.jit(lambda key: trainer.init(key, tiny.INPUTS))(jax.random.key(0))
    silent = state.params | {"final": jax.tree.map(lambda p: 0 * p, state.params["final"])}
    found = canary.ratio(trainer, state.replace(params=silent), tiny.batch(range(2)))
    assert found > 1
