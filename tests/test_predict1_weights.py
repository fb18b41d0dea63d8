"""Options and weight names of the Predict1 networks; files of their trainer, both ways."""

import gzip
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import convert, networks, predict1, rules, torch_files, weights
from converters.stored import BFLOAT16, Stored, cast, in_memory
from cosmos_jax import build_predict1, checkpoints
from cosmos_jax.types import TrainState

pytestmark = pytest.mark.core

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "predict1"
KEYS = json.loads(gzip.decompress((GOLDENS / "keys.json.gz").read_bytes()))

FULL = {
    "adaln_lora_dim": 256,
    "crossattn_emb_channels": 1024,
    "in_channels": 16,
    "out_channels": 16,
    "logvar_channels": 128,
    "max_frames": 128,
    "max_img_h": 240,
    "max_img_w": 240,
    "model_channels": 4096,
    "num_blocks": 28,
    "num_heads": 32,
    "rope_h_extrapolation_ratio": 1.0,
    "rope_t_extrapolation_ratio": 2.0,
    "rope_w_extrapolation_ratio": 1.0,
    "use_adaln_lora": True,
}
LEARNED = {"extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable"}
PUBLISHED = {"n_views": 6, "view_condition_dim": 6, "add_repeat_frame_embedding": True}
# Our name, the reference's class and options, and its number of parameters.
NETWORKS = {
    "t2w_7b": ("predict1_7b", "GeneralDIT", LEARNED, 7_236_192_384),
    # The multi-view class has fixed positions whatever type is asked for.
    "t2w_mv_sample_av_7b": (
        "predict1_7b_multiview_av",
        "MultiviewGeneralDIT",
        PUBLISHED | LEARNED,
        7_234_783_408,
    ),
    "t2w_mv_waymo_posttrain_7b": (
        "predict1_7b_multiview_waymo",
        "MultiviewGeneralDIT",
        {"n_views": 5},
        7_234_734_223,
    ),
    "v2w_mv_sample_av_7b": (
        "predict1_7b_multiview_av_video",
        "VideoExtendMultiviewGeneralDIT",
        PUBLISHED | LEARNED,
        7_234_799_792,
    ),
}


def unread():
    raise AssertionError("nothing is to be read")


def described(name):
    """A published file's tensors, without their numbers."""
    return {
        key: Stored(tuple(shape), np.dtype(np.float32), unread) for key, shape in KEYS[name].items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_are_recognised_and_mapped_both_ways(name):
    ours, _, _, parameters = NETWORKS[name]
    tensors, others = networks.bare(described(name))
    assert list(tensors) == ["regular"] and not others
    network = networks.recognise(tensors["regular"])
    assert network.name == ours
    arrays = networks.read(network, tensors["regular"])
    back = rules.reference_shapes(network.table, network.like)
    assert {k if k.startswith("logvar.") else f"net.{k}": list(v) for k, v in back.items()} == (
        KEYS[name]
    )
    assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(network.like["params"])) == parameters
    assert {p.split("/")[1] for p in arrays if p.startswith("constants")} == {"logvar"}
    again = networks.from_options(network.name, json.loads(json.dumps(network.options)))
    assert again.options == network.options
    assert networks.published(ours).options == network.options


@pytest.mark.parametrize("name", NETWORKS)
def test_options_of_the_reference_are_our_variants(name):
    ours, cls, options, _ = NETWORKS[name]
    config = predict1.config(cls, FULL | options)
    variant = build_predict1.VARIANTS[ours]
    left_out = {"repeated_views", "dtype"}  # how published inference calls it
    for field, value in vars(variant).items():
        assert field in left_out or getattr(config, field) == value, field


@pytest.mark.parametrize(
    "cls, options, fault",
    [
        ("MinimalV1LVGDiT", {}, "unknown reference network MinimalV1LVGDiT"),
        ("GeneralDIT", {"use_cross_attn_mask": True}, "use_cross_attn_mask .* must be False"),
        ("GeneralDIT", {"n_views": 5}, r"unknown options .* \['n_views'\]"),
        ("MultiviewGeneralDIT", {}, "option n_views .* is missing"),
        (
            "GeneralDIT",
            {**LEARNED, "extra_per_block_abs_pos_emb_type": "x"},
            "'x' is not supported",
        ),
    ],
)
def test_options_that_are_not_supported_are_errors(cls, options, fault):
    with pytest.raises(ValueError, match=fault):
        predict1.config(cls, FULL | options)


