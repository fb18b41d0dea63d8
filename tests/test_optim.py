"""The optimiser, its schedule, the average of the weights, and what is trained."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from converters.parity_checks import training
from converters.parity_checks.golden import Golden, Options
from cosmos_jax import optim

pytestmark = pytest.mark.core

GOLDEN = Golden.load(pathlib.Path(__file__).parent / "goldens" / "lr_ema.npz")

# The published Transfer2.5 multiview run.
PUBLISHED = optim.OptimConfig(
    lr=8.63e-5,
    weight_decay=1e-3,
    clip=0.1,
    warm_up_steps=1000,
    cycle_length=100_000,
    f_max=0.5,
    f_min=0.2,
)
QUICK = optim.OptimConfig(
    lr=0.1, weight_decay=0.01, clip=1.0, warm_up_steps=0, cycle_length=10, f_max=1.0, f_min=1.0
)


def test_schedules_and_averages_are_the_references():
    limits = {"mult, relative": 1e-6, "coef": 1e-9, "beta: 1 - beta, relative": 1e-5, "ema": 1e-6}
    rows = list(training.check_schedules(GOLDEN, Options()))
    config = GOLDEN.json("config_json")
    assert len(rows) == len(config["lr"]) + 3 * len(config["ema"])
    for row in rows:
        assert row.max_error <= limits[row.what.split("/")[1]], row
    assert GOLDEN.not_compared() == []


def test_published_peak_learning_rate():
    schedule = optim.learning_rate(PUBLISHED, 5000)
    np.testing.assert_allclose(schedule(1000), 2**-14.5, rtol=1e-3)
    np.testing.assert_allclose(schedule(0), 8.63e-11, rtol=1e-4)


def test_a_cycles_end_belongs_to_it_and_the_next_begins_at_its_step_one():
    schedule = optim.lambda_linear([4, 5], [10, 25], [0.0, 0.1], [1.0, 0.6], [0.5, 0.2])
    ours = [float(schedule(n)) for n in (3, 4, 10, 11, 14, 15, 35)]
    wanted = [0.75, 1.0, 0.5, 0.1 + 0.5 / 5, 0.1 + 0.5 * 4 / 5, 0.6, 0.2]
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: optim.optimizer(PUBLISHED, 100_001), "100001 training steps.*cycle_length=100000"),
        (lambda: optim.lambda_linear([10], [10], [0.0], [1.0], [0.5]), r"warm_up_steps=10.*0\.\.9"),
        (lambda: optim.lambda_linear([1], [10], [0.0], [1.0, 2.0], [0.5]), "one entry a cycle"),
        (lambda: optim.lambda_linear([], [], [], [], []), "one entry a cycle"),
        (lambda: optim.optimizer(optim.OptimConfig(1.0, 0.0, 0.0, 0, 9, 1.0, 1.0), 9), "clip=0.0"),
        (lambda: optim.ema_exponent(0.3), "0.288"),
        (lambda: optim.ema_exponent(0.0), "0.288"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def steps_by_hand(params, grads, config):
    """AdamW as published, in float64, on gradients that are clean and clipped already."""
    p, m, v = params.astype(np.float64), 0.0, 0.0
    for n, g in enumerate(grads, start=1):
        m = config.b1 * m + (1 - config.b1) * g
        v = config.b2 * v + (1 - config.b2) * g**2
        adam = (m / (1 - config.b1**n)) / (np.sqrt(v / (1 - config.b2**n)) + config.eps)
        p = p - config.lr * (adam + config.weight_decay * p)
    return p


def run(config, params, grads):
    tx = optim.optimizer(config, len(grads))
    state = tx.init(params)
    for grad in grads:
        updates, state = jax.jit(tx.update)(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_adamw_decays_every_tensor():
    rng = np.random.RandomState(0)
    params = {"kernel": rng.randn(3, 4).astype(np.float32), "bias": np.float32([1.0, -2.0])}
    grads = [{"kernel": rng.randn(3, 4) * 0.05, "bias": rng.randn(2) * 0.05} for _ in range(4)]
    ours = run(QUICK, jax.tree.map(jnp.asarray, params), jax.tree.map(jnp.float32, grads))
    for name in params:
        wanted = steps_by_hand(params[name], [g[name] for g in grads], QUICK)
        np.testing.assert_allclose(ours[name], wanted, rtol=1e-4, atol=1e-6)


FACTORS = (("a/kernel", 0.5), ("a/.*", 3.0))


def test_learning_rate_factors_scale_step_and_decay_and_the_first_that_fits_counts():
    rng = np.random.RandomState(1)
    params = {name: {"kernel": rng.randn(3), "bias": rng.randn(2)} for name in "ab"}
    params = jax.tree.map(jnp.float32, params)
    grads = [jax.tree.map(lambda p: jnp.float32(0.1 * rng.randn(*p.shape)), params)]
    # Factors of lr alone: both the step and the decay are products with it.
    each = {1.0: QUICK, 0.5: dataclasses.replace(QUICK, lr=QUICK.lr / 2)}
    each[3.0] = dataclasses.replace(QUICK, lr=QUICK.lr * 3)
    wanted = {factor: run(config, params, grads) for factor, config in each.items()}
    ours = run(dataclasses.replace(QUICK, lr_factors=FACTORS), params, grads)
    for path, factor in {"a/kernel": 0.5, "a/bias": 3.0, "b/kernel": 1.0, "b/bias": 1.0}.items():
        group, name = path.split("/")
        np.testing.assert_allclose(ours[group][name], wanted[factor][group][name], rtol=1e-6)


def test_without_factors_the_optimiser_is_as_it_was():
    params = {"a": jnp.ones(2)}
    plain, scaled = (
        optim.optimizer(dataclasses.replace(QUICK, lr_factors=factors), 5).init(params)
        for factors in ((), (("a", 0.5),))
    )
    assert len(plain) == 3
    # What a checkpoint holds is the same, so factors may be changed when a run goes on.
    paths = [jax.tree_util.tree_flatten_with_path(state)[0] for state in (plain, scaled)]
    assert [path for path, _ in paths[0]] == [path for path, _ in paths[1]]


@pytest.mark.parametrize(
    "factors, message",
    [
        ((("a/kernel", 0.0),), r"'a/kernel' has factor 0.0.*config.trainable"),
        ((("a/kernel", float("nan")),), "has factor nan"),
        ((("a/(", 1.0),), "not a regex"),
        ((("a/kernl", 0.5),), r"'a/kernl' is the first to fit for no.*'a/kernel'"),
        ((("a/.*", 0.5), ("a/kernel", 1.0)), r"'a/kernel' is the first to fit for no"),
    ],
)
def test_factors_that_do_nothing_are_refused(factors, message):
    params = {"a": {"kernel": jnp.ones(2)}}
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(QUICK, lr_factors=factors), params, [params])


def test_what_is_not_finite_is_zeroed_before_the_norm_is_taken():
    params = {"a": jnp.ones(3), "b": jnp.ones(1)}
    bad = {"a": jnp.asarray([jnp.nan, 3.0, jnp.inf]), "b": jnp.asarray([-jnp.inf])}
    clean = {"a": jnp.asarray([0.0, 3.0, 0.0]), "b": jnp.zeros(1)}
    ours, wanted = run(QUICK, params, [bad, clean]), run(QUICK, params, [clean, clean])
    for name in params:
        assert np.array_equal(ours[name], wanted[name])
        assert np.all(np.isfinite(ours[name]))


def test_the_global_norm_is_clipped_over_all_tensors():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    big, small = {"a": 30.0, "b": 40.0}, {"a": 0.003, "b": 0.004}
    # A huge eps makes the first step proportional to the gradient: -lr * g / eps.
    config = optim.OptimConfig(1e6, 0.0, 0.5, 0, 9, 1.0, 1.0, eps=1e6)
    for grads, wanted in [(big, (-0.3, -0.4)), (small, (-0.003, -0.004))]:
        ours = run(config, params, [jax.tree.map(lambda g: jnp.asarray([g]), grads)])
        np.testing.assert_allclose((ours["a"][0], ours["b"][0]), wanted, rtol=1e-3)


def test_the_first_average_is_the_parameters_themselves():
    assert optim.ema_weight(jnp.int32(0), 0.1) == 1


def test_ema_averages_the_rounded_parameters():
    params = {"w": jnp.asarray([1.0 + 2**-10, 3.14159])}
    update = jax.jit(lambda e, p: optim.ema_update(e, p, jnp.int32(0), 0.1, jnp.bfloat16))
    ema = update(jax.tree.map(jnp.zeros_like, params), params)
    assert ema["w"].dtype == jnp.float32
    assert np.array_equal(ema["w"], params["w"].astype(jnp.bfloat16).astype(jnp.float32))


TREE = {
    "control": {"blocks": {"kernel": jnp.ones((2, 2))}, "embed": {"kernel": jnp.ones(2)}},
    "blocks": {"kernel": jnp.ones((2, 3))},
    "pre_control": {"kernel": jnp.ones(1)},
}


@pytest.mark.parametrize("pattern, count", [("control/.*", 2), (".*", 4), (".*/kernel", 4)])
def test_split_and_merge(pattern, count):
    trainable, frozen = optim.split_trainable(TREE, pattern)
    assert len(jax.tree.leaves(trainable)) == count
    assert len(jax.tree.leaves(frozen)) == 4 - count
    merged = optim.merge(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(TREE)
    assert all(a is b for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(TREE)))


def test_a_pattern_matches_whole_paths():
    trainable, frozen = optim.split_trainable(TREE, "control/.*")
    assert set(trainable) == {"control"} and set(frozen) == {"blocks", "pre_control"}


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("contrl/.*", "'contrl/.*' matches no parameter.*'control'"),
        ("control", "matches no parameter.*'control'"),
        ("zzz", "near.*'blocks', 'control', 'pre_control'"),
        ("control/(", "not a regex"),
    ],
)
def test_a_pattern_that_trains_nothing_names_what_is_near(pattern, message):
    with pytest.raises(ValueError, match=message):
        optim.split_trainable(TREE, pattern)


def test_merge_refuses_a_parameter_that_is_in_both():
    with pytest.raises(ValueError, match=r"both trainable and frozen.*blocks/kernel"):
        optim.merge(TREE, {"blocks": {"kernel": jnp.ones(1)}})


def test_frozen_parameters_have_no_state_and_no_gradient():
    trainable, frozen = optim.split_trainable(TREE, "control/.*")
    state = optim.optimizer(QUICK, 10).init(trainable)
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert len(arrays) == 2 * len(jax.tree.leaves(trainable))  # two moments each
    grads = jax.grad(
        lambda t: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(optim.merge(t, frozen)))
    )(trainable)
    assert jax.tree.structure(grads) == jax.tree.structure(trainable)


def test_the_states_arrays_can_be_placed_like_their_parameters():
    """`optax.tree_map_params` finds both moments: the sharding of the state is made with it."""
    tx = optim.optimizer(QUICK, 10)
    trainable, _ = optim.split_trainable(TREE, "control/.*")
    shapes = jax.eval_shape(tx.init, trainable)
    names = jax.tree.map(lambda leaf: f"like {leaf.shape}", trainable)
    placed = optax.tree_map_params(
        tx, lambda _, name: name, shapes, names, transform_non_params=lambda _: "replicated"
    )
    leaves = jax.tree.leaves(placed)
    assert leaves.count("like (2, 2)") == leaves.count("like (2,)") == 2
    assert set(leaves) == {"like (2, 2)", "like (2,)", "replicated"}
