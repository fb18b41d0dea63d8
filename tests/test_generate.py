"""The denoising loop around a network, on one and on many devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from cosmos_jax import build_sample, generate, sample, sharding
from cosmos_jax.diffusion import unipc
from cosmos_jax.encode import Encoder
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.models.hashed_text import HashedText
from cosmos_jax.types import Clip

STEPS = 3
MESHES = [dict(context=2), dict(data=2), dict(data=2, fsdp=2, context=2)]


def make_clip(number):
    """One stacked clip of two views, with coarse pictures."""
    rng = np.random.default_rng(number)
    shape = (2, 1, 2, 5, 4, 6, 3)  # video and control, b v f y x c
    pixels, control = rng.integers(0, 256, shape, np.uint8).repeat(8, 4).repeat(8, 5)
    return Clip(
        video=pixels,
        control=control,
        captions=(("some words", ""),),
        view_ids=np.arange(2, dtype=np.int32)[None],
        fps=np.array([10], np.float32),
        index=np.array([0], np.int32),
        name=("clip",),
    )


class Sampler:
    """The tiny network with weights that are nowhere zero, on a mesh, and what it samples."""

    def __init__(self, sizes):
        count = int(np.prod(list(sizes.values())))
        self.mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:count])
        self.trainer = tiny.trainer(".*")
        text = HashedText(tokens=3, width=tiny.TEXT)
        self.encoder = Encoder(
            DCTCodec(), {}, lambda caption: text.encode([caption])[0], self.mesh, "float32"
        )
        params, constants = weights()
        params = jax.device_put(params, sharding.param_shardings(params, self.mesh))
        everywhere = jax.NamedSharding(self.mesh, sharding.P())
        self.variables = {"params": params, "constants": jax.device_put(constants, everywhere)}

    def latents(self, clip, negative=None, seed=5, **settings):
        """Sampled latents, and the generator that made them."""
        config = generate.SampleConfig(**dict(num_steps=STEPS, guidance=0.0) | settings)
        with jax.set_mesh(self.mesh):
            made = generate.Generator(
                self.trainer.net, DCTCodec(), build_sample.solver(self.trainer), config, self.mesh
            )
            batch = self.encoder(clip, range(1), 1)
            uncond = jnp.zeros_like(batch.text) if negative is None else negative(batch.text)
            latents = made.latents(self.variables, batch, uncond, seed)
            return np.asarray(latents), made

    def pixels(self, generator, latents):
        with jax.set_mesh(self.mesh):
            return generator.pixels({}, jnp.asarray(latents)).astype(int)


@functools.cache
def weights():
    """Parameters, each a function of its path alone, and the constants."""
    net = tiny.trainer(".*").net
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), **tiny.INPUTS))["params"]

    def draw(path, leaf):
        name = sharding.path_name(path)
        rng = np.random.default_rng([ord(letter) for letter in name])
        return name.endswith("scale") + 0.2 * rng.standard_normal(leaf.shape, np.float32)

    constants = jax.jit(lambda: net.init(jax.random.key(0), **tiny.INPUTS)["constants"])()
    return jax.tree_util.tree_map_with_path(draw, shapes), constants


@pytest.fixture(scope="module")
def one():
    return Sampler(dict(data=1))


@pytest.fixture(scope="module")
def guided(one):
    return one.latents(make_clip(1), guidance=1.5)[0]


@pytest.mark.core
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_latents_do_not_depend_on_the_mesh(guided, sizes):
    latents, _ = Sampler(sizes).latents(make_clip(1), guidance=1.5)
    assert np.abs(guided).max() > 1
    np.testing.assert_allclose(latents, guided, atol=1e-3, rtol=0)


def test_noise_is_the_seeds_bit_for_bit_on_every_mesh(monkeypatch):
    """One step of a network that says nothing gives the noise: x - sigma v with v = 0."""
    shape = dict(b=1, v=2, t=2, h=4, w=6, c=16)
    want = sample.initial_noise(5, **shape)
    for sizes in (dict(data=1), *MESHES):
        sampler = Sampler(sizes)
        monkeypatch.setattr(
            generate, "bind", lambda *a, **k: lambda x, timesteps: jnp.zeros_like(x)
        )
        latents, _ = sampler.latents(make_clip(1), num_steps=1)
        np.testing.assert_array_equal(latents, want)
        other, _ = sampler.latents(make_clip(1), num_steps=1, seed=6)
        np.testing.assert_array_equal(other, sample.initial_noise(6, **shape))


def test_guidance_of_0_is_the_conditional_branch_alone(one, guided):
    alone, _ = one.latents(make_clip(1))
    # Guidance between two equal branches changes nothing, so it must be the conditional one.
    same, _ = one.latents(make_clip(1), negative=lambda text: text, guidance=1.5)
    np.testing.assert_allclose(same, alone, atol=1e-4)
    assert np.abs(guided - alone).max() > 0.01


def test_control_counts_by_its_weight(one):
    with_control, _ = one.latents(make_clip(1))
    half, _ = one.latents(make_clip(1), control_weight=0.5)
    without, _ = one.latents(make_clip(1), control_weight=0.0)
    other = dataclasses.replace(make_clip(1), control=make_clip(2).control)
    np.testing.assert_array_equal(one.latents(other, control_weight=0.0)[0], without)
    assert np.abs(with_control - without).max() > 0.01
    assert np.abs(half - without).max() > 0.001
    assert np.abs(one.latents(other)[0] - with_control).max() > 0.01


@pytest.mark.parametrize("given", [1, 5])
def test_given_frames_come_out_as_they_went_in(one, given):
    clip = make_clip(1)
    latents, generator = one.latents(clip, num_conditional_frames=given, guidance=1.5)
    with jax.set_mesh(one.mesh):
        true = np.asarray(one.encoder(clip, range(1), 1).latents)
    count = 1 + (given - 1) // 4
    # Nearly: the first noise level is just below 1, and the noise is not scaled by it.
    noise = sample.initial_noise(5, b=1, v=2, t=2, h=4, w=6, c=16)
    want = true + (1 - unipc.shift_sigmas(STEPS, 5.0)[0]) * (noise - true)
    np.testing.assert_allclose(latents[:, :, :count], want[:, :, :count], atol=1e-4)
    made, kept = one.pixels(generator, latents), one.pixels(generator, true)
    assert np.abs(made[:, :, :given] - kept[:, :, :given]).max() <= 1
    if given < 5:
        assert np.abs(made[:, :, given:] - kept[:, :, given:]).max() > 20


def test_frames_that_are_not_given_are_not_read(one):
    clip = make_clip(1)
    black = dataclasses.replace(clip, video=np.zeros_like(clip.video))
    np.testing.assert_array_equal(one.latents(clip)[0], one.latents(black)[0])
    first = clip.video.copy()
    first[:, :, 1:] = 0
    sole = dataclasses.replace(clip, video=first)
    want, have = (one.latents(c, num_conditional_frames=1)[0] for c in (clip, sole))
    np.testing.assert_array_equal(want, have)


def test_pixels_are_rounded_and_clipped(one):
    _, generator = one.latents(make_clip(1), num_steps=1)
    for level in (0, 128, 255):
        grey = jnp.full((1, 1, 5, 16, 16, 3), level / 127.5 - 1)
        pixels = one.pixels(generator, DCTCodec().encode({}, grey))
        assert set(pixels.reshape(-1).tolist()) == {level}
    far = one.pixels(generator, 100 * DCTCodec().encode({}, grey))
    assert far.max() <= 255 and far.min() >= 0


# ---- Speed options.


def test_steps_outside_the_interval_take_the_conditional_branch_alone(one, guided):
    alone, _ = one.latents(make_clip(1))
    whole, _ = one.latents(make_clip(1), guidance=1.5, guidance_interval=(0.0, 1.0))
    np.testing.assert_array_equal(whole, guided)
    # The schedule's noise levels lie above this interval.
    none, _ = one.latents(make_clip(1), guidance=1.5, guidance_interval=(0.0, 0.01))
    np.testing.assert_allclose(none, alone, atol=1e-5)
    some, _ = one.latents(make_clip(1), guidance=1.5, guidance_interval=(0.9, 1.0))
    assert min(np.abs(some - guided).max(), np.abs(some - alone).max()) > 0.001


def test_a_cache_leaves_evaluations_out(one):
    exact, generator = one.latents(make_clip(1), num_steps=12)
    assert generator.evaluations == 12
    near, generator = one.latents(make_clip(1), num_steps=12, cache_threshold=0.9)
    assert 3 <= generator.evaluations < 12
    assert 0 < np.abs(near - exact).mean() < np.abs(exact).mean()


def test_samples_of_a_batch_are_those_of_each_alone(one):
    clips = [make_clip(n) for n in (1, 2)]
    fields = [f.name for f in dataclasses.fields(Clip)]
    both = {f: [getattr(clip, f) for clip in clips] for f in fields}
    stacked = Clip(
        **{
            f: np.concatenate(v) if isinstance(v[0], np.ndarray) else sum(v, ())
            for f, v in both.items()
        }
    )
    config = generate.SampleConfig(num_steps=STEPS, guidance=0.0)
    with jax.set_mesh(one.mesh):
        made = generate.Generator(
            one.trainer.net, DCTCodec(), build_sample.solver(one.trainer), config, one.mesh
        )
        batch = one.encoder(stacked, range(2), 2)
        together = np.asarray(
            made.latents(one.variables, batch, jnp.zeros_like(batch.text), [5, 9])
        )
    for i, seed in enumerate((5, 9)):
        alone, _ = one.latents(clips[i], seed=seed)
        np.testing.assert_allclose(together[i], alone[0], atol=1e-4)
