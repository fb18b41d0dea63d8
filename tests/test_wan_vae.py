import csv
import math
import pathlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import NamedSharding

from converters import rules
from converters import wan_vae as names
from converters.parity_checks import vae
from converters.parity_checks.golden import Golden, Options
from converters.stored import in_memory
from cosmos_jax import sharding
from cosmos_jax.models.wan_vae import WanVAE

HERE = pathlib.Path(__file__).parent
# Not only smaller than the golden's network: other numbers of stages, blocks and halvings of time.
SMALL = WanVAE(
    dim=4,
    latent_channels=3,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    mean=(0.1, -0.2, 0.3),
    std=(1.1, 0.7, 2.3),
    dtype=jnp.float32,
    encode_chunk=3,
    decode_chunk=3,
)
ENCODE, DECODE = jax.jit(SMALL.encode), jax.jit(SMALL.decode)


def like(codec):
    return {"params": jax.eval_shape(codec.init, jax.random.key(0))}


def largest_error(ours, theirs):
    return np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max()


@pytest.fixture(scope="module")
def golden():
    return Golden.load(HERE / "goldens" / "vae.npz")


@pytest.fixture(scope="module")
def codec(golden):
    return vae.codec(golden, "float32")


@pytest.fixture(scope="module")
def params(codec, golden):
    return vae.load_params(codec, golden)


@pytest.fixture(scope="module")
def small_params():
    """Random, also where `init` gives ones and zeros."""
    shapes = jax.eval_shape(SMALL.init, jax.random.key(0))
    flat = traverse_util.flatten_dict(shapes)
    draw = np.random.default_rng(0).standard_normal
    arrays = {
        path: jnp.asarray(
            draw(x.shape) / math.sqrt(max(math.prod(x.shape[:-1]), 1)) + (path[-1] == "scale"),
            jnp.float32,
        )
        for path, x in flat.items()
    }
    return traverse_util.unflatten_dict(arrays)


