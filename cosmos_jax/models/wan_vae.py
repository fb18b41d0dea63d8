"""The Wan2.1 video autoencoder: 8x smaller in rows and columns, 4x in frames, 16 channels.

It is causal. The first frame becomes the first latent frame alone, and every 4 further frames one
more, so long clips are processed a chunk at a time: each causal convolution keeps its last input
frames in the collection `cache` and puts them before the next chunk. The chunk size changes memory,
never numbers. Inside this file, samples and views are folded into one axis: `n = b v`.

Source: Wan2.1 (arXiv 2503.20314) as cosmos-transfer2.5 runs it:
_src/predict2/tokenizers/wan2pt1.py.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from cosmos_jax import sharding
from cosmos_jax.models import clip_lengths
from cosmos_jax.types import Params

# Channel statistics of the published weights' latents; they are not in the weight file.
# cosmos-transfer2.5, _src/predict2/tokenizers/wan2pt1.py.
MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

Step = Callable[[Params, jax.Array, bool], tuple[jax.Array, Params]]


class Layer(NamedTuple):
    """One layer between a network's first convolution and its last.

    Attributes:
        kind: "block" (residual), "space" (resamples rows and columns) or "spacetime" (frames too).
        inputs: channels that come in.
        outputs: channels that go out.
    """

    kind: str
    inputs: int
    outputs: int


class RMSNorm(nn.Module):
    """Each pixel's channels scaled to root mean square 1, times a learned scale."""

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Statistics in float32; the result has the dtype of x."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        length = jnp.linalg.norm(wide, axis=-1, keepdims=True)
        unit = wide * (x.shape[-1] ** 0.5 / jnp.maximum(length, 1e-12))
        return unit.astype(x.dtype) * scale


