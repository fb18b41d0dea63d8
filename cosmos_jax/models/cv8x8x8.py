"""The video tokenizer of Cosmos-Predict1: 8x smaller in rows, columns and frames, 16 channels.

It is causal: the first frame becomes the first latent frame, and every 8 further frames one more.
A clip of 57 frames (8 latent frames) is coded whole. Longer videos are cut into such chunks, which
know nothing of each other, and the mean and the deviation of the latents depend on a latent frame's
place in its chunk. Inside this file, samples, views and chunks are folded into one axis `n`.

Source: cosmos-predict1, the factorised networks of tokenizer/networks/continuous_video.py
(Cosmos-Tokenize1-CV8x8x8-720p), and diffusion/module/pretrained_vae.py around them.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from cosmos_jax.models import clip_lengths, layers
from cosmos_jax.models.wan_vae import constrain_clips, one_by_one
from cosmos_jax.types import Params

TAPS = 3  # frames that a convolution in time sees
PAIR = np.array([[1, 1], [1, -1]])  # of sample (row) and band (column): sum, difference
SIGNS = np.kron(PAIR, np.kron(PAIR, PAIR))


class Level(NamedTuple):
    """The blocks of one size, and what comes after them.

    Attributes:
        number: of the level; 0 has the most rows and columns.
        channels: of its blocks.
        space: whether rows and columns are halved (or doubled) after the blocks.
        time: whether frames are.
    """

    number: int
    channels: int
    space: bool
    time: bool


def haar(x: Float[Array, "n t h w c"]) -> Float[Array, "n t2 h2 w2 c8"]:
    """Means and differences over blocks of 2 x 2 x 2. The band is slower than the channel.

    Bands count in binary with time first: 1 is the difference over columns, 4 that over frames.
    """
    x = rearrange(x, "n (t i) (h j) (w k) c -> n t h w (i j k) c", i=2, j=2, k=2)
    return rearrange(_between(x) / 8, "n t h w p c -> n t h w (p c)")


def unhaar(x: Float[Array, "n t h w c8"]) -> Float[Array, "n t2 h2 w2 c"]:
    """The inverse of `haar`."""
    x = _between(rearrange(x, "n t h w (p c) -> n t h w p c", p=8))
    return rearrange(x, "n t h w (i j k) c -> n (t i) (h j) (w k) c", i=2, j=2, k=2)


def _between(x: Float[Array, "n t h w p c"]) -> Float[Array, "n t h w q c"]:
    """Sums over a block with the signs of each band, or the other way round: they are the same."""
    return jnp.einsum("nthwpc,pq->nthwqc", x, SIGNS.astype(x.dtype), precision="highest")


class FrameNorm(nn.Module):
    """Normalises each frame over its pixels and channels, then scales and shifts the channels."""

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Statistics in float32; the result has the dtype of x."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = x.astype(jnp.float32)
        y = y - y.mean((2, 3, 4), keepdims=True)
        y = y * lax.rsqrt((y * y).mean((2, 3, 4), keepdims=True) + 1e-6)
        return (y * scale + bias).astype(x.dtype)


class TimeConv(nn.Module):
    """A convolution over frames that sees no later one; before the first stand copies of it.

    It is one product, with the frames of each window side by side in the channels.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t2 h w o"]:
        """Maps i channels to `features`; t2 = (t - 1) // stride + 1."""
        shape = (TAPS, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        x = jnp.concatenate([repeat_first(x, TAPS - self.stride), x], axis=1)
        last = x.shape[1] - TAPS
        windows = [x[:, i : i + last + 1 : self.stride] for i in range(TAPS)]
        return jnp.concatenate(windows, -1) @ rearrange(kernel, "t i o -> (t i) o") + bias


def repeat_first(x: Float[Array, "n t ..."], times: int) -> Float[Array, "n m ..."]:
    """Copies of the first frame."""
    return jnp.repeat(x[:, :1], times, axis=1)


class Conv(nn.Module):
    """A factorised convolution: 3 x 3 within frames (zeros beyond the edge), then 3 over frames."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t h w o"]:
        """Maps i channels to `features`."""
        x = nn.Conv(self.features, (3, 3), name="space")(x)
        return TimeConv(self.features, name="time")(x)


class ResBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t h w o"]:
        """Maps i channels to `features`."""
        y = Conv(self.features, name="conv1")(layers.silu(FrameNorm(name="norm1")(x)))
        y = Conv(self.features, name="conv2")(layers.silu(FrameNorm(name="norm2")(y)))
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, name="shortcut")(x)
        return x + y


class Attention(nn.Module):
    """Attention with one head, added to its input: among a frame's pixels, or a pixel's frames.

    Attributes:
        over_time: among frames, of which each sees itself and those before.
    """

    over_time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Frames are taken one at a time: the scores of one take (h w)^2 numbers."""
        y, (t, h, _, c) = FrameNorm(name="norm")(x), x.shape[1:]
        q, k, v = (nn.Dense(c, name=name)(y) for name in "qkv")
        if self.over_time:
            q, k, v = (rearrange(a, "n t h w c -> n (h w) t c") for a in (q, k, v))
            y = rearrange(_attend(q, k, v, np.tri(t, dtype=bool)), "n (h w) t c -> n t h w c", h=h)
        else:
            frames = tuple(rearrange(a, "n t h w c -> t n (h w) c") for a in (q, k, v))
            y = lax.map(lambda qkv: _attend(*qkv), frames)
            y = rearrange(y, "t n (h w) c -> n t h w c", h=h)
        return x + nn.Dense(c, name="out")(y)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: Any = True) -> jax.Array:
    scores = jnp.einsum("...qc,...kc->...qk", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen, scores * q.shape[-1] ** -0.5, -jnp.inf)
    return jnp.einsum("...qk,...kc->...qc", nn.softmax(scores).astype(q.dtype), v)


