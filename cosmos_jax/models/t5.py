"""The text encoder of Cosmos-Predict1: the encoder of T5 (version 1.0), by default that of t5-11b.

An embedding is the encoder's output, 1024 numbers a token, padded to 512 rows with zeros. The video
network masks nothing: rows of zeros take part in its attention.

A caption may be several sentences with `types.APART` between them. Each is encoded by itself, with
its own closing token, and their rows follow one another: so the reference puts the sentence about a
camera before the caption of a clip.

Source: T5 (arXiv 1910.10683) as transformers has it; cosmos-predict1, CosmosT5TextEncoder.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from cosmos_jax import sharding
from cosmos_jax.models import layers, tokenizers
from cosmos_jax.types import APART, Params

AXES = "b s d"
END = "</s>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """Sizes of the encoder, and how it computes. The defaults are those of t5-11b.

    Attributes:
        hidden_width: size of a token.
        blocks: number of transformer blocks.
        heads: number of heads.
        head_width: size of one, whatever the size of a token is.
        mlp_width: hidden size of the MLP.
        vocabulary: rows of the token table.
        buckets: of distances between tokens, half of them for tokens ahead; each has a bias a head.
        max_distance: from which on all distances share the last bucket.
        eps: of the norms.
        dtype: compute dtype, "float32" as in the reference, or "bfloat16".
        param_dtype: dtype in which new parameters are made.

    Raises:
        ValueError: sizes below 1, buckets that do not halve twice, or another dtype.
    """

    hidden_width: int = 1024
    blocks: int = 24
    heads: int = 128
    head_width: int = 128
    mlp_width: int = 65_536
    vocabulary: int = 32_128
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self) -> None:
        names = ("hidden_width", "blocks", "heads", "head_width", "mlp_width", "vocabulary")
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"T5: {name} is {getattr(self, name)}; it must be at least 1")
        if self.buckets < 4 or self.buckets % 4 or self.max_distance <= self.buckets // 4:
            raise ValueError(
                f"T5: buckets {self.buckets} must be a multiple of 4, and max_distance "
                f"{self.max_distance} more than a quarter of it"
            )
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in ("bfloat16", "float32"):
                raise ValueError(f"T5: {name} {getattr(self, name)!r} must be bfloat16 or float32")

    @property
    def dtypes(self) -> layers.Dtypes:
        """The two dtypes, as every layer takes them."""
        return layers.Dtypes(self.dtype, self.param_dtype)


def buckets(config: T5Config, positions: int) -> Int32[np.ndarray, "s s"]:
    """The bucket of every pair of a query (row) and a key (column).

    Near keys have one each, farther ones share theirs by the logarithm of the distance, worked out
    in float32 as in the reference.
    """
    ahead = np.arange(positions)[None] - np.arange(positions)[:, None]
    half = config.buckets // 2
    near, distance = half // 2, np.abs(ahead)
    share = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(near))
    share = share / np.float32(math.log(config.max_distance / near)) * np.float32(half - near)
    far = np.minimum(near + share.astype(np.int32), half - 1)
    bucket = np.where(ahead > 0, half, 0) + np.where(distance < near, distance, far)
    return bucket.astype(np.int32)


class Block(nn.Module):
    """Self-attention with a bias for every distance, then an MLP.

    Attributes:
        config: the encoder.
    """

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"], bias: Float[Array, "b n s s"]) -> Any:
        """Returns the tokens twice: what the next block reads, and what the scan collects."""
        c = self.config
        linear = functools.partial(layers.Linear, axes=AXES, dtypes=c.dtypes)
        norm = functools.partial(layers.RMSNorm, c.dtypes, c.eps)
        precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None

        y = norm(name="attention_norm")(x)
        q, k, v = (
            linear(c.heads * c.head_width, name=name)(y).reshape(*y.shape[:2], c.heads, -1)
            for name in "qkv"
        )
        scores = jnp.einsum(
            "bqnk,bsnk->bnqs", q, k, precision=precision, preferred_element_type=jnp.float32
        )
        weights = nn.softmax(scores + bias).astype(x.dtype)  # [TRAP] scores are not scaled
        y = jnp.einsum("bnqs,bsnk->bqnk", weights, v, precision=precision)
        x = x + linear(c.hidden_width, name="out")(y.reshape(*x.shape[:2], -1))

        y = jax.nn.relu(linear(c.mlp_width, name="up")(norm(name="mlp_norm")(x)))
        x = sharding.constrain(x + linear(c.hidden_width, name="down")(y), AXES)
        return x, x


class T5Encoder(nn.Module):
    """The encoder. Blocks are stacked `[n ...]` under `blocks`.

    Attributes:
        config: sizes, and how it computes.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b s"], seen: Bool[Array, "b s"]
    ) -> tuple[Float[Array, "b s d"], Float[Array, "n b s d"]]:
        """The output, and what comes out of every block before the last norm, in the compute dtype.

        Tokens attend to those that are `seen`.
        """
        c = self.config
        table = layers.Embed(c.vocabulary, c.hidden_width, c.dtypes, 1.0, name="embed")
        distances = layers.Embed(c.buckets, c.heads, c.dtypes, 1.0, name="distances")
        bias = distances(jnp.asarray(buckets(c, tokens.shape[1]))).astype(jnp.float32)
        bias = jnp.moveaxis(bias, -1, 0)
        masked = jnp.where(seen[:, None, None], bias, jnp.finfo(jnp.float32).min)
        scan = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.blocks,
        )
        x, states = scan(c, name="blocks")(sharding.constrain(table(tokens), AXES), masked)
        return layers.RMSNorm(c.dtypes, c.eps, name="norm")(x), states


