"""The text tower: numbers of the reference, prompts, placement, weight names, bad input."""

import copy
import dataclasses
import functools
import json
import math
import pathlib
import re

import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import decoders, pre_tokenizers

from converters import qwen as names
from converters import rules
from cosmos_jax import build, sharding
from cosmos_jax.models import qwen
from cosmos_jax.models.qwen import QwenConfig, QwenText, QwenTower

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "text_encoder.npz"

TINY = dict(hidden_width=32, blocks=3, heads=4, kv_heads=2, mlp_width=64, vocabulary=304)
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
START, END, PADDING = 300, 301, 299


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def weights_of(config, state_dict):
    like = {"params": jax.eval_shape(text(config=config).init, jax.random.key(0))}
    return rules.to_ours(names.table(config), state_dict, like)["params"]


def states_of(config, params, tokens):
    return jax.jit(QwenTower(config).apply)({"params": params}, jnp.asarray(tokens, jnp.int32))


def golden_network():
    arrays = golden()
    config = names.config_from_hf(json.loads(str(arrays["config_json"])))
    config = dataclasses.replace(config, dtype="float32", param_dtype="float32")
    state_dict = {k[3:]: x for k, x in arrays.items() if k.startswith("sd/")}
    return config, state_dict, weights_of(config, state_dict)