def file_of(name):
    """The tensors of a small published-like file."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        return {key[3:]: in_memory(file[key]) for key in file.files if key.startswith("sd/")}


def equal(back, wanted):
    assert back.keys() == wanted.keys()
    for key, tensor in wanted.items():
        got, held = back[key].read(), tensor.read()
        assert (got.dtype, got.tobytes()) == (held.dtype, held.tobytes()), key


@pytest.mark.parametrize("prefix", ["net.", ""])
def test_a_file_comes_back_bit_for_bit(prefix, tmp_path):
    """Names with `net.` or bare; what TransformerEngine leaves in a file holds nothing."""
    tensors = file_of("edm_loss")
    named = {key.replace("net.", prefix, 1): tensor for key, tensor in tensors.items()}
    opaque = {f"{prefix}blocks.block0.blocks.0.block.attn.attn_op._extra_state": np.zeros(3)}
    extra = {key: in_memory(value) for key, value in opaque.items()}
    torch_files.write_torch(tmp_path / "model.pt", named | extra)
    source = weights.open_source(str(tmp_path / "model.pt"))
    assert source.network.name == "predict1_7b_multiview_waymo, other sizes"
    equal(weights.to_reference(source, source.choose("ema"), None, "net."), tensors)


@pytest.mark.torch
def test_a_file_that_holds_the_state_under_model_is_read(tmp_path):
    import torch

    tensors = file_of("dit_single")
    held = {f"net.{key}": torch.tensor(tensor.read()) for key, tensor in tensors.items()}
    torch.save({"model": held}, tmp_path / "model.pt")
    source = weights.open_source(str(tmp_path / "model.pt"))
    assert source.network.name == "predict1_7b, other sizes"
    assert source.network.options["learned"] == (16, 12, 12)
    assert source.network.options["uncertainty"] == 0
    wanted = {f"net.{key}": tensor for key, tensor in tensors.items()}
    equal(weights.to_reference(source, "regular", None, "net."), wanted)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint after 200 steps, whose EMA is half of its weights."""
    tensors = {key.removeprefix("net."): t.read() for key, t in file_of("edm_loss").items()}
    network = networks.recognise({key: in_memory(t) for key, t in tensors.items()})
    tree = jax.tree.map(jnp.asarray, rules.to_ours(network.table, tensors, network.like))
    average = jax.tree.map(lambda x: x / 2, tree["params"])
    state = TrainState(jnp.int32(200), tree["params"], {}, tree["constants"], (), average)
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    about = {"network": network.options}
    with checkpoints.Checkpoints(folder, about, keep_last=1) as writer:
        writer.save(state, 800, {})
    return folder.parent


def test_the_two_files_of_the_trainer(run, tmp_path):
    source = weights.open_source(str(run))
    assert source.step == 200
    convert.write(source, "ema", tmp_path / "both", "guides")
    files = {p.name: torch_files.open_torch(p) for p in (tmp_path / "both").iterdir()}
    assert files.keys() == {"iter_000000200_reg_model.pt", "iter_000000200_ema_model.pt"}
    wanted = file_of("edm_loss")
    regular, average = (files[f"iter_000000200_{kind}_model.pt"] for kind in ("reg", "ema"))
    equal(regular, {key: cast(tensor, BFLOAT16) for key, tensor in wanted.items()})
    assert average.keys() == wanted.keys()
    for key, tensor in average.items():
        still = re.search(r"\.seq$|^logvar\.0", key)  # never trained, so never averaged
        half = wanted[key].read() / (1 if still else 2)
        np.testing.assert_array_equal(tensor.read(), half, err_msg=key)
    # The name of a file says what it holds; model.pt is what a post-trained model is used by.
    for name, like in (("iter_000000007_reg_model.pt", regular), ("model.pt", average)):
        convert.write(source, "ema", tmp_path / name, "pt")
        equal(torch_files.open_torch(tmp_path / name), like)
    again = weights.open_source(str(tmp_path / "iter_000000007_reg_model.pt"))
    assert again.network.options == source.network.options


def test_a_trained_average_is_not_made_of_bfloat16(tmp_path):
    held = {key: cast(tensor, BFLOAT16) for key, tensor in file_of("edm_loss").items()}
    torch_files.write_torch(tmp_path / "model.pt", held)
    source = weights.open_source(str(tmp_path / "model.pt"))
    with pytest.raises(ValueError, match="not as float32"):
        convert.write(source, "regular", tmp_path / "iter_000000001_ema_model.pt", "pt")


@pytest.mark.parametrize(
    "lost, fault",
    [
        ("net.view_embeddings.weight", "0 view channels do not explain"),
        ("net.affline_norm.weight", r"affline_norm.weight: missing"),
        ("logvar.0.phases", r"logvar.0.phases: missing"),
        ("net.t_embedder.1.linear_2.weight", r"linear_2.weight: missing"),
    ],
)
def test_a_missing_tensor_is_named(lost, fault, tmp_path):
    tensors = file_of("edm_loss")
    del tensors[lost]
    torch_files.write_torch(tmp_path / "model.pt", tensors)
    with pytest.raises(ValueError, match=fault):
        weights.open_source(str(tmp_path / "model.pt"))
