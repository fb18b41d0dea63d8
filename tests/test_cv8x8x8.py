"""Predict1's tokenizer: the reference's numbers, chunks and statistics, names, files, bad input."""

import csv
import json
import math
import pathlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from converters import convert, networks, rules, weights
from converters import cv8x8x8 as names
from converters.parity_checks import tokenizer
from converters.parity_checks.golden import Golden, Options
from converters.stored import in_memory
from cosmos_jax import build, sharding
from cosmos_jax.models import cv8x8x8
from cosmos_jax.models.cv8x8x8 import CV8x8x8

HERE = pathlib.Path(__file__).parent
SMALL = CV8x8x8(
    channels=4,
    latent_channels=3,
    z_channels=5,
    channels_mult=(1, 2, 1),
    num_res_blocks=1,
    patch=2,
    spatial=4,
    temporal=4,
    chunk=3,
    dtype=jnp.float32,
)
ENCODE, DECODE = jax.jit(SMALL.encode), jax.jit(SMALL.decode)


def golden(name):
    return Golden.load(HERE / "goldens" / f"{name}.npz")


def like(codec):
    return {"params": jax.eval_shape(codec.init, jax.random.key(0))}


def largest_error(ours, theirs):
    return np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max()


def clips(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


def random_params(codec, seed=0):
    """Random, also where `init` gives ones and zeros."""
    draw = np.random.default_rng(seed).standard_normal
    flat = traverse_util.flatten_dict(like(codec)["params"])
    arrays = {
        path: draw(x.shape) / math.sqrt(max(math.prod(x.shape[:-1]), 1))
        + (path[-1] in ("scale", "std", "image_std"))
        for path, x in flat.items()
    }
    arrays = {path: jnp.asarray(x, jnp.float32) for path, x in arrays.items()}
    for name in ("std", "image_std"):
        if codec.normalised:
            arrays["statistics", name] = 0.5 + jnp.abs(arrays["statistics", name])
    return traverse_util.unflatten_dict(arrays)


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


@pytest.mark.core
@pytest.mark.parametrize("frames", [1, 5, 9, 18, 27])
def test_a_clips_latents_are_counted_before_it_is_coded(params, frames):
    coded = jax.eval_shape(SMALL.encode, params, clips((1, 1, frames, 8, 8, 3)))
    assert coded.shape[2] == SMALL.latent_frames(frames)
    assert build.latent_shape(SMALL, frames, (8, 8))[0] == coded.shape[2]


@pytest.mark.core
@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        (0, r"num_frames=0 must be 1 \+ 4 k"),
        (7, r"num_frames=7 must be 1 \+ 4 k"),
        (13, "num_frames=13: CV8x8x8 codes 9 frames together, so give up to 9, or 18, 27"),
        (10, "num_frames=10: CV8x8x8 codes 9 frames"),
    ],
)
def test_clips_that_no_chunks_hold(frames, fault):
    """13 is 1 + 4 k, and 9 frames a chunk do not make it."""
    with pytest.raises(ValueError, match=fault):
        build.latent_shape(SMALL, frames, (8, 8))
    with pytest.raises(ValueError, match=f"{frames} frames"):
        jax.eval_shape(SMALL.encode, like(SMALL)["params"], clips((1, 1, frames, 8, 8, 3)))


@pytest.mark.core
@pytest.mark.parametrize("name", ["tok_cv8x8x8", "tok_wrapper"])
def test_golden(name):
    file = golden(name)
    rows = {row.what: row for row in tokenizer.check(file, Options())}
    assert rows.keys() == {f"{k}/{n}" for k in ("out", "act") for n in file.names(f"{k}/")}
    for what, row in rows.items():
        assert row.max_error < (1e-4 if "recon" in what else 2e-5), row
    assert file.not_compared() == []


