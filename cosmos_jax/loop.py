"""The training loop's own settings."""

import dataclasses

from cosmos_jax import metrics


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """When and on how much.

    Attributes:
        every: steps between validations; 0 for none at all.
        clips: held-out windows, spread evenly over the validation episodes.
        noises: noise draws for each clip; the control gap wants clips x noises of 32 or more.
        per_frame: whether to log the loss of each latent frame too.
    """

    every: int = 200
    clips: int = 8
    noises: int = 4
    per_frame: bool = False

    def __post_init__(self) -> None:
        if self.every < 0 or self.clips < 1 or self.noises < 1:
            raise ValueError(f"config.validation: {self} needs every >= 0, clips and noises >= 1")
        if self.clips * self.noises < 2:
            raise ValueError(f"config.validation: {self} has no standard error; draw 2 noises")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what stays (`checkpoints.Checkpoints`).

    Two stay at least: the weights of the newest may be those that give the first NaN loss.
    """

    every: int
    keep_last: int
    keep_every: int | None
    best: str | None = None  # a metric of the validation: the checkpoint with the lowest stays

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"config.checkpoint.every={self.every} must be at least 1")
        if self.keep_last < 2 or (self.keep_every is not None and self.keep_every < 1):
            raise ValueError(
                f"config.checkpoint.keep_last={self.keep_last} must be at least 2 and "
                f".keep_every={self.keep_every} at least 1, or None"
            )


@dataclasses.dataclass(frozen=True)
class PreviewConfig:
    """When and how to sample videos of held-out clips (`preview.make`).

    Attributes:
        every: steps in between; 0: at the end of training only.
        clips: how many; 0: never.
        weights: of "regular" and "ema".
        conditional_frames: given pixel frames, each number with each of `control_weights`.
        control_weights: scales of the control; () for a network without control branch.
        guidance, num_steps: in place of those of `config.sample`.
    """

    every: int
    clips: int
    weights: tuple[str, ...]
    conditional_frames: tuple[int, ...]
    control_weights: tuple[float, ...]
    guidance: float
    num_steps: int

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"config.preview.every={self.every} must be at least 0")

    def due(self, step: int, steps: int) -> bool:
        """Whether videos are sampled after a step of a run of `steps`."""
        often = self.every > 0 and step % self.every == 0
        return self.clips > 0 and (often or step == steps)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """When to write a line of metrics, and whether to Weights & Biases too."""

    every: int
    wandb: str

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"config.log.every={self.every} must be at least 1")
        if self.wandb not in metrics.WANDB_MODES:
            raise ValueError(f"config.log.wandb={self.wandb!r} is none of {metrics.WANDB_MODES}")


@dataclasses.dataclass(frozen=True)
class Loop:
    """All of them.

    Attributes:
        steps: of the whole run.
        batch: samples of one step, over all hosts.
        rows: the rows of a batch that this host reads.
        canary: the first-step canary's limit (`canary.ratio`); None switches it off.
        validation, checkpoint, preview, log: see their classes.
    """

    steps: int
    batch: int
    rows: list[int]
    canary: float | None
    validation: ValidationConfig
    checkpoint: CheckpointConfig
    preview: PreviewConfig
    log: LogConfig

    def __post_init__(self) -> None:
        if self.checkpoint.best is not None and not self.validation.every:
            raise ValueError("config.checkpoint.best needs config.validation.every above 0")
