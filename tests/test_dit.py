"""The diffusion transformer: numbers of the reference, properties, placement, bad input."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from converters.parity_checks import networks
from converters.parity_checks.golden import Golden, Options
from cosmos_jax import sharding
from cosmos_jax.models import cudnn as kernels
from cosmos_jax.models import layers, rope
from cosmos_jax.models.dit import DiT, DiTConfig
from cosmos_jax.pretrained import control_from_trunk

GOLDENS = pathlib.Path(__file__).parent / "goldens"
NETS = ["net_lvg", "net_mv", "net_control", "net_cross_control"]


@functools.cache
def compared(name):
    """The golden file, and the rows of its comparison."""
    golden = Golden.load(GOLDENS / f"{name}.npz")
    check = networks.check_bfloat16 if name == "nets_bf16" else networks.check
    return golden, list(check(golden, Options()))


@pytest.mark.parametrize("name", NETS)
def test_output_equals_the_reference(name):
    _, rows = compared(name)
    errors = {row.what: row.max_error for row in rows if row.what in ("out", "loss")}
    assert len(errors) == 2
    assert all(error <= 2e-5 for error in errors.values()), errors


@pytest.mark.parametrize("name", NETS)
def test_activations_equal_the_reference(name):
    golden, rows = compared(name)
    rows = [row for row in rows if row.what.startswith("act/")]
    # Cosines and sines of the angles are two rows.
    assert {row.what.split(",")[0] for row in rows} == {f"act/{n}" for n in golden.names("act/")}
    assert all(row.max_error <= 2e-5 for row in rows), rows
    assert golden.not_compared() == []


@pytest.mark.parametrize("name", NETS)
def test_gradients_equal_the_reference(name):
    golden, rows = compared(name)
    assert len(golden.json("grad_norms_json")) >= 89
    rows = [row for row in rows if row.what.startswith("grad")]
    assert len(rows) == len(golden.names("grad/")) + 1  # and one row for the norms
    assert all(row.max_error <= 0.1 * row.limit for row in rows), rows  # within 1e-4


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_is_as_near_as_the_reference(name):
    golden, rows = compared("nets_bf16")
    rows = [row for row in rows if row.what.startswith((f"{name}/", f"{name}:"))]
    limits = {row.what: row.limit for row in rows}
    assert limits[f"{name}/out"] == pytest.approx(1.6 * golden[f"{name}/rms_diff_vs_fp32"])
    # The output, the dtypes, and every activation.
    assert len(rows) == 2 + len(golden.names(f"{name}/act/"))
    assert all(row.ok for row in rows), rows


def test_float32_masters_and_their_bfloat16_copy_give_the_same_output():
    config = dataclasses.replace(BASE, dtype="bfloat16")
    inputs, masters = random_inputs(config), random_variables(BASE)
    copy = masters | {"params": jax.tree.map(lambda x: x.astype("bfloat16"), masters["params"])}
    np.testing.assert_array_equal(forward(config, inputs, masters), forward(config, inputs, copy))


# Below: small networks with random weights, in float32.

SMALL = dict(
    width=24,
    blocks=3,
    heads=2,
    mlp_width=32,
    modulation_rank=4,
    text_width=8,
    text_features=6,
    rope_ratios=(0.5, 3.0, 3.0),
    channels=4,
    view_rows=3,
    dtype="float32",
    remat="none",
)
CONTROL = dict(control_blocks=(0, 2), control_channels=8, hint_widths=(24, 12))
JOINT = DiTConfig(**SMALL, **CONTROL, view_channels=3)
BASE = DiTConfig(**SMALL)
LONE_CROSS = dataclasses.replace(
    BASE, view_modulation=True, joint_views=False, neighbours=((1, 2), (0,), (0, 1))
)
CROSS = dataclasses.replace(LONE_CROSS, **CONTROL)


def random_inputs(config, b=2, v=2, t=2, h=4, w=4):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    inputs = dict(
        latents=normal(b, v, t, h, w, config.channels),
        timesteps=rng.uniform(0, 1000, (b, 1, 1)).astype(np.float32),
        text=normal(b, v, 6, config.text_features),
        view_ids=np.tile(np.arange(v, dtype=np.int32), (b, 1)),
        condition_mask=rng.integers(0, 2, (b, v, t)).astype(np.float32),
    )
    if config.control_blocks:
        inputs["control"] = normal(b, v, t, h, w, config.control_channels)
    return jax.tree.map(jnp.asarray, inputs)


def random_variables(config):
    """Random everywhere, also where new parameters are zero."""
    run = dict(remat="none", dtype="float32", attention="xla", text_attention="xla")
    return _random_variables(dataclasses.replace(config, **run))


@functools.cache
def _random_variables(config):
    init = DiT(config).init
    shapes = jax.eval_shape(init, jax.random.key(0), **random_inputs(config))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes
    )
    temporal, spatial, _ = rope.axis_widths(config.width // config.heads)
    constants = {
        "rope_temporal": rope.exact_range(temporal, "float32"),
        "rope_spatial": rope.exact_range(spatial, "float32"),
    }
    return {"params": params, "constants": constants}


@functools.cache
def compiled(config):
    return jax.jit(DiT(config).apply)


def forward(config, inputs, variables=None):
    return np.asarray(compiled(config)(variables or random_variables(config), **inputs))


def close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)


def differ(a, b):
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.core
def test_a_timestep_may_be_given_for_every_frame():
    inputs = random_inputs(JOINT)
    same = jnp.broadcast_to(inputs["timesteps"], inputs["condition_mask"].shape)
    close(forward(JOINT, inputs), forward(JOINT, inputs | {"timesteps": same}))
    other = same.at[:, 0, 1].set(0.1)
    differ(forward(JOINT, inputs), forward(JOINT, inputs | {"timesteps": other}))


@pytest.mark.parametrize("config", [JOINT, CROSS], ids=["joint", "cross"])
def test_the_order_of_views_does_not_matter(config):
    inputs = random_inputs(config)
    views = ("latents", "text", "view_ids", "condition_mask", "control")
    turned = inputs | {name: inputs[name][:, ::-1] for name in views}
    close(forward(config, inputs)[:, ::-1], forward(config, turned))
    relabelled = inputs | {"view_ids": inputs["view_ids"][:, ::-1]}
    differ(forward(config, inputs), forward(config, relabelled))


def test_a_view_sees_itself_and_its_neighbours_only():
    config = dataclasses.replace(LONE_CROSS, blocks=1)
    inputs = random_inputs(config, v=3)
    other = inputs | {"latents": inputs["latents"].at[:, 2].add(1.0)}
    before, after = forward(config, inputs), forward(config, other)
    close(before[:, 1], after[:, 1])  # Looks at view 0 alone.
    differ(before[:, 0], after[:, 0])  # Looks at views 1 and 2.
    # Without its neighbours a view stands alone, wherever it stands.
    alone = jax.tree.map(lambda x: x[:, 1:2] if x.shape[1] == 3 else x, inputs)
    assert np.isfinite(forward(config, alone)).all()
    differ(forward(config, alone), before[:, 1:2])


def test_control_is_a_sum_of_weighted_hints():
    inputs, variables = random_inputs(JOINT), random_variables(JOINT)
    one = forward(JOINT, inputs)
    none = forward(JOINT, inputs | {"control_scale": jnp.float32(0)})
    each = forward(JOINT, inputs | {"control_scale": jnp.array([0.0, 1.0])})
    close(each, np.stack([none[0], one[1]]))
    differ(one, none)
    trunk = {k: x for k, x in variables["params"].items() if k != "control"}
    base = dataclasses.replace(BASE, view_channels=JOINT.view_channels)
    without = {k: x for k, x in inputs.items() if k != "control"}
    close(none, forward(base, without, variables | {"params": trunk}))


def test_missing_control_channels_are_zeros():
    inputs = random_inputs(JOINT)
    few = inputs["control"].at[..., 4:].set(0)
    close(
        forward(JOINT, inputs | {"control": few}),
        forward(JOINT, inputs | {"control": few[..., :4]}),
    )


def test_padding_is_resized_by_nearest():
    mask = jnp.arange(2 * 7 * 5, dtype=jnp.float32).reshape(2, 7, 5)
    resized = layers.resize_nearest(mask, 3, 4)
    np.testing.assert_array_equal(resized, mask[:, [0, 2, 4]][:, :, [0, 1, 2, 3]])
    inputs = random_inputs(BASE)
    zeros = inputs | {"padding_mask": jnp.zeros((2, 32, 32))}
    close(forward(BASE, inputs), forward(BASE, zeros))
    padded = inputs | {"padding_mask": jnp.zeros((2, 32, 32)).at[:, 16:].set(1)}
    differ(forward(BASE, inputs), forward(BASE, padded))


def test_frame_positions_follow_the_first_frame_rate():
    config = dataclasses.replace(BASE, rope_fps=True)
    inputs = random_inputs(config)
    variables = random_variables(BASE)
    at = lambda *fps: forward(config, inputs | {"fps": jnp.array(fps)}, variables)  # noqa: E731
    close(at(24.0, 6.0), forward(BASE, inputs, variables))
    differ(at(12.0, 24.0), at(24.0, 24.0))


@pytest.mark.core
def test_rope_ranges_are_read_from_the_constants():
    rounded = rope.exact_range(42, "bfloat16")
    np.testing.assert_array_equal(rounded, rope.exact_range(42, "float32").astype(jnp.bfloat16))
    differ(rounded, rope.exact_range(42, "float32"))
    inputs, variables = random_inputs(BASE), random_variables(BASE)
    moved = variables | {"constants": jax.tree.map(lambda x: x / 2, variables["constants"])}
    differ(forward(BASE, inputs), forward(BASE, inputs, moved))


def test_new_weights_follow_the_published_initialisation():
    inputs = random_inputs(JOINT)
    params = jax.jit(DiT(JOINT).init)(jax.random.key(0), **inputs)["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    for name in ("blocks/self_attn/k", "blocks/text_attn/v", "blocks/mlp/down", "time/out"):
        kernel = np.asarray(flat[f"{name}/kernel"])
        std = kernel.shape[-2] ** -0.5
        assert abs(kernel.std() / std - 0.987) < 0.1, name  # 0.987: cut at three deviations.
        assert np.abs(kernel).max() <= 3 * std
    assert not flat["blocks/mlp_modulation/up/kernel"].any()
    assert not flat["control/blocks/after/kernel"].any()
    assert np.abs(flat["text_project/bias"]).max() <= 6**-0.5
    blocks = flat["blocks/self_attn/q/kernel"]
    assert not np.array_equal(blocks[0], blocks[1])
    # No hint leaves an untrained control branch.
    other = inputs | {"control": inputs["control"] + 1}
    variables = random_variables(JOINT) | {"params": params}
    np.testing.assert_array_equal(
        forward(JOINT, inputs, variables), forward(JOINT, other, variables)
    )


def test_new_control_blocks_copy_the_first_blocks_of_the_trunk():
    params = random_variables(JOINT)["params"]
    copied = control_from_trunk(params)
    trunk, control = params["blocks"], copied["control"]["blocks"]
    for key, stacked in traverse_util.flatten_dict(trunk).items():
        np.testing.assert_array_equal(traverse_util.flatten_dict(control)[key], stacked[:2])
    assert control["after"] is params["control"]["blocks"]["after"]
    assert copied["control"]["stem"] is params["control"]["stem"]
    assert copied["blocks"] is trunk


# What the backward pass keeps and runs again.


def equations(jaxpr):
    """All equations of a jaxpr, also the inner ones."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def gradient_jaxpr(config):
    inputs, variables = random_inputs(config), random_variables(config)

    def loss(params):
        return DiT(config).apply(variables | {"params": params}, **inputs).sum()

    return jax.make_jaxpr(jax.grad(loss))(variables["params"]).jaxpr