class Downsample(nn.Module):
    """Half the rows and columns if `space`, about half the frames if `time`.

    Each is a strided convolution beside a mean. The first frame counts twice in both.
    """

    space: bool
    time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t2 h2 w2 c"]:
        """Rows and columns are even where they are halved; t2 = (t + 1) // 2."""
        channels = x.shape[-1]
        if self.space:
            # Zeros to the right and below only.
            conv = nn.Conv(channels, (3, 3), 2, padding=((0, 1), (0, 1)), name="space")
            x = conv(x) + nn.avg_pool(x, (1, 2, 2), (1, 2, 2))
        if self.time:
            x = jnp.concatenate([repeat_first(x, 1), x], axis=1)
            x = TimeConv(channels, stride=2, name="time")(x) + nn.avg_pool(x, (2, 1, 1), (2, 1, 1))
        return nn.Dense(channels, name="out")(x)


class Upsample(nn.Module):
    """Twice the rows and columns if `space`, twice the frames less one if `time`."""

    space: bool
    time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t2 h2 w2 c"]:
        """Repeats numbers, then mends them by a convolution beside."""
        channels = x.shape[-1]
        if self.time:
            x = repeat(x, "n t h w c -> n (t two) h w c", two=2)[:, 1:]
            x = x + TimeConv(channels, name="time")(x)
        if self.space:
            x = repeat(x, "n t h w c -> n t (h two) (w too) c", two=2, too=2)
            x = x + nn.Conv(channels, (3, 3), name="space")(x)
        return nn.Dense(channels, name="out")(x)


def _middle(x: jax.Array) -> jax.Array:
    x = ResBlock(x.shape[-1], name="middle_0")(x)
    x = Attention(over_time=False, name="middle_1")(x)
    x = Attention(over_time=True, name="middle_2")(x)
    return ResBlock(x.shape[-1], name="middle_3")(x)


