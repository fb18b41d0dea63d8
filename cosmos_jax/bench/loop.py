"""Times what the training loop itself adds to a step on the host, and a checkpoint to the run.

    python -m cosmos_jax.bench loop --config=experiments/NAME.py --views=5 --step_seconds=8.3 \
        --workdir=runs

The loop of run_train.py runs with a program that takes and returns the whole training state of the
config but does no work, so every microsecond is overhead; in training, some of it hides behind the
step before. The step's own time comes from `bench step`. Checkpoints are real: they go to a folder
below --workdir, which is removed.
"""

import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from cosmos_jax import cli
from cosmos_jax.bench import settings

CONFIG, VIEWS, MESH = settings.config(), settings.views(), settings.mesh()
REPEATS, STEP_SECONDS = settings.repeats(50), settings.step_seconds()
WORKDIR = settings.workdir()
SAVES = flags.DEFINE_integer("saves", 2, "Checkpoints to write.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Checks the flags, then prints the line."""
    cli.no_arguments(argv)
    views: Any = cli.needed(VIEWS)
    step_seconds: Any = cli.needed(STEP_SECONDS)
    workdir = Path(cli.needed(WORKDIR))
    with cli.user_errors():
        values = settings.values(CONFIG, mesh=MESH)
        workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench_loop_", dir=workdir) as folder:
        line = loop(values, views, step_seconds, Path(folder))
    print(json.dumps(line), flush=True)


def loop(
    values: Mapping[str, Any], views: int, step_seconds: float, folder: Path
) -> dict[str, Any]:
    """The line of a config's training loop."""
    import jax

    from cosmos_jax import build, checkpoints, metrics
    from cosmos_jax.bench import measure, setup

    with cli.user_errors():
        system = setup.system(values, views)
        plan = build.loop(values, system.mesh)
    state = setup.training_state(system)
    batch = setup.random_batch(system.sizes, plan.batch, views, system.trainer.dtype)

    def nothing(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        number = batch.fps[0]
        out = {"loss": number, "grad_norm": 2 * number, "lr": 3 * number}
        return state.replace(step=state.step + 1), out

    program = measure.compiled(jax.jit(nothing, donate_argnums=0), state, batch)
    writer = metrics.MetricWriter(
        folder,
        total_steps=measure.WARM_UP + REPEATS.value,
        resumed_step=None,
        wandb=values["log"]["wandb"],
        config=values,
    )
    saver = checkpoints.Checkpoints(folder / "checkpoints", system.sizes.model, keep_last=1)
    with contextlib.redirect_stdout(sys.stderr), saver, writer:
        state, laps = turns(program.call, state, batch, writer, saver)
        save, write = saves(program.call, state, batch, saver)
    parts = {name: statistics.median(times[measure.WARM_UP :]) for name, times in laps.items()}
    parts["log"] /= plan.log.every
    overhead = sum(parts.values())
    return {
        "case": "loop",
        **system.about(),
        "seconds": round(overhead, 7),
        "microseconds": {name: round(1e6 * seconds, 1) for name, seconds in parts.items()},
        "log_every": plan.log.every,
        "step_seconds": step_seconds,
        "share_of_step": round(overhead / step_seconds, 6),
        "save_seconds": save,
        "write_seconds": write,
        "save_every": plan.checkpoint.every,
        "save_share": round(max(save) / (plan.checkpoint.every * step_seconds), 6),
        **measure.peak_memory(),
        **measure.machine(),
    }


def turns(
    program: Any, state: Any, batch: Any, writer: Any, saver: Any
) -> tuple[Any, dict[str, list[float]]]:
    """Turns of the loop of run_train.py; seconds by part, with those of the warm-up.

    dispatch: the call of the step. result: its loss is on the host. check: of loss and checkpoint.
    log: one line of metrics.
    """
    import jax

    from cosmos_jax import metrics
    from cosmos_jax.bench import measure

    watch = metrics.Stopwatch()
    laps: dict[str, list[float]] = {name: [] for name in ("dispatch", "result", "check", "log")}
    for step in range(1, measure.WARM_UP + REPEATS.value + 1):
        times = [time.perf_counter()]
        with watch("step"):
            state, out = program(state, batch)
        times.append(time.perf_counter())
        with watch("step"):
            loss = float(out["loss"])
        with watch("encode"):
            jax.block_until_ready(batch)
        times.append(time.perf_counter())
        assert math.isfinite(loss)
        saver.check()
        times.append(time.perf_counter())
        speed = metrics.speed(watch.take(), 1, 1, 1, 1)
        writer.write(step, {**out, **speed, **metrics.memory()})
        times.append(time.perf_counter())
        for name, before, after in zip(laps, times, times[1:], strict=False):
            laps[name].append(after - before)
    return state, laps


def saves(program: Any, state: Any, batch: Any, saver: Any) -> tuple[list[float], list[float]]:
    """Seconds that each save holds the loop up, and that it takes in all."""
    import jax

    held, whole = [], []
    for _ in range(SAVES.value):
        state, _ = program(state, batch)
        jax.block_until_ready(state)
        began = time.perf_counter()
        saver.save(state, 0, None)
        held.append(round(time.perf_counter() - began, 4))
        saver.wait()
        whole.append(round(time.perf_counter() - began, 4))
    return held, whole
