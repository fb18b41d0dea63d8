"""The T5 encoder: numbers of the reference, sentences, placement, weight names, guide files."""

import dataclasses
import functools
import json
import math
import pathlib
import pickle
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import pre_tokenizers, processors

from converters import networks, rules, t5_files, weights
from converters import t5 as names
from converters.parity_checks import kinds
from converters.parity_checks import t5 as parity
from converters.parity_checks.golden import Golden, Options
from converters.safetensors_files import write_safetensors
from converters.stored import in_memory
from converters.torch_files import write_torch
from cosmos_jax import build, build_text, sharding
from cosmos_jax.models import t5
from cosmos_jax.models.t5 import T5Config, T5Encoder, T5Text
from cosmos_jax.types import APART

GOLDENS = pathlib.Path(__file__).parent / "goldens"
TINY = dict(hidden_width=16, blocks=2, heads=3, head_width=8, mlp_width=24, vocabulary=300)
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def text(tokenizer="none", **changes):
    return T5Text(**{"tokenizer": str(tokenizer), "tokens": 24, **TINY, **changes})


def save_tokenizer(folder, closes=True):
    """A folder with a tokenizer of bytes, whose ids begin at 3, and the closing token, 1."""
    ids = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {char: i + 3 for i, char in enumerate(ALPHABET)}
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.add_special_tokens(["<pad>", "</s>"])
    if closes:
        fast.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@functools.cache
def params(**changes):
    return jax.jit(text(**changes).init)(jax.random.key(0))


def spelled(string):
    return [ALPHABET.index({" ": "Ġ"}.get(char, char)) + 3 for char in string] + [1]


@pytest.mark.core
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_golden(dtype):
    file = Golden.load(GOLDENS / "t5_tiny.npz")
    rows = list(parity.check(file, Options(dtype=dtype)))
    assert [row for row in rows if not row.ok] == []
    assert {row.what for row in rows} == {
        f"{kind}/{n}" for kind in ("out", "act") for n in file.names(f"{kind}/")
    }
    if dtype == "float32":
        errors = [row.max_error for row in rows if row.what != "out/fp16_zeroed"]
        assert max(errors) < 1e-5
    assert file.not_compared() == []


@pytest.mark.core
def test_buckets_of_near_and_far_tokens():
    """Eight distances have their own, 128 and more share the last; ahead is the upper half."""
    of = t5.buckets(T5Config(), 300)
    assert of[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24]
    assert of[20, 12:21].tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert (of[0, 128:] == 31).all() and (of[299, :171] == 15).all()
    assert (np.diff(of[0]) >= 0)[1:].all()


@pytest.mark.torch
@pytest.mark.parametrize(("count", "far"), [(32, 128), (16, 40), (8, 20)])
def test_buckets_are_those_of_transformers(count, far):
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(200)
    theirs = T5Attention._relative_position_bucket(
        places[None] - places[:, None], bidirectional=True, num_buckets=count, max_distance=far
    )
    ours = t5.buckets(T5Config(buckets=count, max_distance=far), 200)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.core
def test_files_that_name_the_token_table_twice_are_of_this_encoder():
    file = Golden.load(GOLDENS / "t5_tiny.npz")
    table = file["sd/shared.weight"]
    twice = Golden(file.path, file.arrays | {"sd/encoder.embed_tokens.weight": table})
    assert kinds.find_check(twice) is parity.check
    assert all(row.ok for row in parity.check(twice, Options()))


def test_ids_are_closed_cut_and_padded(tokenizer):
    ids, lengths = text(tokenizer, tokens=5).ids(["ab", "", "abcdefgh"])
    assert ids.tolist() == [[*spelled("ab"), 0, 0], [1, 0, 0, 0, 0], [*spelled("abcd")]]
    assert lengths.tolist() == [3, 1, 5]


def test_rows_after_the_length_are_zero_and_do_not_matter(tokenizer):
    long, short = text(tokenizer), text(tokenizer, tokens=9)
    many, few = (e.encode(params(), ["a car", "ab"]) for e in (long, short))
    assert many.shape == (2, 24, 16) and few.shape == (2, 9, 16)
    for i, length in ((0, 6), (1, 3)):
        assert np.abs(many[i, :length]).min(axis=1).max() > 0
        assert not many[i, length:].any()
        np.testing.assert_allclose(few[i, :length], many[i, :length], atol=2e-5)


def test_sentences_are_encoded_apart(tokenizer):
    encoder = text(tokenizer)
    whole, together = encoder.encode(params(), [f"a car{APART}drives", "a cardrives"])
    first, second = encoder.encode(params(), ["a car", "drives"])
    np.testing.assert_allclose(whole[:6], first[:6], atol=2e-5)
    np.testing.assert_allclose(whole[6:13], second[:7], atol=2e-5)
    assert not whole[13:].any()
    assert np.abs(together[:6] - first[:6]).max() > 1e-2
    (cut,) = text(tokenizer, tokens=8).encode(params(), [f"a car{APART}drives"])
    np.testing.assert_allclose(cut, whole[:8], atol=2e-5)


