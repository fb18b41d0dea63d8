"""Names of the CV8x8x8 tokenizer's tensors, and the files that they lie in.

Published are TorchScript archives of each half and the statistics of the latents, side by side:
encoder.jit (`0.` the encoder, `1.` its pointwise map), decoder.jit (`0.` the pointwise map, `1.`
the decoder), mean_std.pt and image_mean_std.pt. Training code saves both halves as one model.pt (or
autoencoder.jit). All of them are read as one set of tensors, to which the statistics belong as
`mean_std.0`, `mean_std.1`, `image_mean_std.0` and `image_mean_std.1`.
"""

import fnmatch
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from converters import pickle_out as out
from converters.rules import Ignored, Rule, Table
from converters.stored import Stored, in_memory
from converters.torch_files import describe, open_torch, write_archive, write_torch
from cosmos_jax.models.cv8x8x8 import CV8x8x8

SPACE = "o i 1 h w -> h w i o"
TIME = "o i t 1 1 -> t i o"
POINT = "o i 1 1 1 -> i o"

HALVES = {
    "encoder.jit": {"0.": "encoder.", "1.": "quant_conv."},
    "decoder.jit": {"0.": "post_quant_conv.", "1.": "decoder."},
}
"""The archive of each half; where its parts are numbered, not named, which is which."""
WHOLE = ("model.pt", "autoencoder.jit")
STATISTICS = ("mean_std", "image_mean_std")
FILES = (*HALVES, *(f"{name}.pt" for name in STATISTICS))
"""What is published, without what it holds twice."""
CHUNK = CV8x8x8.chunk  # latent frames, of which the files have statistics of more
MARK = "encoder.patcher3d.wavelets"
"""A tensor that no other network has."""


def _affine(reference: str, ours: str, pattern: str) -> list[Rule]:
    return [
        Rule(f"{reference}.conv3d.weight", f"params/{ours}/kernel", pattern),
        Rule(f"{reference}.conv3d.bias", f"params/{ours}/bias", "o -> o"),
    ]


def _norm(reference: str, ours: str) -> Rule:
    return Rule(f"{reference}.norm.{{weight,bias}}", f"params/{ours}/{{scale,bias}}", "c -> c")


def _conv(reference: str, ours: str) -> list[Rule]:
    return [
        *_affine(f"{reference}.0", f"{ours}/space", SPACE),
        *_affine(f"{reference}.1", f"{ours}/time", TIME),
    ]


def _block(reference: str, ours: str, shortcut: bool) -> list[Rule]:
    return [
        _norm(f"{reference}.norm1", f"{ours}/norm1"),
        _norm(f"{reference}.norm2", f"{ours}/norm2"),
        *_conv(f"{reference}.conv1", f"{ours}/conv1"),
        *_conv(f"{reference}.conv2", f"{ours}/conv2"),
        *(_affine(f"{reference}.nin_shortcut", f"{ours}/shortcut", POINT) if shortcut else ()),
    ]


def _half(half: str) -> list[Rule]:
    """What the encoder and the decoder have in common."""
    rows = [
        *_conv(f"{half}.conv_in", f"{half}/conv_in"),
        *_block(f"{half}.mid.block_1", f"{half}/middle_0", shortcut=False),
        *_block(f"{half}.mid.block_2", f"{half}/middle_3", shortcut=False),
        _norm(f"{half}.norm_out", f"{half}/norm_out"),
        *_conv(f"{half}.conv_out", f"{half}/conv_out"),
    ]
    for i, ours in enumerate((f"{half}/middle_1", f"{half}/middle_2")):
        reference = f"{half}.mid.attn_1.{i}"
        rows.append(_norm(f"{reference}.norm", f"{ours}/norm"))
        rows += _affine(f"{reference}.{{q,k,v,proj_out}}", f"{ours}/{{q,k,v,out}}", POINT)
    return rows


