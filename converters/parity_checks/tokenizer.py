"""Parity of the CV8x8x8 tokenizer."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters import cv8x8x8, rules
from converters.parity_checks.golden import Golden, Options, Row, check_options, close
from converters.parity_checks.vae import channels_last
from cosmos_jax.models.cv8x8x8 import CV8x8x8, haar
from cosmos_jax.types import Params

ONLY = {
    "name": "CV",
    "encoder": "FACTORIZED",
    "decoder": "FACTORIZED",
    "formulation": "AE",
    "in_channels": 3,
    "out_channels": 3,
    "dropout": 0.0,
    "legacy_mode": False,
    "num_groups": 1,
    "patch_method": "haar",
    "z_factor": 1,
}
"""Options that have one supported value."""
OPTIONS = (
    *("channels", "channels_mult", "num_res_blocks", "latent_channels", "z_channels", "patch_size"),
    *("spatial_compression", "temporal_compression", "attn_resolutions", "resolution"),
    *("pixel_chunk_duration", "max_enc_batch_size", "max_dec_batch_size"),
)


def codec(golden: Golden, dtype: str) -> CV8x8x8:
    """The tokenizer of a file's config.

    Raises:
        ValueError: an option that is unknown or has an unsupported value.
    """
    given = golden.json("config_json")
    check_options(given, (*ONLY, *OPTIONS), "the tokenizer")
    for name, value in ONLY.items():
        if given.get(name, value) != value:
            raise ValueError(f"option {name} of the tokenizer must be {value!r}")
    patch, multiples = given["patch_size"], tuple(given["channels_mult"])
    sizes = [given["resolution"] // patch >> i for i in range(len(multiples))]
    if set(sizes) & set(given["attn_resolutions"]):
        raise ValueError(
            f"option attn_resolutions of the tokenizer: attention in levels of {sizes} is not "
            "supported"
        )
    compression, normalised = given["temporal_compression"], "wrap/mean_flat" in golden
    # Without chunks, a file's clip is one.
    frames = given["pixel_chunk_duration"] if normalised else golden["in/video"].shape[2]
    return CV8x8x8(
        channels=given["channels"],
        latent_channels=given["latent_channels"],
        z_channels=given["z_channels"],
        channels_mult=multiples,
        num_res_blocks=given["num_res_blocks"],
        patch=patch,
        spatial=given["spatial_compression"],
        temporal=compression,
        chunk=1 + (frames - 1) // compression,
        normalised=normalised,
        dtype=jnp.dtype(dtype),
    )


def load_params(codec: CV8x8x8, golden: Golden) -> Params:
    """The file's weights and statistics as ours."""
    tensors = golden.named("sd/")
    if codec.normalised:
        for i, name in enumerate(("wrap/mean_flat", "wrap/std_flat")):
            table = golden[name].reshape(codec.latent_channels, -1)[:, : codec.chunk]
            tensors |= {f"mean_std.{i}": table, f"image_mean_std.{i}": table[:, 0]}
    like = {"params": jax.eval_shape(codec.init, jax.random.key(0))}
    tree = rules.to_ours(cv8x8x8.table(codec), tensors, like)
    return jax.tree.map(jnp.asarray, tree["params"])


def check(golden: Golden, options: Options) -> Iterator[Row]:
    """Latents and pixels of the clip and of its first frame, and the activations in the file."""
    model = codec(golden, options.dtype)
    params, video = load_params(model, golden), channels_last(golden["in/video"])
    latent = "out/latent_normalised" if model.normalised else "out/latent"
    given = channels_last(golden[latent])  # each half is compared by itself
    encode, decode = jax.jit(model.encode), jax.jit(model.decode)
    ours = {latent: encode(params, video), "out/recon": decode(params, given)}
    if "out/latent_single_frame" in golden:
        image = channels_last(golden["out/latent_single_frame"])
        ours["out/latent_single_frame"] = encode(params, video[:, :, :1])
        ours["out/recon_single_frame"] = decode(params, image)
    for name, array in ours.items():
        if name in golden:
            yield close(name, array, channels_last(golden[name]), options.dtype)
    if golden.names("act/"):
        seen = jax.jit(functools.partial(activations, model))
        for name, array in seen(params, video[:, 0], given[:, 0]).items():
            if name in golden:
                theirs = np.moveaxis(golden[name], 1, -1)
                yield close(name, array, theirs, options.dtype)


def activations(model: CV8x8x8, params: Params, video: Any, latents: Any) -> dict[str, Any]:
    """Outputs of the layers by the names that the files give them."""
    frames = 2**model.network.encoder.halvings - 1
    patched = jnp.concatenate([jnp.repeat(video[:, :1], frames, axis=1), video], axis=1)
    for _ in range(round(math.log2(model.patch))):
        patched = haar(patched)
    seen = {"act/enc/patched": patched}
    for half, method, x in (("enc", "encode", video), ("dec", "decode", latents)):
        variables = {"params": jax.tree.map(lambda p: p.astype(model.dtype), params)}
        _, new = model.network.apply(
            variables,
            x.astype(model.dtype),
            method=method,
            mutable=["intermediates"],
            capture_intermediates=True,
        )
        layers = new["intermediates"][f"{method}r"]
        levels = model.down if half == "enc" else model.up
        last = model.num_res_blocks - (half == "enc")
        names = {f"act/{half}/{name}": name for name in ("conv_in", "conv_out")}
        names |= {f"act/{half}/{theirs}": ours for theirs, ours in MIDDLE.items()}
        stack = "down" if half == "enc" else "up"
        for level in levels:
            ours, theirs = f"level_{level.number}", f"act/{half}/{stack}{level.number}"
            names[f"{theirs}_last_block"] = f"{ours}_{last}"
            resampled = level.space or level.time
            names[f"{theirs}_{stack}sample"] = f"{ours}_resample" if resampled else f"{ours}_{last}"
        seen |= {theirs: layers[ours]["__call__"][0] for theirs, ours in names.items()}
    return seen


MIDDLE = {
    "mid_block_1": "middle_0",
    "mid_attn_spatial": "middle_1",
    "mid_attn_temporal": "middle_2",
    "mid_block_2": "middle_3",
}