def test_eight_devices_give_what_one_gives(tokenizer):
    encoder = text(tokenizer, heads=4)
    sentences = ["one", "two", f"three{APART}four"]
    single = encoder.encode(params(heads=4), sentences)
    mesh = sharding.make_mesh(data=2, fsdp=2, context=2)
    with jax.set_mesh(mesh):
        places = sharding.param_shardings(params(heads=4), mesh)
        placed = jax.device_put(params(heads=4), places)
        spread = encoder.encode(placed, sentences)
    kernel = placed["blocks"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    np.testing.assert_allclose(spread, single, atol=2e-5)


def test_bfloat16(tokenizer):
    half = text(tokenizer, dtype="bfloat16", param_dtype="bfloat16")
    out = half.encode(params(), ["a car"])
    assert out.dtype == ml_dtypes.bfloat16
    wanted = text(tokenizer).encode(params(), ["a car"])
    error = np.abs(np.asarray(out, np.float32) - wanted)
    assert 1e-3 < error.max() < 0.1


@pytest.mark.core
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0}, "T5: heads is 0"),
        ({"buckets": 6}, "buckets 6 must be a multiple of 4"),
        ({"max_distance": 8}, "max_distance 8 more than a quarter"),
        ({"dtype": "float16"}, "dtype 'float16' must be bfloat16 or float32"),
        ({"tokens": 0}, "tokens is 0"),
    ],
)
def test_bad_sizes(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        text(**changes)


def test_bad_captions_and_tokenizers(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no captions"):
        text(tokenizer).encode({}, [])
    with pytest.raises(
        ValueError, match=r"makes token \d+, and the network has a vocabulary of 90"
    ):
        text(tokenizer, vocabulary=90).ids(["\x7f"])
    folder = save_tokenizer(tmp_path / "open", closes=False)
    with pytest.raises(ValueError, match="does not close a text with </s>"):
        text(folder).ids(["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"cannot be loaded: it must be a folder with a tok"):
        text(tmp_path / "empty").ids(["a"])


# ---- Names.


def like(config):
    one = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(T5Encoder(config).init, jax.random.key(0), one, one == 0)


@pytest.mark.core
def test_published_network_has_the_published_tensors():
    shapes = rules.reference_shapes(names.table(T5Config()), like(T5Config()))
    attention = "encoder.block.23.layer.0.SelfAttention."
    wanted = {
        "shared.weight": (32_128, 1024),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 128),
        **{f"{attention}{name}.weight": (16_384, 1024) for name in "qkv"},
        f"{attention}o.weight": (1024, 16_384),
        "encoder.block.23.layer.0.layer_norm.weight": (1024,),
        "encoder.block.23.layer.1.DenseReluDense.wi.weight": (65_536, 1024),
        "encoder.block.23.layer.1.DenseReluDense.wo.weight": (1024, 65_536),
        "encoder.block.23.layer.1.layer_norm.weight": (1024,),
        "encoder.final_layer_norm.weight": (1024,),
    }
    assert len(shapes) == 3 + 24 * 8
    assert {key: shapes[key] for key in wanted} == wanted
    assert sum(map(math.prod, shapes.values())) == 4_864_791_552
    zeros = {k: in_memory(np.broadcast_to(np.int8(0), shape)) for k, shape in shapes.items()}
    found = networks.recognise(zeros)
    assert found.name == "t5_11b_encoder"
    assert networks.read(found, zeros).keys() == {
        sharding.path_name(path) for path, _ in jax.tree.leaves_with_path(like(T5Config()))
    }


def file_of(path, state_dict):
    writer = write_safetensors if path.suffix == ".safetensors" else write_torch
    tensors = {key: in_memory(x) for key, x in state_dict.items()}
    writer(path, tensors, *([{"format": "pt"}] if path.suffix == ".safetensors" else []))
    return str(path)


def test_files_of_the_encoder_and_of_the_whole_model(tmp_path):
    """The token table under either name; the decoder and the head are left out; and back."""
    file = Golden.load(GOLDENS / "t5_tiny.npz")
    state_dict = file.named("sd/")
    table = state_dict["shared.weight"]
    others = {"decoder.block.0.layer.0.SelfAttention.q.weight": table, "lm_head.weight": table}
    renamed = {k: x for k, x in state_dict.items() if k != "shared.weight"}
    renamed["encoder.embed_tokens.weight"] = table
    files = [
        file_of(tmp_path / "pytorch_model.bin", state_dict | others),
        file_of(tmp_path / "model.safetensors", renamed),
        file_of(tmp_path / "both.pt", state_dict | {"encoder.embed_tokens.weight": table}),
    ]
    config = dataclasses.replace(names.config_from_hf(file.json("config_json")))
    for name in files:
        source = weights.open_source(name)
        assert source.network.options == networks.text("", config).options
        again = networks.from_options("", json.loads(json.dumps(source.network.options)))
        assert again.table == source.network.table
        back = weights.to_reference(source, "", None, "net.")
        assert back.keys() == state_dict.keys()
        for key, tensor in back.items():
            np.testing.assert_array_equal(tensor.read(), state_dict[key])
    assert len(weights.open_source(files[0]).others) == 2


def test_unknown_and_missing_tensors_and_options(tmp_path):
    file = Golden.load(GOLDENS / "t5_tiny.npz")
    state_dict = file.named("sd/")
    state_dict["encoder.block.0.layer.1.DenseReluDense.wi_1.weight"] = np.zeros((3, 3), np.float32)
    del state_dict["encoder.final_layer_norm.weight"]
    with pytest.raises(ValueError, match=r"(?s)final_layer_norm\.weight: missing.*wi_1.*unknown"):
        weights.open_source(file_of(tmp_path / "a.pt", state_dict))
    options = file.json("config_json")
    with pytest.raises(ValueError, match="feed_forward_proj of the T5 config must be 'relu'"):
        names.config_from_hf(options | {"feed_forward_proj": "gated-gelu"})
    with pytest.raises(ValueError, match="lacks d_model"):
        names.config_from_hf({k: v for k, v in options.items() if k != "d_model"})


@pytest.mark.core
def test_a_config_section_makes_the_encoder(tokenizer):
    section = {"kind": "cosmos_jax.models.t5:T5Text", "weights": "hf://x", "cache": "auto"}
    section |= {"tokenizer": str(tokenizer), **TINY}
    values = {"text": section, "seed": 0}
    assert build.text_encoder(values) == text(tokenizer, tokens=512)
    identity = build_text.identity(values, None)
    assert identity["weights"] == "hf://x" and identity["tokenizer"].startswith("files ")
    assert identity["buckets"] == 32


# ---- The guide's files.


@pytest.mark.core
def test_what_is_written_is_what_the_guide_writes(tmp_path):
    rows = np.random.default_rng(0).standard_normal((7, 1024)).astype(np.float32)
    path = t5_files.clip_files(tmp_path, "pinhole_front", "a")[0]
    t5_files.write(path, rows)
    assert path == tmp_path / "t5_xxl" / "pinhole_front" / "a.pickle"
    (held,) = pickle.loads(path.read_bytes())
    assert held.dtype == np.float16 and held.shape == (7, 1024)
    np.testing.assert_array_equal(held, rows.astype(np.float16))
    np.testing.assert_array_equal(t5_files.read(path), held)
    assert [p.name for p in path.parent.iterdir()] == ["a.pickle"]


@pytest.mark.core
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("listed", [True, False])
def test_both_layouts_in_any_protocol(tmp_path, protocol, dtype, listed):
    rows = np.arange(2048, dtype=dtype).reshape(2, 1024)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([rows] if listed else rows, protocol))
    found = t5_files.read(path)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows)


class Evil:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("/nowhere/x"),))


