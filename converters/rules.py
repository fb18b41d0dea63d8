"""Applies a table of weight names in both directions, one array at a time.

Arrays are `Stored`: known by shape and dtype, and read when asked for, so that a model is converted
from file to file with one array in memory.

A table is a sequence of rows. Every tensor of the reference model must be named by exactly one row
and every array of ours by exactly one row: a tensor that no row names is an error, never a warning.

    Rule("x_embedder.proj.1.weight", "params/patch_embed/kernel", "o i -> i o")
    Rule("blocks.{}.attn.{q,k}_proj.weight", "params/blocks/attn/{q,k}/kernel", "o i -> i o",
         stack=range(28))
    Rule("rope_{}.range", "constants/rope", "k -> k", copies=(1, 2, 3))
    Ignored("*._extra_state")

The first part of our path is the collection: `params` (trained) or `constants` (never trained).
"""

import dataclasses
import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import einops
import numpy as np
from flax import traverse_util

from converters.stored import Stored, in_memory


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row: where a reference tensor lies in our tree.

    Attributes:
        reference: key of the reference. `{a,b}` stands for a and b in turn, `{}` for each member of
            `stack` or of `copies`.
        ours: path of our array, with the same number of names in every `{a,b}`: the first of one
            goes with the first of the other.
        pattern: einops pattern from the reference tensor to ours (without the stacked axis).
        stack: what `{}` ranges over when the tensors are stacked on a leading axis of our array.
        copies: what `{}` ranges over when all of the tensors are copies of our one array.
    """

    reference: str
    ours: str
    pattern: str
    stack: Sequence[Any] = ()
    copies: Sequence[Any] = ()


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Reference tensors that hold nothing of ours; they may be absent.

    Attributes:
        reference: key, with `{a,b}` as in `Rule`, or with `*` for anything.
        value: what is written back under the key, or None where nothing is.
    """

    reference: str
    value: np.ndarray | None = None


Table = Sequence[Rule | Ignored]


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One array of ours, and the reference keys that it is read from and written to."""

    path: str
    keys: tuple[str, ...]
    pattern: str
    stacked: bool

    @property
    def back(self) -> str:
        left, right = self.pattern.split("->")
        return f"{right.strip()} -> {left.strip()}"


def _alternatives(text: str) -> list[str]:
    """ "a{b,c}d" as ["abd", "acd"]; several braces advance together. `{}` is left alone."""
    parts = re.split(r"\{([^{}]+)\}", text)
    columns = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    lengths = {len(names) for names in columns[1::2]} or {1}
    if len(lengths) > 1:
        raise ValueError(f"table row {text!r}: its braces list different numbers of names")
    return ["".join(names[i % len(names)] for names in columns) for i in range(lengths.pop())]


def one_by_one(table: Table) -> list[Rule]:
    """The rows without `Ignored` ones, a row of its own for every name in braces."""
    return [
        dataclasses.replace(row, reference=reference, ours=path)
        for row in table
        if isinstance(row, Rule)
        for reference, path in zip(_alternatives(row.reference), _alternatives(row.ours))
    ]


def _leaves(table: Table) -> list[_Leaf]:
    leaves = []
    for rule in table:
        if isinstance(rule, Ignored):
            continue
        references, paths = _alternatives(rule.reference), _alternatives(rule.ours)
        members = tuple(rule.stack) + tuple(rule.copies)
        if len(references) != len(paths):
            raise ValueError(
                f"table row {rule.reference!r}: {len(references)} keys, {len(paths)} paths"
            )
        if ("{}" in rule.reference) != bool(members) or (rule.stack and rule.copies):
            raise ValueError(
                f"table row {rule.reference!r}: {{}} goes with one of stack= and copies="
            )
        for reference, path in zip(references, paths):
            keys = tuple(reference.format(member) for member in members) or (reference,)
            leaves.append(_Leaf(path, keys, rule.pattern, bool(rule.stack)))
    return leaves


def _repeated(names: Sequence[str], what: str) -> list[str]:
    return [f"{name}: {what} by {n} rows" for name, n in Counter(names).items() if n > 1]


def _fail(problems: Sequence[str], what: str) -> None:
    if problems:
        raise ValueError(f"{what}: {len(problems)} problems\n  " + "\n  ".join(problems))


def _row_problems(leaves: Sequence[_Leaf], table: Table, paths: Sequence[str]) -> list[str]:
    """Keys named twice, and our arrays that are not filled exactly once."""
    keys = [key for leaf in leaves for key in leaf.keys] + list(_written_back(table))
    filled = [leaf.path for leaf in leaves]
    named, ours = set(filled), set(paths)
    problems = _repeated(keys, "named") + _repeated(filled, "filled")
    problems += [f"{path}: our network has no such array" for path in filled if path not in ours]
    problems += [f"{path}: no row of the table fills it" for path in paths if path not in named]
    return problems


def _written_back(table: Table) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    for row in table:
        if isinstance(row, Ignored) and row.value is not None:
            values |= dict.fromkeys(_alternatives(row.reference), row.value)
    return values


def _single_shape(leaf: _Leaf, ours: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of each of the leaf's tensors in the reference, from the shape of our array."""
    if leaf.stacked and (not ours or ours[0] != len(leaf.keys)):
        raise ValueError(f"{leaf.path}: {ours} does not stack {len(leaf.keys)} x {leaf.keys[0]}")
    single = ours[1:] if leaf.stacked else ours
    try:
        return einops.rearrange(np.broadcast_to(np.int8(0), single), leaf.back).shape
    except einops.EinopsError:
        raise ValueError(f"{leaf.path}: {single} does not fit pattern {leaf.back!r}") from None


