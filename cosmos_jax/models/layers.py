"""The small parts that every network here is made of: products, norms, initialisers.

Precision: activations are in the compute dtype (bfloat16), statistics and a few named islands in
float32. Weights enter every product rounded to the compute dtype, also in the islands, so that a
float32 master and its bfloat16 copy give the same forward pass.

Elementwise float32 maths between bfloat16 arrays is wrapped in `jax.checkpoint`: the backward pass
starts again from the bfloat16 input, and no float32 copy of an activation is stored.
"""

from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cosmos_jax import sharding

Initializer = Callable[..., Any]

ZEROS = nn.initializers.zeros_init()


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


def rounded(weight: Array, dtype: Any) -> Array:
    """A weight rounded to `dtype`.

    XLA may drop a cast to bfloat16 that is followed by a cast back; it keeps `reduce_precision`.
    """
    if weight.dtype == dtype:
        return weight
    target = jnp.finfo(dtype)
    return jax.lax.reduce_precision(weight, target.nexp, target.nmant).astype(dtype)


class Linear(nn.Module):
    """`x @ kernel (+ bias)`, computed in the dtype of x with weights rounded to `dtype`.

    A split kernel is gathered in `dtype` where it is used, and the placement of the result is
    stated, so the partitioner has nothing to guess. Float32 input means a true float32 product.

    Attributes:
        features: size of the result's last axis.
        axes: letters of the result's axes, as in "b v t h w d".
        dtype: the compute dtype.
        param_dtype: the dtype in which new parameters are made.
        use_bias: adds a bias.
    """

    features: int
    axes: str
    dtype: str
    param_dtype: str
    use_bias: bool = False
    kernel_init: Initializer = fan_in_normal
    bias_init: Initializer = ZEROS

    @nn.compact
    def __call__(self, x: Float[Array, "*axes i"]) -> Float[Array, "*axes o"]:
        """Applies the layer to the last axis of x."""
        param_dtype = jnp.dtype(self.param_dtype)
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, param_dtype)
        kernel = sharding.gather(rounded(kernel, jnp.dtype(self.dtype))).astype(x.dtype)
        precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        y = jnp.dot(x, kernel, precision=precision)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), param_dtype)
            y = y + rounded(bias, jnp.dtype(self.dtype)).astype(x.dtype)
        return sharding.constrain(y, self.axes)


class Embed(nn.Module):
    """A table of vectors; an index past its end takes the last row, as in the reference.

    Attributes:
        rows: number of vectors.
        features: their length.
        dtype: vectors are rounded to it.
        param_dtype: the dtype in which new parameters are made.
        std: standard deviation of new vectors.
    """

    rows: int
    features: int
    dtype: str
    param_dtype: str
    std: float

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Looks up int `[...]`; returns `[... features]`."""
        init = nn.initializers.normal(self.std)
        shape = (self.rows, self.features)
        table = self.param("embedding", init, shape, jnp.dtype(self.param_dtype))
        table = sharding.gather(rounded(table, jnp.dtype(self.dtype)))
        return jnp.take(table, ids, axis=0, mode="clip")


@jax.checkpoint
def _rms_norm(x: Array, scale: Array) -> Array:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6)
    return (y * scale.astype(jnp.float32)).astype(x.dtype)


class RMSNorm(nn.Module):
    """Divides the last axis by its root mean square (eps 1e-6) and scales it; float32 inside.

    Attributes:
        dtype: the scale is rounded to it.
        param_dtype: the dtype in which new parameters are made.
    """

    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "*axes k"]) -> Float[Array, "*axes k"]:
        """Normalises the last axis; the result has the dtype of x."""
        ones, shape = nn.initializers.ones_init(), (x.shape[-1],)
        scale = self.param("scale", ones, shape, jnp.dtype(self.param_dtype))
        return _rms_norm(x, rounded(scale, jnp.dtype(self.dtype)))


@jax.checkpoint
def affine_norm(x: Float[Array, "*axes d"], gain: Array, shift: Array) -> Array:
    """Layer norm (eps 1e-6, statistics float32) times `gain` plus `shift`, in the dtype of x.

    `gain` and `shift` broadcast against x and have its dtype.
    """
    y = x.astype(jnp.float32)
    mean = jnp.mean(y, axis=-1, keepdims=True)
    variance = jnp.mean(y * y, axis=-1, keepdims=True) - mean * mean
    y = ((y - mean) * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + 1e-6)).astype(x.dtype)
    return y * gain + shift


class LayerNorm(nn.Module):
    """Layer norm with a learned scale and bias.

    Attributes:
        dtype: scale and bias are rounded to it.
        param_dtype: the dtype in which new parameters are made.
    """

    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
        """Normalises the last axis; the result has the dtype of x."""
        param_dtype, dtype = jnp.dtype(self.param_dtype), jnp.dtype(self.dtype)
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), param_dtype)
        bias = self.param("bias", ZEROS, (x.shape[-1],), param_dtype)
        scale, bias = (rounded(weight, dtype).astype(x.dtype) for weight in (scale, bias))
        return affine_norm(x, scale, bias)


@jax.checkpoint
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The exact GELU (by erf, not by tanh); float32 inside, dtype of x outside."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


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
        dtype: weights are rounded to it.
        param_dtype: the dtype in which new parameters are made.
    """

    parts: int
    rank: int
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(
        self, time: Float[Array, "b #v #t d"], offset: Float[Array, "b #v #t m"]
    ) -> list[Array]:
        """Returns `parts` arrays `[b v|1 t|1 1 1 d]`; `offset` is added before they are split."""
        axes, dtypes = "b v t d", (self.dtype, self.param_dtype)
        y = Linear(self.rank, axes, *dtypes, name="down")(jax.nn.silu(time))
        y = Linear(self.parts * time.shape[-1], axes, *dtypes, kernel_init=ZEROS, name="up")(y)
        return jnp.split((y + offset)[:, :, :, None, None, :], self.parts, axis=-1)


class Mlp(nn.Module):
    """Linear, GELU, linear, without biases.

    Attributes:
        hidden: width between the two products.
        axes: letters of the axes of x.
        dtype: the compute dtype.
        param_dtype: the dtype in which new parameters are made.
    """

    hidden: int
    axes: str
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
        """Applies the layer to the last axis of x."""
        rest = (self.axes, self.dtype, self.param_dtype)
        y = gelu(Linear(self.hidden, *rest, name="up")(x))
        return Linear(x.shape[-1], *rest, name="down")(y)


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
