"""The stand-in text encoder."""

import subprocess
import sys

import numpy as np
import pytest

from cosmos_jax.models.hashed_text import HashedText

ENCODER = HashedText(tokens=6, width=512)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.core
def test_shape_and_scale():
    rows = ENCODER.encode(["a red car", "two blue cars and a tree", ""])
    assert rows.shape == (3, 6, 512)
    assert rows.dtype == np.float32
    assert rows.std() == pytest.approx(1, abs=0.05)
    assert rows.mean() == pytest.approx(0, abs=0.05)


@pytest.mark.core
def test_the_same_words_give_the_same_bytes_in_every_process():
    code = (
        "from cosmos_jax.models.hashed_text import HashedText;"
        "import sys; sys.stdout.buffer.write(HashedText(6, 512).encode(['A red car']).tobytes())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert there == ENCODER.encode(["a red car"]).tobytes()


@pytest.mark.core
def test_a_word_is_told_by_its_vector_wherever_it_stands():
    one, two = ENCODER.encode(["red car at night", "at noon a red car"])
    assert cosine(one[0], two[3]) > 0.8  # red
    assert cosine(one[2], two[0]) > 0.8  # at
    assert abs(cosine(one[0], two[2])) < 0.25  # red, a
    assert not np.array_equal(one[0], two[3])  # the place shows
    np.testing.assert_array_equal(ENCODER.encode(["Red, CAR!"]), ENCODER.encode(["red car"]))


@pytest.mark.core
def test_the_empty_caption_is_padding():
    empty, space, word = ENCODER.encode(["", " ", "car"])
    np.testing.assert_array_equal(empty, space)
    np.testing.assert_array_equal(word[1:], empty[1:])
    assert cosine(empty[0], empty[5]) > 0.8
    assert abs(cosine(word[0], empty[0])) < 0.25
    assert np.abs(empty).min(1).max() < 1 < np.linalg.norm(empty[0])
    assert not np.array_equal(ENCODER.encode(["padding"])[0, 0], empty[0])


@pytest.mark.core
def test_long_captions_are_cut():
    long = ENCODER.encode(["one two three four five six seven eight"])
    np.testing.assert_array_equal(long, ENCODER.encode(["one two three four five six"]))


@pytest.mark.core
def test_it_says_what_it_is():
    assert ENCODER.description == "hashed words (6 x 512; a stand-in, not a language model)"


@pytest.mark.core
def test_bad_input():
    with pytest.raises(ValueError, match="tokens is 0"):
        HashedText(tokens=0, width=4)
    with pytest.raises(ValueError, match="width is -2"):
        HashedText(tokens=3, width=-2)
    with pytest.raises(ValueError, match="no captions"):
        ENCODER.encode([])
