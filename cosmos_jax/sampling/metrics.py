"""The metrics of a run's samples, with the default settings of `python -m cosmos_jax.evaluate`."""

import json
from pathlib import Path

from cosmos_jax.evaluate import measure as metrics
from cosmos_jax.evaluate import run, summary


def measure(folder: Path) -> Path:
    """Measures all samples of a folder, prints the table, and writes metrics.json.

    Raises:
        ValueError: samples that cannot be measured.
    """
    result = run.evaluate(run.Job(folder), metrics.Settings(), lambda line: print(line, flush=True))
    path = folder / run.SAVED
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    print(f"\n{summary.report(summary.of_result(result))}\n", flush=True)
    return path