@pytest.mark.core
def test_haar_bands_and_their_inverse():
    x = clips((1, 2, 4, 6, 3))
    bands = cv8x8x8.haar(x)
    assert bands.shape == (1, 1, 2, 3, 24)
    block = np.asarray(x[0, :, :2, :2]).reshape(8, 3)  # time, row, column: the column is fastest
    np.testing.assert_allclose(bands[0, 0, 0, 0, :3], block.mean(0), atol=1e-6)
    over_columns, over_time = np.resize([1, -1], 8), np.repeat([1, -1], 4)
    for band, signs in ((1, over_columns), (4, over_time), (5, over_columns * over_time)):
        wanted = (signs[:, None] * block).mean(0)
        np.testing.assert_allclose(bands[0, 0, 0, 0, 3 * band : 3 * band + 3], wanted, atol=1e-6)
    assert largest_error(cv8x8x8.unhaar(bands), x) < 1e-6


def test_chunks_are_coded_by_themselves_and_share_statistics(params):
    """Nine frames are one chunk of SMALL, 27 are three."""
    video = clips((2, 2, 27, 8, 12, 3))
    latents = ENCODE(params, video)
    assert latents.shape == (2, 2, 9, 2, 3, 3)
    for i in range(3):
        alone = ENCODE(params, video[:, :, 9 * i : 9 * i + 9])
        assert largest_error(latents[:, :, 3 * i : 3 * i + 3], alone) < 1e-5
    decoded = DECODE(params, latents)
    assert decoded.shape == video.shape
    alone = DECODE(params, latents[:1, :1, 3:6])
    assert largest_error(decoded[:1, :1, 9:18], alone) < 1e-5


def test_statistics_belong_to_a_frame_of_a_chunk_and_images_have_their_own(params):
    raw = replace(SMALL, normalised=False)
    nothing = {k: p for k, p in params.items() if k != "statistics"}
    video, held = clips((1, 1, 9, 4, 4, 3)), params["statistics"]
    bare, ours = jax.jit(raw.encode)(nothing, video), ENCODE(params, video)
    wanted = (bare - held["mean"][:, None, None]) / held["std"][:, None, None]
    assert largest_error(ours, wanted) < 1e-5
    assert largest_error(DECODE(params, ours), jax.jit(raw.decode)(nothing, bare)) < 1e-4
    image = ENCODE(params, video[:, :, :1])
    wanted = (bare[:, :, :1] - held["image_mean"]) / held["image_std"]
    assert largest_error(image, wanted) < 1e-5
    assert largest_error(image, ours[:, :, :1]) > 1e-2
    assert DECODE(params, image).shape == (1, 1, 1, 4, 4, 3)


def test_causal(params):
    """Later frames reach no earlier latent, and later latents no earlier frame."""
    video = clips((1, 1, 9, 8, 8, 3))
    latents = ENCODE(params, video)
    changed = ENCODE(params, video.at[:, :, 5:].set(0.5))
    assert largest_error(latents[:, :, :2], changed[:, :, :2]) < 1e-5
    assert largest_error(latents[:, :, 2], changed[:, :, 2]) > 1e-3
    short = ENCODE(params, video[:, :, :5])  # less than a chunk
    assert largest_error(latents[:, :, :2], short) < 1e-5
    decoded = DECODE(params, latents)
    changed = DECODE(params, latents.at[:, :, 2:].set(0.5))
    assert largest_error(decoded[:, :, :5], changed[:, :, :5]) < 1e-4
    assert largest_error(decoded[:, :, 5], changed[:, :, 5]) > 1e-3


def test_bfloat16_is_close_to_float32(params):
    half, video = replace(SMALL, dtype=jnp.bfloat16), clips((1, 1, 9, 8, 8, 3))
    latents = ENCODE(params, video)
    for name, x, wanted in (
        ("encode", video, latents),
        ("decode", latents, DECODE(params, latents)),
    ):
        ours = jax.jit(getattr(half, name))(params, x)
        assert ours.dtype == jnp.float32  # that of the input
        error = jnp.sqrt(jnp.mean((ours - wanted) ** 2)) / wanted.std()
        assert 1e-3 < error < 5e-2, error


