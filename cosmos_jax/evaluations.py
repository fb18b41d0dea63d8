"""Validation and previews of a run: when they are due, and what an earlier start owes.

They come after the checkpoint of their step: whoever takes the machine back does not wait for them.
A start that goes on from that checkpoint makes up for what the one before it did not come to.
"""

import dataclasses
import shutil
from pathlib import Path

import jax

from cosmos_jax import build, preview, validation
from cosmos_jax.checkpoints import Checkpoints, Record
from cosmos_jax.data.pipeline import DataSet
from cosmos_jax.loop import Loop
from cosmos_jax.metrics import MetricWriter, Stopwatch
from cosmos_jax.parts import Parts
from cosmos_jax.train import Trainer
from cosmos_jax.types import TrainState


def check(loop: Loop, trainer: Trainer, data: DataSet) -> None:
    """Whether a run can validate and sample its held-out clips; reads neither clips nor weights.

    Raises:
        ValueError: settings that fit neither the model nor the data.
    """
    if loop.validation.every:
        cameras = [camera for camera, _ in data.validation.cameras]
        validation.check_best(loop.checkpoint.best, loop.validation, cameras)
        validation.check_clips(data, loop.validation)
    if loop.preview.clips:
        preview.check(loop.preview, trainer)
        preview.check_count(data, loop.preview.clips)


@dataclasses.dataclass(frozen=True)
class Due:
    """What is to be done for a step."""

    validation: bool
    preview: bool

    def __bool__(self) -> bool:
        return self.validation or self.preview


class Evaluations:
    """Of one run."""

    def __init__(self, parts: Parts):
        self._parts = parts

    def due(self, step: int) -> Due:
        """What is due after a step."""
        loop = self._parts.loop
        validates = self._parts.validation is not None
        return Due(
            validates and (step % loop.validation.every == 0 or step == loop.steps),
            self._parts.preview is not None and loop.preview.due(step, loop.steps),
        )

    def owed(self, record: Record | None) -> Due:
        """What was due after the step of a checkpoint, and is not there."""
        if record is None:
            return Due(False, False)
        due = self.due(record.step)
        there = self._samples(record.step).is_dir()
        return Due(due.validation and not record.metrics, due.preview and not there)

    def _samples(self, step: int) -> Path:
        return self._parts.workdir / "samples" / f"step_{step:06d}"

    def __call__(
        self,
        state: TrainState,
        step: int,
        due: Due,
        saver: Checkpoints,
        writer: MetricWriter,
        watch: Stopwatch,
    ) -> None:
        """Does what is due, and writes the report."""
        with watch("evaluation"):
            if due.validation:
                assert self._parts.validation is not None
                scores = self._parts.validation(state)
                writer.write(step, scores)
                saver.score(step, scores)
            if due.preview:
                writer.videos(step, self._previewed(state, step))
        if due.validation or step == self._parts.loop.steps:
            build.report(self._parts.workdir)

    def _previewed(self, state: TrainState, step: int) -> Path:
        """Samples into a folder that has its name when all is there."""
        assert self._parts.preview is not None
        folder = self._samples(step)
        draft = folder.with_name(f".{folder.name}.draft")
        if jax.process_index() == 0:
            shutil.rmtree(draft, ignore_errors=True)
        self._parts.preview(state, draft)
        if jax.process_index() == 0:
            shutil.rmtree(folder, ignore_errors=True)
            draft.replace(folder)
        return folder
