"""A batch in parts: the same step, on one device and on many; adapters drop the same inputs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny
from test_train import place

from cosmos_jax import build, sharding
from cosmos_jax.models import adapters
from cosmos_jax.models.dit import DiT
from experiments import demo

ONE, EIGHT = dict(data=1, fsdp=1, context=1), dict(data=2, fsdp=2, context=2)
ADAPTER = adapters.Adapter(2, 4.0, r"blocks/(self_attn/(q|out)|mlp/\w+)", dropout=0.4, dora=True)


BASE = dict(blocks=1, control_blocks=(), control_channels=0, hint_widths=())
INPUTS = tiny.INPUTS | {"control": None}


@functools.cache
def trainer(parts):
    net = DiT(tiny.config(**BASE, adapter=ADAPTER))
    return dataclasses.replace(tiny.trainer(".*"), net=net, accumulate=parts)


@functools.cache
def weights():
    """A state whose weights are nowhere zero."""

    def stir(path, leaf):
        key = jax.random.fold_in(jax.random.key(9), sum(map(ord, sharding.path_name(path))))
        return leaf + 0.05 * jax.random.normal(key, leaf.shape)

    def init(key):
        state = trainer(1).init(key, INPUTS)
        return state.replace(params=jax.tree_util.tree_map_with_path(stir, state.params))

    return jax.jit(init)(jax.random.key(0))


@functools.cache
def compiled(parts):
    return jax.jit(trainer(parts).gradients)


@functools.cache
def gradients(parts, sizes, rows=tuple(range(8))):
    """Loss and gradients of a batch."""
    count = int(np.prod([size for _, size in sizes]))
    mesh = sharding.make_mesh(**dict(sizes), devices=jax.devices()[:count])
    with jax.set_mesh(mesh):
        state = jax.device_put(weights(), trainer(parts).shardings(weights(), mesh))
        batch = place(tiny.batch(rows, t=2).replace(control=None), mesh)
        found = compiled(parts)(state, batch)
        if parts > 1:
            wanted = jax.tree.leaves(sharding.param_shardings(found[1], mesh))
            for leaf, place_of in zip(jax.tree.leaves(found[1]), wanted, strict=True):
                assert leaf.sharding.is_equivalent_to(place_of, leaf.ndim)
        return jax.tree.map(np.asarray, found)


def close(found, wanted, limit):
    (loss, grads), (want_loss, want) = found, wanted
    np.testing.assert_allclose(loss, want_loss, rtol=limit)

    def same(path, a, b):
        assert a.dtype == np.float32
        error = np.abs(a - b).max() / np.abs(b).max()
        assert error <= limit, (sharding.path_name(path), error)

    jax.tree_util.tree_map_with_path(same, grads, want)


@pytest.mark.parametrize("sizes", [ONE, EIGHT], ids=["one device", "eight devices"])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(sizes):
    sizes = tuple(sizes.items())
    close(gradients(2, sizes), gradients(1, sizes), 1e-6)


def test_what_adapters_drop_depends_on_the_sample_and_not_on_the_mesh():
    one, eight = tuple(ONE.items()), tuple(EIGHT.items())
    close(gradients(1, eight), gradients(1, one), 1e-4)
    loss = gradients(1, one)[0]
    turned = gradients(1, one, tuple(reversed(range(8))))[0]
    np.testing.assert_allclose(turned, loss, rtol=1e-6)


def values(**changes):
    config = demo.get_config()
    config.accumulate = changes.pop("accumulate")
    config.data.batch_size = config.validation.clips = changes.pop("batch")
    return build.check_config(config)


@pytest.mark.core
@pytest.mark.parametrize("parts, batch, says", [(0, 8, "multiple of 4"), (2, 12, "multiple of 8")])
def test_a_batch_that_does_not_divide_is_refused(parts, batch, says):
    mesh = sharding.make_mesh(data=2, fsdp=2, context=2)
    with pytest.raises(ValueError, match=f"config.accumulate={parts}.*data x fsdp = 4.*{says}"):
        build.loop(values(accumulate=parts, batch=batch), mesh)
    assert build.loop(values(accumulate=2, batch=16), mesh).batch == 16


@pytest.mark.core
def test_a_batch_of_any_size_is_checked_in_the_step_too():
    state = jax.eval_shape(lambda key: trainer(3).init(key, INPUTS), jax.random.key(0))
    with pytest.raises(ValueError, match="a batch of 4 does not divide into 3 parts"):
        jax.eval_shape(trainer(3).step, state, tiny.batch(range(4)).replace(control=None))
