"""Given frames, text dropout and guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosmos_jax.diffusion import conditioning, guiding

pytestmark = pytest.mark.core


@pytest.mark.parametrize("frames, latent", [(0, 0), (1, 1), (5, 2), (29, 8), (93, 24)])
def test_pixel_frames_become_latent_frames(frames, latent):
    assert guiding.latent_frames(frames, temporal=4) == latent


@pytest.mark.parametrize("frames", [-3, -1, 2, 4, 8])
def test_pixel_frames_that_no_latent_frame_ends_at_are_refused(frames):
    with pytest.raises(ValueError, match=f"num_conditional_frames={frames}.*0, 1, 5, 9"):
        guiding.latent_frames(frames, temporal=4)


def test_counts_follow_their_probabilities():
    uniform = jnp.linspace(0, 1, 1000, endpoint=False)
    counts = conditioning.choose_counts(uniform, {2: 0.25, 0: 0.5, 1: 0.25}, t=8)
    assert np.bincount(counts).tolist() == [500, 250, 250]
    assert np.all(np.diff(counts) >= 0)


def test_counts_of_probability_zero_or_one():
    uniform = jnp.asarray([0.0, 0.5, np.nextafter(np.float32(1), 0)])
    assert conditioning.choose_counts(uniform, {0: 0.0, 3: 1.0}, t=3).tolist() == [3, 3, 3]
    assert conditioning.choose_counts(uniform, {0: 1.0}, t=1).tolist() == [0, 0, 0]
    thirds = dict.fromkeys(range(3), 1 / 3)
    assert conditioning.choose_counts(uniform, thirds, t=3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "probabilities, message",
    [
        ({}, "sum to 1"),
        ({0: 0.5, 1: 0.4}, "sum to 1"),
        ({0: 1.5, 1: -0.5}, "at least 0"),
        ({0: 0.5, 3: 0.5}, r"\[0, 3\].*0\.\.2"),
        ({-1: 1.0}, r"\[-1\].*0\.\.2"),
    ],
)
def test_impossible_counts_are_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        conditioning.choose_counts(jnp.zeros(1), probabilities, t=2)


def test_one_count_holds_for_every_view():
    mask = conditioning.condition_mask(jnp.asarray([0, 2]), v=3, t=4)
    assert mask.shape == (2, 3, 4) and mask.dtype == jnp.float32
    assert mask[0].tolist() == [[0, 0, 0, 0]] * 3
    assert mask[1].tolist() == [[1, 1, 0, 0]] * 3


def test_each_view_can_have_its_own_count():
    counts = guiding.view_counts([0, 1, 3], v=3, t=3)
    mask = conditioning.condition_mask(jnp.asarray(counts)[None], v=3, t=3)
    assert mask[0].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert guiding.view_counts(2, v=3, t=3).tolist() == [2, 2, 2]


@pytest.mark.parametrize("counts, message", [([1, 2], "2 counts.*3 views"), ([0, 0, 5], r"0\.\.4")])
def test_wrong_view_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        guiding.view_counts(counts, v=3, t=4)


def test_given_frames_replace_the_others_even_where_those_are_nan():
    x = jnp.full((1, 2, 2, 1, 1, 1), jnp.nan).at[0, 0, 1].set(3.0)
    mask = jnp.asarray([[[1.0, 0.0], [1.0, 1.0]]])
    out = conditioning.replace_given(x, jnp.full_like(x, 7.0), mask)
    assert out.ravel().tolist() == [7, 3, 7, 7]


def test_text_is_dropped_by_sample_or_by_view():
    text = jnp.ones((2, 3, 4, 5))
    uniform = jnp.asarray([[0.1, 0.9, 0.9], [0.9, 0.1, 0.2]])
    nothing = jnp.full(5, 0.5)
    whole = conditioning.drop_text(text, uniform, 0.2, per_view=False, nothing=nothing)
    assert whole.mean((2, 3)).tolist() == [[0.5, 0.5, 0.5], [1, 1, 1]]
    views = conditioning.drop_text(text, uniform, 0.2, per_view=True, nothing=nothing)
    assert views.mean((2, 3)).tolist() == [[0.5, 1, 1], [1, 0.5, 1]]


def test_text_dropout_of_zero_and_one():
    text = jnp.ones((64, 2, 1, 1))
    uniform = jax.random.uniform(jax.random.key(0), (64, 2)).at[0].set(0.0)
    zeros = jnp.zeros(1)
    assert conditioning.drop_text(text, uniform, 0.0, per_view=True, nothing=zeros).min() == 1
    assert conditioning.drop_text(text, uniform, 1.0, per_view=True, nothing=zeros).max() == 0


def test_guidance_of_zero_is_the_conditional_branch():
    cond, uncond = jnp.full((1,) * 6, 2.0), jnp.full((1,) * 6, 0.5)
    assert guiding.guide(cond, uncond, 0.0) == 2.0
    assert guiding.guide(cond, uncond, 3.0) == 2.0 + 3 * 1.5
    assert guiding.guide(cond, uncond, -1.0) == 0.5
