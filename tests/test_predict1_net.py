"""The network of Predict1: numbers of the reference, properties, placement, bad input."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.parity_checks import predict1
from converters.parity_checks.golden import Golden, Options
from cosmos_jax import sharding
from cosmos_jax.models import rope
from cosmos_jax.models.predict1 import Predict1, Predict1Config, rope_angles, sincos_positions

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "predict1"
NETS = ["dit_mv_train", "dit_mv_sample", "dit_mv_v2w", "dit_single"]


@functools.cache
def compared(name):
    """The golden file, and the rows of its comparison."""
    golden = Golden.load(GOLDENS / f"{name}.npz")
    return golden, list(predict1.check_network(golden, Options()))


@pytest.mark.parametrize("name", NETS)
def test_output_activations_and_gradients_equal_the_reference(name):
    golden, rows = compared(name)
    wanted = {"out", "loss"} | {
        f"{kind}/{n}" for kind in ("act", "grad") for n in names(golden, kind)
    }
    assert {row.what for row in rows} == wanted
    assert len(names(golden, "act")) >= 13 and len(names(golden, "grad")) >= 27
    assert all(row.max_error <= 2e-5 for row in rows if not row.what.startswith("grad")), rows
    assert all(row.max_error <= 0.1 * row.limit for row in rows), rows
    assert golden.not_compared() == []


def names(golden, kind):
    return golden.names(f"{kind}/")


@pytest.mark.parametrize("name", ["dit_mv_sample"])
def test_bfloat16_is_near(name):
    golden = Golden.load(GOLDENS / f"{name}.npz")
    rows = list(predict1.check_network(golden, Options("bfloat16")))
    assert len(rows) > 40 and all(row.ok for row in rows), [row for row in rows if not row.ok]


def test_positions_of_the_full_size_equal_the_reference():
    golden = Golden.load(GOLDENS / "posemb_full.npz")
    errors = {row.what: row.max_error for row in predict1.check_positions(golden, Options())}
    assert len(errors) == 5 and all(error <= 2e-6 for error in errors.values()), errors
    assert errors["rope/angles_bf16buffers_fps_bf16"] == 0
    exact, rounded = golden["rope/angles_fp32"], golden["rope/angles_bf16buffers_fps_bf16"]
    assert np.abs(exact - rounded).max() > 0.1  # so the switch is worth one


# Below: small networks with random weights, in float32.

SMALL = dict(
    width=24,
    blocks=2,
    heads=2,
    mlp_width=32,
    modulation_rank=4,
    text_width=8,
    channels=4,
    dtype="float32",
    remat="none",
)
SINGLE = Predict1Config(**SMALL, learned=(8, 8, 8), uncertainty=6)
MULTI = Predict1Config(
    **SMALL,
    sincos=(1.0, 1.0, 1.0),
    view_rows=4,
    view_channels=3,
    repeats=True,
    repeated_views=(2,),
    masked=True,
)


def random_inputs(config, b=2, v=2, t=2, h=4, w=4):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    return dict(
        latents=normal(b, v, t, h, w, config.channels),
        timesteps=normal(b, 1, 1),
        text=normal(b, v, 3, config.text_width),
        view_ids=jnp.tile(jnp.arange(v, dtype=jnp.int32), (b, 1)),
        condition_mask=jnp.asarray(rng.integers(0, 2, (b, v, t)), jnp.float32),
        fps=jnp.full(b, 10.0),
    )


@functools.cache
def random_variables(config):
    """Random everywhere, also where new parameters are zero."""
    like = jax.eval_shape(Predict1(config).init, jax.random.key(0), **random_inputs(config))
    rng = np.random.default_rng(1)
    draw = lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, like)


@functools.cache
def compiled(config):
    return jax.jit(Predict1(config).apply)


def forward(config, **changes):
    inputs = random_inputs(config) | changes
    return np.asarray(compiled(config)(random_variables(config), **inputs))


@pytest.mark.core
def test_views_follow_their_ids_and_not_their_places():
    inputs = random_inputs(MULTI)
    turned = {k: inputs[k][:, ::-1] for k in ("latents", "text", "view_ids", "condition_mask")}
    np.testing.assert_allclose(forward(MULTI, **turned), forward(MULTI)[:, ::-1], atol=1e-5)
    assert np.abs(forward(MULTI, view_ids=inputs["view_ids"] + 1) - forward(MULTI)).max() > 1e-3


@pytest.mark.core
def test_frames_count_as_repeated_by_the_view_unless_the_caller_says():
    ids = jnp.tile(jnp.array([2, 1]), (2, 1))
    told = forward(MULTI, view_ids=ids, frame_repeat=jnp.tile(jnp.array([1.0, 0.0]), (2, 1)))
    np.testing.assert_array_equal(forward(MULTI, view_ids=ids), told)
    never = forward(MULTI, view_ids=ids, frame_repeat=jnp.zeros((2, 2)))
    assert np.abs(never - told).max() > 1e-3


@pytest.mark.core
def test_a_view_reads_its_own_text_alone_and_zeros_are_no_text():
    text = random_inputs(MULTI)["text"]
    nothing = Predict1(MULTI).no_text({}, 8)
    assert nothing.shape == (8,) and not np.any(nothing)
    # Of one block: what the other view reads cannot come round by self-attention.
    one = dataclasses.replace(MULTI, blocks=1)
    changed = forward(one, text=text.at[:, 1].set(nothing))
    np.testing.assert_array_equal(changed[:, 0], forward(one)[:, 0])
    assert np.abs(changed[:, 1] - forward(one)[:, 1]).max() > 1e-4


@pytest.mark.core
def test_the_mask_of_given_frames_is_read_where_there_is_a_channel_for_it():
    empty = jnp.zeros((2, 2, 2))
    assert np.abs(forward(MULTI, condition_mask=empty) - forward(MULTI)).max() > 1e-3
    np.testing.assert_array_equal(forward(SINGLE, condition_mask=empty), forward(SINGLE))


@pytest.mark.core
def test_the_frame_rate_and_its_precision_move_frames_only():
    angles = [
        np.asarray(rope_angles((4, 3, 2), 24, (2.0, 1.0, 1.0), jnp.float32(f), "float32"))
        for f in (24.0, 12.0)
    ]
    t = rope.axis_widths(24)[0] // 2
    np.testing.assert_allclose(angles[1][..., :t], 2 * angles[0][..., :t], rtol=1e-6)
    np.testing.assert_array_equal(angles[1][..., t:], angles[0][..., t:])
    rough = dataclasses.replace(MULTI, rope_precision="bfloat16")
    difference = np.asarray(compiled(rough)(random_variables(MULTI), **random_inputs(MULTI)))
    assert 0 < np.abs(difference - forward(MULTI)).max() < 0.1


@pytest.mark.core
def test_fixed_positions_are_told_apart():
    positions = np.asarray(sincos_positions((3, 4, 5), 24, (1.0, 2.0, 1.0)))
    assert positions.shape == (3, 4, 5, 24)
    assert len(np.unique(positions.reshape(60, 24).round(4), axis=0)) == 60
    # Rows of ratio 2 are at half their number.
    np.testing.assert_allclose(positions[0, 2, 0, 8], np.sin(1.0), rtol=1e-6)


@pytest.mark.core
def test_new_parameters_are_those_of_the_reference():
    big = dataclasses.replace(MULTI, width=96, modulation_rank=64, uncertainty=64)
    params = jax.jit(Predict1(big).init)(jax.random.key(0), **random_inputs(big))["params"]
    blocks = params["blocks"]
    assert not np.any(blocks["mlp_modulation"]["up"]["kernel"])
    stds = {
        "time": (params["time"]["up"]["kernel"], 0.02),
        "embed": (params["embed"]["kernel"], (2 / (4 * 9 + 96)) ** 0.5),
        "mlp": (blocks["mlp"]["up"]["kernel"], (2 / (96 + 32)) ** 0.5),
        "final": (params["final"]["modulation"]["up"]["kernel"], (2 / (64 + 192)) ** 0.5),
        "logvar": (params["logvar"]["out"]["kernel"], 64**-0.5 / 3**0.5),
    }
    for name, (kernel, std) in stds.items():
        assert np.std(kernel) == pytest.approx(std, rel=0.25), name
    assert not np.any(params["view_repeat"]["bias"])
    out = compiled(big)({"params": params}, **random_inputs(big))
    assert np.abs(out).max() > 0.1  # the final layer of a new network is not zero


@pytest.mark.parametrize(
    "config, sizes, axes",
    [
        (MULTI, dict(b=4, v=3, t=2, h=8), dict(data=2, fsdp=2, context=2)),
        (SINGLE, dict(b=1, v=1, t=8, h=4), dict(context=8)),
    ],
    ids=["views", "frames"],
)
def test_a_mesh_and_rematerialisation_change_nothing(config, sizes, axes):
    inputs = random_inputs(config, **sizes)
    params = random_variables(config)["params"]

    def step(config, params, inputs):
        def loss(params):
            out = Predict1(config).apply({"params": params}, **inputs)
            return jnp.mean(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (_, out), grads = step(config, params, inputs)
    mesh = sharding.make_mesh(**axes)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.param_shardings(params, mesh))
        (_, there), split = step(dataclasses.replace(config, remat="attention"), placed, inputs)
    np.testing.assert_allclose(np.asarray(there), np.asarray(out), atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-6),
        split,
        grads,
    )


# Bad input.


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, fault",
    [
        (dict(text_features=9), "take no text_features"),
        (dict(neighbours=((1,), (0,))), "take no neighbours"),
        (dict(rope_fps=False), "take no rope_fps"),
        (dict(learned=(8, 8, 8)), "exclude each other"),
        (dict(sincos=(1.0,)), "three numbers"),
        (dict(view_rows=0, view_channels=0), "repeats needs view_channels"),
        (dict(repeats=False), "repeated_views need repeats"),
        (dict(rope_precision="float16"), "neither float32 nor bfloat16"),
        (dict(heads=5), "does not divide by heads"),
    ],
)
def test_contradicting_fields_are_errors(changes, fault):
    with pytest.raises(ValueError, match=fault):
        dataclasses.replace(MULTI, **changes)


@pytest.mark.core
@pytest.mark.parametrize(
    "config, changes, fault",
    [
        (SINGLE, dict(frame_repeat=jnp.zeros((2, 2))), "without a repeat-frame embedding"),
        (SINGLE, dict(fps=None), "follow fps"),
        (SINGLE, dict(latents=jnp.zeros((2, 2, 2, 4, 18, 4))), "9 positions along w"),
        (MULTI, dict(text=jnp.zeros((2, 2, 3, 7))), "text of 7 features; it takes 8"),
        (MULTI, dict(latents=jnp.zeros((2, 2, 2, 5, 4, 4))), "do not divide by 2"),
    ],
)
def test_inputs_that_do_not_fit_are_errors(config, changes, fault):
    with pytest.raises(ValueError, match=fault):
        jax.eval_shape(
            Predict1(config).apply, random_variables(config), **random_inputs(config) | changes
        )


@pytest.mark.core
def test_a_network_without_the_head_says_so():
    with pytest.raises(ValueError, match="no uncertainty head"):
        Predict1(MULTI).log_variance(random_variables(MULTI), jnp.zeros((2, 1, 1)))