def _levels(levels: tuple[Level, ...], blocks: int, x: jax.Array, resample: Any) -> jax.Array:
    for level in levels:
        for i in range(blocks):
            x = ResBlock(level.channels, name=f"level_{level.number}_{i}")(x)
        if level.space or level.time:
            x = resample(level.space, level.time, name=f"level_{level.number}_resample")(x)
    return x


def _head(x: jax.Array, features: int) -> jax.Array:
    return Conv(features, name="conv_out")(layers.silu(FrameNorm(name="norm_out")(x)))


class Encoder(nn.Module):
    """Pixels to latent features.

    Attributes:
        halvings: log2 of the patch: how often the Haar transform is applied.
        channels: after the first convolution.
        levels: in the order in which they run.
        blocks: of each level.
        features: that go out.
    """

    halvings: int
    channels: int
    levels: tuple[Level, ...]
    blocks: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n f y x 3"]) -> Float[Array, "n t h w c"]:
        """Encodes a whole clip."""
        x = jnp.concatenate([repeat_first(x, 2**self.halvings - 1), x], axis=1)
        for _ in range(self.halvings):
            x = haar(x)
        x = Conv(self.channels, name="conv_in")(x)
        return _head(_middle(_levels(self.levels, self.blocks, x, Downsample)), self.features)


class Decoder(nn.Module):
    """Latent features to pixels. The attributes are those of `Encoder`."""

    halvings: int
    channels: int
    levels: tuple[Level, ...]
    blocks: int

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n f y x 3"]:
        """Decodes a whole clip."""
        x = _middle(Conv(self.channels, name="conv_in")(x))
        x = _head(_levels(self.levels, self.blocks, x, Upsample), 3 * 8**self.halvings)
        for _ in range(self.halvings):
            x = unhaar(x)
        return x[:, 2**self.halvings - 1 :]


class Autoencoder(nn.Module):
    """The encoder, the decoder, and the two pointwise maps between them and the latents."""

    encoder: Encoder
    decoder: Decoder
    latent_channels: int

    def setup(self) -> None:
        """Names the two maps."""
        self.quant = nn.Dense(self.latent_channels)
        self.post_quant = nn.Dense(self.encoder.features)

    def encode(self, x: Float[Array, "n f y x 3"]) -> Float[Array, "n t h w c"]:
        """Latents before they are normalised."""
        return self.quant(self.encoder(x))

    def decode(self, z: Float[Array, "n t h w c"]) -> Float[Array, "n f y x 3"]:
        """Pixels of latents, not clipped."""
        return self.decoder(self.post_quant(z))

    def __call__(self, x: Float[Array, "n f y x 3"]) -> Float[Array, "n f y x 3"]:
        """Both ways, through every parameter: for `init`."""
        return self.decode(self.encode(x))


