"""The layers that write their own backward pass, or their own formula, against plain ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosmos_jax.models import layers

pytestmark = pytest.mark.core


@pytest.mark.parametrize("gate", [(1, 1, 1, 5), (2, 1, 1, 5), (2, 3, 1, 5)], ids=str)
def test_a_gated_product_has_the_gradients_of_a_product_and_a_gate(gate):
    x, kernel, gate, dy = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate([(2, 3, 4, 7), (7, 5), gate, (2, 3, 4, 5)])
    )

    def gradients(function):
        y, pull = jax.vjp(function, x, kernel, gate)
        return y, *pull(dy)

    plain = gradients(lambda x, kernel, gate: gate * (x @ kernel))
    for ours, wanted in zip(gradients(layers.gated_product), plain, strict=True):
        assert ours.shape == wanted.shape
        np.testing.assert_allclose(ours, wanted, atol=2e-6, rtol=1e-5)


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    exact = [0.5 * float(v) * (1 + math.erf(float(v) / 2**0.5)) for v in x]
    np.testing.assert_allclose(layers.gelu(jnp.asarray(x)), exact, atol=7e-7, rtol=2e-7)


def test_together_leaves_values_and_gradients_as_they_are():
    def function(x, y):
        x, y = layers.together(x, y)
        return x * x * y

    x, y = jnp.float32(3), jnp.float32(5)
    assert layers.together(x, y) == (x, y)
    assert jax.grad(function, (0, 1))(x, y) == (30, 9)
