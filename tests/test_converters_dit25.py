"""Options and weight names of the Cosmos-Predict2.5 and Cosmos-Transfer2.5 networks."""

import dataclasses
import gzip
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from converters import dit25, rules
from converters.stored import in_memory
from cosmos_jax.models.dit import DiT

pytestmark = pytest.mark.core

GOLDENS = pathlib.Path(__file__).parent / "goldens"
KEYS = json.loads(gzip.decompress((GOLDENS / "keys25.json.gz").read_bytes()))

TRUNK = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
    "model_channels": 2048,
    "num_blocks": 28,
    "num_heads": 16,
    "adaln_lora_dim": 256,
    "crossattn_emb_channels": 1024,
    "use_crossattn_projection": True,
    "crossattn_proj_in_channels": 100_352,
    "rope_h_extrapolation_ratio": 3.0,
    "rope_w_extrapolation_ratio": 3.0,
    "rope_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
    "timestep_scale": 0.001,
    "mlp_ratio": 4.0,
}
VIEWS = {
    "rope_t_extrapolation_ratio": 8 / 24,
    "state_t": 8,
    "n_cameras_emb": 7,
    "view_condition_dim": 7,
    "concat_view_embedding": True,
}
ARMS = ("head_color", "hand_left", "hand_right")
CROSS = {
    "n_cameras_emb": 3,
    "view_condition_dim": 6,
    "concat_view_embedding": False,
    "adaln_view_embedding": True,
    "enable_cross_view_attn": True,
    "cross_view_attn_map_str": {a: [b for b in ARMS if b != a] for a in ARMS},
    "camera_to_view_id": {arm: i for i, arm in enumerate(ARMS)},
}
CONTROL = {
    "vace_has_mask": False,
    "use_input_hint_block": True,
    "condition_strategy": "spaced",
    "vace_block_every_n": 7,
    "num_max_modalities": 8,
}
ONE_HINT = CONTROL | {"use_input_hint_block": False, "num_max_modalities": 1}
BIG = {"model_channels": 5120, "num_blocks": 36, "num_heads": 40}

PUBLISHED = {
    "predict2.5_2b_video2world": ("MinimalV1LVGDiT", TRUNK, 2_059_174_912),
    "predict2.5_14b_video2world": ("MinimalV1LVGDiT", TRUNK | BIG, 14_368_047_104),
    "predict2.5_2b_auto_multiview": ("MultiViewDiT", TRUNK | VIEWS, 2_059_232_305),
    "transfer2.5_2b_auto_multiview": (
        "MultiViewControlDiT",
        TRUNK | VIEWS | CONTROL,
        2_387_995_697,
    ),
    "predict2.5_2b_robot_multiview_agibot": ("MultiViewCrossDiT", TRUNK | CROSS, 2_566_832_128),
    "transfer2.5_2b_robot_multiview_agibot": (
        "MultiViewCrossControlDiT",
        TRUNK | CROSS | ONE_HINT,
        2_931_913_728,
    ),
}


def shapes(config):
    """The network's tree at full size, without memory."""
    c = dataclasses.replace(config, remat="none")
    like = jax.ShapeDtypeStruct
    inputs = dict(
        latents=like((1, 3, 2, 4, 4, c.channels), jnp.float32),
        timesteps=like((1, 1, 1), jnp.float32),
        text=like((1, 3, 5, c.text_features or c.text_width), jnp.float32),
        view_ids=like((1, 3), jnp.int32),
        condition_mask=like((1, 3, 2), jnp.float32),
    )
    if c.control_blocks:
        inputs["control"] = inputs["latents"]
    return jax.eval_shape(DiT(c).init, jax.random.key(0), **inputs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_tensor_has_its_place(name):
    cls, options, parameters = PUBLISHED[name]
    config = dit25.config(cls, options)
    tree = shapes(config)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree["params"]))
    assert count == parameters
    stored = {k: tuple(s) for k, s in KEYS[name].items() if not k.endswith("._extra_state")}
    table = dit25.table(config)
    assert rules.reference_shapes(table, tree) == stored
    tensors = {k: in_memory(np.broadcast_to(np.int8(0), s or ())) for k, s in KEYS[name].items()}
    arrays = rules.read(table, tensors, tree)
    flat = traverse_util.flatten_dict(tree, sep="/")
    assert {k: a.shape for k, a in arrays.items()} == {k: x.shape for k, x in flat.items()}


