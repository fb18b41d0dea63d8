"""Model FLOPs of Predict1's tokenizer, counted as `flops_vae` counts the Wan2.1 VAE.

Convolutions count every tap, also those that see the zeros at an edge, and attention over frames
every pair of them.
"""

import math

from cosmos_jax.flops import Count, scores
from cosmos_jax.models.cv8x8x8 import TAPS, CV8x8x8

AREA = 9  # taps of a convolution within frames


def encode(codec: CV8x8x8, shape: tuple[int, int, int]) -> Count:
    """Encoding one view of f frames of y x x pixels, in chunks where it has several.

    Args:
        codec: the tokenizer.
        shape: f, y, x.
    """
    f, y, x = shape
    chunks = max(f // codec.chunk_frames, 1)
    t, y, x = f // chunks + codec.patch - 1, y, x
    products, channels = 0, 3
    for _ in range(round(math.log2(codec.patch))):
        products += t * y * x * 8 * channels  # Haar: 8 bands of 8 numbers
        t, y, x, channels = t // 2, y // 2, x // 2, 8 * channels
    products += t * y * x * _conv(channels, codec.channels)
    channels = codec.channels
    for level in codec.down:
        products += t * y * x * _blocks(channels, level.channels, codec.num_res_blocks)
        channels = level.channels
        if level.space:
            y, x = y // 2, x // 2
            products += t * y * x * AREA * channels**2
        if level.time:
            t = (t + 1) // 2
            products += t * y * x * TAPS * channels**2
        if level.space or level.time:
            products += t * y * x * channels**2
    z = codec.z_channels
    products += t * y * x * (_conv(channels, z) + z * codec.latent_channels)
    return (Count(2 * products, 0) + _middle(channels, t, y * x)).times(chunks)


def decode(codec: CV8x8x8, shape: tuple[int, int, int]) -> Count:
    """Decoding the latents of one view.

    Args:
        codec: the tokenizer.
        shape: t, h, w of the latents.
    """
    t, y, x = shape
    chunks = max(t // codec.chunk, 1)
    t, channels, z = t // chunks, codec.up[0].channels, codec.z_channels
    products = t * y * x * (codec.latent_channels * z + _conv(z, channels))
    middle = _middle(channels, t, y * x)
    for level in codec.up:
        products += t * y * x * _blocks(channels, level.channels, codec.num_res_blocks + 1)
        channels = level.channels
        if level.time:
            t = 2 * t - 1
            products += t * y * x * TAPS * channels**2
        if level.space:
            y, x = 2 * y, 2 * x
            products += t * y * x * AREA * channels**2
        if level.space or level.time:
            products += t * y * x * channels**2
    products += t * y * x * _conv(channels, 3 * codec.patch**3)
    for halving in range(round(math.log2(codec.patch))):
        products += t * y * x * 8 * 3 * codec.patch**3 // 8**halving
        t, y, x = 2 * t, 2 * y, 2 * x
    return (Count(2 * products, 0) + middle).times(chunks)


def _conv(inputs: int, outputs: int) -> int:
    """Multiply-adds a pixel of a factorised convolution."""
    return (AREA * inputs + TAPS * outputs) * outputs


def _blocks(inputs: int, outputs: int, count: int) -> int:
    """Multiply-adds a pixel of the residual blocks of a level."""
    shortcut = inputs * outputs if inputs != outputs else 0
    return _conv(inputs, outputs) + shortcut + (2 * count - 1) * _conv(outputs, outputs)


def _middle(channels: int, frames: int, pixels: int) -> Count:
    """Two residual blocks; attention among the pixels of a frame, and among a pixel's frames."""
    products = frames * pixels * (_blocks(channels, channels, 2) + 8 * channels**2)
    attention = frames * scores(pixels, pixels, channels) + pixels * scores(
        frames, frames, channels
    )
    return Count(2 * products, attention)
