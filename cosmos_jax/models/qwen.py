"""The text encoder of Cosmos-Predict2.5 and Transfer2.5: the language tower of Qwen2.5-VL.

The published weights are Cosmos-Reason1-7B's. An embedding of a caption is the hidden states after
all blocks, each normalised over its features, side by side: 28 x 3584 = 100,352 numbers a token.

Captions are padded on the right and nothing is masked: attention is causal, so the caption's tokens
do not see the padding; but the rows of the padding are not zero, and the video network attends to
them.

Source: cosmos-transfer2.5, `TextEncoder` with the "full_concat" strategy; Qwen2.5-VL
(arXiv:2502.13923). On text alone the tower's rope over time, rows and columns ("mrope") has the
same position three times, which is an ordinary rope, whatever its sections are.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from cosmos_jax import sharding
from cosmos_jax.models import layers, tokenizers
from cosmos_jax.types import Params

AXES = "b s d"

SYSTEM = "You are a helpful assistant who will provide prompts to an image generator."
TEMPLATE = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{{caption}}<|im_end|>\n"
NO_CAPTION = " "
"""What the published models read where a view has no caption: a space, which is a token, not ""."""
"""What the tower reads: Qwen's chat format, with the reference's system prompt."""

PADDING = "<|endoftext|>"
SPECIAL = (PADDING, "<|im_start|>", "<|im_end|>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenConfig:
    """Sizes of the tower, and how it computes. The defaults are the 7B model's.

    Attributes:
        hidden_width: size of a token.
        blocks: number of transformer blocks.
        heads: number of query heads.
        kv_heads: number of key and value heads; each serves heads / kv_heads query heads in a row.
        mlp_width: hidden size of the MLP.
        vocabulary: rows of the token table.
        rope_theta: base of the rope's wavelengths.
        eps: of the RMSNorms.
        dtype: compute dtype, "bfloat16" or "float32".
        param_dtype: dtype in which new parameters are made.

    Raises:
        ValueError: sizes below 1, or that do not divide.
    """

    hidden_width: int = 3584
    blocks: int = 28
    heads: int = 28
    kv_heads: int = 4
    mlp_width: int = 18_944
    vocabulary: int = 152_064
    rope_theta: float = 1e6
    eps: float = 1e-6
    dtype: str = "bfloat16"
    param_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("hidden_width", "blocks", "heads", "kv_heads", "mlp_width", "vocabulary"):
            if getattr(self, name) < 1:
                raise ValueError(f"Qwen: {name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden_width % (2 * self.heads):
            raise ValueError(
                f"Qwen: hidden_width {self.hidden_width} does not divide into {self.heads} heads "
                "of even width"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"Qwen: {self.heads} heads do not divide among kv_heads {self.kv_heads}"
            )
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in ("bfloat16", "float32"):
                raise ValueError(
                    f"Qwen: {name} {getattr(self, name)!r} must be bfloat16 or float32"
                )

    @property
    def dtypes(self) -> layers.Dtypes:
        """The two dtypes, as every layer takes them."""
        return layers.Dtypes(self.dtype, self.param_dtype)

    @property
    def head_width(self) -> int:
        """Size of one head."""
        return self.hidden_width // self.heads


Rotation = tuple[Float[Array, "s 1 k"], Float[Array, "s 1 k"]]
"""Cosine and sine of every position's angles, float32."""