def test_policies_trade_memory_for_products():
    def products(remat):
        jaxpr = gradient_jaxpr(dataclasses.replace(JOINT, remat=remat))
        return sum(equation.primitive.name == "dot_general" for equation in equations(jaxpr))

    assert products("none") < products("attention_inputs") < products("attention")
    assert products("attention") == products("offload") < products("full")


@pytest.mark.parametrize(
    "remat, kept", [("attention_inputs", 5), ("attention", 2), ("offload", 2), ("full", 1)]
)
def test_stored_activations_are_bfloat16_and_few(remat, kept):
    config = dataclasses.replace(JOINT, remat=remat, dtype="bfloat16", blocks=5)
    inputs = random_inputs(config)
    tokens = inputs["latents"].size // (4 * config.channels) * config.width
    stored = [
        out.aval
        for equation in equations(gradient_jaxpr(config))
        if equation.primitive.name == "scan" and not equation.params["reverse"]
        for out in equation.outvars
        if out.aval.shape[:1] == (5,) and out.aval.size >= 5 * tokens
    ]
    # One input (and one attention output, with its inputs) a block, and no copy of the hints.
    assert [(aval.size, aval.dtype) for aval in stored] == [(5 * tokens, jnp.bfloat16)] * kept
    waiting = [aval for aval in stored if aval.memory_space == jax.memory.Space.Host]
    assert len(waiting) == (remat == "offload")


