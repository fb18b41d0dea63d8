"""The denoising loop: the reference's latents, and independence of batch and mesh."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.parity_checks import sampling, toy
from converters.parity_checks.golden import Golden, Options, by_view
from cosmos_jax import sample, sharding

pytestmark = pytest.mark.core

GOLDEN = Golden.load(pathlib.Path(__file__).parent / "goldens" / "cfg_sampling.npz")
CASES = GOLDEN.json("cases_json")


def read(case, name):
    """An array of a golden case, 5-d ones as `b v t h w c`."""
    x = GOLDEN[f"{case['name']}/{name}"]
    return jnp.asarray(by_view(x, case["V"]) if x.ndim == 5 else x)


def inputs(case):
    mask = read(case, "in/condition_mask")[:, :, :, 0, 0, 0]
    coefs, weight = toy.coefficients(case), toy.control_weight(case)
    cond = read(case, "in/text").mean((1, 2))
    uncond = read(case, "in/neg_text").mean((1, 2)) * case["negative_prompt"]
    both = toy.velocity(
        coefs, weight * read(case, "in/control_latent"), mask, jnp.concatenate([cond, uncond])
    )
    alone = toy.velocity(coefs, weight * read(case, "in/control_latent"), mask, cond)
    return both, alone, read(case, "in/noise"), read(case, "in/x0_latent"), mask


def run(case, velocity, noise, given, mask, guidance, dtype=jnp.float32):
    return sample.denoise(
        velocity,
        noise,
        given,
        mask,
        sampling.schedule(case["num_steps"], case["shift"], case["use_karras_sigma"]),
        guidance,
        conditional_frame_timestep=case["conditional_frame_timestep"],
        dtype=dtype,
    )


@functools.cache
def compared():
    return {row.what: row for row in sampling.check_loop(GOLDEN, Options())}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_latents_are_the_references(case):
    rows, name = compared(), case["name"]
    assert rows[f"{name}/out/latents"].max_error <= 1e-4
    assert rows[f"{name}/net_in_x_first_cond"].max_error == 0
    assert rows[f"{name}/net_in_t"].max_error <= 1e-4
    assert rows[f"{name}/net_in_ctx_mean"].ok
    assert GOLDEN.not_compared() == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_initial_noise_is_the_references_bit_for_bit(case):
    assert compared()[f"{case['name']}/in/noise"].max_error == 0


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
    coefs = toy.coefficients(case)
    cond, uncond = (read(case, f"in/{name}").mean((1, 2)) for name in ("text", "neg_text"))
    texts = jnp.concatenate([cond + 1, cond, uncond - 1, uncond])
    control = jnp.tile(case["control_weight"] * read(case, "in/control_latent"), (2,) + (1,) * 5)
    pair = toy.velocity(coefs, control, jnp.tile(mask, (2, 1, 1)), texts)
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_eight_devices_give_the_references_latents(case):
    both, _, noise, given, mask = inputs(case)
    t, h = noise.shape[2:4]
    context = next(n for n in (4, 2, 1) if t % n == 0 or h % n == 0)
    mesh = sharding.make_mesh(data=2, fsdp=4 // context, context=context)

    def velocity(x, timesteps):
        x = sharding.constrain(x, "b v t h w c")
        return sharding.constrain(both(x, timesteps), "b v t h w c")

    with jax.set_mesh(mesh):
        guidance = float(case["guidance"])
        latents = jax.jit(lambda x: run(case, velocity, x, given, mask, guidance))(noise)
        assert mesh.size == 8 and len(latents.sharding.device_set) == 8
    np.testing.assert_allclose(latents, read(case, "out/latents"), atol=1e-4)
