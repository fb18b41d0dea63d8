"""Where the numbers of a run go: the console, metrics.jsonl and Weights & Biases; and its clock.

Names: `seconds_per_step`, `tokens_per_second`, `model_tflops` (10^12 model FLOPs a second for each
device, recomputation not counted), `model_flops_share` (of the dense bfloat16 peak that the maker
of the device states), `data_wait_fraction` and `encode_fraction` (shares of the time of a step),
`peak_memory_gib`, and `seconds/<part>` (since the line before).
"""

import contextlib
import datetime
import importlib
import json
import math
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

FILE = "metrics.jsonl"
STEP_PARTS = ("data_wait", "encode", "step")
PARTS = (*STEP_PARTS, "checkpoint", "evaluation")
"""Where the time of a run goes. Training speed counts the first three only."""

WANDB_MODES = ("disabled", "offline", "online")

CONSOLE = {
    "loss": "loss {:.4f}",
    "grad_norm": "grad {:.3g}",
    "lr": "lr {:.2e}",
    "seconds_per_step": "{:.3g} s/step",
    "tokens_per_second": "{:,.0f} tokens/s",
    "model_tflops": "{:.3g} TFLOP/s",
    "peak_memory_gib": "{:.1f} GiB",
    "data_wait_fraction": "wait {:.0%}",
}
"""How the console shows known names; others are shown with their name, `seconds/...` not at all."""


PEAK_TFLOPS = {"H200": 989.0, "H100 80GB HBM3": 989.0, "A100": 312.0, "B200": 2250.0}


class Stopwatch:
    """Adds up the seconds of each of `PARTS` between two calls of `take`.

    JAX returns before a device is done: wait for a result inside a part to have its time there.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Counts the time of the body for `part`. Parts do not nest."""
        begun = self._clock()
        try:
            yield
        finally:
            self._seconds[part] += self._clock() - begun

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call, and starts again from zero."""
        seconds, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return seconds


PATIENCE = 20


class Unsound:
    """Counts steps whose loss or gradient was not sound (`train.Trainer`), and says each.

    Attributes:
        allowed: such steps are skipped, and the run goes on.
        total: how many there were since the start.
    """

    def __init__(self, allowed: bool):
        self.allowed, self.total, self._row = allowed, 0, 0

    def count(self, step: int, unsound: bool, out: Mapping[str, Any]) -> None:
        """Takes note of a step with these metrics."""
        self.total, self._row = self.total + unsound, self._row + 1 if unsound else 0
        if unsound and jax.process_index() == 0:
            how = "skipped" if self.allowed else "not sound"
            loss, norm = float(out["loss"]), float(out["grad_norm"])
            print(f"step {step} {how}: loss {loss:.4g}, gradient norm {norm:.4g}", flush=True)

    @property
    def too_many(self) -> bool:
        """Whether to give up."""
        return self._row > PATIENCE


def speed(
    seconds: Mapping[str, float],
    steps: int,
    tokens: int | float,
    flops: int | float,
    devices: int,
) -> dict[str, float]:
    """Speed over the last `steps` steps.

    Args:
        seconds: by part, from `Stopwatch.take`.
        steps: how many steps they cover.
        tokens: of all these steps, over whole batches.
        flops: model FLOPs of all these steps, likewise.
        devices: that share the steps.
    """
    training = sum(seconds[part] for part in STEP_PARTS)
    tflops, kind = flops / training / devices / 1e12, jax.devices()[0].device_kind
    peaks = [peak for name, peak in PEAK_TFLOPS.items() if name in kind]
    return {
        "seconds_per_step": training / steps,
        "tokens_per_second": tokens / training,
        "model_tflops": tflops,
        **({"model_flops_share": tflops / peaks[0]} if peaks else {}),
        "data_wait_fraction": seconds["data_wait"] / training,
        "encode_fraction": seconds["encode"] / training,
        **{f"seconds/{part}": seconds[part] for part in PARTS},
    }


def memory() -> dict[str, float]:
    """Peak memory in GiB: `peak_memory_gib` of the fullest device here, and of this process.

    CPU devices keep their arrays in the process, so theirs is the process's resident memory. Other
    devices that do not count their memory are left out.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return {"peak_memory_gib": host, "peak_host_memory_gib": host}
    counted = [stats for device in devices if (stats := device.memory_stats())]
    if not counted:
        return {"peak_host_memory_gib": host}
    peak = max(stats["peak_bytes_in_use"] for stats in counted) / 2**30
    return {"peak_memory_gib": peak, "peak_host_memory_gib": host}


