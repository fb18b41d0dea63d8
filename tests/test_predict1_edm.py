"""EDM: noise levels, loss, training steps and solvers; numbers of the reference and properties."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.parity_checks import kinds, predict1, predict1_sampling
from converters.parity_checks.golden import Golden, Options
from cosmos_jax import build, build_predict1, canary, flops, optim, sample_edm, train
from cosmos_jax.diffusion import edm, edm_process, edm_solvers, flow
from cosmos_jax.diffusion.edm_process import EDMProcess
from cosmos_jax.models.predict1 import Predict1, Predict1Config
from cosmos_jax.types import Batch

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "predict1"


def compared(name, check):
    golden = Golden.load(GOLDENS / f"{name}.npz")
    return golden, list(check(golden, Options()))


@pytest.mark.parametrize("name, arrays", [("edm_loss", 14), ("edm_loss_bf16", 14)])
def test_the_loss_equals_the_reference(name, arrays):
    golden, rows = compared(name, predict1.check_loss)
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    assert len([row for row in rows if row.what.startswith("out/")]) == arrays
    assert len([row for row in rows if row.what.startswith("grad/")]) == 6
    assert golden.not_compared() == [] and any("sample_t" in row.what for row in rows)


def test_training_steps_equal_the_reference():
    golden, rows = compared("train_steps", predict1.check_steps)
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    assert golden.not_compared() == [] and len(rows) == 4 + 2 * 32


def test_solvers_equal_the_reference():
    golden, rows = compared("sampler", predict1_sampling.check_solvers)
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    assert golden.not_compared() == []
    cases = {row.what.split("/")[0] for row in rows}
    assert len(cases) == 19 and all(
        f"{case}/traj" in {r.what[: len(case) + 5] for r in rows} for case in cases
    )


@pytest.mark.core
def test_schedules_and_conditions_equal_the_reference():
    golden, rows = compared("lr_ema", predict1_sampling.check_schedules)
    assert all(row.ok for row in rows) and len(rows) == 10, rows
    assert golden.not_compared() == ["lr/two_cycles", "lr/two_cycles_cosine"]  # of no known cycles
    _, rows = compared("glue", predict1_sampling.check_glue)
    assert all(row.ok for row in rows) and len(rows) == 21, rows


@pytest.mark.core
def test_scales_keep_the_network_at_unit_size():
    """For data of the assumed size: input of variance 1, and a target of variance 1 to learn."""
    rng = np.random.default_rng(0)
    clean, noise = 0.5 * rng.standard_normal(100_000), rng.standard_normal(100_000)
    for sigma in (0.01, 0.5, 3.0, 80.0):
        scale = edm.scaling(jnp.float32(sigma), 0.5)
        noisy = clean + sigma * noise
        assert np.std(scale.input * noisy) == pytest.approx(1, rel=2e-2)
        assert np.std((clean - scale.skip * noisy) / scale.out) == pytest.approx(1, rel=2e-2)
        assert float(edm.weight(jnp.float32(sigma), 0.5) * scale.out**2) == pytest.approx(1)
        assert float(scale.timestep) == pytest.approx(np.log(sigma) / 4, abs=1e-6)


# Solvers, where the answer is known: data of mean 2 and standard deviation 1.


def known(x, sigma):
    return 2.0 + (x - 2.0) / (1 + sigma**2)


def solved(rows, start=80.0, guess=known):
    noise = jnp.asarray(np.random.default_rng(0).standard_normal(50), jnp.float32)
    exact = 2.0 + (start * noise - 2.0) / jnp.sqrt(1 + start**2)
    return float(jnp.abs(edm_solvers.solve(guess, start * noise, rows) - exact).max())


@pytest.mark.core
def test_solvers_of_second_order_are_nearer():
    def error(solver, steps):
        levels = edm_solvers.sigmas(steps + 1, lowest=edm_solvers.RES_MIN)
        return solved(edm_solvers.res(solver, levels))

    euler = edm_solvers.euler(edm_solvers.sigmas(32, lowest=edm_solvers.EULER_MIN))
    assert solved(euler) == pytest.approx(0.2014, rel=0.01)
    for solver, order in (("1euler", 1), ("2ab", 2), ("2mid", 2), ("2heun_edm", 2)):
        halved = error(solver, 16) / error(solver, 32)
        assert 2**order * 0.7 < halved < 2**order * 1.8, (solver, halved)
    assert error("2ab", 32) < 0.3 * error("1euler", 32)


@pytest.mark.core
@pytest.mark.parametrize("solver", edm_solvers.EVALUATIONS)
def test_a_step_keeps_what_is_clean_already(solver):
    """Weights of every row sum to 1: a sample that is its own clean guess stays."""
    rows = edm_solvers.res(solver, edm_solvers.sigmas(6, lowest=0.002))
    np.testing.assert_allclose(rows.predict.sum(1), 1, atol=1e-5)
    steps = 5 * edm_solvers.EVALUATIONS[solver]
    assert len(rows.sigma) == steps + 1 and rows.begins.sum() == 6


@pytest.mark.core
@pytest.mark.parametrize(
    "make, fault",
    [
        (lambda: edm_solvers.sigmas(3, lowest=100.0), "do not fall"),
        (lambda: edm_solvers.sigmas(0, lowest=0.1), "do not fall"),
        (lambda: edm_solvers.res("3ab", np.array([2.0, 1.0])), "'3ab' must be one of"),
        (lambda: edm_solvers.res("2ab", np.array([2.0])), "two levels"),
        (lambda: EDMProcess(text_dropout=1.2), r"text_dropout=1.2 must lie in \[0, 1\]"),
        (lambda: EDMProcess(std=0.0), "must be positive"),
        (lambda: EDMProcess(given_std=0.0), "given_std=0.0 must be positive"),
    ],
)
def test_bad_settings_are_errors(make, fault):
    with pytest.raises(ValueError, match=fault):
        make()


# A small network in training and sampling.

CONFIG = Predict1Config(
    width=24,
    blocks=1,
    heads=2,
    mlp_width=32,
    modulation_rank=4,
    text_width=8,
    channels=4,
    sincos=(1.0, 1.0, 1.0),
    view_rows=3,
    view_channels=2,
    uncertainty=8,
    dtype="float32",
    remat="none",
)
OPTIM = optim.OptimConfig(
    lr=1e-2, weight_decay=0.1, clip=1.0, warm_up_steps=1, cycle_length=99, f_max=1.0, f_min=1.0
)


@functools.cache
def trainer(config=CONFIG):
    return train.Trainer(
        net=Predict1(config),
        process=EDMProcess(text_dropout=0.2),
        optimizer=optim.optimizer(OPTIM, 9),
        learning_rate=optim.learning_rate(OPTIM, 9),
        trainable=".*",
        ema_rate=0.1,
        seed=0,
    )


@functools.cache
def first_state():
    inputs = train.network_inputs(4, 8, control=False, frames=1)
    return jax.jit(lambda key: trainer().init(key, inputs))(jax.random.key(0))


def batch(b=4, v=2):
    rng = np.random.default_rng(0)
    return Batch(
        latents=jnp.asarray(rng.standard_normal((b, v, 2, 4, 4, 4)), jnp.float32),
        control=None,
        text=jnp.asarray(rng.standard_normal((b, v, 3, 8)), jnp.float32),
        view_ids=jnp.tile(jnp.arange(v, dtype=jnp.int32), (b, 1)),
        index=jnp.arange(b, dtype=jnp.int32),
        fps=jnp.full(b, 10.0),
    )


def test_a_trainer_takes_edm_and_its_loss_falls():
    """The head is trained with the network, and its random features are left alone."""
    state, data = first_state(), batch()
    assert set(state.constants) == {"logvar"}
    step, losses = jax.jit(trainer().step), []
    draws = flow.training_noise(jax.random.key(1), data.index, data.latents.shape[1:])
    score = jax.jit(lambda state: trainer().loss(state.params, state, data, draws)[0].mean())
    before, head = float(score(state)), state.params["logvar"]["out"]["kernel"]
    for _ in range(20):
        state, metrics = step(state, data)
        losses.append(float(metrics["loss"]))
    assert float(score(state)) < before - 0.05 and np.isfinite(losses).all()
    assert np.abs(state.params["logvar"]["out"]["kernel"] - head).max() > 1e-3


def test_the_canary_knows_a_network_that_has_learnt_nothing():
    silent = first_state()
    last = silent.params["final"] | {
        "out": jax.tree.map(jnp.zeros_like, silent.params["final"]["out"])
    }
    silent = silent.replace(params=silent.params | {"final": last})
    # A network that says nothing errs as much as unit noise, at every level.
    assert canary.ratio(trainer(), silent, batch()) == pytest.approx(1.0, rel=0.1)


def test_noise_levels_and_latents_are_scaled_as_the_process_says():
    state, data = first_state(), batch()
    normal = jnp.array([-1.0, 0.0, 1.0, 2.0])
    none, epsilon = jnp.zeros(4, jnp.int32), jnp.ones_like(data.latents)
    args = (state.params, state, data, none, data.text, epsilon, normal)
    losses, parts = trainer().loss_given(*args)
    np.testing.assert_allclose(parts.sigma, np.exp(normal), rtol=1e-6)
    np.testing.assert_allclose(parts.target, 0.5 * data.latents, rtol=1e-6)
    noisy = parts.target + parts.sigma.reshape(-1, 1, 1, 1, 1, 1)
    np.testing.assert_allclose(parts.noisy, noisy, rtol=1e-5)
    error = parts.weight * jnp.mean((parts.prediction - parts.target) ** 2, (1, 2, 3, 4, 5))
    wanted = error * jnp.exp(-parts.log_variance) + parts.log_variance
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def test_given_frames_have_their_own_noise_and_no_loss():
    config = dataclasses.replace(CONFIG, masked=True)
    inputs = train.network_inputs(4, 8, control=False, frames=1)
    process = EDMProcess(num_conditional_latents=(0.5, 0.5))
    taking = dataclasses.replace(trainer(config), process=process)
    state, data = jax.jit(lambda key: taking.init(key, inputs))(jax.random.key(0)), batch()
    draws = flow.training_noise(jax.random.key(1), data.index, data.latents.shape[1:])
    counts = jnp.array([0, 1, 1, 0])

    @jax.jit
    def score(latents):
        args = (counts, data.text, draws.epsilon, draws.normal)
        return taking.loss_given(state.params, state, data.replace(latents=latents), *args)

    losses, parts = score(data.latents)
    held = np.broadcast_to(np.arange(2) < np.array(counts)[:, None, None], (4, 2, 2))
    assert (np.asarray(parts.errors) == 0).tolist() == held.tolist()
    wanted = jnp.mean(parts.errors, (1, 2)) * jnp.exp(-parts.log_variance) + parts.log_variance
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    # As the network sees them: clean frames with a noise of a level of their own, scaled to it.
    clean, noise, shown = (
        np.asarray(x[1, 0, 0]).ravel() for x in (parts.target, draws.epsilon, parts.noisy)
    )
    seen = shown / np.sqrt(parts.sigma[1] ** 2 + 0.25)
    (a, b), rest, *_ = np.linalg.lstsq(np.stack([clean, noise], 1), seen, rcond=None)
    assert rest < 1e-9 and b / a != pytest.approx(float(parts.sigma[1]), rel=1e-2)
    assert 1 / a**2 == pytest.approx((b / a) ** 2 + 0.25, rel=1e-4)
    # The rest of a view hears of them.
    moved = score(data.latents.at[1, 0, 0].add(1.0))[1].prediction - parts.prediction
    assert np.abs(moved[1, 1, 1]).max() > 1e-5 and np.abs(moved[0]).max() == 0


def test_levels_of_given_frames_are_of_their_distribution():
    normal = jax.random.normal(jax.random.key(0), (4000,))
    drawn = np.asarray(edm_process._hashed(normal))
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05
    assert abs(np.corrcoef(drawn, normal)[0, 1]) < 0.05


def test_frames_are_given_only_to_a_network_that_takes_them():
    taking = dataclasses.replace(trainer(), process=EDMProcess(num_conditional_latents=(0.5, 0.5)))
    with pytest.raises(ValueError, match="the network takes no given frames; set"):
        jax.eval_shape(taking.step, first_state(), batch())


@functools.cache
def sampler(guidance):
    state, data = first_state(), batch(1)
    levels = edm_solvers.sigmas(4, lowest=edm_solvers.EULER_MIN)
    rows = edm_solvers.euler(levels)
    copies = 1 if guidance is None else 2
    wide = jax.tree.map(lambda x: jnp.concatenate([x] * copies), data)
    text = jnp.concatenate([data.text, jnp.zeros_like(data.text)][:copies])
    variables = {"params": state.params, "constants": state.constants}

    @jax.jit
    def run(noise, given, mask):
        both = jnp.concatenate([mask] * copies)
        network = train.bind(Predict1(CONFIG), variables, wide, text, both, 1.0)
        start, dtype = edm_solvers.euler_start(), "float32"
        return sample_edm.denoise(
            network, noise, given, mask, rows, guidance, start=start, data=0.5, dtype=dtype
        )

    return run


def test_sampling_is_guided_and_keeps_given_frames():
    noise = jax.random.normal(jax.random.key(0), (1, 2, 2, 4, 4, 4))
    given, none = batch(1).latents, jnp.zeros((1, 2, 2))
    plain = sampler(None)(noise, given, none)
    np.testing.assert_allclose(sampler(0.0)(noise, given, none), plain, atol=1e-5)
    assert np.abs(sampler(7.0)(noise, given, none) - plain).max() > 1e-2
    held = sampler(None)(noise, given, none.at[:, 0, 0].set(1.0))
    np.testing.assert_allclose(held[:, 0, 0], given[:, 0, 0], atol=1e-4)
    assert np.abs(held[:, 0, 1] - given[:, 0, 1]).max() > 0.1


@pytest.mark.core
def test_a_config_names_the_process_and_the_network():
    section = {"kind": "cosmos_jax.diffusion.edm_process:EDMProcess", "text_dropout": 0.2}
    assert build.process({"process": section}) == EDMProcess(text_dropout=0.2)
    assert build.process({"process": {"shift": 3.0}}) == train.Process(shift=3.0)
    with pytest.raises(ValueError, match=r"config.process.shift is not a setting"):
        build.process({"process": section | {"shift": 5.0}})
    values = {
        "model": {"base": "predict1_7b_multiview_waymo", "blocks": 2},
        "dtype": "float32",
        "attention": "xla",
        "remat": "none",
        "adapter": {"rank": 0, "alpha": 1.0, "targets": ".*"},
    }
    net = build.network(values)
    assert isinstance(net, Predict1) and net.config.view_rows == 5 and net.config.blocks == 2
    values["model"] = {"base": "predict1_7b_waymo"}
    with pytest.raises(ValueError, match="did you mean 'predict1_7b"):
        build.network(values)
    values["model"] = {"base": "predict1_7b", "control_channels": 3}
    with pytest.raises(ValueError, match="control_blocks and control_channels"):
        build.network(values)
    assert dataclasses.replace(net.config, masked=True).masked


@pytest.mark.core
def test_files_are_told_by_their_arrays():
    checks = {
        "dit_single": predict1.check_network,
        "posemb_full": predict1.check_positions,
        "edm_loss_bf16": predict1.check_loss,
        "train_steps": predict1.check_steps,
        "sampler": predict1_sampling.check_solvers,
        "lr_ema": predict1_sampling.check_schedules,
        "glue": predict1_sampling.check_glue,
    }
    for name, check in checks.items():
        assert kinds.find_check(Golden.load(GOLDENS / f"{name}.npz")) is check


@pytest.mark.core
def test_the_full_size_costs_what_the_reference_costs():
    """Five views of 57 frames 480x848: 63,600 tokens; 0.9 PFLOP of products, 1.9 of attention."""
    config, shape = build_predict1.VARIANTS["predict1_7b_multiview_waymo"], (5, 8, 60, 106)
    assert flops.tokens(config, shape) == 63_600
    assert flops.forward(config, shape, 512) == pytest.approx(0.85e15 + 1.86e15, rel=0.01)
