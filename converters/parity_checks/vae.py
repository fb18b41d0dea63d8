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
    dtype = options.dtype
    vae = codec(golden, dtype)
    params = load_params(vae, golden)
    if "in/video" in golden:
        yield from _encoded(golden, vae, params, dtype)
    if "in/latent" in golden:
        decode, latents = jax.jit(vae.decode), channels_last(golden["in/latent"])
        for name, count in (("out/video", None), ("out/video_image", 1)):
            if name in golden:
                ours = decode(params, latents[:, :, :count])
                yield close(name, ours, channels_last(golden[name]), dtype)
    yield from _activations(golden, vae, params, dtype)


def _encoded(golden: Golden, vae: WanVAE, params: Params, dtype: str) -> Iterator[Row]:
    video = channels_last(golden["in/video"])
    latents = jax.jit(vae.encode)(params, video)
    raw = latents * jnp.asarray(vae.std) + jnp.asarray(vae.mean)
    for name, ours in (("out/latent", latents), ("out/latent_raw_mu", raw)):
        if name in golden:
            yield close(name, ours, channels_last(golden[name]), dtype)
    for name in golden.names("out/latent_window"):
        # The same numbers in chunks of another size; that ours do not depend on it is a test's.
        full = f"out/latent_window{name}"
        yield close(full, latents, channels_last(golden[full]), dtype)
    if "out/latent_image" in golden:
        image = jax.jit(vae.encode)(params, video[:, :, :1])
        yield close("out/latent_image", image, channels_last(golden["out/latent_image"]), dtype)


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


def _activations(golden: Golden, vae: WanVAE, params: Params, dtype: str) -> Iterator[Row]:
    for method, given in (("encode", "in/video"), ("decode", "in/latent")):
        half = f"{method}r"
        layers = {name: our_layer(name) for name in golden.names(f"act/{half}.")}
        known = {name: ours for name, ours in layers.items() if ours}
        if not known or given not in golden:
            continue
        x = channels_last(golden[given])[:, 0]
        if method == "decode":  # the network sees latents before normalisation
            x = x * jnp.asarray(vae.std) + jnp.asarray(vae.mean)
        seen = _run(vae, method, params, x, set(known.values()))
        for name, ours in known.items():
            if ours in seen:
                full = f"act/{half}.{name}"
                yield close(full, seen[ours], np.moveaxis(golden[full], 1, -1), dtype)


def _run(vae: WanVAE, method: str, params: Params, x: Any, layers: set[str]) -> Mapping[str, Any]:
    """Outputs of some layers over all frames: the first frame alone, then the rest."""
    cast = jax.tree.map(lambda p: p.astype(vae.dtype), params)

    @jax.jit
    def run(params: Params, x: Any) -> Mapping[str, Any]:
        cache: Params = {}
        chunks = []
        for frames, first in ((x[:, :1], True), (x[:, 1:], False)):
            if not frames.shape[1]:
                continue
            _, new = vae.network.apply(
                {"params": params, "cache": cache},
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
            for name in layers & chunks[0].keys()
        }

    return run(cast, x.astype(vae.dtype))