def _plan(table: Table, tree: Any) -> tuple[list[_Leaf], dict[str, tuple[int, ...]], list[str]]:
    """The leaves, the shape of every reference tensor that holds something of ours, the faults."""
    leaves = _leaves(table)
    wanted = {p: tuple(x.shape) for p, x in traverse_util.flatten_dict(tree, sep="/").items()}
    problems = _row_problems(leaves, table, list(wanted))
    shapes: dict[str, tuple[int, ...]] = {}
    for leaf in leaves:
        if leaf.path in wanted:
            try:
                shapes |= dict.fromkeys(leaf.keys, _single_shape(leaf, wanted[leaf.path]))
            except ValueError as fault:
                problems.append(str(fault))
    return leaves, shapes, problems


def _file_problems(
    leaves: Sequence[_Leaf],
    table: Table,
    wanted: Mapping[str, tuple[int, ...]],
    given: Mapping[str, Stored],
) -> list[str]:
    known = [key for leaf in leaves for key in leaf.keys]
    unnamed = given.keys() - set(known) - set(ignored(table, given))
    problems = [f"{key}: missing" for key in known if key not in given]
    for key, tensor in given.items():
        if key in wanted and tensor.shape != wanted[key]:
            problems.append(f"{key}: shape {tensor.shape}, but the network needs {wanted[key]}")
        if key in unnamed:
            problems.append(f"{key}: unknown, no row of the table names it")
    for leaf in leaves:
        types = {str(given[key].dtype): key for key in leaf.keys if key in given}
        if leaf.stacked and len(types) > 1:
            problems.append(
                f"{leaf.path} would stack tensors of different types ("
                + ", ".join(f"{key}: {dtype}" for dtype, key in types.items())
                + "); save the layers of one model in one type"
            )
    return problems


def ignored(table: Table, keys: Iterable[str]) -> list[str]:
    """Those of a file's keys that the table names as holding nothing of ours."""
    patterns = [
        k for row in table if isinstance(row, Ignored) for k in _alternatives(row.reference)
    ]
    exact = {p for p in patterns if "*" not in p}
    loose = [p for p in patterns if "*" in p]
    return [k for k in keys if k in exact or any(fnmatch.fnmatchcase(k, p) for p in loose)]


def _bits(array: np.ndarray) -> np.ndarray:
    """The same memory as integers: numpy copies bfloat16 number by number, and integers fast."""
    return array.view(f"u{array.dtype.itemsize}")


