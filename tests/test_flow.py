"""Rectified flow: the reference's numbers, and randomness that depends on the sample alone."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec

from cosmos_jax import sharding
from cosmos_jax.diffusion import flow

pytestmark = pytest.mark.core

GOLDEN = np.load(pathlib.Path(__file__).parent / "goldens" / "rf_train.npz")
CASES = json.loads(str(GOLDEN["cases_json"]))
COEFS = "abcdef"


def read(case, name):
    """An array of a golden case, 5-d ones as `b v t h w c`."""
    x = jnp.asarray(GOLDEN[f"{case['name']}/{name}"])
    return rearrange(x, "b c (v t) h w -> b v t h w c", v=case["V"]) if x.ndim == 5 else x


def toy(coefs, control, mask, text):
    """The golden files' network."""

    def velocity(x, timesteps):
        a, b, c, d, e, f = coefs
        x = x.astype(jnp.float32)
        time = timesteps[..., None, None, None] / 1000
        mean = text.mean((1, 2))[:, None, None, None, None, None]
        v = a * x + b * jnp.sin(x) + c * control + d * time
        return v + e * mask[..., None, None, None] + f * mean

    return velocity


def golden_loss(case, coefs):
    dtype = jnp.dtype(case["dtype"].removeprefix("torch."))
    mask = read(case, "in/condition_mask")[:, :, :, 0, 0, 0]
    control = read(case, "in/control_latent").astype(dtype).astype(jnp.float32)
    network = toy(coefs, control * case["multiview"], mask, read(case, "in/text_after_dropout"))
    per_sample, aux = flow.loss(
        network,
        read(case, "in/x0_latent"),
        mask,
        read(case, "in/epsilon"),
        read(case, "in/normal_draw_for_time"),
        shift=5.0,
        conditional_frame_timestep=-1.0,
        dtype=dtype,
    )
    return per_sample.mean(), (per_sample, aux)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_loss_and_gradients_are_the_references(case):
    coefs = jnp.asarray([case["coefs"][k] for k in COEFS])
    compute = jax.jit(jax.value_and_grad(lambda c: golden_loss(case, c), has_aux=True))
    (loss, (per_sample, aux)), grads = compute(coefs)

    def close(ours, name, atol=2e-6):
        np.testing.assert_allclose(ours, read(case, name), rtol=1e-6, atol=atol)

    close(aux.sigma[:, None], "out/sigma")
    np.testing.assert_allclose(aux.timesteps[:, :, 0], read(case, "net_in/timesteps"), rtol=1e-6)
    close(aux.noisy, "out/xt")
    close(aux.target, "out/target_velocity")
    # Where a sum lies between two bfloat16 numbers, platforms may differ by one of their steps.
    bf16 = case["dtype"] == "torch.bfloat16"
    received = read(case, "net_in/x")
    ulp = np.abs(received) * 2.0**-7 if bf16 else 2e-6
    assert np.all(np.abs(aux.net_input.astype(jnp.float32) - received) <= ulp)
    assert aux.net_input.dtype == (jnp.bfloat16 if bf16 else jnp.float32)
    close(aux.prediction, "out/model_pred", atol=2e-2 if bf16 else 2e-6)
    np.testing.assert_allclose(loss, read(case, "out/loss"), rtol=1e-5)
    if f"{case['name']}/out/per_instance_loss" in GOLDEN:
        close(per_sample, "out/per_instance_loss")
    wanted = GOLDEN[f"{case['name']}/grad_coefs"]
    np.testing.assert_allclose(grads, wanted, atol=1e-3 * np.abs(wanted).max())


def draws(shape=(2, 3, 2, 2, 4), index=(0, 1)):
    return flow.training_noise(jax.random.key(3), jnp.asarray(index, jnp.int32), shape)


def small_loss(velocity, mask, **options):
    noise = draws()
    options = {"shift": 5.0, "conditional_frame_timestep": -1.0, "dtype": jnp.float32} | options
    latents = jax.random.normal(jax.random.key(1), noise.epsilon.shape)
    return flow.loss(velocity, latents, mask, noise.epsilon, noise.normal, **options)


