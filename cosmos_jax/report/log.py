"""metrics.jsonl to curves: whatever a killed run left in it, and few enough points to draw."""

import array
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FIRST_STEP = "seconds_to_first_step"
"""Written once by each start of a run, at the step that it goes on from."""

BUCKETS = 500
LARGEST_STEP = 2**53  # what JavaScript counts exactly


@dataclasses.dataclass(frozen=True)
class Curve:
    """The numbers of one name: `steps` increase strictly; a value that is not finite is NaN."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> "Curve":
        """Without the values that are not finite."""
        kept = np.isfinite(self.values)
        return Curve(self.steps[kept], self.values[kept])


@dataclasses.dataclass(frozen=True)
class Log:
    """What a metrics.jsonl holds.

    Attributes:
        curves: by name, in the order in which the file first names them.
        starts: (step, seconds to the first step) of each start; a step above 0 is a resumption.
        lines: how many were read.
        bad: numbers (from 1) of lines that could not be read.
        cut: whether the last line was cut short, as by a kill; it is not in `bad`.
    """

    curves: dict[str, Curve]
    starts: list[tuple[int, float]]
    lines: int
    bad: list[int]
    cut: bool


def read(path: Path) -> Log:
    """Reads a metrics.jsonl; one that is absent is an empty one.

    Where a step stands twice, its later value counts. What is not a line of metrics (an object with
    a `step` and numbers or nulls) is listed, and nothing of it is used.
    """
    steps: dict[str, array.array] = {}
    values: dict[str, array.array] = {}
    starts: list[tuple[int, float]] = []
    bad: list[int] = []
    number, cut = 0, False
    for number, line in enumerate(_lines(path), start=1):
        try:
            step, numbers = _row(line)
        except (ValueError, OverflowError, RecursionError):
            cut = not line.endswith(b"\n")
            if not cut:
                bad.append(number)
            continue
        for name, value in numbers.items():
            if name == FIRST_STEP:
                starts.append((step, value))
                continue
            steps.setdefault(name, array.array("q")).append(step)
            values.setdefault(name, array.array("d")).append(value)
    curves = {name: _ordered(np.array(steps[name]), np.array(values[name])) for name in steps}
    return Log(curves, starts, number - len(bad) - cut, bad, cut)


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file


def _row(line: bytes) -> tuple[int, dict[str, float]]:
    row = json.loads(line)
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        raise ValueError("no object with a step")
    step = row.pop("step")
    if not 0 <= step <= LARGEST_STEP:
        raise ValueError("no step")
    return step, {name: _number(value) for name, value in row.items()}


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise ValueError("no number")
    return float(value) if math.isfinite(value) else math.nan


def _ordered(steps: np.ndarray, values: np.ndarray) -> Curve:
    """Sorted by step; of equal steps the last."""
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    last = np.append(steps[1:] != steps[:-1], True)
    return Curve(steps[last], values[last])


def edges(count: int, buckets: int) -> np.ndarray:
    """Where to cut `count` values: evenly, and evenly again on a logarithmic scale.

    The second kind keeps the first steps apart on a logarithmic axis. Both ends are among them.
    """
    even = np.linspace(0, count, buckets + 1)
    logarithmic = np.geomspace(1, count, buckets // 2)
    return np.unique(np.concatenate([even, logarithmic]).round().astype(int))


def thin(values: np.ndarray, buckets: int = BUCKETS) -> np.ndarray:
    """Which values to draw: of each bucket the lowest, the highest and the first that is NaN.

    So no spike and no gap is lost, and every point is one that was measured. The first and the last
    are kept, and all where they are few.

    Returns:
        Increasing indices, at most 4.5 x `buckets` + 2 of them.
    """
    count = len(values)
    if count <= 2 * buckets:
        return np.arange(count)
    kept = {0, count - 1}
    bounds = edges(count, buckets)
    for begin, end in itertools.pairwise(bounds.tolist()):
        part = values[begin:end]
        missing = np.isnan(part)
        if missing.any():
            kept.add(begin + int(missing.argmax()))
        if not missing.all():
            kept |= {begin + int(np.nanargmin(part)), begin + int(np.nanargmax(part))}
    return np.array(sorted(kept))


def smoothed(curve: Curve, window: int) -> Curve:
    """Exponential mean of the finite values up to each, over about `window` of them.

    The first values are not pulled towards zero: weights add up to one from the start.
    """
    curve = curve.finite
    keep = 1 - 1 / window
    mean, weight, means = 0.0, 0.0, np.empty_like(curve.values)
    for i, value in enumerate(curve.values.tolist()):
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        means[i] = mean / weight
    return Curve(curve.steps, means)
