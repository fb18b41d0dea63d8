"""Weight tables: total, exact in both directions, and every fault listed in one error."""

import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from converters.rules import Ignored, Rule, read, reference_shapes, to_ours, to_reference, write
from converters.stored import Stored

pytestmark = pytest.mark.core

LAYERS, WIDTH, HIDDEN = 3, 4, 6
TABLE = (
    Rule("embed.weight", "params/embed/kernel", "o i -> i o"),
    Rule("conv.weight", "params/conv/kernel", "o i t y x -> t y x i o"),
    Rule(
        "layers.{}.{query,key}.weight",
        "params/layers/{q,k}/kernel",
        "o i -> i o",
        stack=range(LAYERS),
    ),
    Rule("hint.{}.bias", "params/hint/bias", "d -> d", stack=(0, 2, 4)),
    Rule("rope_{}.range", "constants/rope", "k -> k", copies=(1, 2)),
    Ignored("rope_{1,2}.seq", np.arange(5, dtype=np.float32)),
    Ignored("*._extra_state"),
)


def state_dict(dtype=np.float32):
    random = np.random.default_rng(0)
    shapes = {"embed.weight": (HIDDEN, WIDTH), "conv.weight": (2, 3, 1, 2, 3)}
    for layer in range(LAYERS):
        shapes |= {f"layers.{layer}.{x}.weight": (HIDDEN, WIDTH) for x in ("query", "key")}
        shapes[f"hint.{2 * layer}.bias"] = (WIDTH,)
    tensors = {key: random.normal(size=shape).astype(dtype) for key, shape in shapes.items()}
    for i in (1, 2):
        tensors[f"rope_{i}.range"] = np.linspace(0, 1, 3).astype(dtype)
        tensors[f"rope_{i}.seq"] = np.arange(5).astype(np.float32)
    return tensors


def like():
    class Shape:
        def __init__(self, *shape):
            self.shape = shape

    return {
        "params": {
            "embed": {"kernel": Shape(WIDTH, HIDDEN)},
            "conv": {"kernel": Shape(1, 2, 3, 3, 2)},
            "layers": {x: {"kernel": Shape(LAYERS, WIDTH, HIDDEN)} for x in "qk"},
            "hint": {"bias": Shape(LAYERS, WIDTH)},
        },
        "constants": {"rope": Shape(3)},
    }


def test_shapes_are_known_before_any_tensor_is_written():
    tensors = state_dict()
    shapes = reference_shapes(TABLE, like())
    assert shapes == {key: tensor.shape for key, tensor in tensors.items()}
    assert list(shapes) == list(to_reference(TABLE, to_ours(TABLE, tensors, like())))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_round_trip_is_exact(dtype):
    tensors = state_dict(dtype)
    back = to_reference(TABLE, to_ours(TABLE, tensors, like()))
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype and back[key].flags.c_contiguous
        np.testing.assert_array_equal(back[key], tensor)


def test_layers_are_stacked_and_transposed():
    tensors = state_dict()
    ours = to_ours(TABLE, tensors, like())
    np.testing.assert_array_equal(
        ours["params"]["layers"]["k"]["kernel"][2], tensors["layers.2.key.weight"].T
    )
    np.testing.assert_array_equal(ours["params"]["hint"]["bias"][1], tensors["hint.2.bias"])
    np.testing.assert_array_equal(
        ours["params"]["conv"]["kernel"][0, 1, 2], tensors["conv.weight"][:, :, 0, 1, 2].T
    )


def test_ignored_tensors_may_be_absent_or_present():
    tensors = state_dict() | {"layers.0.norm._extra_state": np.zeros(7, np.uint8)}
    del tensors["rope_2.seq"]
    back = to_reference(TABLE, to_ours(TABLE, tensors, like()))
    assert "layers.0.norm._extra_state" not in back
    np.testing.assert_array_equal(back["rope_2.seq"], np.arange(5))


