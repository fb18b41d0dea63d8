"""Which curves share a chart. A name that no row knows gets a chart of its own, or its group's."""

import dataclasses
import itertools
import re
from typing import Any

import numpy as np

from cosmos_jax.report import log
from cosmos_jax.report.log import Curve

ERROR = "_stderr"
"""`NAME_stderr` is drawn as the standard error of NAME."""

PARTS = ("step", "encode", "data_wait", "checkpoint", "evaluation")
SPANS = 200
SMOOTH_FROM = 20
LARGEST_WINDOW = 1000


@dataclasses.dataclass(frozen=True)
class Chart:
    """Names that fit `pattern` are curves of one chart.

    Where the pattern has a group, there is one chart for each text that it matches, and the `{}` of
    the title stands for that text. `smooth` adds a smoothed curve to each.
    """

    section: str
    title: str
    pattern: str
    unit: str = ""
    smooth: bool = False


CHARTS = (
    Chart("Training", "Training loss", r"loss", smooth=True),
    Chart("Training", "Training loss, parts", r"loss[/_][^/]+", smooth=True),
    Chart("Training", "Training loss by {}", r"loss[/_](?:by_)?(.+)/[^/]+", smooth=True),
    Chart("Training", "Learning rate", r"lr(?:/.+)?"),
    Chart("Training", "Gradient norm", r"grad_norm(?:/.+)?", smooth=True),
    Chart("Validation", "Validation loss", r"val/loss"),
    Chart("Validation", "Validation loss, parts", r"val/loss[/_][^/]+"),
    Chart("Validation", "Validation loss by {}", r"val/loss[/_](?:by_)?(.+)/[^/]+"),
    Chart("Validation", "Control gap", r"val/control_gap"),
    Chart("Validation", "{}", r"(val.*/.+)/[^/]+"),
    Chart("Validation", "{}", r"(val/[^/]+)"),
    Chart("Speed", "Tokens", r"tokens_per_second", "tokens/s"),
    Chart("Speed", "Model FLOPs", r"model_tflops", "TFLOP/s for each device"),
    Chart("Speed", "Time of a step", r"seconds_per_step", "s"),
    Chart("Speed", "Where the time goes", r"seconds/.+", "share of the time"),
    Chart("Speed", "Waiting for data, encoding", r".*_fraction", "share of a step"),
    Chart("Memory", "Peak memory, device and host", r".*memory_gib", "GiB"),
    Chart("Data", "Loader: samples read", r"loader_samples_per_second", "samples/s"),
    Chart("Data", "Loader: waits", r"loader_.*seconds", "s"),
    Chart("Data", "{}", r"(loader_.+)"),
    Chart("Other", "{}", r"(.+)/[^/]+"),
    Chart("Other", "{}", r"(.+)"),
)
TIME = next(chart for chart in CHARTS if chart.title == "Where the time goes")
"""Drawn as bars: seconds of each part, one above the other."""


def chart_of(name: str) -> tuple[Chart, str]:
    """The row that a name belongs to, and the title of its chart there."""
    for chart in CHARTS:
        found = re.fullmatch(chart.pattern, name, re.DOTALL)
        if found:
            groups = [group for group in found.groups() if group]
            return chart, chart.title.replace("{}", groups[0] if groups else "")
    raise ValueError("a name of a metric is empty")


def charts(curves: dict[str, Curve]) -> list[dict[str, Any]]:
    """Everything to draw, in the order of `CHARTS`, as JSON values.

    A chart of lines has `series`, of `points` [step, value or null] or [step, value, error]. A
    chart of shares has `parts` and `bars` [from step, to step, [seconds of each part]].
    """
    groups: dict[tuple[int, str], list[str]] = {}
    for name in sorted(curves, key=_natural):
        if not (name.endswith(ERROR) and name.removesuffix(ERROR) in curves):
            chart, title = chart_of(name)
            groups.setdefault((CHARTS.index(chart), title), []).append(name)
    made = []
    for (place, title), names in sorted(groups.items(), key=lambda item: item[0][0]):
        chart = CHARTS[place]
        draw = _time_split if chart is TIME else _lines
        chosen = {name: curves[name] for name in names}
        errors = {name: curves[name + ERROR] for name in names if name + ERROR in curves}
        head = {"section": chart.section, "title": title, "unit": chart.unit}
        made.append({**head, **draw(chosen, errors, chart.smooth)})
    return made


def _lines(curves: dict[str, Curve], errors: dict[str, Curve], smooth: bool) -> dict[str, Any]:
    series = []
    for name, curve in curves.items():
        series.append(series_of(name, curve, errors.get(name)))
        series += _smooth_series(name, curve) if smooth else []
    return {"series": series}


def _natural(name: str) -> list[Any]:
    """Sorts band_2 before band_10."""
    return [(1, int(x), "") if x.isdecimal() else (0, 0, x) for x in re.split(r"(\d+)", name)]


def series_of(name: str, curve: Curve, error: Curve | None = None) -> dict[str, Any]:
    """One curve: its points to draw, and numbers of all its values."""
    values = curve.values
    around = None if error is None else dict(zip(error.steps.tolist(), error.values.tolist()))
    points = []
    for i in log.thin(values).tolist():
        step = int(curve.steps[i])
        point: list[Any] = [step, number(values[i])]
        if around is not None:
            point.append(number(around.get(step, np.nan)))
        points.append(point)
    finite = curve.finite
    summary: dict[str, Any] = {"count": len(values), "missing": len(values) - len(finite.values)}
    if len(finite.values):
        low, high = int(finite.values.argmin()), int(finite.values.argmax())
        summary["last"] = number(finite.values[-1])
        summary["low"] = [int(finite.steps[low]), number(finite.values[low])]
        summary["high"] = [int(finite.steps[high]), number(finite.values[high])]
    return {"name": name, "points": points, **summary}


def _smooth_series(name: str, curve: Curve) -> list[dict[str, Any]]:
    """The smoothed curve, over a 50th of the values; none where there are few."""
    count = len(curve.finite.values)
    if count < SMOOTH_FROM:
        return []
    window = min(max(count // 50, 5), LARGEST_WINDOW)
    series = series_of(f"{name}, mean of about {window} values", log.smoothed(curve, window))
    return [{**series, "smooth": True}]


def _time_split(curves: dict[str, Curve], *unused: Any) -> dict[str, Any]:
    """Seconds by part, added up over at most `SPANS` spans of steps: nothing is left out."""
    named = {name.partition("/")[2]: curve.finite for name, curve in curves.items()}
    parts = sorted(named, key=lambda part: PARTS.index(part) if part in PARTS else len(PARTS))
    steps = np.unique(np.concatenate([curve.steps for curve in named.values()]))
    table = np.zeros((len(steps), len(parts)))
    for column, part in enumerate(parts):
        table[np.searchsorted(steps, named[part].steps), column] = named[part].values
    bounds = np.unique(np.linspace(0, len(steps), SPANS + 1).round().astype(int))
    bars = []
    for begin, end in itertools.pairwise(bounds.tolist()):
        before = int(steps[begin - 1]) if begin else 0
        seconds = [number(x) for x in table[begin:end].sum(axis=0)]
        bars.append([before, int(steps[end - 1]), seconds])
    return {"parts": parts, "bars": bars, "totals": [number(x) for x in table.sum(axis=0)]}


def number(value: float) -> float | None:
    """Six significant digits for the page; None for what is not finite."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
