"""Trains a model: mesh, data, state, restore, step, log, evaluate, save.

    python run_train.py --config=experiments/demo.py --workdir=runs/demo [--config.KEY=VALUE ...]

The same command goes on from the newest checkpoint of the workdir. With --plan it only says what
the run would take, and whether it fits (docs/plan.md).
"""

import contextlib
import importlib
import math
import os
import time
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli, hosts

CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment: experiments/NAME.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics, samples.")
DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "GPU kernels that give the same bits every time, where slower."
)
PROFILE = flags.DEFINE_string("profile", None, "START:STEPS that jax's profiler traces, as 20:3.")
PLAN = cli.define_switch("plan", "What the run would take; or compile, to ask XLA.", "compile")
PLANNED = (
    flags.DEFINE_integer("plan_devices", None, "Devices to plan for.", lower_bound=1),
    flags.DEFINE_float("plan_memory_gib", None, "Memory of each; an H200's.", lower_bound=1e-9),
    flags.DEFINE_float("plan_tflops", None, "Model TFLOP/s of each; measured.", lower_bound=1e-9),
)


def main(argv: list[str]) -> None:
    """Checks the flags, then trains."""
    cli.no_arguments(argv)
    config = cli.read_config(CONFIG)
    if PLAN.value != "false":
        with cli.user_errors():
            plan = importlib.import_module("cosmos_jax.plan")  # no part of a run
            return plan.main(config, PLAN.value, *(flag.value for flag in PLANNED))
    if idle := [flag.name for flag in PLANNED if flag.value is not None]:
        cli.fail(f"--{idle[0]} belongs to --plan")
    if DETERMINISTIC.value:  # read when jax starts
        if config.attention == "fa3":
            cli.fail("--deterministic: FlashAttention-3 is not; take --config.attention=cudnn")
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {cli.EXACT_KERNELS}"
    with contextlib.ExitStack() as stack:
        with cli.user_errors():
            workdir = cli.job_folder(WORKDIR, config)
            stack.enter_context(hosts.joined())
        train(config, workdir)


def train(config: Any, workdir: Path) -> None:
    """Runs an experiment to `config.steps`, from its newest checkpoint or from the start."""
    begun = time.monotonic()
    import jax

    from cosmos_jax import build, checkpoints, metrics
    from cosmos_jax import parts as run_parts
    from cosmos_jax import workdir as workdirs
    from cosmos_jax.data import pipeline, video

    with cli.user_errors():
        parts = run_parts.make(config, workdir)
        profile = build.profile(PROFILE.value, workdir, parts.done or 0, parts.loop.steps)
        loop, sizes, encoder = parts.loop, parts.sizes, parts.encoder
        state, record, saver = run_parts.begin(parts)
        first = 0 if record is None else record.step
        evaluate = build.load("cosmos_jax.evaluations:Evaluations", "evaluations")(parts)
        owed = evaluate.owed(record)
        if first >= loop.steps and not owed:
            print(f"nothing to do: step {first} of {loop.steps} is done", flush=True)
            return
        writer = metrics.MetricWriter(
            workdir,
            total_steps=loop.steps,
            resumed_step=first if first else None,
            wandb=loop.log.wandb,
            config=parts.values,
        )
        clips = parts.data.train
        workdirs.keep_config(parts.values, clips.cameras, clips.caption_cameras, workdir)
        where = (0, None) if record is None else (record.samples, record.data)
        stream = pipeline.train_iterator(clips, parts.trainer.seed, loop.rows, *where)
    watch, stop = metrics.Stopwatch(), hosts.Stop()

    try:
        with saver, writer, profile or contextlib.nullcontext():
            # ---- What an earlier start did not come to, and the first batch.
            if owed:
                evaluate(state, first, owed, saver, writer, watch)
            if first >= loop.steps:
                return
            batch, position = encoder(next(stream), loop.rows, loop.batch), stream.state()
            if first == 0 and (alarm := build.alarm(loop, parts.trainer, state, batch)):
                cli.fail(alarm, cli.STOPPED)
            parts.programs.wait(batch.latents.shape[1])
            writer.write(first, {"seconds_to_first_step": time.monotonic() - begun})
            if first == 0 and parts.validation is not None:
                writer.write(0, parts.validation(state))

            watch.take()
            since, tokens, flops = first, 0.0, 0.0
            skipped = metrics.Unsound(parts.trainer.skip_unsound)
            for step in range(first + 1, loop.steps + 1):
                if profile:
                    profile.turn(step)
                # ---- Step. While the devices work, the next batch is read and queued behind it.
                consumed, views = position, batch.latents.shape[1]
                tokens += sizes.tokens(views) * loop.batch
                flops += sizes.flops(views) * loop.batch
                with watch("step"):
                    state, out = parts.programs(state, batch)
                if step < loop.steps:
                    with watch("data_wait"):
                        clip = next(stream)
                    with watch("step"):
                        batch, position = encoder(clip, loop.rows, loop.batch), stream.state()
                with watch("step"):
                    loss = float(out["loss"])  # the encoding is queued behind it
                with watch("encode"):
                    jax.block_until_ready(batch)
                skipped.count(step, bool(out.pop("unsound")), out)
                if skipped.too_many or not (math.isfinite(loss) or skipped.allowed):
                    saver.wait()
                    told = importlib.import_module("cosmos_jax.stopped").message
                    cli.fail(told(step, loss, saver.latest_step()), cli.STOPPED)
                saver.check()

                # ---- Log, save, evaluate.
                last, leaving = step == loop.steps, stop.asked(step)
                if step % loop.log.every == 0 or last:
                    speed = metrics.speed(
                        watch.take(), step - since, tokens, flops, parts.mesh.size
                    )
                    since, tokens, flops = step, 0.0, 0.0
                    seen = {**stream.metrics(), **metrics.memory(), "unsound_steps": skipped.total}
                    writer.write(step, {**out, **speed, **hosts.spread(speed), **seen})
                if step % loop.checkpoint.every == 0 or last or leaving:
                    with watch("checkpoint"):
                        saver.save(state, consumed["samples"], consumed)
                if leaving:
                    saver.wait()
                    cli.fail(f"stopped by SIGTERM; step {step} is saved", cli.PREEMPTED)
                evaluate(state, step, evaluate.due(step), saver, writer, watch)
    except (checkpoints.SaveError, video.FileError, OSError) as error:
        cli.fail(error)
    finally:
        stream.close()


if __name__ == "__main__":
    cli.run(main)