def test_one_error_lists_every_fault():
    tensors = state_dict()
    del tensors["layers.1.key.weight"]
    tensors["layers.3.key.weight"] = tensors["layers.0.key.weight"]
    tensors["embed.weight"] = tensors["embed.weight"].T
    tensors["hint.4.bias"] = tensors["hint.4.bias"][None]
    with pytest.raises(ValueError) as error:
        to_ours(TABLE, tensors, like())
    assert str(error.value).splitlines() == [
        "these weights do not fit the network: 4 problems",
        "  layers.1.key.weight: missing",
        "  embed.weight: shape (4, 6), but the network needs (6, 4)",
        "  hint.4.bias: shape (1, 4), but the network needs (4,)",
        "  layers.3.key.weight: unknown, no row of the table names it",
    ]


def test_the_network_is_covered_too():
    ours = to_ours(TABLE, state_dict(), like())
    ours["params"]["extra"] = {"bias": np.zeros(3)}
    del ours["params"]["embed"]
    ours["params"]["hint"]["bias"] = np.zeros((2, WIDTH))
    with pytest.raises(ValueError) as error:
        to_reference(TABLE, ours)
    message = str(error.value)
    assert "params/extra/bias: no row of the table fills it" in message
    assert "params/embed/kernel: our network has no such array" in message
    assert "params/hint/bias: (2, 4) does not stack 3 x hint.0.bias" in message
    with pytest.raises(ValueError, match="extra/bias: no row"):
        to_ours(TABLE, state_dict(), ours)


@pytest.mark.parametrize(
    "row, fault",
    [
        (
            Rule("embed.weight", "params/again/kernel", "a b -> a b"),
            "embed.weight: named by 2 rows",
        ),
        (Rule("other", "params/hint/bias", "d -> d"), "params/hint/bias: filled by 2 rows"),
        (Rule("a.{}", "params/a", "d -> d"), "goes with one of"),
        (Rule("a", "params/a", "d -> d", stack=range(2)), "goes with one of"),
        (Rule("a.{x,y}", "params/{x,y,z}", "d -> d"), "2 keys, 3 paths"),
        (Rule("a.{x,y}.{z}", "params/a", "d -> d"), "different numbers of names"),
    ],
)
def test_a_faulty_table_is_an_error(row, fault):
    with pytest.raises(ValueError, match=fault):
        to_ours((*TABLE, row), state_dict(), like())


def test_unequal_copies_are_an_error():
    tensors = state_dict()
    tensors["rope_2.range"] = tensors["rope_2.range"] + 1
    with pytest.raises(ValueError, match=r"rope_2.*differs from rope_1"):
        to_ours(TABLE, tensors, like())


def test_layers_of_different_types_are_an_error():
    tensors = state_dict()
    tensors["hint.2.bias"] = tensors["hint.2.bias"].astype(np.float16)
    with pytest.raises(ValueError, match=r"params/hint/bias.*hint.2.bias: float16"):
        to_ours(TABLE, tensors, like())


def counted(arrays, asked):
    def stored(name, array):
        def read():
            asked.append(name)
            return array

        return Stored(array.shape, array.dtype, read)

    return {name: stored(name, array) for name, array in arrays.items()}


def test_arrays_are_read_when_asked_for():
    asked = []
    arrays = read(TABLE, counted(state_dict(), asked), like())
    assert asked == []
    assert arrays["params/hint/bias"].shape == (LAYERS, WIDTH)
    arrays["params/hint/bias"].read()
    assert asked == ["hint.0.bias", "hint.2.bias", "hint.4.bias"]


def test_a_stack_is_read_once_for_all_of_its_layers():
    asked, ours = [], to_ours(TABLE, state_dict(), like())
    flat = traverse_util.flatten_dict(ours, sep="/")
    written = write(TABLE, counted(flat, asked))
    assert asked == []
    back = {key: tensor.read() for key, tensor in written.items()}
    assert sorted(asked) == sorted(flat)
    for key, tensor in state_dict().items():
        np.testing.assert_array_equal(back[key], tensor)
        assert written[key].shape == tensor.shape and written[key].dtype == tensor.dtype
