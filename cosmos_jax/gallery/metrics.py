"""The metrics on the gallery page: tables by sample, and over checkpoints with charts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_jax.evaluate import folders, summary
from cosmos_jax.evaluate.folders import Sample
from cosmos_jax.report import charts as report_charts
from cosmos_jax.report.log import Curve

SAVED = "metrics.json"


def of_folder(folder: Path, found: Mapping[str, Sequence[Sample]]) -> dict[str, summary.Checkpoint]:
    """Metrics of every checkpoint: of FOLDER/metrics.json, else those that sidecars hold.

    Raises:
        ValueError: metrics.json is damaged.
    """
    path = folder / SAVED
    measured = {}
    if path.is_file():
        try:
            measured = summary.of_result(json.loads(path.read_bytes()))
        except ValueError as error:
            raise ValueError(
                f"{path}: {error}; delete it, or measure anew with cosmos_jax.evaluate"
            ) from error
    made = {}
    for name, samples in found.items():
        own = {
            s.name: s.sidecar["metrics"] for s in samples if s.sidecar and "metrics" in s.sidecar
        }
        made[name] = measured[name] if name in measured else summary.of_samples(own)
    return made


def table(checkpoints: summary.Checkpoints) -> dict[str, Any]:
    """Means over samples by metric and checkpoint, the best of them, and what looks amiss."""
    several = len(checkpoints) > 1
    best = summary.verdicts(checkpoints) if several else {}
    names = dict.fromkeys(name for held in checkpoints.values() for name in held.means)
    rows = []
    for name in names:
        means = [held.means.get(name) for held in checkpoints.values()]
        reals = [mean.real for mean in means if mean and mean.real is not None]
        cells = [_cell(mean, best.get(name), at) for mean, at in zip(means, checkpoints)]
        reasons = dict.fromkeys(reason for mean in means if mean for reason in mean.reasons)
        rows.append(
            {**_head(name), "cells": cells, "real": _text(reals[0] if reals else None)}
            | {"reasons": list(reasons)}
        )
    places = summary.ranks(checkpoints) if several else {}
    return {
        "rows": rows,
        "signs": [
            [name, sign] for name, c in checkpoints.items() for sign in summary.signs(c.samples)
        ],
        "trends": summary.trends(checkpoints) if several else [],
        "places": [f"{places[name]:.2f}" if name in places else "" for name in checkpoints],
    }


def _head(name: str) -> dict[str, str]:
    metric = summary.BY_NAME.get(name)
    if metric is None:
        return {"title": name, "unit": "", "about": "", "better": ""}
    return {
        "title": metric.title, "unit": metric.unit, "about": metric.about, "better": metric.better
    }  # fmt: skip


def _cell(
    mean: summary.Mean | None, verdict: summary.Verdict | None, checkpoint: str
) -> dict[str, Any]:
    if mean is None or mean.value is None:
        why = "; ".join(mean.reasons) if mean else "not measured"
        return {"value": None, "note": why, "mark": ""}
    mark = ""
    if verdict is not None:
        mark = "best" if verdict.best == checkpoint else ""
        mark = "tied" if checkpoint in verdict.tied else mark
    count = f"{mean.samples} of {mean.total} samples"
    return {"value": summary.with_error(mean), "note": count, "mark": mark}


def _text(value: float | None) -> str | None:
    return None if value is None else summary.shown(value)


def sample_table(
    values: Mapping[str, Mapping[str, Any]], order: Sequence[str]
) -> list[dict[str, Any]]:
    """Of one sample, a row for each metric, with the rows of its cameras or pairs of them.

    Args:
        values: its metrics by checkpoint.
        order: of the checkpoints.
    """
    named = {name for metrics in values.values() for name in metrics}
    known = [metric.name for metric in summary.METRICS if metric.name in named]
    rows = []
    for name in known + sorted(named - set(known)):
        of_each = [values[c].get(name) if c in values else None for c in order]
        wheres = dict.fromkeys(where for one in of_each if one for where in one["by"])
        by = [
            {"where": where, **_row([one["by"].get(where) if one else None for one in of_each])}
            for where in wheres
        ]
        rows.append({**_head(name), **_row(of_each), "by": by})
    return rows


def _row(of_each: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    reals = [one["real"] for one in of_each if one and one["real"] is not None]
    cells = [
        {"value": _text(one["value"]) if one else None, "note": one["reason"] if one else ""}
        for one in of_each
    ]
    return {"cells": cells, "real": _text(reals[0] if reals else None)}


def charts(checkpoints: summary.Checkpoints) -> list[dict[str, Any]]:
    """One chart a metric: its mean with standard error over the steps, and real video's."""
    steps = [folders.step_of(name) for name in checkpoints]
    by_step = len(set(steps) - {None}) == len(steps)
    places = np.array([s for s in steps if s is not None] if by_step else range(1, len(steps) + 1))
    made = []
    for metric in summary.METRICS:
        means = [held.means.get(metric.name) for held in checkpoints.values()]
        values = _column([mean.value if mean else None for mean in means])
        if not np.isfinite(values).any():
            continue
        error = Curve(places, _column([mean.stderr if mean else None for mean in means]))
        around = error if np.isfinite(error.values).any() else None
        lines = [report_charts.series_of("generated", Curve(places, values), around)]
        real = _column([mean.real if mean else None for mean in means])
        if np.isfinite(real).any():
            lines.append(report_charts.series_of("real video", Curve(places, real)))
        made.append({"title": metric.title, "unit": metric.unit, "series": lines})
    return made


def _column(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