@dataclasses.dataclass(frozen=True)
class CV8x8x8:
    """The tokenizer as a codec. The defaults are the published one: 105,653,696 parameters.

    Latents are normalised to about mean 0 and deviation 1, as the files' statistics say: one mean
    and deviation a channel and a latent frame of a chunk, and one a channel for images.

    Attributes:
        channels: after the first convolution.
        latent_channels: of the latents.
        z_channels: between the encoder and the latents, and between these and the decoder.
        channels_mult: channels of each level as a multiple of `channels`.
        num_res_blocks: residual blocks of an encoder level; decoder levels have one more.
        patch: pixels and frames that the Haar transform takes together, along each axis.
        spatial: pixel rows (and columns) a latent row.
        temporal: pixel frames a latent frame, after the first.
        chunk: latent frames that are coded together: 8 of 57 frames.
        normalised: the weights come with statistics; without, latents are as they are.
        dtype: of weights and activations inside. Outputs have the dtype of the inputs, in which
            they are normalised too.
        by_place: latents depend on their frame's place in a chunk, and one frame is a picture.

    Raises:
        ValueError: fields that do not fit each other.
    """

    channels: int = 128
    latent_channels: int = 16
    z_channels: int = 16
    channels_mult: tuple[int, ...] = (2, 4, 4)
    num_res_blocks: int = 2
    patch: int = 4
    spatial: int = 8
    temporal: int = 8
    chunk: int = 8
    normalised: bool = True
    dtype: Any = jnp.bfloat16
    by_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the fields against each other."""
        for name in ("patch", "spatial", "temporal"):
            value = getattr(self, name)
            if value < self.patch or value & (value - 1):
                raise ValueError(
                    f"CV8x8x8.{name}={value} must be a power of two, at least patch={self.patch}"
                )
        for name in ("down", "up"):
            levels = getattr(self, name)
            steps = sum(level.space for level in levels), sum(level.time for level in levels)
            if steps != self._steps:
                raise ValueError(
                    f"CV8x8x8: {len(self.channels_mult)} levels (channels_mult) have no place for "
                    f"the steps from patch={self.patch} to spatial={self.spatial} and "
                    f"temporal={self.temporal}"
                )
        if self.chunk < 1:
            raise ValueError(f"CV8x8x8.chunk={self.chunk}: at least 1 latent frame")

    @property
    def _steps(self) -> tuple[int, int]:
        """Halvings beside the patch's: of rows and columns, of frames."""
        return (
            round(math.log2(self.spatial / self.patch)),
            round(math.log2(self.temporal / self.patch)),
        )

    @property
    def down(self) -> tuple[Level, ...]:
        """The encoder's levels: the first ones halve."""
        space, time = self._steps
        last = len(self.channels_mult) - 1
        return tuple(
            Level(i, self.channels * multiple, i < min(space, last), i < min(time, last))
            for i, multiple in enumerate(self.channels_mult)
        )

    @property
    def up(self) -> tuple[Level, ...]:
        """The decoder's levels. Frames are doubled after the second at the earliest."""
        space, time = self._steps
        levels = []
        for place, multiple in enumerate(self.channels_mult[::-1]):
            number = len(self.channels_mult) - 1 - place
            doubles = number > 0 and 0 < place < time + 1
            widens = doubles or (number > 0 and place < space and space > time)
            levels.append(Level(number, self.channels * multiple, widens, doubles))
        return tuple(levels)

    @property
    def network(self) -> Autoencoder:
        """The Flax module."""
        halvings, blocks = round(math.log2(self.patch)), self.num_res_blocks
        encoder = Encoder(halvings, self.channels, self.down, blocks, self.z_channels)
        decoder = Decoder(halvings, self.up[0].channels, self.up, blocks + 1)
        return Autoencoder(encoder, decoder, self.latent_channels)

    def init(self, key: jax.Array) -> Params:
        """Random float32 parameters, and statistics of mean 0 and deviation 1."""
        image = jnp.zeros((1, 1, self.spatial, self.spatial, 3))
        params = dict(jax.jit(self.network.init)(key, image)["params"])
        if self.normalised:
            video, image_shape = (self.chunk, self.latent_channels), (self.latent_channels,)
            params["statistics"] = {
                "mean": jnp.zeros(video),
                "std": jnp.ones(video),
                "image_mean": jnp.zeros(image_shape),
                "image_std": jnp.ones(image_shape),
            }
        return params

    @property
    def chunk_frames(self) -> int:
        """Pixel frames that are coded together."""
        return 1 + self.temporal * (self.chunk - 1)

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip: of one chunk, or of a whole number of chunks.

        Raises:
            ValueError: frames that are neither; the message names what fits.
        """
        if frames <= self.chunk_frames:
            return clip_lengths.latent_frames(frames, self.temporal)
        if frames % self.chunk_frames:
            raise ValueError(
                f"config.data.num_frames={frames}: CV8x8x8 codes {self.chunk_frames} frames "
                f"together, so give up to {self.chunk_frames}, or {2 * self.chunk_frames}, "
                f"{3 * self.chunk_frames}, ...; longer videos are sampled in several clips"
            )
        return frames // self.chunk_frames * self.chunk

    def encode(
        self, params: Params, video: Float[Array, "b v f y x 3"]
    ) -> Float[Array, "b v t h w c"]:
        """Latents of pixels in [-1, 1]; t = 1 + (f - 1) / temporal a chunk, h = y / spatial.

        Views are encoded independently of each other, as `WanVAE.encode` does. One frame is an
        image, and has the statistics of images.

        Raises:
            ValueError: frames that are neither a whole number of chunks nor one that is shorter, or
                y or x no multiple of `spatial`.
        """
        _, _, f, y, x, _ = video.shape
        short = f <= self.chunk_frames and f % self.temporal == 1 % self.temporal
        if f < 1 or not (short or f % self.chunk_frames == 0):
            raise ValueError(
                f"CV8x8x8.encode: {f} frames; it takes 1 + {self.temporal} n frames up to "
                f"{self.chunk_frames}, or chunks of {self.chunk_frames}"
            )
        if y % self.spatial or x % self.spatial or not y * x:
            raise ValueError(
                f"CV8x8x8.encode: {y} x {x} pixels; rows and columns are multiples of "
                f"{self.spatial}"
            )
        latents = self._coded(params, video, 1 if short else f // self.chunk_frames, "encode")
        mean, std = self._statistics(params, latents)
        return (latents - mean) / std

    def decode(
        self, params: Params, latents: Float[Array, "b v t h w c"]
    ) -> Float[Array, "b v f y x 3"]:
        """Pixels, about in [-1, 1] and not clipped, of latents; the inverse of `encode`.

        Raises:
            ValueError: there is no frame, row or column, not `latent_channels` channels, or more
                frames than a chunk's that are no whole number of chunks.
        """
        _, _, t, h, w, c = latents.shape
        if c != self.latent_channels or not t * h * w or (t > self.chunk and t % self.chunk):
            raise ValueError(
                f"CV8x8x8.decode: latents [b v t h w c] of shape {latents.shape}; it takes "
                f"{self.latent_channels} channels, at least one row and column, and 1 to "
                f"{self.chunk} frames or chunks of {self.chunk}"
            )
        mean, std = self._statistics(params, latents)
        return self._coded(params, latents * std + mean, max(t // self.chunk, 1), "decode")

    def _coded(self, params: Params, x: jax.Array, chunks: int, method: str) -> jax.Array:
        """The network's `method` on each chunk of each view; the result has the dtype of x."""
        b = len(x)
        clips = rearrange(x, "b v (i f) ... -> (b v i) f ...", i=chunks).astype(self.dtype)
        weights = {k: p for k, p in params.items() if k != "statistics"}
        weights = jax.tree.map(lambda p: p.astype(self.dtype), weights)
        shrink = self.spatial if method == "encode" else 1

        def code(clips: jax.Array) -> jax.Array:
            clips = constrain_clips(clips, clips.shape[2] // shrink, clips.shape[3] // shrink)
            return self.network.apply({"params": weights}, clips, method=method)

        coded = one_by_one(code, clips)
        return rearrange(coded, "(b v i) f ... -> b v (i f) ...", b=b, i=chunks).astype(x.dtype)

    def _statistics(self, params: Params, latents: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and deviation in the dtype of latents, to which they broadcast."""
        t = latents.shape[2]
        if not self.normalised:
            return jnp.zeros((), latents.dtype), jnp.ones((), latents.dtype)
        kind = "image_" if t == 1 else ""
        mean, std = (
            params["statistics"][kind + name].astype(latents.dtype) for name in ("mean", "std")
        )
        if t > 1:
            frames = np.arange(t) % self.chunk
            mean, std = mean[frames, None, None], std[frames, None, None]
        return mean, std
