"""Previews: what is sampled, and the pictures that compare it."""

import numpy as np
import pytest

from cosmos_jax import build, lettering, preview
from cosmos_jax.loop import PreviewConfig
from experiments import demo

pytestmark = pytest.mark.core


def picture(text):
    """A line of words as text, a character a pixel."""
    return ["".join("#" if p else "." for p in row) for row in lettering.line(text, 20)[..., 0]]


def test_words_are_drawn():
    assert picture("Ab")[2:10] == [
        "...###..#...........",
        "..#...#.#...........",
        "..#...#.#.##........",
        "..#...#.##..#.......",
        "..#####.#...#.......",
        "..#...#.#...#.......",
        "..#...#.####........",
        "....................",
    ]


def test_a_word_is_larger_or_cut_and_unknown_letters_are_told():
    large = lettering.line("Ab", 40, scale=2)
    assert large.shape == (24, 40, 3)
    np.testing.assert_array_equal(large[::2, ::2], lettering.line("Ab", 20))
    cut = lettering.line("Abracadabra", 9)
    assert cut.shape == (12, 9, 3)
    np.testing.assert_array_equal(cut, lettering.line("Ab", 9))
    np.testing.assert_array_equal(lettering.line("é\n", 20), lettering.line("??", 20))


def config(**changes):
    published = dict(
        every=0,
        clips=1,
        weights=("regular", "ema"),
        conditional_frames=(0, 1),
        control_weights=(0.0, 1.0),
        guidance=7.0,
        num_steps=35,
    )
    return PreviewConfig(**published | changes)


def test_each_number_of_given_frames_goes_with_each_weight_of_the_control():
    values = build.check_config(demo.get_config())
    found = preview.settings(values, config())
    assert list(found) == [
        "sampled, 0 frames given, control 0",
        "sampled, 0 frames given, control 1",
        "sampled, 1 frame given, control 0",
        "sampled, 1 frame given, control 1",
    ]
    how = [(one.num_conditional_frames, one.control_weight) for one in found.values()]
    assert how == [(0, 0.0), (0, 1.0), (1, 0.0), (1, 1.0)]
    assert {(one.guidance, one.num_steps, one.seed) for one in found.values()} == {(7.0, 35, 0)}
    free = preview.settings(values, config(control_weights=(), conditional_frames=(5,)))
    assert list(free) == ["sampled, 5 frames given"]


@pytest.mark.parametrize(
    "views, y, x, factor", [(2, 32, 48, 1), (7, 48, 1280, 4), (5, 480, 832, 2)]
)
def test_rows_stand_below_their_words_and_wide_ones_are_smaller(views, y, x, factor):
    rng = np.random.default_rng(0)
    rows = [(name, rng.integers(0, 256, (views, 2, y, x, 3), np.uint8)) for name in ("true", "b")]
    got = preview.labelled_rows(["left", "", *"abcdefg"][:views], rows)
    h, w = y // factor, x // factor
    assert got.shape == (2, 12 + 2 * (12 + h), views * w, 3) and got.shape[2] <= 2560
    np.testing.assert_array_equal(got[1, :12, :w], lettering.line("left", w))
    np.testing.assert_array_equal(got[1, :12, w : 2 * w], lettering.line("the view", w))
    np.testing.assert_array_equal(got[1, 12:24], lettering.line("true", views * w))
    last = got[1, 24 + h + 12 :, -w:]
    square = rows[1][1][-1, 1, :factor, :factor].reshape(-1, 3).mean(axis=0)
    assert np.abs(last[0, 0] - square).max() <= 0.5