def _assemble(leaf: _Leaf, tensors: Mapping[str, Stored]) -> np.ndarray:
    if not leaf.stacked:
        first = tensors[leaf.keys[0]].read()
        for key in leaf.keys[1:]:
            other = tensors[key].read()
            if other.dtype != first.dtype or not np.array_equal(_bits(first), _bits(other)):
                raise ValueError(
                    f"{key} differs from {leaf.keys[0]}; both should hold copies of {leaf.path}"
                )
        return einops.rearrange(first, leaf.pattern)
    single = tensors[leaf.keys[0]]
    shape = einops.rearrange(np.broadcast_to(np.int8(0), single.shape), leaf.pattern).shape
    out = np.empty((len(leaf.keys), *shape), single.dtype)
    for i, key in enumerate(leaf.keys):
        _bits(out)[i] = einops.rearrange(_bits(tensors[key].read()), leaf.pattern)
    return out


def read(table: Table, tensors: Mapping[str, Stored], like: Any) -> dict[str, Stored]:
    """Our arrays by path, from the reference's tensors; each is put together when it is read.

    Args:
        table: the rows.
        tensors: the reference's state dict.
        like: our tree `{"params": ..., "constants": ...}` of arrays or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: at once, listing every tensor that is unknown, missing, named twice, of a wrong
            shape or of another type than the tensors it is stacked with; when an array is read
            whose tensors should be copies of one another and are not.
    """
    leaves, wanted, problems = _plan(table, like)
    problems += _file_problems(leaves, table, wanted, tensors)
    _fail(problems, "these weights do not fit the network")
    ours = traverse_util.flatten_dict(like, sep="/")
    return {
        leaf.path: Stored(
            tuple(ours[leaf.path].shape),
            tensors[leaf.keys[0]].dtype,
            functools.partial(_assemble, leaf, tensors),
        )
        for leaf in leaves
    }


def reference_shapes(table: Table, like: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that `write` gives, by key, in its order.

    Raises:
        ValueError: listing every array that no row names, is missing, or does not fit its row.
    """
    _, shapes, problems = _plan(table, like)
    _fail(problems, "this network does not fit the table")
    return shapes | {key: value.shape for key, value in _written_back(table).items()}


class _Latest:
    """Reads arrays and keeps the last one: the layers of a stack are asked for in turn."""

    def __init__(self, arrays: Mapping[str, Stored]):
        self._arrays, self._path, self._array = arrays, "", np.empty(0)

    def layer(self, leaf: _Leaf, index: int) -> np.ndarray:
        if leaf.path != self._path:
            self._array = np.empty(0)  # let go of the last before the next is read
            self._path, self._array = leaf.path, self._arrays[leaf.path].read()
        single = self._array[index] if leaf.stacked else self._array
        turned = np.ascontiguousarray(einops.rearrange(_bits(single), leaf.back))
        return turned.view(single.dtype)


def write(table: Table, arrays: Mapping[str, Stored]) -> dict[str, Stored]:
    """The reference's tensors by key, from our arrays by path; fastest when read in order.

    Raises:
        ValueError: at once, as `reference_shapes`.
    """
    shapes = reference_shapes(table, traverse_util.unflatten_dict(dict(arrays), sep="/"))
    latest = _Latest(arrays)
    tensors = {
        key: Stored(shapes[key], arrays[leaf.path].dtype, functools.partial(latest.layer, leaf, i))
        for leaf in _leaves(table)
        for i, key in enumerate(leaf.keys)
    }
    return tensors | {key: in_memory(value) for key, value in _written_back(table).items()}


def to_ours(table: Table, state_dict: Mapping[str, np.ndarray], like: Any) -> dict[str, Any]:
    """A whole state dict to our tree `{"params": ..., "constants": ...}`; see `read`."""
    arrays = read(table, {key: in_memory(tensor) for key, tensor in state_dict.items()}, like)
    return traverse_util.unflatten_dict({p: a.read() for p, a in arrays.items()}, sep="/")


def to_reference(table: Table, tree: Any) -> dict[str, np.ndarray]:
    """Our tree `{"params": ..., "constants": ...}` to a whole state dict; see `write`."""
    arrays = {p: in_memory(a) for p, a in traverse_util.flatten_dict(tree, sep="/").items()}
    return {key: tensor.read() for key, tensor in write(table, arrays).items()}