def table(codec: CV8x8x8) -> Table:
    """The rows for a tokenizer of any size."""
    rows = [*_half("encoder"), *_half("decoder")]
    rows += _affine("{quant_conv,post_quant_conv}", "{quant,post_quant}", POINT)
    # The convolution over rows and columns comes first in the encoder and last in the decoder.
    stacks = (
        ("encoder", "down", "downsample", ("conv1", "conv2"), codec.down, 0, codec.channels),
        ("decoder", "up", "upsample", ("conv2", "conv1"), codec.up, 1, codec.up[0].channels),
    )
    for half, stack, resample, (space, time), levels, more, channels in stacks:
        for level in levels:
            reference, ours = f"{half}.{stack}.{level.number}", f"{half}/level_{level.number}"
            for i in range(codec.num_res_blocks + more):
                shortcut = channels != level.channels
                rows += _block(f"{reference}.block.{i}", f"{ours}_{i}", shortcut)
                channels = level.channels
            inner, outer = f"{reference}.{resample}", f"{ours}_resample"
            rows += _affine(f"{inner}.{space}", f"{outer}/space", SPACE) if level.space else []
            rows += _affine(f"{inner}.{time}", f"{outer}/time", TIME) if level.time else []
            if level.space or level.time:
                rows += _affine(f"{inner}.conv3", f"{outer}/out", POINT)
    if codec.normalised:
        places = "params/statistics/{mean,std}", "params/statistics/{image_mean,image_std}"
        rows.append(Rule("mean_std.{0,1}", places[0], "c t -> t c"))
        rows.append(Rule("image_mean_std.{0,1}", places[1], "c -> c"))
    return (*rows, *_buffers(codec.patch))


def _buffers(patch: int) -> list[Ignored]:
    """What the files hold beside weights: the Haar filter, its indices, the patch."""
    both = "{encoder.patcher3d,decoder.unpatcher3d}"
    return [
        Ignored(f"{both}.wavelets", np.full(2, 0.5**0.5, np.float32)),
        Ignored(f"{both}._arange", np.arange(2)),
        Ignored("encoder.patcher3d.patch_size_buffer", np.array([patch], np.int32)),
    ]


def is_folder(path: Path) -> bool:
    """Whether a folder holds a tokenizer in the published files."""
    names = {file.name for file in path.iterdir()}
    return set(HALVES) <= names or (f"{STATISTICS[0]}.pt" in names and bool(names & set(WHOLE)))


def open_folder(path: Path) -> dict[str, Stored]:
    """The tensors of a folder in the published files, see above.

    Without image_mean_std.pt, an image has the statistics of a video's first frame, and a line on
    the console says so.

    Raises:
        ValueError: the statistics of videos are missing, or a file holds something else.
    """
    if all((path / name).is_file() for name in HALVES):
        tensors = {k: t for name in HALVES for k, t in _half_of(path / name).items()}
    else:
        tensors = open_torch(next(path / name for name in WHOLE if (path / name).is_file()))
    bias = tensors.get("quant_conv.conv3d.bias")
    if MARK not in tensors or bias is None:
        raise ValueError(f"{path} holds no CV8x8x8 tokenizer; the first tensors: {[*tensors][:4]}")
    videos, images = (path / f"{name}.pt" for name in STATISTICS)
    if not videos.is_file():
        raise ValueError(
            f"{videos} is missing: without it latents are not what the video network was trained "
            "on; copy it beside the tokenizer's other files"
        )
    pairs = {STATISTICS[0]: _pair(videos, (*bias.shape, -1))}
    if images.is_file():
        pairs[STATISTICS[1]] = _pair(images, bias.shape)
    else:
        print(f"{images} is not there: images take the statistics of a video's first frame")
        pairs[STATISTICS[1]] = [in_memory(one.read()[:, 0]) for one in pairs[STATISTICS[0]]]
    return tensors | {f"{k}.{i}": t for k, pair in pairs.items() for i, t in enumerate(pair)}


