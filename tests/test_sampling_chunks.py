"""Long videos: which frames the chunks hold, what they hand over, and what is kept of them."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from cosmos_jax.diffusion.step_cache import StepCache
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.sampling import chunks
from cosmos_jax.sampling.kept_chunks import KeptChunks

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("available", "wanted", "overlap", "whole", "frames", "starts"),
    [
        (29, None, 1, False, 29, [0]),
        (57, None, 1, False, 57, [0, 28]),
        (58, None, 1, False, 58, [0, 28, 56]),  # one new frame in the last chunk
        (58, None, 1, True, 57, [0, 28]),
        (93, None, 5, False, 93, [0, 24, 48, 72]),
        (125, None, 5, True, 125, [0, 24, 48, 72, 96]),
        (200, 2, 1, False, 57, [0, 28]),
        (40, 9, 1, False, 40, [0, 28]),  # as many as the control lasts
        (None, 3, 1, False, 85, [0, 28, 56]),
    ],
)
def test_chunks_cover_the_video(available, wanted, overlap, whole, frames, starts):
    plan = chunks.plan(available, 29, wanted, overlap, whole, None)
    assert (plan.frames, plan.starts) == (frames, starts)
    last = plan.boundaries[-1] if plan.boundaries else 0
    assert last < frames <= starts[-1] + 29
    for before, start in itertools.pairwise(starts):
        assert start + overlap == before + 29  # a chunk begins with the last frames before it


def test_windows_past_the_end_repeat_the_last_frame():
    plan = chunks.plan(31, 29, None, 1, False, None)
    assert plan.window(0, 31) == list(range(29))
    assert plan.window(1, 31) == [28, 29, *[30] * 27]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((57, 29, None, 0, False, None), r"chunk_overlap=0 must lie in 1\.\.28"),
        ((57, 29, None, 29, False, None), "chunk_overlap=29 must lie"),
        ((57, 29, 0, 1, False, None), "num_chunks=0 must be at least 1"),
        ((None, 29, None, 1, False, None), "num_chunks=all needs a control"),
        ((57, 29, None, 1, False, 60), "60 frames are wanted, and the control has 57"),
    ],
)
def test_chunks_that_cannot_be_made_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        chunks.plan(*arguments)


def test_the_overlaps_latents_are_the_frames_that_the_next_chunk_begins_with():
    """A codec that codes each group of frames alone gives the same latents in both chunks."""
    codec = DCTCodec()
    video = np.random.default_rng(0).uniform(-1, 1, (1, 2, 25, 16, 16, 3)).astype(np.float32)
    plan = chunks.plan(25, 17, None, 9, False, None)
    encode = lambda frames: np.asarray(codec.encode({}, jnp.asarray(frames)))  # noqa: E731
    before = encode(video[:, :, :17])
    after = encode(video[:, :, plan.starts[1] : plan.starts[1] + 17])
    first = encode(video[:, :, plan.starts[1] : plan.starts[1] + 1])
    given = chunks.handed_over(before, first, plan.overlap, codec.temporal)
    assert given.shape[2] == 3
    np.testing.assert_allclose(given, after[:, :, :3], atol=1e-5)


def test_chunks_in_their_places_are_the_video():
    frames = np.arange(8, dtype=np.uint8).reshape(1, 8, 1, 1, 1) * np.ones(
        (2, 8, 4, 4, 3), np.uint8
    )
    plan, whole = chunks.Plan(frames=7, clip=5, overlap=1), np.full((2, 7, 4, 4, 3), 99, np.uint8)
    assert plan.starts == [0, 4]
    past_the_end = np.concatenate([frames[:, 4:], frames[:, -1:]], axis=1)
    for chunk, pixels in enumerate((frames[:, :5], past_the_end)):
        chunks.put(whole, plan, chunk, pixels)
    np.testing.assert_array_equal(whole, frames[:, :7])


def test_a_cross_fade_goes_from_one_chunk_to_the_other():
    plan, whole = chunks.Plan(frames=9, clip=6, overlap=3), np.zeros((1, 9, 2, 2, 3), np.uint8)
    chunks.put(whole, plan, 0, np.zeros((1, 6, 2, 2, 3), np.uint8), cross_fade=True)
    chunks.put(whole, plan, 1, np.full((1, 6, 2, 2, 3), 200, np.uint8), cross_fade=True)
    assert whole[0, :, 0, 0, 0].tolist() == [0, 0, 0, 50, 100, 150, 200, 200, 200]


def test_kept_chunks_are_read_by_the_same_request_and_whole_alone(tmp_path, capsys):
    kept = KeptChunks(tmp_path / "chunks", "abc")
    latents = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 16)).astype(np.float32)
    assert kept.read(0) is None
    kept.write(0, latents)
    np.testing.assert_array_equal(kept.read(0), latents)
    assert kept.read(1) is None
    assert KeptChunks(tmp_path / "chunks", "other").read(0) is None
    path = next((tmp_path / "chunks").glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert kept.read(0) is None and "is damaged; the chunk is made again" in capsys.readouterr().out
    kept.clear()
    assert not (tmp_path / "chunks").exists()


# ---- The step cache.


def evaluations(threshold, curve):
    """How often a velocity that changes by `curve` over 20 steps is evaluated."""
    cache, x, count = StepCache(threshold, 20), jnp.zeros(4), 0
    for i in range(20):
        v = cache.reuse(i, x, guided=True)
        if v is None:
            v = jnp.full(4, 1.0 + curve * float(x[0]))
            count += 1
            cache.evaluated(x, v, guided=True)
        x = x + 0.05 * v
    return count


def test_an_answer_with_guidance_does_not_stand_for_one_without():
    cache, x = StepCache(0.5, 20), jnp.zeros(4)
    for i in range(6):
        cache.evaluated(x + 0.1 * i, jnp.ones(4), guided=True)
    assert cache.reuse(8, x + 0.6, guided=True) is not None
    assert cache.reuse(8, x + 0.6, guided=False) is None
    cache.evaluated(x + 0.6, jnp.ones(4), guided=False)
    assert cache.reuse(9, x + 0.7, guided=False) is None  # one answer tells no rate of change
    cache.evaluated(x + 0.7, jnp.ones(4), guided=False)
    assert cache.reuse(10, x + 0.8, guided=False) is not None


def test_the_cache_reuses_what_barely_changes():
    assert evaluations(0.0, 0.0) == 20
    assert evaluations(0.05, 0.0) == 5  # a fifth of the steps at the start, and the last
    slow, fast = evaluations(0.05, 0.5), evaluations(0.05, 5.0)
    assert 5 < slow < fast <= 20