def test_given_frames_give_no_loss_whatever_the_network_says_but_count_in_the_mean():
    mask = jnp.zeros((2, 2, 3)).at[:, :, 0].set(1)

    def velocity(x, timesteps):
        return jnp.where(mask[..., None, None, None] > 0, jnp.nan, jnp.zeros_like(x))

    some, aux = small_loss(velocity, mask)
    wanted = jnp.mean(aux.target[:, :, 1:] ** 2, axis=(1, 2, 3, 4, 5)) * 2 / 3
    np.testing.assert_allclose(some, wanted, rtol=1e-6)
    everything, _ = small_loss(velocity, jnp.ones_like(mask))
    assert np.array_equal(everything, [0.0, 0.0])


def test_given_frames_take_their_own_timestep():
    mask = jnp.zeros((2, 2, 3)).at[0, 1, :2].set(1)
    _, aux = small_loss(lambda x, t: x, mask, conditional_frame_timestep=0.1)
    whole = jnp.broadcast_to(1000 * aux.sigma[:, None, None], mask.shape)
    assert np.array_equal(aux.timesteps, jnp.where(mask > 0, 0.1, whole))
    _, aux = small_loss(lambda x, t: x, mask)
    assert aux.timesteps.shape == (2, 1, 1)
    with pytest.raises(ValueError, match=r"conditional_frame_timestep=-0.5.*0\.\.1000"):
        small_loss(lambda x, t: x, mask, conditional_frame_timestep=-0.5)


def test_bfloat16_rounds_the_clean_latents_but_not_the_noise():
    _, aux = small_loss(lambda x, t: x, jnp.zeros((2, 2, 3)), dtype=jnp.bfloat16)
    clean = draws().epsilon - aux.target
    latents = jax.random.normal(jax.random.key(1), clean.shape)
    rounded = latents.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(clean, rounded, atol=1e-6)
    assert np.abs(rounded - latents).max() > 1e-3


def test_time_is_shifted_towards_noise():
    normal = jnp.asarray([-2.0, 0.0, 2.0])
    u = 1 / (1 + np.exp(-np.asarray(normal)))
    np.testing.assert_allclose(flow.sigma_from_normal(normal, 1.0), u, rtol=1e-6)
    np.testing.assert_allclose(flow.sigma_from_normal(normal, 5.0)[1], 5 / 6, rtol=1e-6)


def test_discretised_time_takes_entries_of_a_falling_table():
    table = 5.0 * (s := np.arange(1000, 0, -1) / 1000) / (1 + 4 * s)
    normal = jnp.linspace(-5, 5, 41) + 0.003
    u = np.asarray(jax.nn.sigmoid(normal))
    ours = flow.sigma_from_normal(normal, 5.0, levels=1000)
    np.testing.assert_allclose(ours, table[np.floor(1000 * u).astype(int)], rtol=1e-5)


def test_a_samples_noise_does_not_depend_on_its_batch():
    whole, part = draws(index=(7, 8, 9, 1000)), draws(index=(1000, 8))
    for many, few in zip(whole, part):
        assert np.array_equal(np.asarray(many)[[3, 1]], few)


def test_noise_differs_between_samples_steps_and_purposes():
    one = draws(index=(0, 1))
    other = flow.training_noise(jax.random.key(4), jnp.arange(2), (2, 3, 2, 2, 4))
    values = np.concatenate([np.ravel(x) for x in (*one, *other)])
    assert len(np.unique(values)) == len(values)


def test_noise_does_not_depend_on_the_mesh():
    mesh = sharding.make_mesh(data=2, fsdp=2, context=2)
    shape, index = (2, 4, 2, 2, 4), np.arange(8, dtype=np.int32)
    plain = jax.jit(lambda i: flow.training_noise(jax.random.key(3), i, shape))(index)

    def constrained(i):
        noise = flow.training_noise(jax.random.key(3), i, shape)
        return noise._replace(epsilon=sharding.constrain(noise.epsilon, "b v t h w c"))

    with jax.set_mesh(mesh):
        rows = jax.device_put(index, NamedSharding(mesh, PartitionSpec(sharding.BATCH)))
        split = jax.jit(constrained)(rows)
    assert not split.epsilon.sharding.is_fully_replicated
    for a, b in zip(plain, split):
        assert np.array_equal(a, b)


def test_draws_have_the_named_distributions():
    noise = draws(shape=(4, 1, 1, 1, 1), index=range(4000))
    for normal in (noise.epsilon, noise.normal):
        assert abs(normal.mean()) < 0.06 and abs(normal.std() - 1) < 0.05
    for uniform in (noise.condition, noise.text):
        assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.02
