"""The denoising loop: the reference's latents, and independence of batch and mesh."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from cosmos_jax import sample, sharding
from cosmos_jax.diffusion import unipc

pytestmark = pytest.mark.core

GOLDEN = np.load(pathlib.Path(__file__).parent / "goldens" / "cfg_sampling.npz")
CASES = json.loads(str(GOLDEN["cases_json"]))


def read(case, name):
    """An array of a golden case, 5-d ones as `b v t h w c`."""
    x = jnp.asarray(GOLDEN[f"{case['name']}/{name}"])
    return rearrange(x, "b c (v t) h w -> b v t h w c", v=case["V"]) if x.ndim == 5 else x


def golden_schedule(case):
    if case["use_karras_sigma"]:
        return unipc.schedule(unipc.karras_sigmas(case["num_steps"]))
    return unipc.schedule(unipc.shift_sigmas(case["num_steps"], case["shift"]))


def toy(coefs, control, mask, text_means):
    """The golden files' network; `text_means` has one entry for each row of the batch it gets."""
    a, b, c, d, e, f = coefs

    def velocity(x, timesteps):
        means = text_means[:, None, None, None, None, None]
        assert len(x) == len(timesteps) == len(means)
        control_rows = jnp.tile(control, (len(x) // len(control), 1, 1, 1, 1, 1))
        mask_rows = jnp.tile(mask, (len(x) // len(mask), 1, 1))[..., None, None, None]
        time = timesteps[..., None, None, None] / 1000
        x = x.astype(jnp.float32)
        return a * x + b * jnp.sin(x) + c * control_rows + d * time + e * mask_rows + f * means

    return velocity


def inputs(case):
    mask = read(case, "in/condition_mask")[:, :, :, 0, 0, 0]
    coefs = [case["coefs"][k] for k in "abcdef"]
    weight = case["control_weight"] if case["multiview"] else 0.0
    cond = read(case, "in/text").mean((1, 2))
    uncond = read(case, "in/neg_text").mean((1, 2)) * case["negative_prompt"]
    both = toy(
        coefs, weight * read(case, "in/control_latent"), mask, jnp.concatenate([cond, uncond])
    )
    alone = toy(coefs, weight * read(case, "in/control_latent"), mask, cond)
    return both, alone, read(case, "in/noise"), read(case, "in/x0_latent"), mask


def run(case, velocity, noise, given, mask, guidance, dtype=jnp.float32):
    return sample.denoise(
        velocity,
        noise,
        given,
        mask,
        golden_schedule(case),
        guidance,
        conditional_frame_timestep=case["conditional_frame_timestep"],
        dtype=dtype,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_latents_are_the_references(case):
    both, _, noise, given, mask = inputs(case)
    seen = []

    def spy(x, timesteps):
        jax.debug.callback(lambda x, t: seen.append((x, t)), x, timesteps, ordered=True)
        return both(x, timesteps)

    solve = jax.jit(lambda noise, g: run(case, spy, noise, given, mask, g))
    latents = solve(noise, jnp.float32(case["guidance"]))
    jax.effects_barrier()
    np.testing.assert_allclose(latents, read(case, "out/latents"), atol=1e-4)
    assert np.array_equal(seen[0][0][:1], read(case, "net_in_x_first_cond"))
    # The reference calls its network twice a step (cond, uncond); ours sees both in one batch.
    times = np.concatenate([t.reshape(2, 1, -1) for _, t in seen])
    np.testing.assert_allclose(times, read(case, "net_in_t"), rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_initial_noise_is_the_references_bit_for_bit(case):
    wanted = read(case, "in/noise")
    sizes = dict(zip("bvthwc", wanted.shape))
    assert np.array_equal(sample.initial_noise(case["seed"], **sizes), wanted)


def test_views_share_no_noise():
    noise = sample.initial_noise(0, b=2, v=3, t=2, h=2, w=2, c=4)
    assert noise.dtype == np.float32
    assert len(np.unique(noise)) == noise.size


def test_no_guidance_is_guidance_of_zero():
    case = CASES[0]
    both, alone, noise, given, mask = inputs(case)
    zero = run(case, both, noise, given, mask, 0.0)
    none = run(case, alone, noise, given, mask, None)
    np.testing.assert_allclose(none, zero, atol=1e-6)


def test_network_input_has_the_compute_dtype_and_latents_stay_float32():
    case = CASES[0]
    both, _, noise, given, mask = inputs(case)
    dtypes = []

    def velocity(x, timesteps):
        dtypes.append((x.dtype, timesteps.dtype))
        return both(x, timesteps).astype(jnp.bfloat16)

    latents = run(case, velocity, noise, given, mask, 3.0, dtype=jnp.bfloat16)
    assert dtypes == [(jnp.bfloat16, jnp.float32)] * len(dtypes) and dtypes
    assert latents.dtype == jnp.float32
    np.testing.assert_allclose(latents, read(case, "out/latents"), atol=0.3)


def test_given_frames_come_out_as_given_even_where_the_network_says_nan():
    case = CASES[0]
    both, _, noise, given, mask = inputs(case)
    hole = jnp.where(mask > 0, jnp.nan, 0.0)[..., None, None, None]

    def velocity(x, timesteps):
        return both(x, timesteps) + jnp.tile(hole, (2, 1, 1, 1, 1, 1))

    latents = run(case, velocity, noise, given, mask, 3.0)
    np.testing.assert_allclose(latents, read(case, "out/latents"), atol=1e-4)
    np.testing.assert_allclose(latents[:, :, 0], given[:, :, 0], atol=2e-3)


def test_latents_of_frames_that_are_not_given_are_never_read():
    case = CASES[0]
    both, _, noise, given, mask = inputs(case)
    holes = jnp.where(mask[..., None, None, None] > 0, given, jnp.nan)
    latents = run(case, both, noise, holes, mask, 3.0)
    assert np.array_equal(latents, run(case, both, noise, given, mask, 3.0))


def test_a_sample_does_not_depend_on_its_batch():
    case = CASES[0]
    both, _, noise, given, mask = inputs(case)
    alone = run(case, both, noise, given, mask, 3.0)
    coefs = [case["coefs"][k] for k in "abcdef"]
    cond, uncond = (read(case, f"in/{name}").mean((1, 2)) for name in ("text", "neg_text"))
    texts = jnp.concatenate([cond + 1, cond, uncond - 1, uncond])
    control = jnp.tile(case["control_weight"] * read(case, "in/control_latent"), (2,) + (1,) * 5)
    pair = toy(coefs, control, jnp.tile(mask, (2, 1, 1)), texts)
    stacked = run(
        case,
        pair,
        jnp.concatenate([noise[:, ::-1], noise]),
        jnp.tile(given, (2,) + (1,) * 5),
        jnp.tile(mask, (2, 1, 1)),
        3.0,
    )
    np.testing.assert_allclose(stacked[1:], alone, atol=1e-5)
    assert np.abs(stacked[0] - alone[0]).max() > 0.1


def test_branches_split_over_the_data_axis_give_the_same_latents():
    case = CASES[0]
    both, _, noise, given, mask = inputs(case)
    plain = jax.jit(lambda noise: run(case, both, noise, given, mask, 3.0))(noise)

    def velocity(x, timesteps):
        x = sharding.constrain(x, "b v t h w c")
        return sharding.constrain(both(x, timesteps), "b v t h w c")

    with jax.set_mesh(sharding.make_mesh(data=2, context=2, devices=jax.devices()[:4])):
        split = jax.jit(lambda noise: run(case, velocity, noise, given, mask, 3.0))(noise)
    np.testing.assert_allclose(split, plain, atol=1e-5)
