"""The Weights & Biases run of a training run; loaded where W&B is switched on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosmos_jax import versions

STEP = "step"
COMPARED = "*_compare_*.mp4"


def start(workdir: Path, mode: str, config: Mapping[str, Any], resumed: bool) -> Any:
    """Starts a W&B run, whose id is kept in the work folder so that a resumed run goes on in it.

    Its project, group and name are those of `config["job"]`; a run without a name has its folder's.

    Curves are drawn over the metric "step" and not over W&B's own count of lines, which only grows:
    W&B would drop what a resumed run says again of steps that were logged before.

    Raises:
        ValueError: W&B cannot start.
    """
    import wandb

    kept, job = workdir / "wandb_run_id.txt", config["job"]
    goes_on = resumed and kept.exists()
    try:
        run = wandb.init(
            project=job["project"],
            group=job["group"],
            name=job["name"] or workdir.resolve().name,
            dir=workdir,
            id=kept.read_text().strip() if goes_on else None,
            resume="allow" if goes_on else None,
            mode=mode,  # type: ignore[arg-type]  # one of WANDB_MODES
            config={**config, "versions": versions.versions()},
        )
    except wandb.Error as error:
        raise ValueError(
            f"W&B did not start: {' '.join(str(error).split())}; run `wandb login`, or set "
            "--config.log.wandb=offline or disabled"
        ) from error
    run.define_metric(STEP, hidden=True)
    run.define_metric("*", step_metric=STEP)
    kept.write_text(f"{run.id}\n")
    return run


def send(run: Any, step: int, folder: Path) -> None:
    """Sends the compared samples of a step."""
    import wandb

    videos = {f"samples/{p.stem}": wandb.Video(str(p)) for p in sorted(folder.glob(COMPARED))}
    run.log({STEP: step, **videos})