@pytest.mark.parametrize("mesh, views", [({"context": 8}, 8), ({"context": 2, "fsdp": 4}, 3)])
def test_sharded_equals_single(params, mesh, views):
    video = clips((1, views, 5, 16, 8, 3))
    single = ENCODE(params, video)
    with jax.set_mesh(sharding.make_mesh(**mesh)):
        ours = jax.jit(SMALL.encode)(params, video)
    assert largest_error(ours, single) < 2e-5


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"patch": 3}, "patch=3 must be a power of two"),
        ({"spatial": 1}, "spatial=1 must be a power of two, at least patch=2"),
        ({"spatial": 64}, r"3 levels \(channels_mult\) have no place .* spatial=64"),
        ({"chunk": 0}, "chunk=0: at least 1 latent frame"),
    ],
)
def test_fields_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.core
@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 1, 4, 8, 8, 3), r"4 frames; it takes 1 \+ 4 n frames up to 9, or chunks of 9"),
        ((1, 1, 13, 8, 8, 3), "13 frames"),
        ((1, 1, 0, 8, 8, 3), "0 frames"),
        ((1, 1, 9, 8, 6, 3), "8 x 6 pixels; rows and columns are multiples of 4"),
    ],
)
def test_bad_video_sizes(params, shape, message):
    with pytest.raises(ValueError, match=message):
        SMALL.encode(params, jnp.zeros(shape))


@pytest.mark.core
@pytest.mark.parametrize("shape", [(1, 1, 3, 2, 2, 4), (1, 1, 4, 2, 2, 3), (1, 1, 0, 2, 2, 3)])
def test_bad_latent_sizes(params, shape):
    with pytest.raises(ValueError, match=r"takes 3 channels, .* 1 to 3 frames or chunks of 3"):
        SMALL.decode(params, jnp.zeros(shape))


# ---- Names and files.


