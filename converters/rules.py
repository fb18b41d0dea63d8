"""Applies a table of weight names in both directions, on numpy arrays, one array at a time.

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
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import einops
import numpy as np
from flax import traverse_util


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
    given: Mapping[str, Sequence[int]],
) -> list[str]:
    known = [key for leaf in leaves for key in leaf.keys]
    named = set(known)
    dropped = [k for row in table if isinstance(row, Ignored) for k in _alternatives(row.reference)]
    problems = [f"{key}: missing" for key in known if key not in given]
    for key, shape in given.items():
        if key in wanted and tuple(shape) != wanted[key]:
            problems.append(f"{key}: shape {tuple(shape)}, but the network needs {wanted[key]}")
        if key not in named and not any(fnmatch.fnmatchcase(key, pattern) for pattern in dropped):
            problems.append(f"{key}: unknown, no row of the table names it")
    return problems


def _assemble(leaf: _Leaf, lookup: Callable[[str], np.ndarray]) -> np.ndarray:
    first = einops.rearrange(lookup(leaf.keys[0]), leaf.pattern)
    if not leaf.stacked:
        for key in leaf.keys[1:]:
            if not np.array_equal(first, einops.rearrange(lookup(key), leaf.pattern)):
                raise ValueError(
                    f"{key} differs from {leaf.keys[0]}; both should hold copies of {leaf.path}"
                )
        return first
    out = np.empty((len(leaf.keys), *first.shape), first.dtype)
    for i, key in enumerate(leaf.keys):
        tensor = lookup(key)
        if tensor.dtype != out.dtype:
            raise ValueError(
                f"{key} is {tensor.dtype} and {leaf.keys[0]} is {out.dtype}; save the layers "
                "of one model in one type"
            )
        out[i] = einops.rearrange(tensor, leaf.pattern)
    return out


def read(
    table: Table,
    shapes: Mapping[str, Sequence[int]],
    lookup: Callable[[str], np.ndarray],
    like: Any,
) -> Iterator[tuple[str, np.ndarray]]:
    """Our arrays, one at a time, as (path, array); only the array in hand is in memory.

    Args:
        table: the rows.
        shapes: shape of every tensor of the reference, by key.
        lookup: gives the tensor of a key.
        like: our tree `{"params": ..., "constants": ...}` of arrays or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: at once, listing every tensor that is unknown, missing, named twice or of a
            wrong shape; while reading, where tensors that should be copies of one array differ.
    """
    leaves, wanted, problems = _plan(table, like)
    problems += _file_problems(leaves, table, wanted, shapes)
    _fail(problems, "these weights do not fit the network")
    return ((leaf.path, _assemble(leaf, lookup)) for leaf in leaves)


def reference_shapes(table: Table, like: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that `write` gives, by key, in its order.

    Raises:
        ValueError: listing every array that no row names, is missing, or does not fit its row.
    """
    _, shapes, problems = _plan(table, like)
    _fail(problems, "this network does not fit the table")
    return shapes | {key: value.shape for key, value in _written_back(table).items()}


def write(table: Table, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The reference's tensors, one at a time, as (key, array), from our tree.

    Raises:
        ValueError: at once, as `reference_shapes`.
    """
    reference_shapes(table, tree)
    return _written(table, traverse_util.flatten_dict(tree, sep="/"))


def _written(table: Table, arrays: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for leaf in _leaves(table):
        array = np.asarray(arrays[leaf.path])
        for i, key in enumerate(leaf.keys):
            single = array[i] if leaf.stacked else array
            yield key, np.ascontiguousarray(einops.rearrange(single, leaf.back))
    yield from _written_back(table).items()


def to_ours(table: Table, state_dict: Mapping[str, np.ndarray], like: Any) -> dict[str, Any]:
    """A whole state dict to our tree `{"params": ..., "constants": ...}`; see `read`."""
    shapes = {key: tensor.shape for key, tensor in state_dict.items()}
    arrays = dict(read(table, shapes, state_dict.__getitem__, like))
    return traverse_util.unflatten_dict(arrays, sep="/")


def to_reference(table: Table, tree: Any) -> dict[str, np.ndarray]:
    """Our tree `{"params": ..., "constants": ...}` to a whole state dict; see `write`."""
    return dict(write(table, tree))
