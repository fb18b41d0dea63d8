"""Attention among tokens, to text and across views, on a mesh; and what its backward pass keeps.

Activations keep their axes `b v t h w n k`. They are flattened to tokens only on a device's own
shard, inside `jax.shard_map`, for two reasons: merging a split axis with an unsplit one elsewhere
gathers the whole activation, and the partitioner would gather the batch around cuDNN's kernel.

Where `context` splits the frames (or rows), self-attention exchanges them for heads by all-to-all,
so that every device attends over all tokens with some of the heads (Ulysses, arXiv:2309.14509).
Where heads do not divide, keys and values are gathered instead.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from cosmos_jax import sharding
from cosmos_jax.models import layers, rope

GRID = "b v t h w d"
TOKENS = "b v t h w n k"
TEXT = "b v s n k"
HEADS = TOKENS.split().index("n")

Tokens = Float[Array, "b v t h w n k"]


FORWARD_KERNELS = ("dot_product_attention_fwd_wrapper", "dew_flash3_mha_fwd")
"""What jax calls cuDNN's forward kernel, and the FlashAttention-3 package its own."""


def _keeps_kernel(primitive: Any, *avals: Any, **params: Any) -> bool:
    """Output and log-sum-exp of self-attention: nothing else is as dear to recompute.

    Keeping the output alone would run the kernel again for its log-sum-exp. Attention to the few
    keys of the text is recomputed.
    """
    name = params["target_name"] if primitive.name == "ffi_call" else primitive.name
    if name in FORWARD_KERNELS:
        query, key = avals[:2]
        return key.shape[1] >= query.shape[1]
    return name == "name" and params["name"] == "attention"


def _keeps_inputs(primitive: Any, *avals: Any, **params: Any) -> bool:
    """As `_keeps_kernel`, and the queries, keys and values that went in."""
    if primitive.name == "name" and params["name"] == "attention_input":
        return True
    return _keeps_kernel(primitive, *avals, **params)


def _moves_block_input(primitive: Any, *avals: Any, **params: Any) -> Any:
    """As `_keeps_kernel`, and the block's input waits in pinned host memory."""
    if primitive.name == "name" and params["name"] == "block_input":
        return TO_HOST(primitive, *avals, **params)
    return _keeps_kernel(primitive, *avals, **params)


TO_HOST = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=["block_input"],
    offload_src="device",
    offload_dst="pinned_host",
)
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "attention_inputs": _keeps_inputs,
    "attention": _keeps_kernel,
    "offload": _moves_block_input,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What a block keeps for its backward pass beside its own input, from most memory to least:
everything; queries, keys, values and the attention kernel's results; the kernel's results; the same
with the block's input in host memory; nothing."""


BACKENDS = ("xla", "cudnn", "cudnn_by_head", "fa3")

COMPILER_OPTIONS: dict[str, Any] = {"xla_gpu_enable_dynamic_slice_fusion": False}
"""For programs that differentiate "fa3": XLA would run its forward kernel a second time, in order
to write what is kept for the backward pass in place."""


def kernel(
    q: Float[Array, "b l n k"],
    k: Float[Array, "b m n k"],
    v: Float[Array, "b m n k"],
    backend: str,
    lengths: Int[Array, "b"] | None = None,
) -> Float[Array, "b l n k"]:
    """softmax(q k' / sqrt(k)) v on one device, softmax in float32.

    Args:
        q: queries.
        k: keys.
        v: values.
        backend: "xla" (holds all l x m scores), "cudnn" (bfloat16 on NVIDIA GPUs; holds none),
            "cudnn_by_head" (the same where XLA is to give the same bits every time) or "fa3"
            (FlashAttention-3 of the package dew-flash-attn-cu13: bfloat16 on Hopper GPUs).
        lengths: how many of the keys count; None: all. FlashAttention-3 takes no lengths, and
            cuDNN stands in for it.
    """
    if backend == "fa3" and lengths is None:
        return importlib.import_module("dew_flash_attn").flash_mha(q, k, v)
    if backend == "xla":
        return jax.nn.dot_product_attention(
            q, k, v, key_value_seq_lengths=lengths, implementation="xla"
        )
    attend = importlib.import_module("cosmos_jax.models.cudnn").attend
    return attend(q, k, v, lengths, backend == "cudnn_by_head")


