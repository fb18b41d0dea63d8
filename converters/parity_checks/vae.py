"""Parity of the Wan2.1 autoencoder."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters import rules, wan_vae
from converters.parity_checks.golden import Golden, Options, Row, check_options, close
from cosmos_jax.models.wan_vae import MEAN, STD, WanVAE
from cosmos_jax.types import Params

OPTIONS = (
    *("dim", "z_dim", "dim_mult", "num_res_blocks", "attn_scales", "temperal_downsample"),
    *("temporal_window", "dropout"),
)


def channels_last(x: np.ndarray) -> jax.Array:
    """The reference's [b c t h w] as ours, with one view."""
    return jnp.asarray(np.moveaxis(x, 1, -1)[:, None])


def codec(golden: Golden, dtype: str) -> WanVAE:
    """The autoencoder of a file's config and statistics.

    Raises:
        ValueError: an option that is unknown or has an unsupported value.
    """
    given = golden.json("config_json")
    check_options(given, OPTIONS, "the autoencoder")
    if given["attn_scales"]:
        raise ValueError("option attn_scales of the autoencoder must be []")
    if given.get("dropout", 0):
        raise ValueError("option dropout of the autoencoder must be 0")
    mean, std = (
        tuple(golden[name].ravel().tolist()) if name in golden else published
        for name, published in (("const/mean", MEAN), ("const/std", STD))
    )
    downsample = tuple(given["temperal_downsample"])
    return WanVAE(
        dim=given["dim"],
        latent_channels=given["z_dim"],
        dim_mult=tuple(given["dim_mult"]),
        num_res_blocks=given["num_res_blocks"],
        temporal_downsample=downsample,
        mean=mean,
        std=std,
        dtype=jnp.dtype(dtype),
        encode_chunk=_latent_frames(given["temporal_window"], downsample),
    )


def _latent_frames(window: int, downsample: tuple[bool, ...]) -> int:
    """Latent frames of a window of pixel frames; how many go at a time changes no number."""
    return max(window // 2 ** sum(downsample), 1)


def load_params(codec: WanVAE, golden: Golden) -> Params:
    """The file's weights as ours."""
    like = {"params": jax.eval_shape(codec.init, jax.random.key(0))}
    tree = rules.to_ours(wan_vae.table(codec), golden.named("sd/"), like)
    return jax.tree.map(jnp.asarray, tree["params"])


def check(golden: Golden, options: Options) -> Iterator[Row]:
    """Latents and pixels of a clip and of an image, and the activations that are in the file."""
    vae = codec(golden, options.dtype)
    params = load_params(vae, golden)
    if "in/video" in golden:
        latents, image, seen = _run(golden, vae, params, "encode")
        outputs = {
            "out/latent": latents,
            "out/latent_raw_mu": latents * jnp.asarray(vae.std) + jnp.asarray(vae.mean),
            "out/latent_image": image,
        }
        # The same numbers in windows of another size; that ours do not depend on it is a test's.
        outputs |= {f"out/{name}": latents for name in golden.names("out/") if "_window" in name}
        yield from _compared(golden, outputs, seen, options.dtype)
    if "in/latent" in golden:
        video, image, seen = _run(golden, vae, params, "decode")
        outputs = {"out/video": video, "out/video_image": image}
        yield from _compared(golden, outputs, seen, options.dtype)


def _compared(
    golden: Golden, outputs: Mapping[str, Any], seen: Mapping[str, Any], dtype: str
) -> Iterator[Row]:
    for name, ours in outputs.items():
        if name in golden:
            yield close(name, ours, channels_last(golden[name]), dtype)
    for name, ours in seen.items():
        yield close(f"act/{name}", ours, np.moveaxis(golden[f"act/{name}"], 1, -1), dtype)


def our_layer(name: str) -> str | None:
    """Our name of the reference's `encoder.downsamples.5` and the like, inside its half."""
    for pattern, ours in (
        (r"conv1", "conv_in"),
        (r"(?:downsamples|upsamples)\.(\d+)", r"layer_\1"),
        (r"middle\.(\d+)", r"middle_\1"),
        (r"head(?:\.2)?", "conv_out"),
    ):
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def _run(golden: Golden, vae: WanVAE, params: Params, method: str) -> Any:
    """What a method gives of the file's clip and of its first frame, and the layers' outputs."""
    half, code = f"{method}r", getattr(vae, method)
    named = {name: our_layer(name) for name in golden.names(f"act/{half}.")}
    layers = {f"{half}.{name}": ours for name, ours in named.items() if ours}

    # One program, in which the compiler finds the work that the three have in common.
    @jax.jit
    def run(params: Params, x: Any) -> Any:
        seen = _layers(vae, params, x[:, 0], method) if layers else {}
        kept = {name: seen[ours] for name, ours in layers.items() if ours in seen}
        return code(params, x), code(params, x[:, :, :1]), kept

    return run(params, channels_last(golden["in/video" if method == "encode" else "in/latent"]))


def _layers(vae: WanVAE, params: Params, x: Any, method: str) -> dict[str, Any]:
    """Outputs of a half's layers over all frames: the first frame alone, then the rest."""
    if method == "decode":  # the network sees latents before normalisation
        x = x * jnp.asarray(vae.std) + jnp.asarray(vae.mean)
    x = x.astype(vae.dtype)
    cache: Params = {}
    chunks = []
    for frames, first in ((x[:, :1], True), (x[:, 1:], False)):
        if frames.shape[1]:
            _, new = vae.network.apply(
                {"params": jax.tree.map(lambda p: p.astype(vae.dtype), params), "cache": cache},
                frames,
                first,
                method=method,
                mutable=["cache", "intermediates"],
                capture_intermediates=True,
            )
            cache = new["cache"]
            chunks.append(new["intermediates"][f"{method}r"])
    return {
        name: jnp.concatenate([chunk[name]["__call__"][0] for chunk in chunks], axis=1)
        for name in chunks[0]
        if name != "__call__"
    }
