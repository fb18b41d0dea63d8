"""Attention by cuDNN's kernels, through jax: where its speed, memory or sameness needs help."""

import functools
import importlib
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

TILE = 128  # the forward kernel is 7 % slower where the number of keys is no multiple of it
MANY_KEYS = 32 * TILE  # where that, and what the backward kernel holds, begins to matter
NUMBERS = itertools.count()
"""For the seed of cuDNN's dropout, which is off: no two calls in a program are alike.

Told to give the same bits every time, XLA (of jaxlib 0.11) marks the first of several backward
calls that are alike, and does not find the kernel of the others when the program runs.
"""


def attend(
    q: Float[Array, "b l n k"],
    k: Float[Array, "b m n k"],
    v: Float[Array, "b m n k"],
    lengths: Int[Array, "b"] | None,
    by_head: bool,
) -> Float[Array, "b l n k"]:
    """softmax(q k' / sqrt(k)) v on one device.

    Args:
        q: queries, bfloat16.
        k: keys.
        v: values.
        lengths: how many of the keys count; None: all.
        by_head: for programs that are to give the same bits every time.
    """
    many = lengths is None and k.shape[1] > MANY_KEYS
    if many and (by_head or k.shape[1] % TILE):
        return _many_keys(q, k, v, by_head)
    if by_head:
        return _numbered(q, k, v, lengths)
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def join(
    y: Float[Array, "b l n k"],
    lse: Float[Array, "b n l"],
    rest: Float[Array, "b l n k"],
    rest_lse: Float[Array, "b n l"],
) -> tuple[Float[Array, "b l n k"], Float[Array, "b n l"]]:
    """Attention to all keys from the attention to two parts of them, and its log-sum-exp.

    Args:
        y: result of the first part.
        lse: its log-sum-exp, float32.
        rest: result of the second part.
        rest_lse: its log-sum-exp, float32.
    """
    share = jnp.swapaxes(jax.nn.sigmoid(lse - rest_lse), 1, 2)[..., None]
    return (y * share + rest * (1 - share)).astype(y.dtype), jnp.logaddexp(lse, rest_lse)


def _jax_cudnn() -> Any:
    """What jax.nn calls: it rounds the log-sum-exp to bfloat16, too coarse for weights."""
    return importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")


def _numbered(q: Array, k: Array, v: Array, lengths: Array | None) -> Array:
    """What jax.nn calls, with a number."""
    cudnn, padded = _jax_cudnn(), {}
    if lengths is not None:
        whole = jnp.full(q.shape[0], q.shape[1], jnp.int32)
        padded = {"q_seqlen": whole, "kv_seqlen": lengths, "mask_type": cudnn.MaskType.PADDING}
    how = {"scale": q.shape[-1] ** -0.5, "seed": next(NUMBERS)}
    return cudnn.dot_product_attention(q, k, v, **padded, **how)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _many_keys(q: Array, k: Array, v: Array, by_head: bool) -> Array:
    """The keys past the last full tile are attended to apart."""
    return _forward(q, k, v, by_head)[0]


def _forward(q: Array, k: Array, v: Array, by_head: bool) -> tuple[Array, Any]:
    attend = functools.partial(
        _jax_cudnn().dot_product_attention, q, scale=q.shape[-1] ** -0.5, return_residual=True
    )
    full = k.shape[1] // TILE * TILE
    parts = [attend(k[:, :full], v[:, :full])]
    if full < k.shape[1]:
        parts = [join(*parts[0], *attend(k[:, full:], v[:, full:]))]
    y, lse = (checkpoint_name(x, "attention") for x in parts[0])
    return y, (q, k, v, y, lse)


def _backward(by_head: bool, kept: Any, dy: Array) -> Any:
    """For all keys at once, at which the backward kernel is no slower.

    Where XLA asks for the same bits every time, cuDNN holds a float32 gradient of the queries for
    every 256 keys: 115 GiB for 62,400 tokens and 16 heads. `by_head` holds that of one head.
    """
    q, k, v, y, lse = kept
    cudnn, unused = _jax_cudnn(), [jnp.zeros(0, q.dtype)] * 7  # bias, lengths, offsets, pages
    mask, layout = cudnn.MaskType.NO_MASK, cudnn.AttentionLayout.BTNH.value
    rest = (0.0, (False, False), mask, layout, None, None, False)  # the first: dropout's rate

    def gradients(heads: slice) -> tuple[Array, ...]:
        how = (q.shape[-1] ** -0.5, next(NUMBERS) if by_head else 0, *rest)
        q_, k_, v_, y_, dy_ = (x[:, :, heads] for x in (q, k, v, y, dy))
        kept = (q_, k_, v_, *unused, lse[:, heads], y_)
        return cudnn._dot_product_attention_bwd_rule(*how, kept, dy_)[:3]

    if not by_head:
        return gradients(slice(None))
    heads = [gradients(slice(n, n + 1)) for n in range(q.shape[2])]
    return tuple(jnp.concatenate(parts, axis=2) for parts in zip(*heads, strict=True))


_many_keys.defvjp(_forward, _backward)
