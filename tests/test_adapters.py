"""LoRA and DoRA, and a new control branch: their numbers, where they start, what is exported."""

import dataclasses
import functools
import json

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import traverse_util

from converters import adapters, safetensors_files, weights
from cosmos_jax import build, build_weights, checkpoints, optim, pretrained, sharding
from cosmos_jax.models import attention, layers
from cosmos_jax.models.adapters import Adapter, dropout
from cosmos_jax.models.dit import DiT
from experiments import base, demo

TARGETS = base.get_config().adapter.targets
LORA = Adapter(2, 3.0, TARGETS)
DORA = dataclasses.replace(LORA, dora=True)
KINDS = pytest.mark.parametrize("adapter", [LORA, DORA], ids=["lora", "dora"])


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def nest(arrays):
    return traverse_util.unflatten_dict(arrays, sep="/")


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


# ---- One layer.


def layer(adapter, dtype="float32"):
    return layers.Linear(5, "b v d", layers.Dtypes(dtype, "float32"), adapter=adapter)


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


def by_hand(params, x, gate, adapter):
    """The papers' formulas, for plain differentiation."""
    kernel, low = params["kernel"], params["lora_down"] @ params["lora_up"]
    whole = kernel + adapter.alpha / adapter.rank * low
    if adapter.dora:
        norm = jax.lax.stop_gradient(jnp.linalg.norm(whole, axis=0))
        whole = whole * params["lora_magnitude"] / norm
    return gate * (x @ whole)


@pytest.mark.core
@KINDS
@pytest.mark.parametrize("gated", [False, True])
def test_a_layer_and_its_gradients_are_the_papers(adapter, gated):
    adapter = dataclasses.replace(adapter, targets="")  # the path of a layer that stands alone
    x, gate = numbers(2, 3, 4), numbers(2, 1, 5) if gated else None
    params = layer(adapter).init(jax.random.key(0), x)["params"]
    assert {name: p.shape for name, p in params.items() if name != "lora_magnitude"} == {
        "kernel": (4, 5),
        "lora_down": (4, 2),
        "lora_up": (2, 5),
    }
    assert ("lora_magnitude" in params) == adapter.dora
    params = {name: p + 0.3 * numbers(*p.shape) for name, p in params.items()}

    def ours(params, x, gate):
        return jnp.sum(layer(adapter).apply({"params": params}, x, gate) ** 2)

    def wanted(params, x, gate):
        return jnp.sum(by_hand(params, x, 1 if gate is None else gate, adapter) ** 2)

    which = (0, 1, 2) if gated else (0, 1)
    found, hand = (jax.value_and_grad(f, which)(params, x, gate) for f in (ours, wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, hand)


@pytest.mark.core
def test_new_adapters_are_as_pefts():
    adapter, x = dataclasses.replace(DORA, rank=64, targets=""), jnp.zeros((1, 1, 256))
    params = layer(adapter).init(jax.random.key(1), x)["params"]
    bound = 256**-0.5
    assert 0.9 * bound < np.abs(params["lora_down"]).max() <= bound
    assert abs(params["lora_down"].std() / (bound / 3**0.5) - 1) < 0.05
    assert not params["lora_up"].any()
    norms = np.linalg.norm(params["kernel"], axis=0)
    np.testing.assert_allclose(params["lora_magnitude"], norms, rtol=1e-5)


@pytest.mark.core
def test_a_column_of_zeros_is_not_divided_by():
    adapter, x = dataclasses.replace(DORA, targets=""), jnp.ones((1, 1, 4))
    variables = layer(adapter).init(jax.random.key(0), x)
    variables["params"] = jax.tree.map(jnp.zeros_like, variables["params"])
    assert not layer(adapter).apply(variables, x).any()


@pytest.mark.core
def test_dropout_drops_by_sample():
    x, key = jnp.ones((3, 100, 40)), jax.random.key(0)
    dropped = np.asarray(dropout(x, 0.25, key, jnp.array([5, 6, 7])))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    np.testing.assert_allclose((dropped == 0).mean((1, 2)), 0.25, atol=0.03)
    other = np.asarray(dropout(x[:2], 0.25, key, jnp.array([7, 5])))
    np.testing.assert_array_equal(other, dropped[[2, 0]])


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(rank=-1), "rank=-1"),
        (dict(alpha=0.0), "alpha=0.0"),
        (dict(dropout=1.0), r"dropout=1.0.*\[0, 1\)"),
        (dict(targets="(q"), "not a regex"),
    ],
)
def test_impossible_adapters_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        build.network(
            values(**{f"adapter__{name}": x for name, x in {"rank": 2, **changes}.items()})
        )


# ---- The network.

SMALL = {
    "width": 32,
    "blocks": 2,
    "mlp_width": 64,
    "modulation_rank": 8,
    "text_width": 16,
    "text_features": tiny.TEXT,
    "hint_widths": (32,),
    "control_blocks": (1,),
}
NO_CONTROL = {f"model__{name}": value for name, value in pretrained.NO_CONTROL.items()}


