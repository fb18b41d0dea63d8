"""The small parts that every network here is made of: products, norms, initialisers.

Precision: activations are in the compute dtype (bfloat16), statistics and a few named islands in
float32. Weights enter every product rounded to the compute dtype, also in the islands, so that a
float32 master and its bfloat16 copy give the same forward pass.

Elementwise float32 maths between bfloat16 arrays is wrapped in `jax.checkpoint`: the backward pass
starts again from the bfloat16 input, and no float32 copy of an activation is stored.
"""

import functools
import re
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cosmos_jax import sharding
from cosmos_jax.types import round_to

Initializer = Callable[..., Any]

ZEROS, ONES = nn.initializers.zeros_init(), nn.initializers.ones_init()


class Dtypes(NamedTuple):
    """The dtype of activations, to which weights are rounded, and that of new parameters.

    `fresh` are pairs of a regex (searched in a parameter's path) and an initialiser that takes the
    place of the layer's own; the first that fits counts.
    """

    compute: str
    param: str
    fresh: tuple[tuple[str, Initializer], ...] = ()


def fan_in_normal(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normal of standard deviation 1/sqrt(fan in), cut at three standard deviations."""
    return shape[0] ** -0.5 * jax.random.truncated_normal(key, -3.0, 3.0, shape, dtype)


def fan_out_normal(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normal of standard deviation 1/sqrt(fan out), cut at three standard deviations."""
    return shape[-1] ** -0.5 * jax.random.truncated_normal(key, -3.0, 3.0, shape, dtype)


def uniform(bound: float) -> Initializer:
    """Uniform in [-bound, bound]."""

    def init(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def weight(
    module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...], dtypes: Dtypes
) -> Array:
    """A parameter of a module, rounded to the compute dtype."""
    path = "/".join((*module.path, name))
    init = next((fresh for pattern, fresh in dtypes.fresh if re.search(pattern, path)), init)
    value = module.param(name, init, shape, jnp.dtype(dtypes.param))
    dtype = jnp.dtype(dtypes.compute)
    return value if value.dtype == dtype else round_to(value, dtype).astype(dtype)


def product(x: Float[Array, "*axes i"], kernel: Float[Array, "i o"]) -> Float[Array, "*axes o"]:
    """`x @ kernel`, a true float32 product where x is float32."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.dot(x, kernel, precision=precision)


@jax.custom_vjp
def gated_product(
    x: Float[Array, "*axes i"], kernel: Float[Array, "i o"], gate: Float[Array, "*#axes o"]
) -> Float[Array, "*axes o"]:
    """`gate * (x @ kernel)`, whose backward pass does not need the product.

    With G = x' dy, which the gradient of the kernel takes anyway, the gradient of the gate is the
    sum of kernel * G over the inputs. So rematerialisation leaves the product out.
    """
    return gate * product(x, kernel)


def _gated_forward(x: Array, kernel: Array, gate: Array) -> tuple[Array, tuple]:
    return gated_product(x, kernel, gate), (x, kernel, gate)


def _gated_backward(kept: tuple, dy: Array) -> tuple[Array, Array, Array]:
    x, kernel, gate = kept
    letters = string.ascii_letters[: x.ndim - 1]
    own = [i for i, size in enumerate(gate.shape[:-1]) if size > 1]  # axes along which gates differ
    groups = "".join(letters[i] for i in own)
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    outer = jnp.einsum(
        f"{letters}y,{letters}z->{groups}yz",
        x,
        dy,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    gates = gate.reshape(*(gate.shape[i] for i in own), 1, gate.shape[-1])
    dkernel = (outer * gates).sum(tuple(range(len(own)))).astype(kernel.dtype)
    dgate = (outer * kernel).sum(-2).reshape(gate.shape).astype(gate.dtype)
    return product(gate * dy, kernel.T), dkernel, dgate


gated_product.defvjp(_gated_forward, _gated_backward)


class Linear(nn.Module):
    """`x @ kernel (+ bias)`, computed in the dtype of x with weights rounded to `dtype`.

    A split kernel is gathered in `dtype` where it is used, and the placement of the result is
    stated, so the partitioner has nothing to guess. Float32 input means a true float32 product.

    Attributes:
        features: size of the result's last axis.
        axes: letters of the result's axes, as in "b v t h w d".
        dtypes: of activations and of new parameters.
        use_bias: adds a bias.
        adapter: `models.adapters.Adapter`, added to the kernel where its targets fit this layer, or
            None; only without bias.
    """

    features: int
    axes: str
    dtypes: Dtypes
    use_bias: bool = False
    kernel_init: Initializer = fan_in_normal
    bias_init: Initializer = ZEROS
    adapter: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*axes i"],
        gate: Float[Array, "*#axes o"] | None = None,
        index: Int[Array, "b"] | None = None,
    ) -> Float[Array, "*axes o"]:
        """Applies the layer to the last axis of x; a layer without bias multiplies by `gate`.

        `index`, the global sample indices, makes an adapter drop inputs, by the rng "dropout".
        """
        shape = (x.shape[-1], self.features)
        kernel = weight(self, "kernel", self.kernel_init, shape, self.dtypes)
        kernel = sharding.gather(kernel).astype(x.dtype)
        if self.adapter and re.fullmatch(self.adapter.targets, "/".join(self.path)):
            y = self.adapter(self, x, kernel, gate, index)
        else:
            y = product(x, kernel) if gate is None else gated_product(x, kernel, gate)
            if gate is not None and self.is_mutable_collection("intermediates"):
                self.sow("intermediates", "ungated", product(x, kernel))
        if self.use_bias:
            bias = weight(self, "bias", self.bias_init, shape[1:], self.dtypes)
            y = y + bias.astype(x.dtype)
        return sharding.constrain(y, self.axes)


class Embed(nn.Module):
    """A table of vectors; an index past its end takes the last row, as in the reference.

    Attributes:
        rows: number of vectors.
        features: their length.
        dtypes: of activations and of new parameters.
        std: standard deviation of new vectors.
    """

    rows: int
    features: int
    dtypes: Dtypes
    std: float

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Looks up int `[...]`; returns `[... features]`."""
        init, shape = nn.initializers.normal(self.std), (self.rows, self.features)
        table = sharding.gather(weight(self, "embedding", init, shape, self.dtypes))
        return jnp.take(table, ids, axis=0, mode="clip")


@functools.partial(jax.checkpoint, static_argnums=2)
def _rms_norm(x: Array, scale: Array, eps: float) -> Array:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return (y * scale.astype(jnp.float32)).astype(x.dtype)


class RMSNorm(nn.Module):
    """Divides the last axis by its root mean square and scales it; float32 inside.

    Attributes:
        dtypes: of activations and of new parameters.
        eps: added to the mean square.
    """

    dtypes: Dtypes
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*axes k"]) -> Float[Array, "*axes k"]:
        """Normalises the last axis; the result has the dtype of x."""
        return _rms_norm(x, weight(self, "scale", ONES, x.shape[-1:], self.dtypes), self.eps)


@jax.custom_vjp
def together(*arrays: Array) -> tuple[Array, ...]:
    """The arrays as they are; in the backward pass their gradients are ready all at once.

    XLA puts off gradients that only the optimiser reads, and holds what they are made of.
    """
    return arrays


together.defvjp(
    lambda *arrays: (arrays, None), lambda _, grads: jax.lax.optimization_barrier(grads)
)


@jax.checkpoint
def affine_norm(x: Float[Array, "*axes d"], gain: Array, shift: Array) -> Array:
    """Layer norm (eps 1e-6, statistics float32) times `gain` plus `shift`, in the dtype of x.

    `gain` and `shift` broadcast against x and have its dtype.
    """
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6)
    return y.astype(x.dtype) * gain + shift


