"""Model FLOPs of the Wan2.1 VAE, counted as `flops` counts the network.

Convolutions count every tap, also those that see the zeros at an edge. How a clip is cut into
chunks changes nothing.
"""

from cosmos_jax.flops import Count, scores
from cosmos_jax.models.wan_vae import Layer, WanVAE

TAPS = 27  # of a 3x3x3 convolution


def encode(vae: WanVAE, shape: tuple[int, int, int]) -> Count:
    """Encoding one view of f frames of y x x pixels.

    Args:
        vae: the autoencoder.
        shape: f, y, x.
    """
    f, y, x = shape
    products = TAPS * f * y * x * 3 * vae.dim
    for layer in vae.down:
        if layer.kind == "block":
            products += _block(layer, f * y * x)
            continue
        y, x = y // 2, x // 2
        products += 9 * f * y * x * layer.inputs**2
        if layer.kind == "spacetime":  # the first frame passes
            f = 1 + (f - 1) // 2
            products += 3 * (f - 1) * y * x * layer.inputs**2
    channels, z = vae.down[-1].outputs, 2 * vae.latent_channels
    products += f * y * x * (TAPS * channels * z + z * z)
    return Count(2 * products, 0) + _middle(channels, f, y * x)


def decode(vae: WanVAE, shape: tuple[int, int, int]) -> Count:
    """Decoding the latents of one view.

    Args:
        vae: the autoencoder.
        shape: t, h, w of the latents.
    """
    f, y, x = shape
    channels, z = vae.up[0].inputs, vae.latent_channels
    products = f * y * x * (z * z + TAPS * z * channels)
    middle = _middle(channels, f, y * x)
    for layer in vae.up:
        if layer.kind == "block":
            products += _block(layer, f * y * x)
            continue
        if layer.kind == "spacetime":  # the first frame stays one
            products += 3 * (f - 1) * y * x * layer.inputs * 2 * layer.inputs
            f = 1 + (f - 1) * 2
        y, x = 2 * y, 2 * x
        products += 9 * f * y * x * layer.inputs * layer.outputs
    products += TAPS * f * y * x * vae.up[-1].outputs * 3
    return Count(2 * products, 0) + middle


def _block(layer: Layer, pixels: int) -> int:
    """Multiply-adds of a residual block."""
    shortcut = layer.inputs * layer.outputs if layer.inputs != layer.outputs else 0
    return pixels * (TAPS * (layer.inputs + layer.outputs) * layer.outputs + shortcut)


def _middle(channels: int, frames: int, pixels: int) -> Count:
    """Two residual blocks, and attention among the pixels of each frame."""
    blocks = 2 * _block(Layer("block", channels, channels), frames * pixels)
    products = 2 * (blocks + 4 * frames * pixels * channels**2)
    return Count(products, frames * scores(pixels, pixels, channels))