@pytest.mark.parametrize("remat, again", [("attention", 0), ("full", 1)])
def test_the_kernel_of_self_attention_does_not_run_twice(monkeypatch, remat, again):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    changes = dict(remat=remat, attention="cudnn", text_attention="cudnn", dtype="bfloat16")
    config = dataclasses.replace(BASE, **changes, width=32, text_features=6)
    names = [equation.primitive.name for equation in equations(gradient_jaxpr(config))]
    assert names.count("dot_product_attention_bwd_wrapper") == 2
    # Forward: self and text. Backward: text, and self if nothing is kept.
    assert names.count("dot_product_attention_fwd_wrapper") == 3 + again


def test_deterministic_kernels_are_all_numbered(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(kernels, "TILE", 4)
    monkeypatch.setattr(kernels, "MANY_KEYS", 7)  # self-attention has 8, the text 5
    changes = dict(attention="cudnn_by_head", text_attention="cudnn_by_head", dtype="bfloat16")
    config = dataclasses.replace(CROSS, **changes, width=32, text_features=6)
    calls = [e for e in equations(gradient_jaxpr(config)) if "bwd_wrapper" in e.primitive.name]
    # To itself head by head, to the neighbours, to the text; in the trunk and the control branch.
    assert len(calls) == 2 * (config.heads + 2)
    assert len({call.params["seed"] for call in calls}) == len(calls)


# Placement on a mesh.


def step(config, inputs, mesh=None):
    """Output, gradients and the compiled text."""
    variables = random_variables(config)

    def loss(params, inputs):
        out = DiT(config).apply(variables | {"params": params}, **inputs)
        return jnp.sin(out).mean(), out

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    params = variables["params"]
    if mesh is None:
        (_, out), grads = run(params, inputs)
        return out, grads, ""
    with jax.set_mesh(mesh):
        params = jax.device_put(params, sharding.param_shardings(params, mesh))
        inputs = jax.device_put(inputs, jax.NamedSharding(mesh, sharding.P(sharding.BATCH)))
        program = run.lower(params, inputs).compile()
        (_, out), grads = program(params, inputs)
    return out, grads, program.as_text()


MESHES = {
    # Frames split over context, all-to-all over heads.
    "frames": (JOINT, dict(b=4, v=2, t=2, h=8), dict(data=2, fsdp=2, context=2)),
    # Three frames do not divide: rows split; two heads do not divide: keys are gathered.
    "rows": (BASE, dict(b=2, v=2, t=3, h=8), dict(data=1, fsdp=2, context=4)),
    "cross": (LONE_CROSS, dict(b=4, v=3, t=3, h=8), dict(data=2, fsdp=2, context=2)),
}


@pytest.mark.parametrize("name", MESHES)
def test_neither_mesh_nor_policy_changes_a_gradient(name):
    config, sizes, axes = MESHES[name]
    inputs = random_inputs(config, **sizes)
    if config.control_blocks:
        inputs["control_scale"] = jnp.linspace(0.5, 1, sizes["b"])
    out, grads, _ = step(dataclasses.replace(config, remat="full"), inputs)
    config = dataclasses.replace(config, remat="none" if name == "rows" else "attention")
    split_out, split_grads, text = step(config, inputs, sharding.make_mesh(**axes))
    close(split_out, out)
    jax.tree.map(close, split_grads, grads)
    if name == "frames":
        assert len(re.findall(r" all-to-all\(", text)) >= 8
        weights = {leaf.shape[-2:] for leaf in jax.tree.leaves(grads)}
        gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", text)
        shapes = [tuple(map(int, shape.split(","))) for shape in gathered]
        assert shapes and all(shape[-2:] in weights and len(shape) <= 3 for shape in shapes)


# Bad input.


@pytest.mark.parametrize(
    "changes, fault",
    [
        (dict(heads=5), "width 24 does not divide by heads 5"),
        (dict(heads=3), "heads of 8 features"),
        (dict(remat="some"), "remat 'some'"),
        (dict(control_blocks=()), "control_blocks and control_channels go together"),
        (dict(control_blocks=(3,)), "not blocks 0..2"),
        (dict(view_rows=0), "need view_rows"),
        (dict(attention="cudnn"), "computes in bfloat16"),
        (dict(text_attention="flash"), "are not all of"),
    ],
)
@pytest.mark.core
def test_contradicting_fields_are_errors(changes, fault):
    with pytest.raises(ValueError, match=fault):
        dataclasses.replace(JOINT, **changes)


@pytest.mark.parametrize(
    "changes, fault",
    [
        (dict(latents=jnp.zeros((2, 2, 2, 4, 4, 5))), "latents of 5 channels"),
        (dict(latents=jnp.zeros((2, 2, 2, 4, 3, 4))), "4 x 3 latents do not divide by 2"),
        (dict(latents=jnp.zeros((2, 2, 129, 4, 4, 4))), "129 patches along one axis; it takes 128"),
        (dict(text=jnp.zeros((2, 2, 6, 7))), "text of 7 features; it takes 6"),
        (dict(control=None), "control latents are missing"),
        (dict(control=jnp.zeros((2, 2, 2, 4, 4, 9))), "control of 9 channels; it takes 8"),
    ],
)
@pytest.mark.core
def test_inputs_that_do_not_fit_are_errors(changes, fault):
    inputs = random_inputs(JOINT) | changes
    if "latents" in changes:
        inputs["condition_mask"] = jnp.zeros(changes["latents"].shape[:3])
        inputs["control"] = jnp.zeros((*changes["latents"].shape[:5], 8))
    with pytest.raises(ValueError, match=fault):
        jax.eval_shape(DiT(JOINT).apply, random_variables(JOINT), **inputs)


def test_control_without_a_control_branch_is_an_error():
    inputs = random_inputs(BASE) | {"control": jnp.zeros((2, 2, 2, 4, 4, 4))}
    with pytest.raises(ValueError, match="has no control branch"):
        jax.eval_shape(DiT(BASE).apply, random_variables(BASE), **inputs)


def test_frame_positions_need_a_frame_rate():
    config = dataclasses.replace(BASE, rope_fps=True)
    with pytest.raises(ValueError, match="follow fps"):
        jax.eval_shape(DiT(config).apply, random_variables(BASE), **random_inputs(BASE))
