"""The mesh and the two placement tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cosmos_jax import sharding

pytestmark = pytest.mark.core


def test_minus_one_takes_the_devices_that_are_left():
    mesh = sharding.make_mesh(data=-1, fsdp=2, context=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 2}


@pytest.mark.parametrize("sizes", [dict(data=3), dict(data=-1, fsdp=3), dict(data=-1, fsdp=-1)])
def test_a_mesh_that_does_not_fit_names_the_devices(sizes):
    with pytest.raises(ValueError, match=r"8|one may be -1"):
        sharding.make_mesh(**sizes)


def test_context_splits_frames_first_then_rows():
    mesh = sharding.make_mesh(data=2, context=4)
    by_frame = sharding.activation_spec((2, 3, 8, 5, 6, 16), "b v t h w d", mesh)
    by_row = sharding.activation_spec((2, 3, 6, 4, 6, 16), "b v t h w d", mesh)
    assert by_frame == P(("data", "fsdp"), None, "context", None, None, None)
    assert by_row == P(("data", "fsdp"), None, None, "context", None, None)


def test_context_that_fits_neither_lists_the_sizes_that_do():
    with pytest.raises(
        ValueError, match=r"context=4 .* 6 latent frames .* 3 patch rows.*\[1, 2, 3, 6\]"
    ):
        sharding.context_letter(6, 3, 4)


def test_weights_split_their_largest_axis_and_never_the_layer_axis():
    mesh = sharding.make_mesh(fsdp=4, context=2)
    assert sharding.split_spec((8, 64, 128), mesh) == P(None, None, ("fsdp", "context"))
    assert sharding.split_spec((8, 64, 12), mesh) == P(None, ("fsdp", "context"), None)
    assert sharding.split_spec((8, 3, 12), mesh) == P(None, None, ("fsdp",))
    assert sharding.split_spec((7, 5), mesh) == P()


def test_a_parameter_outside_the_table_is_an_error():
    mesh = sharding.make_mesh(fsdp=8)
    with pytest.raises(ValueError, match="blocks/strange"):
        sharding.param_shardings({"blocks": {"strange": jnp.zeros(8)}}, mesh)


def test_rows_of_the_batch_come_back_in_order():
    mesh = sharding.make_mesh(data=2, fsdp=2, context=2)
    rows = sharding.batch_rows(mesh, 8)
    local = np.arange(24, dtype=np.float32).reshape(8, 3)
    placed = sharding.put_rows(rows, local[rows], 8, mesh)
    np.testing.assert_array_equal(np.asarray(placed), local)
    assert rows == list(range(8))
    assert placed.sharding.spec == P(("data", "fsdp"))


def test_a_batch_that_does_not_divide_names_what_fits():
    with pytest.raises(ValueError, match=r"batch of 6 .* = 4 devices"):
        sharding.batch_rows(sharding.make_mesh(data=4, context=2), 6)


def test_constrain_without_a_mesh_changes_nothing():
    x = jnp.ones((2, 2, 2, 2, 2, 2))
    assert sharding.constrain(x, "b v t h w d") is x
    with jax.set_mesh(sharding.make_mesh(context=8)):
        y = jax.jit(lambda a: sharding.constrain(a, "b v t h w d"))(jnp.ones((1, 1, 8, 2, 2, 4)))
    assert y.sharding.spec[2] == "context"