@functools.partial(jax.jit, static_argnums=0)
def _embed(
    config: T5Config, params: Params, tokens: Int[Array, "b s"], lengths: Int[Array, "b"]
) -> Float[Array, "b s e"]:
    """The output, with rows of zeros after each length."""
    seen = jnp.arange(tokens.shape[1]) < lengths[:, None]
    out, _ = T5Encoder(config).apply({"params": params}, tokens, seen)
    return jnp.where(seen[..., None], out, 0)


@functools.cache
def load_tokenizer(name: str) -> Any:
    """The Hugging Face tokenizer of a folder or a repository.

    Raises:
        ValueError: it cannot be loaded, or has no closing token.
    """
    tokenizer = tokenizers.load("T5", name, "tokenizer.json or a spiece.model")
    if tokenizer("a")["input_ids"][-1:] != [tokenizer.convert_tokens_to_ids(END)]:
        raise ValueError(f"T5: tokenizer {name!r} does not close a text with {END}; use a T5's")
    return tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Text(T5Config):
    """Captions to embeddings: the encoder, its tokenizer, and the length of an embedding.

    Attributes:
        tokenizer: a folder, or a Hugging Face repository.
        tokens: rows of an embedding, and the most tokens of a sentence: what is longer is cut.

    Raises:
        ValueError: tokens below 1, or sizes that do not fit (`T5Config`).
    """

    tokenizer: str
    tokens: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens < 1:
            raise ValueError(f"T5: tokens is {self.tokens}; it must be at least 1")

    @property
    def width(self) -> int:
        """Numbers in a row of an embedding."""
        return self.hidden_width

    @property
    def description(self) -> str:
        """What this is, for logs."""
        return (
            f"T5 encoder ({self.tokens} x {self.width}: {self.blocks} blocks, {self.heads} heads, "
            f"{self.dtype})"
        )

    def init(self, key: jax.Array) -> Params:
        """Random parameters; under `jax.eval_shape`, their shapes."""
        one = jnp.zeros((1, 1), jnp.int32)
        return T5Encoder(self).init(key, one, one == 0)["params"]

    def ids(
        self, sentences: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "b s"], Int32[np.ndarray, "b"]]:
        """Token ids of sentences, padded on the right to `tokens`, and how many there are of each.

        Raises:
            ValueError: a tokenizer that cannot be loaded, or has ids beyond the vocabulary.
        """
        tokenizer = load_tokenizer(self.tokenizer)
        ids = tokenizer(list(sentences), truncation=True, max_length=self.tokens)["input_ids"]
        out = np.zeros((len(ids), self.tokens), np.int32)
        for row, some in zip(out, ids):
            row[: len(some)] = some
        tokenizers.check_ids("T5", self.tokenizer, out, self.vocabulary)
        return out, np.array([len(some) for some in ids], np.int32)

    def encode(self, params: Params, captions: Sequence[str]) -> Float[np.ndarray, "b s e"]:
        """Embeddings of captions in the compute dtype, on the host.

        Compiled once for each number of sentences (see `types.APART`). Weights may be split over
        the mesh that `jax.set_mesh` sets: each block's are gathered where they are used. Sentences
        are split over the batch's axes where their number divides. All processes of a run call it
        together.

        Raises:
            ValueError: no captions, or as `ids`.
        """
        if not captions:
            raise ValueError("T5: no captions to encode")
        split = [caption.split(APART) for caption in captions]
        ids, lengths = self.ids([sentence for sentences in split for sentence in sentences])
        rows = np.asarray(_embed(self, params, ids, lengths))
        trimmed = iter([row[:length] for row, length in zip(rows, lengths)])
        return np.stack([one_after_another([next(trimmed) for _ in s], self.tokens) for s in split])


def one_after_another(
    sentences: Sequence[Float[np.ndarray, "_ e"]], tokens: int
) -> Float[np.ndarray, "s e"]:
    """The rows of a caption's sentences, cut or padded with zeros to `tokens` rows."""
    rows = np.concatenate(sentences)[:tokens]
    return np.pad(rows, ((0, tokens - len(rows)), (0, 0)))
