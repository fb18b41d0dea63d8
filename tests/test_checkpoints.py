import json
import logging
import multiprocessing
import os
import pathlib
import resource
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding

from cosmos_jax import checkpoints, run_weights, sharding
from cosmos_jax.types import TrainState

MODEL = {"blocks": 2, "views": (0, 1), "codec": {"name": "dct"}}


def make_state(step: int, width: int = 16, seed: int = 0) -> TrainState:
    """A state of the kinds of arrays that training has; a function of its arguments alone."""
    keys = iter(jax.random.split(jax.random.key(seed + 1000 * step), 3))
    params = {
        "blocks": {"q": {"kernel": jax.random.normal(next(keys), (2, width, width))}},
        "norm": {"scale": jax.random.normal(next(keys), (width,))},
    }
    frozen = {"blocks": {"k": {"kernel": jnp.full((2, width, 8), seed + 0.1, jnp.bfloat16)}}}
    constants = {"rope": {"dim_t_range": jnp.arange(3, dtype=jnp.float32) / 3}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    ema = jax.tree.map(lambda x: x * 0.5, params)
    return TrainState(jnp.int32(step), params, frozen, constants, tx.init(params), ema)


def abstract_on(mesh: jax.sharding.Mesh, state: TrainState) -> TrainState:
    def place(leaf):
        placed = NamedSharding(mesh, sharding.split_spec(leaf.shape, mesh))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)

    return jax.tree.map(place, state)


def on_mesh(mesh: jax.sharding.Mesh, state: TrainState) -> TrainState:
    return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state, abstract_on(mesh, state))


def assert_same_bits(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def saved(directory: pathlib.Path, *states: TrainState, **options) -> pathlib.Path:
    options = {"keep_last": 2} | options
    with checkpoints.Checkpoints(directory, MODEL, **options) as writer:
        for state in states:
            writer.save(state, 4 * int(state.step), {"position": int(state.step)})
    return directory


@pytest.fixture
def opened(tmp_path):
    with checkpoints.Checkpoints(tmp_path / "checkpoints", MODEL, keep_last=2) as held:
        yield held


@pytest.mark.core
@pytest.mark.parametrize("shape", [(1, 4, 2), (8, 1, 1), (1, 1, 8), (2, 2, 2)])
def test_state_comes_back_bit_for_bit_on_any_mesh(tmp_path, shape):
    state = make_state(3)
    saved(tmp_path / "c", on_mesh(sharding.make_mesh(1, 4, 2), state))
    abstract = abstract_on(sharding.make_mesh(*shape), state)
    with checkpoints.Checkpoints(tmp_path / "c", MODEL, keep_last=2) as reader:
        got, record = reader.restore(abstract)
    assert_same_bits(got, state)
    for leaf, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(abstract)):
        assert leaf.sharding == wanted.sharding
    assert (record.step, record.samples, record.data) == (3, 12, {"position": 3})


@pytest.mark.core
def test_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    params = {"kernel": jax.random.normal(jax.random.key(0), (8, 512, 512))}
    want = np.array(params["kernel"])
    state = TrainState(jnp.int32(1), params, {}, {}, optax.sgd(0.1).init(params), None)
    with checkpoints.Checkpoints(tmp_path / "c", MODEL, keep_last=1) as writer:
        writer.save(state, 0, None)
        changed = params["kernel"]
        for _ in range(20):
            changed = step(changed)
        writer.wait()
        got, _ = writer.restore(state.replace(params={"kernel": changed}))
    assert got.ema is None and got.frozen == {}
    np.testing.assert_array_equal(got.params["kernel"], want)


@pytest.mark.core
def test_retention_and_the_name_of_the_latest(tmp_path):
    states = [make_state(step) for step in range(1, 8)]
    directory = saved(tmp_path / "c", *states, keep_last=2, keep_every=3)
    assert checkpoints.complete_steps(directory) == [3, 6, 7]
    assert (directory / "latest_checkpoint.txt").read_text() == "7\n"
    frozen = list((directory / "frozen").iterdir())
    assert len(frozen) == 1, "the frozen parameters are written once"
    assert set(os.listdir(directory)) == {"3", "6", "7", "frozen", "latest_checkpoint.txt"}
    assert set(os.listdir(directory / "7")) >= {"params", "ema", "opt_state", "record"}
    assert not (directory / "7" / "frozen").exists()