def rotation(config: QwenConfig, positions: int) -> Rotation:
    """Cosines and sines of the angles of positions 0, 1, ..."""
    exponents = np.arange(0, config.head_width, 2, dtype=np.float32) / config.head_width
    rates = jnp.float32(config.rope_theta) ** -exponents
    angles = (jnp.arange(positions, dtype=jnp.float32)[:, None] * rates)[:, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "b s n k2"], turn: Rotation) -> Float[Array, "b s n k2"]:
    """Turns the pairs (i, i + k) of every head; float32 inside, dtype of x outside."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = turn
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Block(nn.Module):
    """Causal self-attention with shared key heads, then a gated MLP.

    Attributes:
        config: the tower.
    """

    config: QwenConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"], turn: Rotation) -> tuple[Array, Array]:
        """Returns the tokens twice: what the next block reads, and what the scan collects."""
        c = self.config
        linear = functools.partial(layers.Linear, axes=AXES, dtypes=c.dtypes)
        norm = functools.partial(layers.RMSNorm, c.dtypes, c.eps)

        y = norm(name="attention_norm")(x)
        heads = {"q": c.heads, "k": c.kv_heads, "v": c.kv_heads}
        q, k, v = (
            linear(n * c.head_width, use_bias=True, name=name)(y).reshape(*y.shape[:2], n, -1)
            for name, n in heads.items()
        )
        y = jax.nn.dot_product_attention(
            rotate(q, turn), rotate(k, turn), v, is_causal=True, implementation="xla"
        )
        x = x + linear(c.hidden_width, name="out")(y.reshape(x.shape))

        y = norm(name="mlp_norm")(x)
        gate = layers.silu(linear(c.mlp_width, name="gate")(y))
        y = gate * linear(c.mlp_width, name="up")(y)
        x = sharding.constrain(x + linear(c.hidden_width, name="down")(y), AXES)
        return x, x


class QwenTower(nn.Module):
    """The language tower, without its output head. Blocks are stacked `[n ...]` under `blocks`.

    Attributes:
        config: sizes, and how it computes.
    """

    config: QwenConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "b s"]) -> Float[Array, "n b s d"]:
        """Hidden states after every block, in the compute dtype; the last one is normed at the end.

        The token embeddings, which other programs count as state 0, are not among them.
        """
        c = self.config
        table = layers.Embed(c.vocabulary, c.hidden_width, c.dtypes, 0.02, name="embed")
        x = sharding.constrain(table(tokens), AXES)
        scan = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.blocks,
        )
        x, states = scan(c, name="blocks")(x, rotation(c, tokens.shape[1]))
        return states.at[-1].set(layers.RMSNorm(c.dtypes, c.eps, name="norm")(x))


def normalise(x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
    """(x - mean) / (std + 1e-8) over features, std unbiased; float32 inside, dtype of x outside."""
    y = x.astype(jnp.float32)
    y = y - y.mean(axis=-1, keepdims=True)
    std = jnp.sqrt(jnp.sum(y * y, axis=-1, keepdims=True) / (x.shape[-1] - 1))
    return (y / (std + 1e-8)).astype(x.dtype)


def full_concat(states: Float[Array, "n b s d"]) -> Float[Array, "b s e"]:
    """The normalised states side by side, block after block: e = n d. The published models' text.

    Source: cosmos-transfer2.5, `EmbeddingConcatStrategy.FULL_CONCAT`.
    """
    return sharding.constrain(einops.rearrange(normalise(states), "n b s d -> b s (n d)"), "b s e")


def mean_pooling(states: Float[Array, "n b s d"]) -> Float[Array, "b s d"]:
    """The mean of the normalised states.

    Source: cosmos-transfer2.5, `EmbeddingConcatStrategy.MEAN_POOLING`.
    """
    return normalise(states).mean(axis=0)


@functools.partial(jax.jit, static_argnums=0)
def _embed(config: QwenConfig, params: Params, tokens: Int[Array, "b s"]) -> Float[Array, "b s e"]:
    return full_concat(QwenTower(config).apply({"params": params}, tokens))


@functools.cache
def load_tokenizer(name: str) -> Any:
    """The Hugging Face tokenizer of a folder or a repository.

    Raises:
        ValueError: it cannot be loaded, or lacks one of Qwen's special tokens.
    """
    tokenizer = tokenizers.load("Qwen", name, "tokenizer.json")
    if missing := sorted(set(SPECIAL) - set(tokenizer.get_added_vocab())):
        raise ValueError(
            f"Qwen: tokenizer {name!r} has no special token {', '.join(missing)}; use that "
            "of a Qwen2.5 model"
        )
    return tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenText(QwenConfig):
    """Captions to embeddings: the tower, its tokenizer, and the length of an embedding.

    Attributes:
        tokenizer: a folder, or a Hugging Face repository.
        tokens: rows of an embedding: longer prompts are cut, shorter ones padded.

    Raises:
        ValueError: tokens below 1, or sizes that do not fit (`QwenConfig`).
    """

    tokenizer: str
    tokens: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens < 1:
            raise ValueError(f"Qwen: tokens is {self.tokens}; it must be at least 1")

    @property
    def width(self) -> int:
        """Numbers in a row of an embedding."""
        return self.blocks * self.hidden_width

    @property
    def template(self) -> str:
        """The text around a caption, and in place of none; with weights, tokenizer and length it
        fixes an embedding."""
        return f"{TEMPLATE}{NO_CAPTION!r}"

    @property
    def description(self) -> str:
        """What this is, for logs."""
        return (
            f"Qwen2.5-VL text tower ({self.tokens} x {self.width}: {self.blocks} blocks of "
            f"{self.hidden_width}, {self.dtype})"
        )

    def init(self, key: jax.Array) -> Params:
        """Random parameters; under `jax.eval_shape`, their shapes."""
        return QwenTower(self).init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def ids(self, captions: Sequence[str]) -> Int32[np.ndarray, "b s"]:
        """Token ids of the captions in their template, cut or padded on the right to `tokens`.

        "", a view without a caption, is read as `NO_CAPTION`.

        Raises:
            ValueError: no captions; a tokenizer that cannot be loaded, lacks a special token, or
                has ids beyond the network's vocabulary.
        """
        if not captions:
            raise ValueError("Qwen: no captions to encode")
        tokenizer = load_tokenizer(self.tokenizer)
        prompts = [TEMPLATE.format(caption=caption or NO_CAPTION) for caption in captions]
        padding = tokenizer.convert_tokens_to_ids(PADDING)
        out = np.full((len(prompts), self.tokens), padding, np.int32)
        for row, ids in zip(out, tokenizer(prompts, add_special_tokens=False)["input_ids"]):
            row[: len(ids)] = ids[: self.tokens]
        tokenizers.check_ids("Qwen", self.tokenizer, out, self.vocabulary)
        return out

    def encode(self, params: Params, captions: Sequence[str]) -> Float[Array, "b s e"]:
        """Embeddings of captions in the compute dtype; compiled once for each number of captions.

        Weights may be split over the mesh that `jax.set_mesh` sets: each block's are gathered where
        they are used. Captions are split over the batch's axes where their number divides. All
        processes of a run call it together, with the same captions.

        Raises:
            ValueError: as `ids`.
        """
        return _embed(self, params, self.ids(captions))
