"""Trains a model: mesh, data, state, restore, step, log, evaluate, save.

    python run_train.py --config=experiments/demo.py --workdir=runs/demo [--config.KEY=VALUE ...]

The same command goes on from the newest checkpoint of the workdir.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli, hosts

CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment: experiments/NAME.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics, samples.")


def main(argv: list[str]) -> None:
    """Checks the flags, then trains."""
    cli.no_arguments(argv)
    with cli.user_errors():
        hosts.join()
    train(cli.read_config(CONFIG), Path(cli.needed(WORKDIR)))


def train(config: Any, workdir: Path) -> None:
    """Runs an experiment to `config.steps`, from its newest checkpoint or from the start."""
    begun = time.monotonic()
    import jax

    from cosmos_jax import build, build_weights, checkpoints, metrics, startup
    from cosmos_jax import workdir as workdirs
    from cosmos_jax.data import pipeline, video

    # ---- Mesh, model, data: whatever is wrong with the input is found before any work.
    with cli.user_errors():
        values = build.check_config(config)
        startup.keep_programs()
        mesh = build.mesh(values)
        jax.set_mesh(mesh)
        trainer = build.trainer(values)
        loop = build.loop(values, mesh)
        sizes = build.sizes(values, mesh, trainer)
        data = build.data(values, trainer, workdir / "synthetic")
        text = build_weights.text(values, mesh, sizes, data.train.config.root, data.captions)
        sizes = dataclasses.replace(sizes, text=text.shape)
        views = len(data.train.cameras)
        step_function = startup.Programs(trainer, sizes, loop.batch, mesh)
        step_function.check(views)
        done = max(checkpoints.complete_steps(workdir / "checkpoints"), default=None)
        fresh = done is None
        if fresh:
            build_weights.check_source(values)
        encoder = build_weights.encoder(values, mesh, text)
        validation = build.validation(loop, trainer, encoder, data)
        preview = build.preview(values, mesh, trainer, encoder, data, workdir / "samples")
        print(workdirs.summary(values, mesh, data, sizes, text.description), flush=True)

    # ---- State: the newest checkpoint, or the weights that the config names. The step compiles.
    with cli.user_errors():
        if done is None or done < loop.steps:
            step_function.compile(views)
        first, samples, data_state = 0, 0, None
        if fresh:
            state = build_weights.initial_state(values, mesh, trainer, sizes)
            text.check(state.frozen)
        keep = loop.checkpoint.keep_last, loop.checkpoint.keep_every
        saver = checkpoints.Checkpoints(workdir / "checkpoints", sizes.model, *keep)
        if not fresh:
            state, record = saver.restore(sizes.state)
            text.check(state.frozen)
            first, samples, data_state = record.step, record.samples, record.data
            print(f"going on from step {first} of {workdir}", flush=True)
        if first >= loop.steps:
            print(f"nothing to do: step {first} of {loop.steps} is done", flush=True)
            return
        writer = metrics.MetricWriter(
            workdir,
            total_steps=loop.steps,
            resumed_step=first if first else None,
            wandb=loop.log.wandb,
            project=loop.log.project,
            config=values,
        )
        workdirs.keep_config(values, data.train.cameras, data.train.caption_cameras, workdir)
        stream = pipeline.train_iterator(data.train, trainer.seed, loop.rows, samples, data_state)
    watch = metrics.Stopwatch()

    try:
        with saver, writer:
            # ---- The first batch.
            batch, position = encoder(next(stream), loop.rows, loop.batch), stream.state()
            if fresh and (alarm := build.alarm(loop, trainer, state, batch)):
                cli.fail(alarm, cli.STOPPED)
            step_function.compile(views).result()
            writer.write(first, {"seconds_to_first_step": time.monotonic() - begun})
            if first == 0 and validation is not None:
                writer.write(0, validation(state))

            watch.take()
            since = first
            for step in range(first + 1, loop.steps + 1):
                # ---- Step. While the devices work, the next batch is read and queued behind it.
                consumed = position
                with watch("step"):
                    state, out = step_function(state, batch)
                if step < loop.steps:
                    with watch("data_wait"):
                        clip = next(stream)
                    with watch("step"):
                        batch, position = encoder(clip, loop.rows, loop.batch), stream.state()
                with watch("step"):
                    loss = float(out["loss"])  # the encoding is queued behind it
                with watch("encode"):
                    jax.block_until_ready(batch)
                if not math.isfinite(loss):
                    saver.wait()
                    cli.fail(stopped(step, loss, saver.latest_step()), cli.STOPPED)
                saver.check()

                # ---- Log, evaluate, save, sample.
                last = step == loop.steps
                if step % loop.log.every == 0 or last:
                    work = sizes.tokens(views) * loop.batch, sizes.flops(views) * loop.batch
                    speed = metrics.speed(watch.take(), step - since, *work, mesh.size)
                    since = step
                    writer.write(step, {**out, **speed, **stream.metrics(), **metrics.memory()})
                if validation is not None and (step % loop.validation.every == 0 or last):
                    with watch("evaluation"):
                        writer.write(step, validation(state))
                if step % loop.checkpoint.every == 0 or last:
                    with watch("checkpoint"):
                        saver.save(state, consumed["samples"], consumed)
                if preview is not None and loop.preview.due(step, loop.steps):
                    with watch("evaluation"):
                        print(f"sampled {preview(state, step)}", flush=True)
    except (checkpoints.SaveError, video.FileError, OSError) as error:
        cli.fail(error)
    finally:
        stream.close()


def stopped(step: int, loss: float, saved: int | None) -> str:
    """What to say when a loss is not finite; `saved` is the step of the newest checkpoint."""
    if saved is None:
        kept = "No checkpoint was written yet"
    elif saved == step - 1:  # its weights gave this loss, so they may be the ones that are ruined
        kept = f"The checkpoint of step {saved} is kept; delete it if it gives this loss again"
    else:
        kept = f"The checkpoint of step {saved} is kept"
    return (
        f"the loss of step {step} is {loss}; stopped. {kept}. Lower config.optimizer.lr or .clip, "
        "and start the same command again"
    )


if __name__ == "__main__":
    cli.run(main)
