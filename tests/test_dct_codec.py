"""The analytic codec: an orthogonal projection with normalised coordinates, causal in time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosmos_jax.data import synthetic
from cosmos_jax.models import dct_codec
from cosmos_jax.models.dct_codec import DCTCodec

CODEC = DCTCodec()
PARAMS = CODEC.init(jax.random.key(0))


def encode(video):
    return jax.jit(CODEC.encode)(PARAMS, video)


def decode(latents):
    return jax.jit(CODEC.decode)(PARAMS, latents)


def rendered(episodes=5, size=(96, 160), frames=9):
    """Video [b v f y x 3] in [-1, 1] of the scene."""
    config = synthetic.SceneConfig(episodes=episodes, frames=frames, size=size)
    videos = [synthetic.render_episode(config, n).video for n in range(episodes)]
    return np.stack(videos).astype(np.float32) / 127.5 - 1


@pytest.mark.core
@pytest.mark.parametrize(
    ("frames", "size", "latent"),
    [(1, (8, 16), (1, 1, 2)), (5, (16, 8), (2, 2, 1)), (29, (8, 8), (8, 1, 1))],
)
def test_shapes(frames, size, latent):
    assert PARAMS == {}
    assert (CODEC.latent_channels, CODEC.spatial, CODEC.temporal) == (16, 8, 4)
    video = jnp.zeros((2, 3, frames, *size, 3))
    latents = encode(video)
    assert latents.shape == (2, 3, *latent, 16)
    assert latents.dtype == jnp.float32
    assert decode(latents).shape == video.shape


@pytest.mark.core
def test_encoding_undoes_decoding():
    latents = jax.random.normal(jax.random.key(1), (2, 2, 3, 2, 3, 16))
    np.testing.assert_allclose(encode(decode(latents)), latents, atol=2e-5)


@pytest.mark.core
def test_decoding_after_encoding_is_an_orthogonal_projection():
    video = jax.random.uniform(jax.random.key(2), (1, 2, 5, 16, 24, 3), minval=-1, maxval=1)
    kept = decode(encode(video))
    np.testing.assert_allclose(decode(encode(kept)), kept, atol=2e-5)
    # What is lost is orthogonal to everything that can be kept, so no latents come nearer.
    lost = video - kept
    anything = decode(jax.random.normal(jax.random.key(3), encode(video).shape))
    nothing = decode(encode(jnp.zeros_like(video)))
    overlap = jnp.sum(lost * (anything - nothing)) / jnp.linalg.norm(lost)
    assert abs(overlap) < 1e-2
    assert jnp.linalg.norm(lost) > 1


@pytest.mark.core
@pytest.mark.parametrize("colour", [(0.5, 0.5, 0.5), (-1.0, -1.0, -1.0), (0.9, -0.2, -0.7)])
def test_flat_colours_come_back_exactly(colour):
    video = jnp.broadcast_to(jnp.array(colour), (1, 1, 5, 8, 16, 3))
    np.testing.assert_allclose(decode(encode(video)), video, atol=1e-5)


@pytest.mark.core
def test_causal_and_local():
    video = jax.random.uniform(jax.random.key(4), (1, 1, 9, 16, 16, 3))
    latents = encode(video)
    np.testing.assert_array_equal(encode(video[:, :, :1]), latents[:, :, :1])
    np.testing.assert_array_equal(encode(video[:, :, :5]), latents[:, :, :2])
    changed = encode(video.at[0, 0, 6, 9, 2].add(1.0)) != latents
    assert np.unique(np.argwhere(changed)[:, :5], axis=0).tolist() == [[0, 0, 2, 1, 0]]


@pytest.mark.core
def test_a_channel_means_what_the_table_says():
    rows = np.arange(8) + 0.5
    wave = np.cos(np.pi * rows / 8)[:, None, None] * np.ones((8, 3)) / 4
    still = jnp.broadcast_to(jnp.asarray(wave), (1, 1, 5, 8, 8, 3))
    empty = encode(jnp.zeros((1, 1, 5, 8, 8, 3)))
    for t, table in enumerate((dct_codec.FIRST, dct_codec.REST)):
        moved = np.abs(encode(still) - empty)[0, 0, t, 0, 0] > 1e-4
        assert [row[0] for row, m in zip(table, moved, strict=True) if m] == [(0, 1, 0, 0)]


def test_latents_of_the_scene_are_normalised():
    latents = encode(rendered())
    for part in (latents[:, :, 0], latents[:, :, 1:]):
        axes = tuple(range(part.ndim - 1))
        mean, deviation = part.mean(axes), part.std(axes)
        assert np.abs(mean).max() < 0.25, mean
        assert deviation.min() > 0.7, deviation
        assert deviation.max() < 1.4, deviation


def test_decoded_video_is_recognisable():
    video = rendered()
    decoded = np.clip(decode(encode(video)), -1, 1)
    error = np.square(decoded - video).mean((1, 3, 4, 5))
    quality = 10 * np.log10(4 / error)
    assert quality[:, 0].mean() > 26, quality
    assert quality[:, 1:].mean() > 23, quality
    assert quality.min() > 18, quality
    # Far better than one colour a block, which 3 of the 16 channels would give.
    blocks = video.reshape(*video.shape[:3], 12, 8, 20, 8, 3)
    flat = np.square(blocks - blocks.mean((4, 6), keepdims=True)).mean()
    assert error.mean() < 0.5 * flat


@pytest.mark.core
def test_half_precision_in_single_out():
    video = jax.random.uniform(jax.random.key(5), (1, 1, 5, 8, 8, 3)).astype(jnp.bfloat16)
    latents = encode(video)
    assert latents.dtype == jnp.float32
    np.testing.assert_allclose(latents, encode(video.astype(jnp.float32)), atol=1e-6)
    assert decode(latents.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.core
@pytest.mark.parametrize(
    "shape", [(4, 8, 8), (7, 8, 8), (0, 8, 8), (5, 12, 8), (5, 8, 9), (5, 0, 8), (1, 8, 0)]
)
def test_sizes_that_do_not_fit_are_errors(shape):
    f, y, x = shape
    with pytest.raises(ValueError, match=f"{f} frames of {y}x{x} pixels"):
        CODEC.encode(PARAMS, jnp.zeros((1, 1, f, y, x, 3)))
