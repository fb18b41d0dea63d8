"""The training step: alike on every mesh, exact over a restart; only what is trained moves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding

from cosmos_jax import checkpoints, sharding
from cosmos_jax.diffusion import flow

ONE = dict(data=1, fsdp=1, context=1)
MESHES = [dict(data=2, fsdp=2, context=2), dict(fsdp=2, context=4)]


def mesh_of(sizes):
    count = int(np.prod(list(sizes.values())))
    return sharding.make_mesh(**sizes, devices=jax.devices()[:count])


def place(batch, mesh):
    def put(x):
        letters = "b v t h w c" if x.ndim == 6 else " ".join("bvsk"[: x.ndim])
        return jax.device_put(
            x, NamedSharding(mesh, sharding.activation_spec(x.shape, letters, mesh))
        )

    return jax.tree.map(put, batch)


@functools.cache
def loss_and_gradients(*sizes):
    """Loss of each sample and all gradients, with weights that are nowhere zero."""
    trainer, mesh = tiny.trainer(".*"), mesh_of(dict(sizes))
    with jax.set_mesh(mesh):
        state = trainer.init_state(tiny.INPUTS, mesh)
        batch = place(tiny.batch(range(8), t=4), mesh)

        def stir(path, leaf):
            key = jax.random.fold_in(jax.random.key(9), sum(map(ord, sharding.path_name(path))))
            return leaf + 0.05 * jax.random.normal(key, leaf.shape)

        def both(state, batch):
            params = jax.tree_util.tree_map_with_path(stir, state.params)
            draws = flow.training_noise(jax.random.key(1), batch.index, batch.latents.shape[1:])

            def mean(params):
                losses, _ = trainer.loss(params, state, batch, draws)
                return losses.mean(), losses

            (_, losses), grads = jax.value_and_grad(mean, has_aux=True)(params)
            return losses, grads

        return jax.tree.map(np.asarray, jax.jit(both)(state, batch))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_loss_and_gradients_are_those_of_one_device(sizes):
    want_loss, want = loss_and_gradients(*ONE.items())
    loss, grads = loss_and_gradients(*sizes.items())
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)

    def close(path, a, b):
        error = np.abs(a - b).max()
        assert error <= 1e-4 * np.abs(b).max(), (sharding.path_name(path), error)
        assert np.abs(b).max() > 0, f"{sharding.path_name(path)} has no gradient"

    jax.tree_util.tree_map_with_path(close, grads, want)


@functools.cache
def compiled(trainer):
    """One function for all tests, so that a mesh compiles it once."""
    return trainer.jit_step()


def run(trainer, mesh, state, first, last, batch=2):
    with jax.set_mesh(mesh):
        step = compiled(trainer)
        losses = []
        for i in range(first, last):
            samples = range(i * batch, (i + 1) * batch)
            state, metrics = step(state, place(tiny.batch(samples), mesh))
            losses.append(float(metrics["loss"]))
    return state, losses


def arrays(state):
    return [np.asarray(x) for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("after", [ONE, dict(fsdp=2, context=2)], ids=["same mesh", "other mesh"])
def test_two_steps_and_a_restart_to_four_are_four_steps(tmp_path, after):
    trainer, one = tiny.trainer(".*"), mesh_of(ONE)
    with jax.set_mesh(one):
        whole, losses = run(trainer, one, trainer.init_state(tiny.INPUTS, one), 0, 4)
        half, _ = run(trainer, one, trainer.init_state(tiny.INPUTS, one), 0, 2)
        with checkpoints.Checkpoints(tmp_path, {}, keep_last=1) as saver:
            saver.save(half, samples=4, data=None)
    mesh = mesh_of(after)
    with (
        jax.set_mesh(mesh),
        checkpoints.Checkpoints(tmp_path, {}, keep_last=1) as saver,
    ):
        restored, record = saver.restore(trainer.abstract_state(tiny.INPUTS, mesh))
    resumed, tail = run(trainer, mesh, restored, record.step, 4)
    if after == ONE:
        assert tail == losses[2:]
        for a, b in zip(arrays(resumed), arrays(whole), strict=True):
            np.testing.assert_array_equal(a, b)
    else:
        np.testing.assert_allclose(tail, losses[2:], rtol=1e-5)


@pytest.mark.core
def test_a_frozen_trunk_stays_and_costs_no_optimiser_state():
    trainer, mesh = tiny.trainer("control/.*"), mesh_of(ONE)
    with jax.set_mesh(mesh):
        before = trainer.init_state(tiny.INPUTS, mesh)
        names = set(before.params)
        frozen, start = arrays(before.frozen), arrays(before.params)
        moments = sum(x.size for x in jax.tree.leaves(before.opt_state) if x.ndim)
        after, _ = run(trainer, mesh, before, 0, 2)
    assert names == {"control"}
    assert moments == 2 * sum(x.size for x in start)
    for a, b in zip(arrays(after.frozen), frozen, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(arrays(after.params), start, strict=True))


@pytest.mark.core
def test_moments_and_averages_are_split_like_their_parameters():
    trainer, mesh = tiny.trainer(".*"), mesh_of(dict(fsdp=4, context=2))
    with jax.set_mesh(mesh):
        state = trainer.abstract_state(tiny.INPUTS, mesh)
    kernel = state.params["blocks"]["mlp"]["up"]["kernel"].sharding.spec
    assert kernel == sharding.P(None, None, ("fsdp", "context"))
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim == 3]
    assert moments
    for leaf in (*moments, state.ema["blocks"]["mlp"]["up"]["kernel"]):
        assert any(leaf.sharding.spec), leaf


@pytest.mark.core
def test_moments_and_averages_in_host_memory_give_the_same_bits(tmp_path):
    trainer, mesh = tiny.trainer(".*"), mesh_of(dict(fsdp=4, context=2))
    offloading = dataclasses.replace(trainer, offload=True)
    with jax.set_mesh(mesh):
        kept, losses = run(trainer, mesh, trainer.init_state(tiny.INPUTS, mesh), 0, 2, batch=4)
        state, again = run(offloading, mesh, offloading.init_state(tiny.INPUTS, mesh), 0, 2, 4)
        with checkpoints.Checkpoints(tmp_path, {}, keep_last=1) as saver:
            saver.save(state, samples=8, data=None)
        with checkpoints.Checkpoints(tmp_path, {}, keep_last=1) as saver:
            restored, _ = saver.restore(offloading.abstract_state(tiny.INPUTS, mesh))
    assert losses == again
    for tree in (state, restored):
        for a, b in zip(arrays(tree), arrays(kept), strict=True):
            np.testing.assert_array_equal(a, b)
        waiting = [x for x in jax.tree.leaves((tree.opt_state, tree.ema)) if x.ndim]
        assert {x.sharding.memory_kind for x in waiting} == {"pinned_host"}
        assert {x.sharding.memory_kind for x in jax.tree.leaves(tree.params)} == {"device"}


@pytest.mark.core
def test_copies_from_host_memory_wait_for_what_is_computed_before():
    trainer, mesh = dataclasses.replace(tiny.trainer(".*"), offload=True), mesh_of(ONE)
    with jax.set_mesh(mesh):
        abstract = trainer.abstract_state(tiny.INPUTS, mesh)
        jaxpr = jax.make_jaxpr(trainer.step)(abstract, tiny.batch(range(2))).jaxpr
    arguments = set(map(id, jaxpr.invars))
    waited = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "optimization_barrier":
            assert not set(map(id, equation.invars)) <= arguments  # it waits for something
            waited |= set(map(id, equation.outvars))
    moves = [e.invars[0] for e in jaxpr.eqns if e.primitive.name == "device_put"]
    held = [x for x in jax.tree.leaves((abstract.opt_state, abstract.ema)) if x.ndim]
    assert len(moves) == 2 * len(held)  # there and back
    assert sum(id(move) in waited for move in moves) == len(held)
    assert arguments.isdisjoint(map(id, moves))


@pytest.mark.core
@pytest.mark.parametrize("bad", ["latents", "limit", None])
def test_a_step_that_is_not_sound_changes_nothing(bad):
    limit = 1e-6 if bad == "limit" else None
    trainer = dataclasses.replace(tiny.trainer(".*"), skip_unsound=True, grad_limit=limit)
    mesh = mesh_of(ONE)
    batch = tiny.batch(range(2))
    if bad == "latents":
        batch = batch.replace(latents=batch.latents.at[0, 0, 0, 0, 0, 0].set(jnp.nan))
    with jax.set_mesh(mesh):
        before = trainer.init_state(tiny.INPUTS, mesh)
        held = arrays((before.params, before.ema))
        after, out = trainer.jit_step()(before, batch)
    same = [
        np.array_equal(a, b) for a, b in zip(arrays((after.params, after.ema)), held, strict=True)
    ]
    moments = [np.abs(x).max() for x in arrays(after.opt_state) if x.ndim]
    assert float(out["unsound"]) == (bad is not None)
    assert int(after.step) == 1
    if bad:
        assert all(same) and max(moments) == 0
    else:
        assert not all(same) and max(moments) > 0


def test_the_average_follows_the_weights_as_the_published_rule_says():
    trainer, mesh = tiny.trainer(".*"), mesh_of(ONE)
    with jax.set_mesh(mesh):
        state, _ = run(trainer, mesh, trainer.init_state(tiny.INPUTS, mesh), 0, 1)
        for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_array_equal(a, b)  # the weight of the first step is 1
        state, _ = run(trainer, mesh, state, 1, 2)
    differ = [
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True)
    ]
    assert max(differ) > 0