def write_folder(folder: Path, tensors: Mapping[str, Stored]) -> None:
    """Writes model.pt and the files of statistics into a new folder; `open_folder` reads it."""
    folder.mkdir()
    weights = {k: t for k, t in tensors.items() if k.partition(".")[0] not in STATISTICS}
    write_torch(folder / WHOLE[0], weights)
    for name in STATISTICS:
        pair = {str(i): tensors[f"{name}.{i}"] for i in range(2) if f"{name}.{i}" in tensors}
        if pair:
            flat = {k: in_memory(t.read().reshape(-1)) for k, t in pair.items()}
            listed = out.row(*(describe(t, k) for k, t in flat.items()))
            with (folder / f"{name}.pt").open("wb") as file:
                write_archive(file, listed, flat)


def _half_of(path: Path) -> dict[str, Stored]:
    """The tensors of the archive of a half, named."""
    parts = HALVES[path.name]

    def named(key: str) -> str:
        return next((name + key[2:] for number, name in parts.items() if key[:2] == number), key)

    return {named(key): tensor for key, tensor in open_torch(path).items()}


def _pair(path: Path, shape: tuple[int, ...]) -> list[Stored]:
    """The mean and the deviation of a file, in a shape of which one size may be -1."""
    held = list(open_torch(path).values())
    known = math.prod(size for size in shape if size > 0)
    sizes = [math.prod(one.shape) for one in held]
    fits = len(held) == 2 and sizes[0] == sizes[1] > 0 and sizes[0] % known == 0
    if not fits or (-1 not in shape and sizes[0] != known):
        raise ValueError(
            f"{path} must hold a mean and a deviation of {known} channels, and holds "
            f"{[one.shape for one in held]}"
        )
    return [in_memory(one.read().reshape(shape)) for one in held]


def cut(tensors: Mapping[str, Stored], chunk: int) -> dict[str, Stored]:
    """The tensors, with statistics of the first `chunk` latent frames: the files hold more."""
    cut = {
        key: in_memory(tensor.read()[:, :chunk])
        for key, tensor in tensors.items()
        if key.startswith(f"{STATISTICS[0]}.") and len(tensor.shape) == 2
    }
    return {**tensors, **cut}


def config(shapes: Mapping[str, tuple[int, ...]]) -> CV8x8x8:
    """The tokenizer whose tensors have these shapes.

    Raises:
        ValueError: a tensor that tells a size is missing.
    """
    names = {
        "channels": "encoder.conv_in.0.conv3d.weight",
        "z": "encoder.conv_out.1.conv3d.bias",
        "latent": "quant_conv.conv3d.bias",
    }
    if missing := [name for name in names.values() if name not in shapes]:
        raise ValueError(f"the sizes of the tokenizer are not told: {', '.join(missing)} missing")
    sizes = {short: shapes[name][0] for short, name in names.items()}
    wide = shapes[names["channels"]][1]  # 3 patch^3
    patch = round((wide / 3) ** (1 / 3))
    blocks = fnmatch.filter(shapes, "encoder.down.*.block.*.conv1.0.conv3d.bias")
    channels = {key.split(".")[2]: shapes[key][0] for key in blocks}
    time, space = (
        len(fnmatch.filter(shapes, f"decoder.up.*.upsample.conv{i}.conv3d.bias")) for i in (1, 2)
    )
    normalised = f"{STATISTICS[0]}.0" in shapes
    return CV8x8x8(
        channels=sizes["channels"],
        latent_channels=sizes["latent"],
        z_channels=sizes["z"],
        channels_mult=tuple(c // sizes["channels"] for c in channels.values()),
        num_res_blocks=len(blocks) // max(len(channels), 1),
        patch=patch,
        spatial=patch * 2**space,
        temporal=patch * 2**time,
        chunk=min(shapes[f"{STATISTICS[0]}.0"][-1], CHUNK) if normalised else CHUNK,
        normalised=normalised,
    )