class CausalConv(nn.Module):
    """A convolution over frames, rows and columns that sees no later frame.

    The frames before the first are zeros. It runs as one convolution over rows and columns with the
    frames of each window side by side in the channels: XLA gives three-dimensional convolutions on
    GPUs a channels-first layout, in which they take 1.1 to 1.3 times as long (H200, bf16).
    """

    features: int
    kernel: tuple[int, int, int] = (3, 3, 3)
    stride: int = 1  # in time

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"], only_remember: bool = False) -> jax.Array:
        """Convolves the chunk x, or only takes it into the history and returns it."""
        taps, rows, columns = self.kernel
        n, _, *inner = x.shape
        past = self.variable("cache", "past", jnp.zeros, (n, taps - self.stride, *inner), x.dtype)
        frames = jnp.concatenate([past.value, x], axis=1)
        past.value = frames[:, self.stride - taps :]
        if only_remember:
            return x
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        last = frames.shape[1] - taps
        windows = [frames[:, i : i + last + 1 : self.stride] for i in range(taps)]
        y = lax.conv_general_dilated(
            rearrange(jnp.concatenate(windows, axis=-1), "n t h w c -> (n t) h w c"),
            rearrange(kernel, "t h w i o -> h w (t i) o"),
            window_strides=(1, 1),
            padding=[(rows // 2, rows // 2), (columns // 2, columns // 2)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return rearrange(y + bias, "(n t) h w c -> n t h w c", n=n)


class ResBlock(nn.Module):
    """Two normalised causal convolutions beside a shortcut."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t h w o"]:
        """Maps i channels to `features`."""
        y = CausalConv(self.features, name="conv1")(nn.silu(RMSNorm(name="norm1")(x)))
        y = CausalConv(self.features, name="conv2")(nn.silu(RMSNorm(name="norm2")(y)))
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, name="shortcut")(x)
        return x + y


class FrameAttention(nn.Module):
    """Attention with one head among the pixels of each frame, added to its input."""

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """One frame at a time: the scores of a frame take (h w)^2 numbers."""
        qkv = nn.Dense(3 * x.shape[-1], name="qkv")(RMSNorm(name="norm")(x))

        def attend(frame: jax.Array) -> jax.Array:
            q, k, v = rearrange(frame, "n h w (three c) -> three n (h w) c", three=3)
            scores = jnp.einsum("nqc,nkc->nqk", q, k, preferred_element_type=jnp.float32)
            weights = nn.softmax(scores * q.shape[-1] ** -0.5).astype(q.dtype)
            return jnp.einsum("nqk,nkc->nqc", weights, v).reshape(*frame.shape[:-1], -1)

        y = jnp.moveaxis(lax.map(attend, jnp.moveaxis(qkv, 1, 0)), 0, 1)
        return x + nn.Dense(x.shape[-1], name="out")(y)


class Downsample(nn.Module):
    """Half the rows and columns, and half the frames if `temporal`."""

    temporal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"], first: bool) -> jax.Array:
        """The clip's first frame passes without the convolution in time, but is its history."""
        channels = x.shape[-1]
        # Zeros to the right and below only.
        x = nn.Conv(channels, (3, 3), 2, padding=((0, 1), (0, 1)), name="spatial")(x)
        if self.temporal:
            x = CausalConv(channels, (3, 1, 1), stride=2, name="temporal")(x, only_remember=first)
        return x


class Upsample(nn.Module):
    """Twice the rows and columns, half the channels, and twice the frames if `temporal`."""

    temporal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"], first: bool) -> jax.Array:
        """The clip's first frame stays one frame and, unlike elsewhere, enters no history."""
        n, _, h, w, channels = x.shape
        if self.temporal:
            conv = CausalConv(2 * channels, (3, 1, 1), name="temporal")
            if first:
                conv(jnp.zeros_like(x), only_remember=True)
            else:
                x = rearrange(conv(x), "n t h w (two c) -> n (t two) h w c", two=2)
        x = jnp.broadcast_to(x[:, :, :, None, :, None], (n, x.shape[1], h, 2, w, 2, channels))
        x = x.reshape(n, -1, 2 * h, 2 * w, channels)
        return nn.Conv(channels // 2, (3, 3), name="spatial")(x)


def _layers(layers: tuple[Layer, ...], x: jax.Array, first: bool, resample: Any) -> jax.Array:
    for i, layer in enumerate(layers):
        if layer.kind == "block":
            x = ResBlock(layer.outputs, name=f"layer_{i}")(x)
        else:
            x = resample(layer.kind == "spacetime", name=f"layer_{i}")(x, first)
    return x


def _middle(x: jax.Array) -> jax.Array:
    x = ResBlock(x.shape[-1], name="middle_0")(x)
    x = FrameAttention(name="middle_1")(x)
    return ResBlock(x.shape[-1], name="middle_2")(x)


def _head(x: jax.Array, features: int) -> jax.Array:
    return CausalConv(features, name="conv_out")(nn.silu(RMSNorm(name="norm_out")(x)))


class Encoder(nn.Module):
    """Pixels to latent features."""

    layers: tuple[Layer, ...]
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n f y x 3"], first: bool) -> Float[Array, "n t h w c"]:
        """Encodes the clip's first frame (`first`) or the next chunk of it."""
        x = CausalConv(self.layers[0].inputs, name="conv_in")(x)
        return _head(_middle(_layers(self.layers, x, first, Downsample)), self.features)


class Decoder(nn.Module):
    """Latent features to pixels."""

    layers: tuple[Layer, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"], first: bool) -> Float[Array, "n f y x 3"]:
        """Decodes the clip's first latent frame (`first`) or the next chunk of it."""
        x = _middle(CausalConv(self.layers[0].inputs, name="conv_in")(x))
        return _head(_layers(self.layers, x, first, Upsample), 3)


class Autoencoder(nn.Module):
    """The encoder, the decoder, and the two pointwise maps between them and the latents."""

    latent_channels: int
    down: tuple[Layer, ...]
    up: tuple[Layer, ...]

    def setup(self) -> None:
        """Names the four parts."""
        self.encoder = Encoder(self.down, 2 * self.latent_channels)
        self.decoder = Decoder(self.up)
        self.quant = nn.Dense(2 * self.latent_channels)
        self.post_quant = nn.Dense(self.latent_channels)

    def encode(self, x: Float[Array, "n f y x 3"], first: bool) -> Float[Array, "n t h w c"]:
        """The mean of the latents' distribution; its log variance is not used."""
        return self.quant(self.encoder(x, first))[..., : self.latent_channels]

    def decode(self, z: Float[Array, "n t h w c"], first: bool) -> Float[Array, "n f y x 3"]:
        """Pixels of latents, not clipped."""
        return self.decoder(self.post_quant(z), first)

    def __call__(self, x: Float[Array, "n f y x 3"]) -> Float[Array, "n f y x 3"]:
        """Both ways, through every parameter: for `init`."""
        return self.decode(self.encode(x, first=False), first=False)


def _axes(clips: int) -> tuple[str, ...]:
    """The mesh axes that a number of clips is split over; () without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    choices = (sharding.AXES, sharding.BATCH, ("context",), ())
    if mesh.empty:
        return ()
    return next(c for c in choices if clips % math.prod(mesh.shape[a] for a in c) == 0)


def constrain_clips(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """States the placement of a codec's clips `n t y x c`, n = b v, which are coded one by one.

    `context` splits the clips where their number divides, else the latent `rows`, else the latent
    `columns`, never time. Where none divides, the devices of a context group all compute the same.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    clips = _axes(len(x))
    spec = sharding.P(clips or None)
    if "context" not in clips and rows % mesh.shape["context"] == 0:
        spec = sharding.P(clips or None, None, "context")
    elif "context" not in clips and columns % mesh.shape["context"] == 0:
        spec = sharding.P(clips or None, None, None, "context")
    return jax.lax.with_sharding_constraint(x, spec)


def one_by_one(code: Callable[[jax.Array], jax.Array], clips: jax.Array) -> jax.Array:
    """Codes clips `n ...`, on every device one after the other: the memory is that of one clip."""
    axes = _axes(len(clips))
    ways = math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)
    if len(clips) == ways:
        return code(clips)
    groups = rearrange(clips, "(w m) ... -> m w ...", w=ways)  # a device's own, one in each group
    return rearrange(lax.map(code, groups), "m w ... -> (w m) ...")


def stream(step: Step, x: Float[Array, "n t ..."], chunk: int) -> jax.Array:
    """Runs `step(cache, frames, first) -> (output, cache)` over the time axis of x.

    The first frame goes alone, then equal chunks under one scan, then the frames that remain.
    """
    y, cache = step({}, x[:, :1], True)
    count, rest = divmod(x.shape[1] - 1, chunk)
    outputs = [y]
    if count:
        chunks = rearrange(x[:, 1 : 1 + count * chunk], "n (i t) ... -> i n t ...", t=chunk)

        def body(cache: Params, frames: jax.Array) -> tuple[Params, jax.Array]:
            return step(cache, frames, False)[::-1]

        cache, y = lax.scan(body, cache, chunks)
        outputs.append(rearrange(y, "i n t ... -> n (i t) ..."))
    if rest:
        outputs.append(step(cache, x[:, -rest:], False)[0])
    return jnp.concatenate(outputs, axis=1)


@dataclasses.dataclass(frozen=True)
class WanVAE:
    """The autoencoder as a codec. The defaults are the published one: 126,892,531 parameters.

    Attributes:
        dim: channels at full resolution.
        latent_channels: of the latents.
        dim_mult: channels of each stage as a multiple of `dim`; a stage has half the rows and
            columns of the one before.
        num_res_blocks: residual blocks in each encoder stage; decoder stages have one more.
        temporal_downsample: for each step between stages, whether it halves the frames too.
        mean: of each latent channel; `encode` subtracts it.
        std: of each latent channel; `encode` divides by it.
        dtype: of weights and activations inside. Outputs have the dtype of the inputs.
        encode_chunk: latent frames encoded at a time. More is faster and takes more memory.
        decode_chunk: latent frames decoded at a time.
        by_place: whether latents depend on their frame's place in a clip.

    Raises:
        ValueError: fields that do not fit each other.
    """

    dim: int = 96
    latent_channels: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    dtype: Any = jnp.bfloat16
    encode_chunk: int = 2
    decode_chunk: int = 1
    by_place: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks the fields against each other."""
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"WanVAE.temporal_downsample has {len(self.temporal_downsample)} entries; "
                f"{len(self.dim_mult)} stages (dim_mult) have {len(self.dim_mult) - 1} steps"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.latent_channels:
                raise ValueError(
                    f"WanVAE.{name} has {len(getattr(self, name))} values; "
                    f"latent_channels={self.latent_channels} needs one a channel"
                )
        for name in ("encode_chunk", "decode_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"WanVAE.{name}={getattr(self, name)}: at least 1 latent frame at a time"
                )

    @property
    def spatial(self) -> int:
        """Pixel rows (and columns) a latent row."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def temporal(self) -> int:
        """Pixel frames a latent frame, after the first."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def down(self) -> tuple[Layer, ...]:
        """The encoder's layers, in the order of the reference's `encoder.downsamples`."""
        layers, channels = [], self.dim
        for multiple, temporal in zip(self.dim_mult, (*self.temporal_downsample, None)):
            for _ in range(self.num_res_blocks):
                layers.append(Layer("block", channels, self.dim * multiple))
                channels = self.dim * multiple
            if temporal is not None:
                layers.append(Layer("spacetime" if temporal else "space", channels, channels))
        return tuple(layers)

    @property
    def up(self) -> tuple[Layer, ...]:
        """The decoder's layers, in the order of the reference's `decoder.upsamples`."""
        layers, channels = [], self.dim * self.dim_mult[-1]
        for multiple, temporal in zip(self.dim_mult[::-1], (*self.temporal_downsample[::-1], None)):
            for _ in range(self.num_res_blocks + 1):
                layers.append(Layer("block", channels, self.dim * multiple))
                channels = self.dim * multiple
            if temporal is not None:
                layers.append(Layer("spacetime" if temporal else "space", channels, channels // 2))
                channels //= 2
        return tuple(layers)

    @property
    def network(self) -> Autoencoder:
        """The Flax module."""
        return Autoencoder(self.latent_channels, self.down, self.up)

    def init(self, key: jax.Array) -> Params:
        """Random float32 parameters."""
        chunk = jnp.zeros((1, self.temporal, self.spatial, self.spatial, 3))
        return jax.jit(self.network.init)(key, chunk)["params"]

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip (`clip_lengths.latent_frames`)."""
        return clip_lengths.latent_frames(frames, self.temporal)

    def encode(
        self, params: Params, video: Float[Array, "b v f y x 3"]
    ) -> Float[Array, "b v t h w c"]:
        """Normalised latents of pixels in [-1, 1]; t = 1 + (f - 1) / temporal, h = y / spatial.

        Views are encoded independently of each other: over devices `constrain_clips` splits them,
        and each device takes one after the other.

        Raises:
            ValueError: f - 1 is no multiple of `temporal`, or y or x none of `spatial`.
        """
        b, _, f, y, x, _ = video.shape
        if f % self.temporal != 1 % self.temporal or f < 1:
            raise ValueError(
                f"WanVAE.encode: {f} frames; it takes 1 + {self.temporal} n frames, such as "
                f"{1 + (max(f, 1) - 1) // self.temporal * self.temporal}"
            )
        if y % self.spatial or x % self.spatial or not y * x:
            raise ValueError(
                f"WanVAE.encode: {y} x {x} pixels; rows and columns are multiples of {self.spatial}"
            )
        mean, inverse_std = self._statistics()
        clips = rearrange(video, "b v f y x c -> (b v) f y x c").astype(self.dtype)
        step = self._step(params, "encode")

        def code(clips: jax.Array) -> jax.Array:
            clips = constrain_clips(clips, y // self.spatial, x // self.spatial)
            latents = stream(step, clips, self.encode_chunk * self.temporal)
            return (latents - mean) * inverse_std

        latents = one_by_one(code, clips)
        return rearrange(latents, "(b v) t h w c -> b v t h w c", b=b).astype(video.dtype)

    def decode(
        self, params: Params, latents: Float[Array, "b v t h w c"]
    ) -> Float[Array, "b v f y x 3"]:
        """Pixels, about in [-1, 1] and not clipped, of normalised latents; the inverse of `encode`.

        Raises:
            ValueError: there is no frame, row or column, or not `latent_channels` channels.
        """
        b, _, t, h, w, c = latents.shape
        if c != self.latent_channels or not t * h * w:
            raise ValueError(
                f"WanVAE.decode: latents [b v t h w c] of shape {latents.shape}; it takes "
                f"{self.latent_channels} channels, and at least one frame, row and column"
            )
        mean, inverse_std = self._statistics()
        clips = rearrange(latents, "b v t h w c -> (b v) t h w c").astype(self.dtype)
        step = self._step(params, "decode")

        def code(clips: jax.Array) -> jax.Array:
            return stream(
                step, constrain_clips(clips / inverse_std + mean, h, w), self.decode_chunk
            )

        video = one_by_one(code, clips)
        return rearrange(video, "(b v) f y x c -> b v f y x c", b=b).astype(latents.dtype)

    def _statistics(self) -> tuple[jax.Array, jax.Array]:
        """The mean and the inverse of std, both rounded to `dtype` as in the reference."""
        one = jnp.ones((), self.dtype)
        return jnp.asarray(self.mean, self.dtype), one / jnp.asarray(self.std, self.dtype)

    def _step(self, params: Params, method: str) -> Step:
        """The network's `method` as a function of cache, chunk, and whether it is the first."""
        params = jax.tree.map(lambda p: p.astype(self.dtype), params)

        def step(cache: Params, chunk: jax.Array, first: bool) -> tuple[jax.Array, Params]:
            variables = {"params": params, "cache": cache}
            y, new = self.network.apply(variables, chunk, first, method=method, mutable=["cache"])
            return y, new["cache"]

        return step
