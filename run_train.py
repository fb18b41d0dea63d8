"""Trains a model: mesh, data, state, restore, step, log, evaluate, save.

    python run_train.py --config=experiments/demo.py --workdir=runs/demo [--config.KEY=VALUE ...]

Start the same command again to go on from the newest checkpoint of the workdir.
"""

import time
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment, experiments/NAME.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics, samples.")


def main(_: Any) -> None:
    """Reads the flags; errors of the user end here with one line and exit status 2."""
    config = cli.read_config(CONFIG)
    if not WORKDIR.value:
        cli.fail("--workdir=runs/NAME is missing: the folder for checkpoints, metrics and samples")
    train(config, Path(WORKDIR.value))


def train(config: Any, workdir: Path) -> None:
    """Runs an experiment from its newest checkpoint, or from the start, to `config.steps`."""
    started = time.monotonic()
    import jax

    from cosmos_jax import build, checkpoints, evaluate_loop, metrics, sharding
    from cosmos_jax.data import pipeline

    with cli.user_errors():
        # Mesh, model, data: everything is checked before anything is written or computed.
        run = build.run(config, workdir)
        jax.set_mesh(run.mesh)