def text(tokenizer="none", config=None, **changes):
    sizes = TINY if config is None else dataclasses.asdict(config)
    return QwenText(**{"tokenizer": str(tokenizer), **sizes, **changes})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer whose token ids are those of bytes, and three special tokens."""
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), qwen.SPECIAL)


def save_tokenizer(folder, special):
    ids = {char: i for i, char in enumerate(ALPHABET)} | {f"unused{i}": i for i in range(256, 299)}
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(list(special))
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)
    return folder


def spelled(string):
    return [ALPHABET.index({" ": "Ġ", "\n": "Ċ"}.get(char, char)) for char in string]


# Numbers


@pytest.mark.core
def test_hidden_states_and_outputs_equal_the_reference():
    config, _, params = golden_network()
    arrays = golden()
    states = states_of(config, params, arrays["in/input_ids"])
    assert states.shape[0] == 4
    for i, state in enumerate(states):
        np.testing.assert_allclose(state, arrays[f"act/hidden_{i + 1}"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(states[-1], arrays["out/last_hidden"], atol=2e-5, rtol=0)
    for pool in (qwen.full_concat, qwen.mean_pooling):
        expected = arrays[f"out/{pool.__name__}"]
        np.testing.assert_allclose(pool(states), expected, atol=2e-5, rtol=0)


@pytest.mark.core
def test_bfloat16_stays_near_float32():
    config, _, params = golden_network()
    config = dataclasses.replace(config, dtype="bfloat16")
    y = qwen.full_concat(states_of(config, params, golden()["in/input_ids"]))
    assert y.dtype == jnp.bfloat16
    error = np.asarray(y, np.float32) - golden()["out/full_concat"]
    assert 1e-4 < np.sqrt(np.mean(error**2)) < 0.02


@pytest.mark.torch
@pytest.mark.parametrize("kv_heads, theta, eps", [(1, 100.0, 1e-2), (2, 1e4, 1e-5), (6, 1e6, 0.3)])
def test_hidden_states_equal_those_of_transformers(kv_heads, theta, eps):
    import torch

    options = dict(
        hidden_size=48, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=kv_heads, vocab_size=50, rms_norm_eps=eps,
        rope_parameters={"rope_type": "default", "rope_theta": theta, "mrope_section": [1, 1, 2]},
    )  # fmt: skip
    theirs = transformers.Qwen2_5_VLTextConfig(**options)
    torch.manual_seed(0)
    model = transformers.Qwen2_5_VLTextModel(theirs).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape) * (0.5 / p.shape[-1]) ** 0.5 + (p.ndim == 1))
        tokens = torch.randint(50, (2, 17))
        expected = model(tokens, output_hidden_states=True).hidden_states[1:]
    config = names.config_from_hf(theirs.to_dict())
    assert (config.rope_theta, config.eps, config.kv_heads) == (theta, eps, kv_heads)
    config = dataclasses.replace(config, dtype="float32", param_dtype="float32")
    params = weights_of(config, {k: p.detach().numpy() for k, p in model.named_parameters()})
    states = states_of(config, params, tokens.numpy())
    np.testing.assert_allclose(states, np.stack(expected), atol=2e-4, rtol=0)


@pytest.mark.core
def test_padding_changes_no_token_before_it():
    config, _, params = golden_network()
    tokens = golden()["in/input_ids"]
    whole = states_of(config, params, tokens)
    alone = states_of(config, params, tokens[:, :9])
    np.testing.assert_allclose(whole[:, :, :9], alone, atol=1e-4, rtol=0)
    other = tokens.copy()
    other[:, 9:] = 5
    changed = states_of(config, params, other)
    np.testing.assert_allclose(whole[:, :, :9], changed[:, :, :9], atol=1e-4, rtol=0)
    assert np.abs(whole - changed)[:, :, 9:].max() > 0.1


@pytest.mark.core
def test_every_block_is_normalised_by_itself():
    x = jnp.asarray(np.random.default_rng(0).normal(3, [[[[5]]], [[[0.1]]]], (2, 1, 4, 8)))
    y = np.asarray(qwen.full_concat(x.astype(jnp.float32))).reshape(4, 2, 8)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1, ddof=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.corrcoef(y[2, 1], x[1, 0, 2])[0, 1], 1, atol=1e-5)


# Placement


def placed(encoder, mesh):
    """Random weights that are made where they belong."""
    like = jax.eval_shape(encoder.init, jax.random.key(1))
    places = sharding.param_shardings(like, mesh)
    return jax.jit(encoder.init, out_shardings=places)(jax.random.key(1))


@pytest.mark.core
@pytest.mark.parametrize("captions", [["a"], ["a", "b c", ""], list("abcdefgh")])
def test_eight_devices_give_what_one_gives(tokenizer, captions):
    encoder = text(tokenizer, tokens=120, dtype="float32", param_dtype="float32")
    one = encoder.encode(jax.jit(encoder.init)(jax.random.key(1)), captions)
    mesh = sharding.make_mesh(data=2, fsdp=2, context=2)
    with jax.set_mesh(mesh):
        eight = encoder.encode(placed(encoder, mesh), captions)
    assert one.shape == eight.shape == (len(captions), 120, encoder.width)
    assert one.std() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(one, eight, atol=1e-4, rtol=0)


@pytest.mark.core
def test_weights_are_split_and_gathered_one_block_at_a_time(tokenizer):
    encoder = text(tokenizer, tokens=8)
    mesh = sharding.make_mesh(fsdp=4, context=2)
    with jax.set_mesh(mesh):
        params = placed(encoder, mesh)
        lowered = qwen._embed.lower(encoder, params, encoder.ids(["a"]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        parts = 8 if sharding.path_name(path).endswith(("kernel", "embedding")) else 1
        assert leaf.addressable_shards[0].data.size * parts == leaf.size
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", lowered.compile().as_text())
    shapes = [tuple(map(int, shape.split(","))) for shape in gathered]
    whole = {(304, 32), (32, 32), (32, 16), (32, 64), (64, 32)}
    assert {tuple(n for n in s if n > 1) for s in shapes} == whole
    assert len(shapes) <= 1 + 7


# Prompts


@pytest.mark.core
def test_ids_are_the_chat_template_padded_on_the_right(tokenizer):
    captions = ["a red car", " ", "two {braces} <|im_end|>x"]
    rows = text(tokenizer, tokens=200).ids(captions)
    assert rows.shape == (3, 200) and rows.dtype == np.int32
    system = "system\nYou are a helpful assistant who will provide prompts to an image generator."
    before = [START, *spelled(system), END, *spelled("\n"), START, *spelled("user\n")]
    after = [END, *spelled("\n")]
    inner = [spelled("a red car"), spelled(" "), [*spelled("two {braces} "), END, *spelled("x")]]
    for row, middle in zip(rows, inner):
        expected = [*before, *middle, *after]
        assert row.tolist() == expected + [PADDING] * (200 - len(expected))


@pytest.mark.core
def test_a_view_without_a_caption_is_told_a_space(tokenizer):
    encoder = text(tokenizer, tokens=200)
    nothing, space = encoder.ids(["", " "])
    np.testing.assert_array_equal(nothing, space)


@pytest.mark.core
def test_long_prompts_are_cut(tokenizer):
    long, short = text(tokenizer, tokens=900), text(tokenizer, tokens=100)
    np.testing.assert_array_equal(long.ids(["ab" * 800])[:, :100], short.ids(["ab" * 800]))
    assert (long.ids(["ab" * 800])[0, 110:] < 256).all()


@pytest.mark.core
def test_an_embedding_depends_on_its_own_caption_alone(tokenizer):
    encoder = text(tokenizer, tokens=130)
    params = jax.jit(encoder.init)(jax.random.key(0))
    y = np.asarray(encoder.encode(params, ["a", "b", "a"]), np.float32)
    assert y.shape == (3, 130, 96)
    np.testing.assert_array_equal(y[0], y[2])
    # The caption stands after the 89 tokens of the system's text and before the padding.
    same = (y[0] == y[1]).all(-1)
    caption = text(tokenizer, tokens=130).ids(["a"])[0].tolist().index(spelled("a")[0], 88)
    assert same[:caption].all() and not same[caption:].any()


@pytest.mark.core
def test_a_config_section_makes_the_encoder(tokenizer):
    kind = "cosmos_jax.models.qwen:QwenText"
    section = {"kind": kind, "weights": "hf://x", "tokenizer": str(tokenizer)}
    encoder = build.part({"text": section}, "text")
    assert (encoder.tokens, encoder.width) == (512, 100_352)
    assert encoder.description == (
        "Qwen2.5-VL text tower (512 x 100352: 28 blocks of 3584, bfloat16)"
    )
    assert "user\nhello<|im_end|>\n" in encoder.template.format(caption="hello")
    small = build.part({"text": section | TINY | {"tokens": 7}}, "text")
    assert (small.tokens, small.width) == (7, 96)
    with pytest.raises(ValueError, match=r"did you mean config\.text\.kv_heads"):
        build.part({"text": section | {"kv_head": 2}}, "text")


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(tokens=0), "tokens is 0"),
        (dict(blocks=0), "blocks is 0"),
        (dict(heads=3), "32 does not divide into 3 heads"),
        (dict(heads=32), "even width"),
        (dict(kv_heads=3), "4 heads do not divide among kv_heads 3"),
        (dict(dtype="float16"), "dtype 'float16'"),
    ],
)
def test_bad_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        text(**changes)


@pytest.mark.core
def test_bad_captions_and_tokenizers(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="no captions"):
        text(tokenizer).ids([])
    with pytest.raises(ValueError, match=r"makes token 301, and the network has .* of 300"):
        text(tokenizer, vocabulary=300).ids(["a"])
    folder = save_tokenizer(tmp_path / "other", ["<|im_start|>", "<|im_end|>"])
    with pytest.raises(ValueError, match=r"no special token <\|endoftext\|>; use"):
        text(folder).ids(["a"])
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text('{"version"')
    for name in (tmp_path / "damaged", tmp_path / "absent", "nobody/nothing"):
        with pytest.raises(ValueError, match=f"tokenizer '{name}' cannot be loaded") as caught:
            text(name).ids(["a"])
        assert "\n" not in str(caught.value)


# Names


@pytest.mark.core
def test_the_7b_tower_has_exactly_the_published_tensors():
    config = QwenConfig()
    d, kv, mlp = 3584, 4 * 128, 18_944
    attention = {"q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, d)}
    layer = {f"self_attn.{name}.weight": shape for name, shape in attention.items()}
    layer |= {f"self_attn.{name}.bias": attention[name][:1] for name in list(attention)[:3]}
    layer |= {"mlp.gate_proj.weight": (mlp, d), "mlp.up_proj.weight": (mlp, d)}
    layer |= {"mlp.down_proj.weight": (d, mlp)}
    layer |= {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
    expected = {f"layers.{i}.{name}": shape for i in range(28) for name, shape in layer.items()}
    expected |= {"embed_tokens.weight": (152_064, d), "norm.weight": (d,)}
    assert len(expected) == 338

    tree = {"params": jax.eval_shape(text(config=config).init, jax.random.key(0))}
    assert rules.reference_shapes(names.table(config), tree) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("bfloat16")}
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) == 7_070_619_136
    assert names.config(expected) == config


@pytest.mark.core
def test_weights_come_back_as_they_were():
    config, state_dict, params = golden_network()
    back = rules.to_reference(names.table(config), {"params": params})
    assert back.keys() == state_dict.keys()
    assert all(np.array_equal(back[key], state_dict[key]) for key in back)
    sizes = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    assert names.config({k: x.shape for k, x in state_dict.items()}, head_width=8) == sizes


@pytest.mark.core
@pytest.mark.parametrize(
    "prefix, beside",
    [
        ("", ["lm_head.weight"]),
        ("model.", ["lm_head.weight", "visual.blocks.0.attn.qkv.weight"]),
        ("model.language_model.", ["lm_head.weight", "model.visual.patch_embed.proj.weight"]),
    ],
)
def test_the_prefix_of_a_file_is_found(prefix, beside):
    tower = ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight"]
    keys = [prefix + name for name in tower]
    assert names.bare(keys + beside) == dict(zip(tower, keys))


@pytest.mark.core
def test_files_without_one_tower_are_refused():
    with pytest.raises(
        ValueError, match=r"none of .*model\.language_model\.embed_tokens.* among 1 "
    ):
        names.bare(["blocks.0.weight"])
    with pytest.raises(ValueError, match=r"1 tensors are neither .* \(model.\*\) .*: proj.weight"):
        names.bare(["model.embed_tokens.weight", "visual.a", "proj.weight"])
    with pytest.raises(ValueError, match=r"tower: model\.embed_tokens\.weight and embed_tokens"):
        names.bare(["model.embed_tokens.weight", "embed_tokens.weight"])
    with pytest.raises(ValueError, match=r"layers.0.mlp.up_proj.weight missing"):
        names.config({"embed_tokens.weight": (9, 8), "layers.0.self_attn.q_proj.weight": (8, 8)})
    shapes = {k: x.shape for k, x in golden_network()[1].items()}
    with pytest.raises(ValueError, match=r"q_proj.weight has 32 rows, which are no heads of 128"):
        names.config(shapes)


PUBLISHED = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "image_token_id": 151655,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {"depth": 32},
    "vocab_size": 152064,
}


@pytest.mark.core
def test_options_of_hugging_face():
    assert names.config_from_hf(PUBLISHED) == QwenConfig()
    nested = transformers.Qwen2_5_VLConfig(text_config=copy.deepcopy(PUBLISHED)).to_dict()
    assert "hidden_size" not in nested
    assert names.config_from_hf(nested) == QwenConfig()


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_act": "gelu"}, "option hidden_act .* must be 'silu'"),
        ({"use_sliding_window": True}, "option use_sliding_window .* must be False"),
        ({"head_dim": 64}, "option head_dim .* must be 128"),
        ({"layer_types": ["sliding_attention"]}, "option layer_types"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, r"not \['default', 'yarn'\] with .*fac"),
        ({"rope_theta": None}, "lacks rope_theta"),
        ({"qk_norm": True, "mlp_bias": True}, "unknown options .*: mlp_bias, qk_norm"),
    ],
)
def test_options_that_are_not_supported(changes, message):
    with pytest.raises(ValueError, match=message):
        names.config_from_hf(PUBLISHED | changes)


@pytest.mark.core
def test_options_that_are_missing():
    given = {k: v for k, v in PUBLISHED.items() if k not in ("vocab_size", "rms_norm_eps")}
    with pytest.raises(ValueError, match="lacks vocab_size, rms_norm_eps"):
        names.config_from_hf(given)