def clips(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


@pytest.mark.core
def test_golden(golden):
    rows = {row.what: row for row in vae.check(golden, Options())}
    assert rows.keys() == {
        f"{kind}/{n}" for kind in ("out", "act") for n in golden.names(f"{kind}/")
    }
    for what, row in rows.items():
        assert row.max_error < (2e-5 if what.startswith("out/") else 2e-4), row
    assert golden.not_compared() == []


@pytest.mark.core
def test_published_statistics(golden):
    np.testing.assert_array_equal(golden["const/mean"], np.float32(WanVAE().mean))
    np.testing.assert_array_equal(golden["const/std"], np.float32(WanVAE().std))


def test_weights_go_both_ways(codec, golden, params):
    state_dict = golden.named("sd/")
    back = rules.to_reference(names.table(codec), {"params": params})
    assert back.keys() == state_dict.keys()
    for key, tensor in state_dict.items():
        np.testing.assert_array_equal(back[key], tensor)


@pytest.mark.core
def test_published_network_has_the_published_tensors():
    """The default fields give the 194 tensors of the published file, both ways."""
    with open(HERE / "data" / "keys_wan2.1_vae.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    published = {row["key"]: tuple(map(int, row["shape"].split("x"))) for row in rows}
    table, tree = names.table(WanVAE()), like(WanVAE())
    flat = traverse_util.flatten_dict(tree, sep="/")

    assert len(published) == 194
    assert sum(math.prod(x.shape) for x in flat.values()) == 126_892_531
    assert rules.reference_shapes(table, tree) == published
    zeros = {k: in_memory(np.broadcast_to(np.int8(0), s)) for k, s in published.items()}
    arrays = rules.read(table, zeros, tree)
    assert {path: x.shape for path, x in arrays.items()} == {p: x.shape for p, x in flat.items()}


def test_missing_and_unknown_tensors_are_errors(codec, golden):
    wrong = golden.named("sd/")
    wrong["decoder.extra"] = wrong.pop("decoder.head.2.bias")
    with pytest.raises(ValueError, match=r"(?s)head\.2\.bias: missing.*extra: unknown"):
        rules.to_ours(names.table(codec), wrong, like(codec))


@pytest.fixture(scope="module")
def coded(small_params):
    """One clip, its latents and its decoded video, in one chunk after the first frame."""
    video = clips((1, 1, 13, 8, 12, 3))
    latents = ENCODE(small_params, video)
    return video, latents, DECODE(small_params, latents)


@pytest.mark.core
@pytest.mark.parametrize("chunk", [1, 2])  # of the 3 latent frames after the first, 2 leaves 1
def test_chunk_size_changes_no_number(small_params, coded, chunk):
    video, latents, decoded = coded
    assert latents.shape == (1, 1, 4, 2, 3, 3)
    assert decoded.shape == video.shape
    pieces = replace(SMALL, encode_chunk=chunk, decode_chunk=chunk)
    assert largest_error(jax.jit(pieces.encode)(small_params, video), latents) < 2e-5
    assert largest_error(jax.jit(pieces.decode)(small_params, latents), decoded) < 2e-5


def test_program_does_not_grow_with_the_clip(small_params):
    """All whole chunks but the first frame are one scan, and only their number is new."""

    def instructions(method, shape):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.jit(method).lower(small_params, x).as_text().count("\n")

    for method, short, long in (
        (SMALL.encode, (1, 1, 25, 8, 8, 3), (1, 1, 49, 8, 8, 3)),
        (SMALL.decode, (1, 1, 7, 2, 2, 3), (1, 1, 13, 2, 2, 3)),
    ):
        assert instructions(method, short) == instructions(method, long)


def test_samples_and_views_are_independent(small_params, coded):
    video, latents, decoded = coded
    mirrored = video[..., ::-1, :]
    many = jnp.stack([video[0, 0], -video[0, 0], mirrored[0, 0], video[0, 0]])
    many = many.reshape(2, 2, *video.shape[2:])
    many_latents = ENCODE(small_params, many)
    many_decoded = DECODE(small_params, many_latents)
    alone = ENCODE(small_params, mirrored)
    for sample, view in ((0, 0), (1, 1)):
        assert largest_error(many_latents[sample, view], latents[0, 0]) < 2e-5
        assert largest_error(many_decoded[sample, view], decoded[0, 0]) < 2e-5
    assert largest_error(many_latents[1, 0], alone[0, 0]) < 2e-5


def test_causal(small_params, coded):
    """Later frames reach no earlier latent, and later latents no earlier frame."""
    video, latents, decoded = coded
    changed = ENCODE(small_params, video.at[:, :, 5:].set(0.5))
    np.testing.assert_array_equal(latents[:, :, :2], changed[:, :, :2])
    assert all(largest_error(latents[:, :, t], changed[:, :, t]) > 1e-3 for t in (2, 3))
    changed = DECODE(small_params, latents.at[:, :, 2:].set(0.5))
    np.testing.assert_array_equal(decoded[:, :, :5], changed[:, :, :5])
    assert largest_error(decoded[:, :, 5], changed[:, :, 5]) > 1e-3


def test_bfloat16_is_close_to_float32(small_params, coded):
    half = replace(SMALL, dtype=jnp.bfloat16)
    video, latents, decoded = coded
    for method, given, wanted in ((half.encode, video, latents), (half.decode, latents, decoded)):
        ours = jax.jit(method)(small_params, given)
        assert ours.dtype == jnp.float32  # that of the input
        rms = jnp.sqrt(jnp.mean((ours - wanted) ** 2)) / wanted.std()
        assert 1e-3 < rms < 3e-2, rms


def test_statistics_are_rounded_to_the_compute_dtype(small_params):
    """With weights of zero, the latents are -mean / std alone."""
    nothing = jax.tree.map(jnp.zeros_like, small_params)
    latents = jax.jit(replace(SMALL, dtype=jnp.bfloat16).encode)(nothing, clips((1, 1, 1, 4, 4, 3)))
    mean, std = jnp.asarray(SMALL.mean, jnp.bfloat16), jnp.asarray(SMALL.std, jnp.bfloat16)
    wanted = -mean * (jnp.ones((), jnp.bfloat16) / std)
    np.testing.assert_array_equal(latents[0, 0, 0, 0, 0], wanted.astype(jnp.float32))


@pytest.mark.parametrize(
    "method, mesh, shape, split, own",
    [
        ("encode", {"context": 8}, (1, 8, 5, 8, 8, 3), 1, 1),  # views
        ("encode", {"data": 2, "context": 4}, (2, 3, 5, 16, 8, 3), 3, 3),  # rows
        ("decode", {"data": 2, "context": 4}, (2, 3, 2, 4, 2, 3), 3, 3),
        ("decode", {"context": 8}, (1, 3, 2, 2, 8, 3), 4, 3),  # columns
    ],
)
def test_sharded_equals_single(small_params, method, mesh, shape, split, own):
    coded, x = jax.jit(getattr(SMALL, method)), clips(shape)
    single = coded.lower(small_params, x).compile()
    devices = sharding.make_mesh(**mesh)
    with jax.set_mesh(devices):
        whole = NamedSharding(devices, sharding.P())
        rows = NamedSharding(devices, sharding.P(sharding.BATCH))
        placed = jax.device_put(small_params, whole), jax.device_put(x, rows)
        spread = coded.lower(*placed).compile()
        ours = spread(*placed)
    assert largest_error(ours, single(small_params, x)) < 2e-5
    assert ours.sharding.spec[split] == "context"
    # XLA counts a loop's body once: one of a device's `own` clips, one of all of them.
    flops = [program.cost_analysis()["flops"] for program in (spread, single)]
    assert own * flops[0] < 1.2 * shape[0] * shape[1] * flops[1] / devices.size


def test_memory_is_that_of_one_clip(small_params):
    def temporary(views):
        x = jax.ShapeDtypeStruct((1, views, 5, 32, 32, 3), jnp.float32)
        program = jax.jit(SMALL.encode).lower(small_params, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    clip = 5 * 32 * 32 * 3 * 4
    assert temporary(6) < temporary(2) + 3 * 4 * clip


def test_nothing_divides_computes_the_same_everywhere(small_params):
    image = clips((1, 1, 1, 12, 20, 3))
    single = ENCODE(small_params, image)
    with jax.set_mesh(sharding.make_mesh(context=8)):
        latents = jax.jit(SMALL.encode)(small_params, image)
    assert latents.sharding.is_fully_replicated
    assert largest_error(latents, single) < 2e-5


@pytest.mark.core
@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 1, 4, 8, 8, 3), r"4 frames; it takes 1 \+ 4 n frames, such as 1"),
        ((1, 1, 0, 8, 8, 3), "0 frames"),
        ((1, 1, 5, 6, 8, 3), "6 x 8 pixels; rows and columns are multiples of 4"),
        ((1, 1, 5, 8, 10, 3), "8 x 10 pixels"),
        ((1, 1, 5, 0, 8, 3), "0 x 8 pixels"),
    ],
)
def test_bad_video_sizes(small_params, shape, message):
    with pytest.raises(ValueError, match=message):
        SMALL.encode(small_params, jnp.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 1, 2, 2, 2, 16), (1, 1, 0, 2, 2, 3), (1, 1, 2, 0, 2, 3)])
def test_bad_latent_sizes(small_params, shape):
    with pytest.raises(ValueError, match=r"takes 3 channels, and at least one frame"):
        SMALL.decode(small_params, jnp.zeros(shape))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temporal_downsample": (True,)}, "has 1 entries; 3 stages"),
        ({"mean": (0.0,) * 16}, "WanVAE.mean has 16 values; latent_channels=3"),
        ({"encode_chunk": 0}, "WanVAE.encode_chunk=0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **fields)