FILE_ONLY = ("seconds/", "val/loss/")  # names that the console leaves out


class MetricWriter:
    """Writes the metrics of a run. Only process 0 writes; the others may call it alike.

    Args:
        workdir: holds metrics.jsonl, one JSON object a line with its `step`; a number that is not
            finite is null there.
        total_steps: of the whole run, for progress and the time that is left.
        resumed_step: the step of the checkpoint that the run goes on from, None for a fresh start.
            Lines of later steps, which will be made again, are dropped, so that none stands twice.
        wandb: "disabled", "offline" or "online". A resumed run goes on in the same W&B run.
        config: settings of the run, for W&B: its project, group and name are those of `job`.

    Raises:
        ValueError: an unknown W&B mode, or W&B cannot start.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        total_steps: int,
        resumed_step: int | None,
        wandb: str,
        config: Mapping[str, Any],
    ):
        if wandb not in WANDB_MODES:
            raise ValueError(f"wandb mode {wandb!r} is not one of {', '.join(WANDB_MODES)}")
        self._total = total_steps
        self._first: tuple[int, float] | None = None
        self._run: Any = None
        self._file: Any = None
        if jax.process_index() == 0:
            workdir = pathlib.Path(workdir)
            workdir.mkdir(parents=True, exist_ok=True)
            if wandb != "disabled":
                start = importlib.import_module("cosmos_jax.wandb_run").start
                self._run = start(workdir, wandb, config, resumed_step is not None)
            if (workdir / FILE).exists():
                resume = importlib.import_module("cosmos_jax.resume")
                resume.drop_lines_after(workdir / FILE, resumed_step)
            self._file = open(workdir / FILE, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the numbers of a step: Python numbers, or scalar arrays (which are waited for)."""
        if self._file is None:
            return
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        print(self._console_line(step, numbers), flush=True)
        if self._run is not None:
            self._run.log({"step": step, **numbers})

    def videos(self, step: int, folder: pathlib.Path) -> None:
        """Says where samples lie, and sends those that compare (NAME_compare_*.mp4) to W&B."""
        if self._file is not None:
            print(f"sampled {folder}", flush=True)
        if self._run is not None:
            importlib.import_module("cosmos_jax.wandb_run").send(self._run, step, folder)

    def close(self) -> None:
        """Closes the file, and waits for W&B."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # every line was flushed, or its error raised
                self._file.close()
        if self._run is not None:
            self._run.finish()

    def _console_line(self, step: int, numbers: Mapping[str, float]) -> str:
        now = time.monotonic()
        if self._first is None or step <= self._first[0]:
            self._first = (step, now)
            left = "-"
        else:
            pace = (now - self._first[1]) / (step - self._first[0])
            left = str(datetime.timedelta(seconds=round(pace * (self._total - step))))
        width = len(str(self._total))
        head = f"step {step:{width}}/{self._total} ({step / self._total:4.0%}, {left} left)"
        shown = [_show(k, v) for k, v in numbers.items() if not k.startswith(FILE_ONLY)]
        return "  ".join([head, *shown])


def _show(name: str, value: float) -> str:
    return CONSOLE[name].format(value) if name in CONSOLE else f"{name} {value:.4g}"