@pytest.mark.core
@pytest.mark.parametrize(
    ("held", "message"),
    [
        (np.zeros((1, 5, 1024), "f4"), r"axis too many: \(1, 5, 1024\)\. create_t5_embed_mv\.py"),
        (np.zeros((5, 4096), "f4"), r"\(5, 4096\), and .* get_t5_embeddings_from_waymo\.py writes"),
        (np.zeros((0, 1024), "f4"), r"an array \(0, 1024\)"),
        (np.zeros((5, 1024), "i4"), "no array of float16, float32 or float64"),
        (np.zeros((5, 1024), ">f4"), "dtype float32 with parts or big-endian is not read"),
        ([np.zeros((5, 1024), "f4")] * 2, "nor a list of one"),
        ({"a": 1}, "nor a list of one"),
        (Evil(), "asks for pathlib.*it may hold code, and was refused"),
    ],
)
def test_other_pickles_are_refused(tmp_path, held, message):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps(held))
    with pytest.raises(ValueError, match=message) as caught:
        t5_files.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.core
def test_a_file_that_is_missing_names_what_writes_it(tmp_path):
    files = t5_files.prefix_files(tmp_path, "pinhole_front")
    assert [f.name for f in files] == [
        "prefix_t5_embeddings_pinhole_front.pickle",
        "prefix_pinhole_front.pkl",
    ]
    with pytest.raises(ValueError, match=r"is missing \(and prefix_pinhole_front\.pkl\): write it"):
        t5_files.first_of(files)
    t5_files.write(files[1], np.ones((1, 1024)))
    assert t5_files.first_of(files) == files[1]