@pytest.mark.core
def test_published_network_has_the_published_tensors():
    with open(HERE / "data" / "keys_tokenizer_cv8x8x8.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    published = {row["key"]: tuple(map(int, row["shape"][1:-1].split(","))) for row in rows}
    codec = CV8x8x8(normalised=False)
    table, tree = names.table(codec), like(codec)
    flat = traverse_util.flatten_dict(tree, sep="/")

    assert len(published) == 315
    assert sum(math.prod(x.shape) for x in flat.values()) == 105_653_696
    assert rules.reference_shapes(table, tree) == published
    zeros = {k: in_memory(np.broadcast_to(np.int8(0), s)) for k, s in published.items()}
    found = networks.recognise(zeros)
    assert found.name == "cv8x8x8_tokenizer"
    assert found.options == networks.vae("", codec).options
    arrays = networks.read(found, zeros)
    assert {path: x.shape for path, x in arrays.items()} == {p: x.shape for p, x in flat.items()}


@pytest.mark.parametrize("name", ["tok_cv8x8x8", "tok_wrapper"])
def test_weights_go_both_ways(name):
    file = golden(name)
    codec, state_dict = tokenizer.codec(file, "float32"), file.named("sd/")
    held = {"params": tokenizer.load_params(codec, file)}
    back = rules.to_reference(names.table(codec), held)
    assert {k for k in back if "mean_std" not in k} == state_dict.keys()
    for key, tensor in state_dict.items():
        np.testing.assert_array_equal(back[key], tensor)
    found = networks.recognise({key: in_memory(tensor) for key, tensor in back.items()})
    wanted = {**networks.vae("", codec).options}
    if not codec.normalised:  # then the weights tell nothing of chunks
        wanted["chunk"] = 8
    assert found.options == wanted


def as_torch(tensors):
    """A module whose state dict these are."""
    import torch

    module = torch.nn.Module()
    for key, tensor in tensors.items():
        *parts, last = key.split(".")
        inner = module
        for part in parts:
            if not hasattr(inner, part):
                inner.add_module(part, torch.nn.Module())
            inner = getattr(inner, part)
        tensor = torch.from_numpy(np.array(tensor))
        inner.register_buffer(last, tensor)
    return module


def published_files(folder, numbered, columns=4):
    """A folder as it is published, of random weights; and these."""
    import torch

    params = random_params(SMALL, seed=2)
    tensors = rules.to_reference(names.table(SMALL), {"params": params})
    folder.mkdir()
    parts = ("encoder", "quant_conv"), ("post_quant_conv", "decoder")
    for half, inside in zip(("encoder", "decoder"), parts):
        kept = {k: t for k, t in tensors.items() if k.split(".")[0] in inside}
        if numbered:
            kept = {f"{inside.index(k.split('.')[0])}.{k.partition('.')[2]}": kept[k] for k in kept}
        torch.jit.save(torch.jit.script(as_torch(kept)), str(folder / f"{half}.jit"))
    extra = np.full((3, columns - SMALL.chunk), 9, np.float32)
    pair = [np.concatenate([tensors[f"mean_std.{i}"], extra], axis=1) for i in (0, 1)]
    torch.save([torch.from_numpy(x.reshape(-1)) for x in pair], folder / "mean_std.pt")
    images = [torch.from_numpy(tensors[f"image_mean_std.{i}"]) for i in (0, 1)]
    torch.save(images, folder / "image_mean_std.pt")
    return params


def same(source, params):
    arrays = source.sets[""]
    for path, ours in traverse_util.flatten_dict(params, sep="/").items():
        np.testing.assert_array_equal(arrays[f"params/{path}"].read(), ours)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # torch.jit warns of its own deprecation
@pytest.mark.parametrize("numbered", [False, True])
def test_published_files_are_read_and_written(tmp_path, capsys, numbered):
    params = published_files(tmp_path / "in", numbered)
    network = networks.vae("wanted", SMALL)
    source = weights.open_source(str(tmp_path / "in"), network)
    same(source, params)
    assert convert.write(source, "", tmp_path / "out", "guides").startswith(str(tmp_path / "out"))
    same(weights.open_source(str(tmp_path / "out"), network), params)
    described = json.loads(json.dumps(network.options))
    assert networks.from_options("the same", described).options == network.options
    recognised = weights.open_source(str(tmp_path / "in"))
    assert recognised.network.options == {**network.options, "chunk": 4}  # all columns
    (tmp_path / "in" / "image_mean_std.pt").unlink()
    arrays = weights.open_source(str(tmp_path / "in"), network).sets[""]
    assert "images take the statistics of a video's first frame" in capsys.readouterr().out
    first = params["statistics"]["mean"][0]
    np.testing.assert_array_equal(arrays["params/statistics/image_mean"].read(), first)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_folders_that_are_no_tokenizer(tmp_path):
    import torch

    published_files(tmp_path / "in", False)
    torch.save([torch.zeros(4), torch.zeros(4)], tmp_path / "in" / "mean_std.pt")
    with pytest.raises(ValueError, match=r"mean_std.pt must hold a mean .* of 3 channels"):
        weights.open_source(str(tmp_path / "in"))
    (tmp_path / "in" / "mean_std.pt").unlink()
    with pytest.raises(ValueError, match=r"mean_std.pt is missing: without it latents are not"):
        weights.open_source(str(tmp_path / "in"))
    torch.save({"x": torch.zeros(2)}, tmp_path / "model.pt")
    torch.save([torch.zeros(4), torch.zeros(4)], tmp_path / "mean_std.pt")
    with pytest.raises(ValueError, match="holds no CV8x8x8 tokenizer"):
        weights.open_source(str(tmp_path))
