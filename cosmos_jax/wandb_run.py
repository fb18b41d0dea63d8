"""The Weights & Biases run of a training run; loaded where W&B is switched on."""

import pathlib
from collections.abc import Mapping
from typing import Any


def start(
    workdir: pathlib.Path, mode: str, project: str, config: Mapping[str, Any], resumed: bool
) -> Any:
    """Starts a W&B run, whose id is kept in the work folder so that a resumed run goes on in it."""
    import wandb

    kept = workdir / "wandb_run_id.txt"
    goes_on = resumed and kept.exists()
    try:
        run = wandb.init(
            project=project,
            name=workdir.resolve().name,
            dir=workdir,
            id=kept.read_text().strip() if goes_on else None,
            resume="allow" if goes_on else None,
            mode=mode,  # type: ignore[arg-type]  # one of WANDB_MODES
            config=dict(config),
        )
    except wandb.Error as error:
        raise ValueError(
            f"W&B did not start: {' '.join(str(error).split())}; run `wandb login`, or set "
            "--config.log.wandb=offline or disabled"
        ) from error
    kept.write_text(f"{run.id}\n")
    return run
