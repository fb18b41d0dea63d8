"""Model FLOPs of any video codec. A stand-in for one takes none that count."""

from typing import Any

from cosmos_jax import flops_cv8x8x8, flops_vae
from cosmos_jax.flops import Count
from cosmos_jax.models.cv8x8x8 import CV8x8x8
from cosmos_jax.models.wan_vae import WanVAE

COUNTED: dict[type, Any] = {WanVAE: flops_vae, CV8x8x8: flops_cv8x8x8}


def encode(codec: Any, shape: tuple[int, int, int]) -> Count:
    """Encoding one view of f frames of y x x pixels."""
    return COUNTED[type(codec)].encode(codec, shape) if type(codec) in COUNTED else Count(0, 0)


def decode(codec: Any, shape: tuple[int, int, int]) -> Count:
    """Decoding the latents t, h, w of one view."""
    return COUNTED[type(codec)].decode(codec, shape) if type(codec) in COUNTED else Count(0, 0)