class LayerNorm(nn.Module):
    """Layer norm with a learned scale and bias.

    Attributes:
        dtypes: of activations and of new parameters.
    """

    dtypes: Dtypes

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
        """Normalises the last axis; the result has the dtype of x."""
        scale = weight(self, "scale", ONES, x.shape[-1:], self.dtypes).astype(x.dtype)
        bias = weight(self, "bias", ZEROS, x.shape[-1:], self.dtypes).astype(x.dtype)
        return affine_norm(x, scale, bias)


@jax.checkpoint
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The exact GELU; float32 inside, dtype of x outside.

    By erf as in the reference: `jax.nn.gelu` takes erfc, which is three times as slow on a GPU.
    """
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * 2**-0.5))).astype(x.dtype)


@jax.checkpoint
def silu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """x * sigmoid(x); float32 inside, dtype of x outside."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


class Modulation(nn.Module):
    """Shift, scale (and gate) vectors of an adaptive layer norm, from a low-rank product.

    Everything is float32. Source: cosmos-transfer2.5, `adaln_modulation_*` ("AdaLN-LoRA").

    Attributes:
        parts: how many vectors are made.
        rank: width of the bottleneck.
        dtypes: of activations and of new parameters.
    """

    parts: int
    rank: int
    dtypes: Dtypes

    @nn.compact
    def __call__(
        self, time: Float[Array, "b #v #t d"], offset: Float[Array, "b #v #t m"]
    ) -> list[Array]:
        """Returns `parts` arrays `[b v|1 t|1 1 1 d]`; `offset` is added before they are split."""
        linear = functools.partial(Linear, axes="b v t d", dtypes=self.dtypes)
        y = linear(self.rank, name="down")(jax.nn.silu(time))
        y = linear(self.parts * time.shape[-1], kernel_init=ZEROS, name="up")(y)
        return jnp.split((y + offset)[:, :, :, None, None, :], self.parts, axis=-1)