def values(**changes):
    config = demo.get_config()
    small = {f"model__{name}": value for name, value in SMALL.items()} | {"text__width": tiny.TEXT}
    for key, value in (small | {"mesh__data": 1} | changes).items():
        *sections, last = key.split("__")
        place = functools.reduce(lambda held, name: held[name], sections, config)
        with place.ignore_type():
            place[last] = value
    return build.check_config(config)


def built(**changes):
    """Values, trainer and sizes of the demo at a small size."""
    given = values(**changes)
    trainer = build.trainer(given)
    return given, trainer, build.sizes(given, one_device(), trainer)


def random(shapes):
    """Weights that are nowhere zero."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes)


BATCH = tiny.batch(range(2))


@functools.cache
def compiled(config):
    return jax.jit(DiT(config).apply)


def forward(config, params, constants, **more):
    b, v, t = BATCH.latents.shape[:3]
    control = BATCH.control if config.control_blocks else None
    inputs = (BATCH.latents, jnp.full((b, 1, 1), 500.0), BATCH.text, BATCH.view_ids)
    variables = {"params": params, "constants": constants}
    return np.asarray(
        compiled(config)(variables, *inputs, jnp.zeros((b, v, t)), control=control, **more)
    )


def without_adapters(params):
    return nest({path: leaf for path, leaf in flat(params).items() if "/lora_" not in path})


@pytest.fixture(scope="module")
def a_base(tmp_path_factory):
    """A checkpoint of a base without control, its variables and config."""
    folder = tmp_path_factory.mktemp("base")
    _, trainer, sizes = built(**NO_CONTROL)
    state = random(sizes.state).replace(ema=None)
    with checkpoints.Checkpoints(folder / "checkpoints", sizes.model, keep_last=1) as saver:
        saver.save(state, samples=0, data=None)
    return folder, state, trainer.net.config


@KINDS
def test_a_run_adds_adapters_and_a_control_branch_to_a_base(a_base, adapter):
    """The forward pass stays the base's, whatever is added; control blocks are copies."""
    folder, held, config = a_base
    given, trainer, sizes = built(
        init_from=str(folder),
        init_control="copy",
        adapter__rank=2,
        adapter__dora=adapter.dora,
        trainable="control/stem/.*|control/blocks/after/.*|.*/lora_.*",
    )
    build_weights.check_source(given)
    state = build_weights.initial_state(given, one_device(), trainer, sizes)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda x: x.shape, sizes.state)
    params = optim.merge(state.params, state.frozen)
    wanted = forward(config, held.params, held.constants)
    found = forward(trainer.net.config, params, state.constants)
    # DoRA's norms are summed in another order than its magnitudes were.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 if adapter.dora else 0)
    for path, leaf in flat(params["control"]["blocks"]).items():
        if "/lora_" not in path and not path.startswith("after/"):
            np.testing.assert_array_equal(leaf, flat(params["blocks"])[path][:1], path)
    trained = flat(state.params)
    trunk, control = (trained[f"{p}blocks/mlp/up/lora_down"] for p in ("", "control/"))
    assert control.std() > 0 and not np.array_equal(control, trunk[:1])
    assert trained["control/stem/embed/kernel"].std() > 0
    assert not trained["control/blocks/after/kernel"].any()


def test_what_is_missing_or_superfluous_is_told(a_base):
    folder, *_ = a_base
    with pytest.raises(ValueError, match=r'no control branch.*config.init_control="copy"'):
        build_weights.check_source(values(init_from=str(folder)))
    wrong = [
        (dict(init_from=str(folder), init_control="copy", **NO_CONTROL), "has no control branch"),
        (dict(init_control="copy"), "needs weights in config.init_from"),
        (dict(init_control="first"), '"source" or "copy"'),
        (dict(init_from=str(folder), init_control="copy", trainable="blocks/.*"), "train control"),
        (dict(init_from=str(folder), init_control="copy", model__mlp_width=48), "mlp_width is 64"),
    ]
    for changes, says in wrong:
        with pytest.raises(ValueError, match=says):
            build_weights.check_source(values(**changes))


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(adapter__targets="blocks/self_atn/q"), r"fits no layer.*'blocks/self_attn/q'"),
        (dict(adapter__targets="time/up"), "fits no layer"),
        (dict(trainable="control/.*"), r"leaves the adapter blocks/\S+ untrained.*lora_"),
        (dict(adapter__rnk=2), "config.adapter.rnk is not a setting.*rank"),
    ],
)
def test_adapters_that_nothing_trains_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        built(**{"adapter__rank": 2, **changes})


@pytest.mark.core
def test_targets_choose_layers_and_nothing_else_is_trained():
    _, trainer, sizes = built(adapter__rank=2, adapter__targets=r"control/blocks/mlp/up")
    assert trainer.trainable == optim.ADAPTERS  # as the default says of a network with adapters
    shapes = {path: leaf.shape for path, leaf in flat(sizes.state.params).items()}
    where = "control/blocks/mlp/up/lora_"
    assert shapes == {f"{where}down": (1, 32, 2), f"{where}up": (1, 2, 64)}
    assert jax.tree.structure(sizes.state.ema) == jax.tree.structure(sizes.state.params)
    assert sizes.model["network"]["adapter"]["rank"] == 2
    _, _, plain = built()
    assert "adapter" not in plain.model["network"]
    assert sizes.flops(2) < plain.flops(2)  # no gradients of kernels