def on_shards(local: Callable[..., Array], arrays: tuple, axes: tuple[str, ...]) -> Array:
    """Runs `local(*arrays, split)` on every device's own shards; `split` names the axis of the
    first array that `context` splits, or is None. The result is placed like the first array."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(*arrays, None)
    specs = tuple(sharding.activation_spec(x.shape, a, mesh) for x, a in zip(arrays, axes))
    split = specs[0].index("context") if mesh.shape["context"] > 1 else None
    run = functools.partial(local, split=split)
    # check_vma cannot see through cuDNN's custom call.
    return jax.shard_map(run, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def self_attention(q: Tokens, k: Tokens, v: Tokens, *, joint: bool, backend: str) -> Tokens:
    """Attention among the tokens of all views of a sample (`joint`), or of each view alone."""
    flat = "b v t h w n k -> b (v t h w) n k" if joint else "b v t h w n k -> (b v) (t h w) n k"

    def local(q: Array, k: Array, v: Array, split: int | None) -> Array:
        exchange = split is not None and q.shape[HEADS] % sharding.axis_size("context") == 0
        swap = functools.partial(jax.lax.all_to_all, axis_name="context", tiled=True)
        if exchange:
            q, k, v = (swap(x, split_axis=HEADS, concat_axis=split) for x in (q, k, v))
        elif split is not None:
            k, v = (jax.lax.all_gather(x, "context", axis=split, tiled=True) for x in (k, v))
        shape = q.shape
        q, k, v = (checkpoint_name(einops.rearrange(x, flat), "attention_input") for x in (q, k, v))
        y = kernel(q, k, v, backend).reshape(shape)
        return swap(y, split_axis=split, concat_axis=HEADS) if exchange else y

    y = on_shards(local, (q, k, v), (TOKENS,) * 3)
    return checkpoint_name(y, "attention") if backend == "xla" else y


def text_attention(
    q: Tokens, k: Float[Array, "b v s n k"], v: Float[Array, "b v s n k"], *, backend: str
) -> Tokens:
    """Attention of every view's tokens to the view's own text, local to every device."""

    def local(q: Array, k: Array, v: Array, split: int | None) -> Array:
        k, v = (einops.rearrange(x, "b v s n k -> (b v) s n k") for x in (k, v))
        flat = einops.rearrange(q, "b v t h w n k -> (b v) (t h w) n k")
        return kernel(flat, k, v, backend).reshape(q.shape)

    return on_shards(local, (q, k, v), (TOKENS, TEXT, TEXT))


class Attention(nn.Module):
    """Projections around an attention function; queries and keys pass an RMSNorm over each head.

    Attributes:
        heads: number of heads.
        source_axes: letters of the axes of `source`, as in "b v s d".
        dtypes: of activations and of new parameters.
        out_init: initialiser of the output projection.
        adapter: for any of the projections, or None.
    """

    heads: int
    source_axes: str
    dtypes: layers.Dtypes
    out_init: layers.Initializer = layers.fan_in_normal
    adapter: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b v t h w d"],
        source: Float[Array, "b v *axes e"],
        attend: Callable[[Array, Array, Array], Array],
        turn: rope.Rotation | None = None,
        index: Int[Array, "b"] | None = None,
    ) -> Float[Array, "b v t h w d"]:
        """Returns `out(attend(q(x), k(source), v(source)))`; `turn` rotates queries and keys.

        `index`: see `layers.Linear`.
        """
        width = x.shape[-1]
        linear = functools.partial(layers.Linear, width, dtypes=self.dtypes, adapter=self.adapter)

        def project(name: str, x: Array, axes: str) -> Array:
            y = linear(axes, name=name)(x, index=index)
            return y.reshape(*y.shape[:-1], self.heads, width // self.heads)

        q, v = project("q", x, GRID), project("v", source, self.source_axes)
        q = layers.RMSNorm(self.dtypes, name="q_norm")(q)
        k = project("k", source, self.source_axes)
        k = layers.RMSNorm(self.dtypes, name="k_norm")(k)
        if turn is not None:
            q, k = rope.rotate(q, turn), rope.rotate(k, turn)
        y = attend(q, k, v).reshape(x.shape)
        return linear(GRID, kernel_init=self.out_init, name="out")(y, index=index)