class Mlp(nn.Module):
    """Linear, GELU, linear, without biases.

    Attributes:
        hidden: width between the two products.
        axes: letters of the axes of x.
        dtypes: of activations and of new parameters.
        adapter: for either product, or None.
    """

    hidden: int
    axes: str
    dtypes: Dtypes
    adapter: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*axes d"],
        gate: Float[Array, "*#axes d"],
        index: Int[Array, "b"] | None = None,
    ) -> Float[Array, "*axes d"]:
        """Applies the layer to the last axis of x; the result is multiplied by `gate`.

        `index`: see `Linear`.
        """
        linear = functools.partial(Linear, axes=self.axes, dtypes=self.dtypes, adapter=self.adapter)
        y = gelu(linear(self.hidden, name="up")(x, index=index))
        return linear(x.shape[-1], name="down")(y, gate, index)


def resize_nearest(mask: Float[Array, "b y x"], h: int, w: int) -> Float[Array, "b h w"]:
    """Takes row floor(i y / h) and column floor(j x / w), as torch's "nearest"."""
    y, x = mask.shape[1:]
    return mask[:, np.arange(h) * y // h][:, :, np.arange(w) * x // w]


def patchify(x: Float[Array, "b v t h w c"], patch: int) -> Float[Array, "b v t hp wp p"]:
    """Patches as vectors: channel slowest, then row, then column."""
    x = einops.rearrange(x, "b v t (h m) (w n) c -> b v t h w (c m n)", m=patch, n=patch)
    return sharding.constrain(x, "b v t h w p")


def unpatchify(x: Float[Array, "b v t hp wp p"], patch: int) -> Float[Array, "b v t h w c"]:
    """Latents from vectors of row, then column, then channel fastest: not `patchify`'s order."""
    return einops.rearrange(x, "b v t h w (m n c) -> b v t (h m) (w n) c", m=patch, n=patch)
