"""What a run is made of, from its config: everything is checked here before any work."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cosmos_jax import build, build_weights, checkpoints, startup
from cosmos_jax import workdir as workdirs
from cosmos_jax.data import pipeline
from cosmos_jax.encode import Encoder, Text
from cosmos_jax.loop import Loop
from cosmos_jax.train import Trainer
from cosmos_jax.types import TrainState


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a training run.

    Attributes:
        values: the config.
        workdir: the run's folder.
        mesh: the devices.
        trainer: the step and the state.
        loop: the loop's own settings.
        sizes: what follows from the config.
        data: clips to train on and clips held out.
        text: where text embeddings come from.
        encoder: of clips.
        programs: the step, compiled for each number of views.
        validation: a state to its metrics, or None.
        preview: samples videos from a state into a folder, or None.
        done: the step of the newest checkpoint; None for a run that has not begun.
    """

    values: Mapping[str, Any]
    workdir: Path
    mesh: Mesh
    trainer: Trainer
    loop: Loop
    sizes: build.Sizes
    data: pipeline.DataSet
    text: Text
    encoder: Encoder
    programs: startup.Programs
    validation: Callable[[TrainState], dict[str, float]] | None
    preview: Callable[[TrainState, Path], None] | None
    done: int | None


def make(config: Any, workdir: Path) -> Parts:
    """Builds and checks them, and says on the console what is about to run.

    Raises:
        ValueError: whatever is wrong with the config or the data.
        OSError: files that cannot be read.
    """
    values = build.check_config(config)
    startup.keep_programs()
    mesh = build.mesh(values)
    jax.set_mesh(mesh)
    trainer = build.trainer(values)
    loop = build.loop(values, mesh)
    sizes = build.sizes(values, mesh, trainer)
    data = build.data(values, trainer, workdir / "synthetic")
    build.load("cosmos_jax.evaluations:check", "evaluations")(loop, trainer, data)
    text = build_weights.text(values, mesh, sizes, data.train.config.root, data.captions)
    sizes = dataclasses.replace(sizes, text=text.shape)
    programs = startup.Programs(trainer, sizes, loop.batch, mesh)
    for views in data.train.view_counts:
        programs.check(views)
    done = max(checkpoints.complete_steps(workdir / "checkpoints"), default=None)
    if done is None:
        build_weights.check_source(values)
    pixels = data.train.latents is None or loop.preview.clips > 0
    encoder = build_weights.encoder(values, mesh, text, pixels)
    validation = build.validation(loop, trainer, encoder, data)
    preview = build.preview(values, mesh, trainer, encoder, data)
    print(workdirs.summary(values, mesh, data, sizes, text.description), flush=True)
    given = (values, workdir, mesh, trainer, loop, sizes, data, text, encoder, programs)
    return Parts(*given, validation, preview, done)


def begin(parts: Parts) -> tuple[TrainState, checkpoints.Record | None, checkpoints.Checkpoints]:
    """The state to start from, with the record of its checkpoint, while the step compiles.

    It is that of the newest checkpoint, or made of the weights that the config names.

    Raises:
        ValueError: weights that cannot be read, or a checkpoint of another model.
    """
    keep = parts.loop.checkpoint
    if parts.done is None or parts.done < parts.loop.steps:
        for views in parts.data.train.view_counts:
            parts.programs.compile(views)
    state = record = None
    if parts.done is None:
        given = parts.values, parts.mesh, parts.trainer, parts.sizes
        state = build_weights.initial_state(*given)
        parts.text.check(state.frozen)  # before there is a folder of checkpoints
    told = parts.sizes.model, keep.keep_last, keep.keep_every, keep.best, parts.sizes.defaults
    saver = checkpoints.Checkpoints(parts.workdir / "checkpoints", *told)
    if state is None:
        state, record = saver.restore(parts.sizes.state)
        parts.text.check(state.frozen)
        print(f"going on from step {record.step} of {parts.workdir}", flush=True)
    return state, record, saver