@pytest.mark.core
def test_the_best_stays(tmp_path):
    scores = {1: float("nan"), 2: 1.0, 3: None, 4: 1.0, 5: 2.0, 6: None, 7: None}
    with checkpoints.Checkpoints(tmp_path, MODEL, keep_last=2, best="val/loss") as writer:
        for step, score in scores.items():
            writer.save(make_state(step), step, None)
            if score is not None:
                writer.score(step, {"val/loss": score})
    assert checkpoints.complete_steps(tmp_path) == [2, 6, 7]
    assert checkpoints.best_step(tmp_path, "val/loss") == 2
    assert checkpoints.best_step(tmp_path, "val/other") is None


@pytest.mark.core
def test_a_step_loses_its_name_before_its_files(tmp_path, monkeypatch):
    """A kill in the middle of a deletion must not leave half a step under a number."""
    listed = []
    delete = checkpoints.shutil.rmtree

    def watched(path, **options):
        if pathlib.Path(path).exists():
            listed.append(checkpoints.complete_steps(tmp_path / "c"))
        delete(path, **options)

    monkeypatch.setattr(checkpoints.shutil, "rmtree", watched)
    saved(tmp_path / "c", *[make_state(step) for step in (1, 2, 3)], keep_last=1)
    assert listed == [[2], [3]]


def test_retired_keeps_the_newest_and_the_multiples():
    assert checkpoints.retired([10, 20, 30, 40], 1, None) == [10, 20, 30]
    assert checkpoints.retired([10, 20, 30, 40], 1, 20) == [10, 30]
    assert checkpoints.retired([10], 3, None) == []


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_last": 1, "keep_every": 0}])
def test_retention_below_one_is_an_error(tmp_path, options):
    with pytest.raises(ValueError, match="at least 1"):
        checkpoints.Checkpoints(tmp_path / "c", MODEL, **options)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        checkpoints.Checkpoints(tmp_path / "file" / "c", MODEL, keep_last=1)


def test_a_complete_step_is_not_written_again(tmp_path):
    directory = saved(tmp_path / "c", make_state(1))
    before = sorted((p, p.stat().st_mtime_ns) for p in (directory / "1").rglob("*"))
    saved(directory, make_state(1))
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (directory / "1").rglob("*"))


@pytest.mark.core
def test_another_shape_is_named_with_both_shapes_before_reading(opened, monkeypatch):
    opened.save(make_state(1, width=16), 0, None)
    opened.wait()
    monkeypatch.setattr(checkpoints, "read_items", None)
    other = abstract_on(sharding.make_mesh(8, 1, 1), make_state(1, width=24))
    message = (
        r"another model: params/blocks/q/kernel is float32\[2, 16, 16\] there and "
        r"float32\[2, 24, 24\] in this run"
    )
    with pytest.raises(ValueError, match=message):
        opened.restore(other)


def drop(name):
    return lambda state: state.replace(**{name: {} if name == "frozen" else None})


def thaw(state):
    """Another choice of trainable parameters."""
    kernel = jax.ShapeDtypeStruct((2, 16, 8), jnp.float32, sharding=state.step.sharding)
    blocks = state.params["blocks"] | {"k": {"kernel": kernel}}
    return state.replace(params=state.params | {"blocks": blocks}, frozen={})


def widen(state):
    kernel = state.frozen["blocks"]["k"]["kernel"]
    kernel = jax.ShapeDtypeStruct(kernel.shape, jnp.float32, sharding=kernel.sharding)
    return state.replace(frozen={"blocks": {"k": {"kernel": kernel}}})


@pytest.mark.parametrize(
    "change, message",
    [
        (drop("ema"), r"ema/blocks/q/kernel is float32\[2, 16, 16\] there and absent in this run"),
        (drop("frozen"), r"frozen/blocks/k/kernel is bfloat16\[2, 16, 8\] there and absent"),
        (thaw, r"params/blocks/k/kernel is absent there and float32\[2, 16, 8\] in this run"),
        (widen, r"frozen/blocks/k/kernel is bfloat16\[2, 16, 8\] there and float32\[2, 16, 8\]"),
    ],
)
def test_another_set_of_parameters_is_an_error(opened, change, message):
    state = make_state(1)
    opened.save(state, 0, None)
    opened.wait()
    with pytest.raises(ValueError, match=message):
        opened.restore(change(abstract_on(sharding.make_mesh(8, 1, 1), state)))


def test_another_description_is_an_error_that_names_the_entry(tmp_path):
    state = make_state(1)
    directory = saved(tmp_path / "c", state)
    changed = MODEL | {"codec": {"name": "wan"}}
    with (
        checkpoints.Checkpoints(directory, changed, keep_last=1) as reader,
        pytest.raises(ValueError, match="model/codec/name is dct there and wan in this run"),
    ):
        reader.restore(state)