def test_the_control_branch_lies_under_control():
    cls, options, _ = PUBLISHED["transfer2.5_2b_auto_multiview"]
    tree = shapes(dit25.config(cls, options))["params"]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree["control"]))
    assert count == 328_763_392


@pytest.mark.parametrize("name", ["net_lvg", "net_mv", "net_control", "net_cross_control"])
def test_state_dicts_come_back_unchanged(name):
    with np.load(GOLDENS / f"{name}.npz") as golden:
        described = json.loads(str(golden["config_json"]))
        state_dict = {k[3:]: golden[k] for k in golden.files if k.startswith("sd/")}
    config = dit25.config(described["cls"], described["cfg"])
    table = dit25.table(config)
    back = rules.to_reference(table, rules.to_ours(table, state_dict, shapes(config)))
    assert back.keys() == state_dict.keys()
    for key, tensor in state_dict.items():
        assert back[key].dtype == tensor.dtype, key
        np.testing.assert_array_equal(back[key], tensor)


def test_control_blocks_are_spaced_or_the_first():
    def blocks(strategy, n, every):
        changes = {"condition_strategy": strategy, "num_blocks": n, "vace_block_every_n": every}
        options = TRUNK | VIEWS | CONTROL | changes
        return dit25.config("MultiViewControlDiT", options).control_blocks

    assert blocks("spaced", 28, 7) == (0, 7, 14, 21)
    assert blocks("spaced", 36, 7) == (0, 7, 14, 21, 28, 35)
    assert blocks("first_n", 28, 7) == (0, 1, 2, 3)
    assert blocks("first_n", 36, 7) == (0, 1, 2, 3, 4)


def test_neighbours_are_listed_by_view_id():
    config = dit25.config("MultiViewCrossDiT", TRUNK | CROSS)
    assert config.neighbours == ((1, 2), (0, 2), (0, 1))
    ids = {"head_color": 3, "hand_left": 0, "hand_right": 1}
    config = dit25.config("MultiViewCrossDiT", TRUNK | CROSS | {"camera_to_view_id": ids})
    assert config.neighbours == ((3, 1), (3, 0), (), (0, 1))


def test_hint_widths_follow_hint_nf():
    options = TRUNK | VIEWS | CONTROL | {"hint_nf": [2048, 64, 32]}
    assert dit25.config("MultiViewControlDiT", options).hint_widths == (64, 32)


@pytest.mark.parametrize(
    "cls, changes, fault",
    [
        ("MultiViewDiT", {"num_block": 3}, r"unknown options .*num_block"),
        ("MultiViewDiT", {"vace_block_every_n": 7}, "vace_block_every_n"),
        ("MultiViewDiT", {"patch_temporal": 2}, r"patch_temporal .* must be 1"),
        ("MultiViewDiT", {"out_channels": 32}, r"out_channels .* must be 16"),
        ("MultiViewControlDiT", {}, r"vace_block_every_n .* is missing"),
        ("MultiViewControlDiT", CONTROL | {"condition_strategy": "last_n"}, "last_n"),
        ("MultiViewControlDiT", CONTROL | {"hint_nf": [64, 2048]}, "hint_nf must begin with"),
        ("OtherDiT", {}, "OtherDiT"),
    ],
)
def test_options_that_are_not_ours_are_errors(cls, changes, fault):
    with pytest.raises(ValueError, match=fault):
        dit25.config(cls, TRUNK | VIEWS | changes)
