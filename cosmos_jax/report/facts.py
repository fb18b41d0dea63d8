"""What the page says in words: where the run stands, what it read, its config."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cosmos_jax.report import charts
from cosmos_jax.report.log import Curve, Log

SOURCES = (
    "data.root",
    "init_from",
    "codec.kind",
    "codec.weights",
    "text.kind",
    "text.weights",
    "text.cache",
)
"""Settings that name what a run reads."""


def flat(values: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """[key, value] of everything in nested mappings, `a.b.c` and JSON."""
    rows = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows.append([prefix + key, shown])
    return rows


def what_was_read(config: Mapping[str, Any]) -> list[list[str]]:
    """[setting, value] of `SOURCES`, as far as this run's config has them."""
    held = dict(flat(config))
    return [[key, held[key]] for key in SOURCES if key in held]


def notes(held: Log) -> list[str]:
    """What a reader of the curves should know of the file they come from."""
    said = []
    if not held.lines:
        said.append("No metrics yet: the run has not written a line.")
    if held.cut:
        said.append("The last line of metrics is cut short: the run was killed, or is writing it.")
    if held.bad:
        some = ", ".join(map(str, held.bad[:10])) + (", ..." if len(held.bad) > 10 else "")
        said.append(f"{len(held.bad)} lines of metrics could not be read and are left out: {some}.")
    missing = {name: int(np.isnan(curve.values).sum()) for name, curve in held.curves.items()}
    for name, count in missing.items():
        if count:
            first = held.curves[name].steps[np.isnan(held.curves[name].values)][0]
            said.append(f"{name} is not a finite number {count} times, first at step {first}.")
    return said


def tiles(held: Log, config: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures at the top: `label`, `value`, and a `note` that may be empty."""
    made = [_progress(held, config["steps"])]
    for name, label in (("loss", "training loss"), ("val/loss", "validation loss")):
        if curve := _curve(held, name):
            low = int(curve.values.argmin())
            note = f"lowest {_text(curve.values[low])} at step {curve.steps[low]}"
            made.append(_tile(label, _text(curve.values[-1]), note))
    if gap := _curve(held, "val/control_gap"):
        around = _curve(held, "val/control_gap" + charts.ERROR)
        error = f" ± {around.values[-1]:.2g}" if around else ""
        note = f"step {gap.steps[-1]}; 0: the control is not used"
        made.append(_tile("control gap", _text(gap.values[-1]) + error, note))
    for name, label in (
        ("tokens_per_second", "tokens/s"),
        ("model_tflops", "model TFLOP/s a device"),
        ("seconds_per_step", "seconds a step"),
    ):
        if curve := _curve(held, name):
            made.append(_tile(label, _text(np.median(curve.values)), "median"))
    if wait := _curve(held, "data_wait_fraction"):
        made.append(_tile("waiting for data", f"{wait.values.mean():.1%}", "mean, of a step"))
    for name, label in (
        ("peak_memory_gib", "device memory"),
        ("peak_host_memory_gib", "host memory"),
    ):
        if curve := _curve(held, name):
            made.append(_tile(label, f"{_text(curve.values.max())} GiB", "peak"))
    return made


def _progress(held: Log, steps: int) -> dict[str, str]:
    """How far the run has come, and how often it was resumed."""
    last = max((int(curve.steps[-1]) for curve in held.curves.values()), default=0)
    resumed = [str(step) for step, _ in held.starts if step]
    some = ", ".join(resumed[:5]) + (", ..." if len(resumed) > 5 else "")
    note = f"resumed at step {some}" if resumed else "never resumed"
    return _tile("step", f"{last:,} of {steps:,}", note)


def _curve(held: Log, name: str) -> Curve | None:
    """The finite values of a name; None where there are none."""
    curve = held.curves[name].finite if name in held.curves else None
    return curve if curve is not None and len(curve.values) else None


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