def test_an_option_that_came_later_has_its_default_in_an_earlier_checkpoint(tmp_path):
    state = make_state(1)
    directory = saved(tmp_path / "c", state)  # says nothing of codec.later

    def restore(value, default):
        model = MODEL | {"codec": {"name": "dct", "later": value}}
        defaults = {"codec": {"name": "wan", "later": default}}
        with checkpoints.Checkpoints(directory, model, 1, defaults=defaults) as reader:
            return reader.restore(state)

    assert_same_bits(restore([1, 2], (1, 2))[0].params, state.params)
    with pytest.raises(ValueError, match="model/codec/later is 3 there and 4 in this run"):
        restore(4, 3)


@pytest.mark.core
@pytest.mark.parametrize("ema", [True, False])
def test_weights_for_sampling_are_read_without_the_optimiser(tmp_path, ema):
    state = make_state(2)
    directory = saved(tmp_path / "checkpoints", state)
    for data in (directory / "2" / "opt_state").rglob("d/*"):
        data.unlink()
    whole = {
        "blocks": state.params["blocks"] | state.frozen["blocks"],
        "norm": state.params["norm"],
    }
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), whole
    )
    path = checkpoints.locate(tmp_path)
    params, constants = run_weights.restore_weights(path, abstract, state.constants, ema)
    trained = state.ema if ema else state.params
    assert_same_bits(params["norm"]["scale"], trained["norm"]["scale"].astype(jnp.bfloat16))
    assert_same_bits(params["blocks"]["k"], state.frozen["blocks"]["k"])
    assert_same_bits(constants, state.constants)
    assert jax.tree.structure(params) == jax.tree.structure(whole)


def test_weights_of_another_model_or_without_ema(tmp_path):
    state = make_state(2).replace(ema=None)
    path = saved(tmp_path / "c", state) / "2"
    with pytest.raises(ValueError, match="no ema"):
        run_weights.restore_weights(path, state.params, state.constants, ema=True)
    other = make_state(2, width=24)
    with pytest.raises(ValueError, match=r"q/kernel is \[2, 16, 16\] there and \[2, 24, 24\]"):
        run_weights.restore_weights(path, other.params, other.constants, ema=False)


def test_locate_takes_a_work_folder_a_checkpoints_folder_or_a_checkpoint(tmp_path):
    directory = saved(tmp_path / "run" / "checkpoints", make_state(9), make_state(10))
    assert checkpoints.locate(tmp_path / "run") == directory / "10"
    assert checkpoints.locate(directory) == directory / "10"
    assert checkpoints.locate(directory / "9") == directory / "9"
    for nothing in (tmp_path, tmp_path / "absent", directory / "11"):
        with pytest.raises(ValueError, match="no complete checkpoint"):
            checkpoints.locate(nothing)


def test_frozen_parameters_that_are_missing_or_of_another_run(tmp_path):
    state = make_state(1)
    directory = saved(tmp_path / "a", state)
    other = saved(tmp_path / "b", make_state(1, seed=5))
    (ours,), (theirs,) = ((d / "frozen").iterdir() for d in (directory, other))
    with checkpoints.Checkpoints(directory, MODEL, keep_last=1) as reader:
        ours.rename(tmp_path / "aside")
        with pytest.raises(ValueError, match=f"needs the frozen parameters of .*{ours.name}"):
            reader.restore(state)
        theirs.rename(ours)
        with pytest.raises(ValueError, match="damaged"):
            reader.restore(state)


@pytest.mark.core
def test_digest_sees_every_bit_and_no_mesh():
    x = jax.random.normal(jax.random.key(0), (16, 8))
    meshes = [sharding.make_mesh(*shape) for shape in ((8, 1, 1), (1, 4, 2))]
    placed = [jax.device_put(x, NamedSharding(m, sharding.split_spec(x.shape, m))) for m in meshes]
    digests = {checkpoints.digest({"a": p}) for p in placed}
    assert len(digests) == 1
    changed = [
        {"a": x.at[3, 4].set(jnp.nextafter(x[3, 4], 9.0))},
        {"a": x.at[0].set(x[1]).at[1].set(x[0])},
        {"a": x.T},
        {"a": x.astype(jnp.bfloat16)},
        {"b": x},
        {},
    ]
    assert len(digests | {checkpoints.digest(tree) for tree in changed}) == 1 + len(changed)


# A failed write ends Orbax's event loop while tensorstore still reports to it.
failing_write = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def assert_save_fails_and_the_previous_stays(writer, reason):
    big = make_state(2, width=512)
    with pytest.raises(checkpoints.SaveError, match=rf"step 2 .*{reason}; that of step 1 is comp"):
        writer.save(big, 2, None)
        writer.wait()


