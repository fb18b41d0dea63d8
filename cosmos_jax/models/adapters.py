"""Low-rank additions to the kernels of a network; loaded where a config asks for them."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from cosmos_jax import sharding
from cosmos_jax.models import layers
from cosmos_jax.types import round_to


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Low-rank additions to kernels: LoRA (arXiv:2106.09685), or DoRA (arXiv:2402.09353).

    Attributes:
        rank: inner size of the added product.
        alpha: the product is multiplied by alpha / rank.
        targets: regex that fits the whole path of a layer in attention or an MLP, as in
            "blocks/self_attn/q".
        dropout: rate at which inputs of the added product are zeroed in training.
        dora: the length of every column of the sum is a parameter of its own.

    Raises:
        ValueError: a number out of range, or targets that are not a regex.
    """

    rank: int
    alpha: float
    targets: str
    dropout: float = 0.0
    dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"adapter: rank={self.rank} and alpha={self.alpha} must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter: dropout={self.dropout} must lie in [0, 1)")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(f"adapter: targets {self.targets!r} is not a regex: {error}") from None

    def __call__(
        self,
        layer: Any,
        x: Float[Array, "*axes i"],
        kernel: Float[Array, "i o"],
        gate: Float[Array, "*#axes o"] | None,
        index: Int[Array, "b"] | None,
    ) -> Float[Array, "*axes o"]:
        """The product with kernel + scale down up, whose columns DoRA gives lengths of their own.

        `layer` is the `layers.Linear` that has the kernel, and gets the parameters.

        New parameters are PEFT's: uniform in +-1/sqrt(fan in), zeros, and the kernel's norms. Only
        what enters the low-rank product is dropped, in DoRA too.
        """
        (i, o), r, dtype = kernel.shape, self.rank, layer.dtypes.compute
        down = layers.weight(layer, "lora_down", layers.uniform(i**-0.5), (i, r), layer.dtypes)
        up = layers.weight(layer, "lora_up", layers.ZEROS, (r, o), layer.dtypes)
        down, up = (sharding.gather(part).astype(x.dtype) for part in (down, up))
        scale = self.alpha / r
        if self.dora:

            def norms(key: Any, shape: tuple[int, ...], param: Any) -> Array:
                return column_norms(kernel, dtype).astype(param)

            magnitude = layers.weight(layer, "lora_magnitude", norms, (o,), layer.dtypes)
            whole = kernel.astype(jnp.float32)
            whole += scale * layers.product(down.astype(jnp.float32), up.astype(jnp.float32))
            # Section 4.3 of the paper: to the gradient, the norm of the sum is a constant.
            norm = column_norms(jax.lax.stop_gradient(whole), dtype)
            norm = jnp.where(norm > 0, norm, 1)
            lengths = (magnitude.astype(jnp.float32) / norm).astype(x.dtype)
            lengths = lengths.reshape((1,) * (x.ndim - 1) + (o,))
            gate = lengths if gate is None else gate * lengths
        kept = x if index is None else dropout(x, self.dropout, layer.make_rng("dropout"), index)
        low = scale * layers.product(kept, down)
        if gate is None:
            return layers.product(x, kernel) + layers.product(low, up)
        return layers.gated_product(x, kernel, gate) + layers.gated_product(low, up, gate)


def column_norms(kernel: Float[Array, "*n i o"], dtype: Any) -> Float[Array, "*n o"]:
    """The length of every column, float32 rounded to `dtype`.

    What DoRA divides is rounded alike above and below, so that a fresh adapter scales by 1.
    """
    return round_to(jnp.linalg.norm(kernel.astype(jnp.float32), axis=-2), dtype)


def dropout(
    x: Float[Array, "b *axes"], rate: float, key: Key[Array, ""], index: Int[Array, "b"]
) -> Float[Array, "b *axes"]:
    """Zeroes entries of x at a rate, and divides the others by 1 - rate.

    What becomes of a sample depends on `key` and its global index, not on its place or the mesh.
    """

    def keep(i: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(keep)(index), x / (1 - rate), 0)
