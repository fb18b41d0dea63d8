"""Rectified flow: the reference's numbers, and randomness that depends on the sample alone."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from converters.parity_checks import training
from converters.parity_checks.golden import Golden, Options
from cosmos_jax import sharding
from cosmos_jax.diffusion import flow

pytestmark = pytest.mark.core

GOLDEN = Golden.load(pathlib.Path(__file__).parent / "goldens" / "rf_train.npz")
CASES = GOLDEN.json("cases_json")


@functools.cache
def compared():
    return {row.what: row for row in training.check_flow(GOLDEN, Options())}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_loss_and_gradients_are_the_references(case):
    name, bf16 = case["name"], case["dtype"] == "torch.bfloat16"
    received = "net_in/x, in bfloat16 steps" if bf16 else "net_in/x"
    limits = {
        "out/sigma": 2e-6,
        "net_in/timesteps": 1e-3,
        "out/xt": 2e-6,
        "out/target_velocity": 2e-6,
        "out/x0": 2e-6,
        received: 1 if bf16 else 2e-6,
        "out/model_pred": 2e-2 if bf16 else 2e-6,
        "out/loss, relative": 1e-5,
        "grad_coefs": 1e-3 * np.abs(GOLDEN[f"{name}/grad_coefs"]).max(),
        "in/condition_mask of n_cond": 0,
    }
    if f"{name}/out/per_instance_loss" in GOLDEN:
        limits["out/per_instance_loss"] = 2e-6
    rows = {k: row for k, row in compared().items() if k.startswith(f"{name}/")}
    assert rows.keys() == {f"{name}/{what}" for what in limits}
    for what, limit in limits.items():
        assert rows[f"{name}/{what}"].max_error <= limit, rows[f"{name}/{what}"]


def test_the_networks_input_has_the_compute_dtype():
    for dtype in (jnp.bfloat16, jnp.float32):
        _, aux = small_loss(lambda x, t: x, jnp.zeros((2, 2, 3)), dtype=dtype)
        assert aux.net_input.dtype == dtype


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