@pytest.mark.core
def test_every_policy_of_rematerialisation_takes_adapters():
    config = tiny.config(
        **pretrained.NO_CONTROL, blocks=1, adapter=dataclasses.replace(DORA, dropout=0.1)
    )
    inputs = tiny.INPUTS | {"control": None, "latents": jnp.ones((1, 1, 4, 2, 2, 16))}
    variables = random(jax.eval_shape(DiT(config).init, jax.random.key(0), **inputs))
    params = variables["params"]

    def loss(params, remat):
        found = DiT(dataclasses.replace(config, remat=remat)).apply(
            variables | {"params": params},
            **inputs,
            index=jnp.arange(1),
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.mean((found - 1) ** 2)

    gradients = {name: jax.grad(functools.partial(loss, remat=name)) for name in attention.REMAT}
    kept, again = (jax.jit(gradients[name])(params) for name in ("none", "attention"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), kept, again)
    assert all(leaf.any() for path, leaf in flat(kept).items() if "/self_attn/" in path)
    for gradient in gradients.values():
        assert jax.eval_shape(gradient, params).keys() == params.keys()


# ---- Export.


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Workdirs of networks with trained LoRA and DoRA: {dora: (folder, trainer, state)}."""
    found = {}
    for dora in (False, True):
        folder = tmp_path_factory.mktemp("adapted")
        _, trainer, sizes = built(adapter__rank=2, adapter__dora=dora, adapter__alpha=3.0)
        state = random(sizes.state)
        with checkpoints.Checkpoints(folder / "checkpoints", sizes.model, keep_last=1) as saver:
            saver.save(state, samples=0, data=None)
        found[dora] = folder, trainer, state
    return found


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_merged_kernels_compute_the_same(adapted, dora):
    folder, trainer, state = adapted[dora]
    config = dataclasses.replace(trainer.net.config, adapter=None)
    source = weights.open_source(str(folder))
    for which, params in (("regular", state.params), ("ema", state.ema)):
        whole = optim.merge(params, state.frozen)
        merged = nest({path: array.read() for path, array in source.sets[which].items()})
        assert jax.tree.structure(merged["params"]) == jax.tree.structure(without_adapters(whole))
        wanted = forward(trainer.net.config, whole, state.constants)
        found = forward(config, merged["params"], state.constants)
        np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
        bare = forward(config, without_adapters(whole), state.constants)
        assert np.abs(bare - wanted).max() > 1e-2 * np.abs(wanted).max()


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_peft_gets_its_names_and_its_layout(adapted, dora, tmp_path):
    folder, _, state = adapted[dora]
    target = tmp_path / "peft"
    flags = ["--format=peft", "--which=regular"]
    commands.run("converters/convert.py", f"--source={folder}", f"--target={target}", *flags)
    about = json.loads((target / "adapter_config.json").read_text())
    told = [about[name] for name in ("peft_type", "r", "lora_alpha", "use_dora", "use_rslora")]
    assert told == ["LORA", 2, 3.0, dora, False]
    assert (
        len(about["target_modules"]) == 3 * 10 and "blocks.1.mlp.layer2" in about["target_modules"]
    )
    tensors = {
        key: tensor.read()
        for key, tensor in safetensors_files.open_safetensors(
            target / "adapter_model.safetensors"
        ).items()
    }
    names = (".lora_A.weight", ".lora_B.weight", *([".lora_magnitude_vector"] if dora else []))
    assert set(tensors) == {
        f"base_model.model.{module}{name}" for module in about["target_modules"] for name in names
    }
    ours = {path: np.asarray(leaf) for path, leaf in flat(state.params).items()}
    module = "base_model.model.blocks.1.cross_attn.output_proj"
    np.testing.assert_array_equal(
        tensors[f"{module}.lora_A.weight"], ours["blocks/text_attn/out/lora_down"][1].T
    )
    control = "base_model.model.control_blocks.0.mlp.layer1"
    np.testing.assert_array_equal(
        tensors[f"{control}.lora_B.weight"], ours["control/blocks/mlp/up/lora_up"][0].T
    )
    assert tensors[f"{control}.lora_A.weight"].shape == (2, 32)
    if dora:
        np.testing.assert_array_equal(
            tensors[f"{module}.lora_magnitude_vector"],
            ours["blocks/text_attn/out/lora_magnitude"][1],
        )


@pytest.mark.core
def test_peft_takes_adapters_and_nothing_else():
    with pytest.raises(ValueError, match="the source has none"):
        adapters.to_peft(None, "", ())
    both = adapters.Adapted(LORA, {}, ["control/stem/before/bias"])
    with pytest.raises(ValueError, match="1 other arrays were trained, as control/stem"):
        adapters.to_peft(both, "", ())
