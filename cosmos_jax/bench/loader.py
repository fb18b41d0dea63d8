"""Times the data pipeline of a config alone: decoding and resizing of clips, without a GPU.

    python -m cosmos_jax.bench loader --config=experiments/NAME.py [--step_seconds=8.3]

With config.data.root=synthetic the data set is rendered below --workdir first. As many clips are
read before timing as the readers may have ready. With --step_seconds the line says whether training
steps of that length hide the loader.
"""

import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosmos_jax import cli
from cosmos_jax.bench import settings

CONFIG, WORKDIR = settings.config(), settings.workdir()
REPEATS, STEP_SECONDS = settings.repeats(32), settings.step_seconds()


def main(argv: list[str]) -> None:
    """Checks the flags, then prints the line."""
    cli.no_arguments(argv)
    with cli.user_errors():
        values = settings.values(CONFIG)
        if values["data"]["root"] == "synthetic" and WORKDIR.value is None:
            raise ValueError("--workdir is missing: the folder in which the data set is rendered")
    print(json.dumps(loader(values, Path(WORKDIR.value or "."))), flush=True)


def loader(values: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """The line of a config's loader."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from cosmos_jax import build
    from cosmos_jax.bench import measure
    from cosmos_jax.data import pipeline

    with cli.user_errors():
        trainer = build.trainer({**values, "attention": "auto"})
        train = build.data(values, trainer, workdir / "synthetic").train
        config = train.config
        stream = pipeline.train_iterator(train, trainer.seed, range(config.batch_size))
    ready = -(-config.prefetch * max(1, config.num_workers) // config.batch_size)
    seconds = []
    try:
        with cli.user_errors():
            for _ in range(measure.WARM_UP + ready):
                clip = next(stream)
            for _ in range(REPEATS.value):
                began = time.perf_counter()
                clip = next(stream)
                seconds.append(time.perf_counter() - began)
    finally:
        stream.close()
    videos = [clip.video, *([] if clip.control is None else [clip.control])]
    rate = len(seconds) * config.batch_size / sum(seconds)  # clips come in bursts: no median
    return {
        "case": "loader",
        "batch": config.batch_size,
        "videos": len(videos) * clip.video.shape[1],
        "frames": config.num_frames,
        "size": config.size,
        "threads": config.num_threads,
        "workers": config.num_workers,
        "cores": os.cpu_count(),
        "seconds": round(statistics.median(seconds), 6),
        "seconds_all": [round(s, 6) for s in seconds],
        "clips_per_second": round(rate, 4),
        "frames_per_second": round(rate * len(videos) * clip.video[0, ..., 0, 0, 0].size, 2),
        "megabytes_per_second": round(rate * sum(v[0].nbytes for v in videos) / 1e6, 2),
        **needed(rate, config.batch_size, STEP_SECONDS.value),
        **measure.machine(),
    }


def needed(rate: float, batch: int, step_seconds: float | None) -> dict[str, Any]:
    """What training steps of some length ask of a loader of `rate` clips a second."""
    if step_seconds is None:
        return {}
    clips = batch / step_seconds
    return {
        "step_seconds": step_seconds,
        "needed_clips_per_second": round(clips, 4),
        "hidden": rate >= clips,
    }