@failing_write
def test_a_write_that_fails_keeps_the_previous_checkpoint(tmp_path):
    """A limit on the size of files fails in the same place as a full disk, for any user."""
    directory, state = tmp_path / "c", make_state(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoints.Checkpoints(directory, MODEL, keep_last=1) as writer:
        writer.save(state, 1, None)
        writer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
        try:
            assert_save_fails_and_the_previous_stays(writer, "File too large")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert checkpoints.complete_steps(directory) == [1]
        assert (directory / "latest_checkpoint.txt").read_text() == "1\n"
        got, _ = writer.restore(state)
        assert_same_bits(got, state)
        writer.save(make_state(3), 3, None)
    with checkpoints.Checkpoints(directory, MODEL, keep_last=1):
        assert set(os.listdir(directory)) == {"3", "frozen", "latest_checkpoint.txt"}


@failing_write
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path):
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        saved(tmp_path / "c", make_state(1))
        with checkpoints.Checkpoints(tmp_path / "c", MODEL, keep_last=1) as writer:
            assert_save_fails_and_the_previous_stays(writer, "No space left on device")
            assert checkpoints.complete_steps(tmp_path / "c") == [1]
            got, _ = writer.restore(make_state(1))
        assert_same_bits(got, make_state(1))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@failing_write
def test_a_failed_save_is_seen_by_check(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoints.Checkpoints(tmp_path / "c", MODEL, keep_last=1) as writer:
        writer.check()
        writer.save(make_state(1), 1, None)
        writer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
        try:
            writer.save(make_state(2, width=512), 2, None)
            with pytest.raises(checkpoints.SaveError):
                for _ in range(600):
                    writer.check()
                    time.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_for_ever(directory: str, said) -> None:
    """The victim of the next test: saves every step until it is killed."""
    with checkpoints.Checkpoints(directory, MODEL, keep_last=1) as writer:
        step = writer.latest_step() or 0
        while True:
            step += 1
            writer.save(make_state(step), 4 * step, step)
            said.send(step)


def test_killed_at_any_moment_leaves_whole_checkpoints(tmp_path):
    """SIGKILL while saving and retiring, seven times over: what is named by a step can be read."""
    directory = tmp_path / "c"
    starter = multiprocessing.get_context("forkserver")
    starter.set_forkserver_preload(["cosmos_jax.checkpoints", "optax"])
    rng = np.random.default_rng(0)
    newest, unfinished = 0, 0
    for _ in range(7):
        hears, says = starter.Pipe(duplex=False)
        victim = starter.Process(target=save_for_ever, args=(str(directory), says), daemon=True)
        victim.start()
        begun = [hears.recv(), hears.recv()]  # the first is complete when the second begins
        time.sleep(rng.uniform(0, 0.15))
        victim.kill()
        victim.join()
        while hears.poll():
            begun.append(hears.recv())
        hears.close()
        says.close()
        victim.close()
        steps = checkpoints.complete_steps(directory)
        names = set(os.listdir(directory)) - {"frozen", "latest_checkpoint.txt"}
        unfinished += names != {str(step) for step in steps}
        assert steps[-1] >= max(newest + 1, begun[-1] - 1), "lost more than the save under way"
        newest = steps[-1]
        for step in steps:
            other = tmp_path / f"only-{step}"
            other.mkdir()
            (other / str(step)).symlink_to(directory / str(step))
            (other / "frozen").symlink_to(directory / "frozen")
            with checkpoints.Checkpoints(other, MODEL, keep_last=1) as reader:
                got, record = reader.restore(make_state(step))
            assert_same_bits(got, make_state(step))
            assert record.samples == 4 * step
    assert unfinished, "no kill came while a checkpoint was being written: the test proves nothing"
    with checkpoints.Checkpoints(directory, MODEL, keep_last=1) as writer:
        named = (directory / "latest_checkpoint.txt").read_text()
        assert named == f"{writer.latest_step()}\n" == f"{newest}\n"
        left = {name for name in os.listdir(directory) if "tmp" in name or name == "trash"}
        assert not left, "opening sweeps what a killed run left"


@pytest.mark.core
def test_saving_logs_nothing(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, logger="absl"):
        saved(tmp_path / "c", make_state(1))
    assert not [r for r in caplog.records if "orbax" in r.pathname]


def test_record_is_json_beside_the_arrays(tmp_path):
    path = saved(tmp_path / "c", make_state(1)) / "1"
    record = checkpoints.read_record(path)
    assert record.model == json.loads(json.dumps(MODEL))
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        checkpoints.read_record(tmp_path)
