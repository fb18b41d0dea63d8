"""Times the network's forward pass, or the sampling of a whole clip.

    python -m cosmos_jax.bench sample --config=experiments/NAME.py --views=5 [--guidance=3]
    python -m cosmos_jax.bench sample ... --end_to_end [--num_steps=N]

One forward pass is what sampling calls at each solver step; with --guidance both branches go side
by side, as they do there. --end_to_end makes a clip: noise, all solver steps, decoding to pixels on
the host. Latents, control, text and weights are random.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from cosmos_jax import cli
from cosmos_jax.bench import settings

CONFIG, VIEWS = settings.config(), settings.views()
MESH, ATTENTION = settings.mesh(), settings.attention()
REPEATS, PROFILE = settings.repeats(5), settings.profile()
GUIDANCE = flags.DEFINE_float("guidance", None, "g of cond + g (cond - uncond); 0: one branch.")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Solver steps of --end_to_end.", lower_bound=1)
END_TO_END = flags.DEFINE_bool("end_to_end", False, "Time all solver steps and the decoding.")


def main(argv: list[str]) -> None:
    """Checks the flags, then prints the lines."""
    cli.no_arguments(argv)
    views: Any = cli.needed(VIEWS)
    if NUM_STEPS.value is not None and not END_TO_END.value:
        cli.fail("--num_steps has a meaning with --end_to_end only")
    if PROFILE.value is not None and END_TO_END.value:
        cli.fail("--profile: trace one forward pass, without --end_to_end")
    with cli.user_errors():
        values = settings.values(CONFIG, mesh=MESH, attention=ATTENTION)
    for line in (end_to_end if END_TO_END.value else forward)(values, views):
        print(json.dumps(line), flush=True)


def forward(values: Mapping[str, Any], views: int) -> Iterator[dict[str, Any]]:
    """The line of one evaluation of the network for one sample."""
    import jax
    import jax.numpy as jnp

    from cosmos_jax import build_sample, flops
    from cosmos_jax.bench import measure, setup
    from cosmos_jax.train import bind

    with cli.user_errors():
        system = setup.system(values, views)
        generator = build_sample.generator(values, system.mesh, system.trainer)
        meter = measure.meter(REPEATS.value, settings.folder(PROFILE))
    branches = 2 if GUIDANCE.value else 1
    trainer, solver = system.trainer, generator.solver
    steps = generator.config.steps(solver)
    middle = steps[len(steps) // 2].row
    variables = setup.sampling_variables(system)
    batch = setup.random_batch(system.sizes, branches, views, trainer.dtype)

    def predict(variables: Any, batch: Any) -> jax.Array:
        mask, x = jnp.zeros(batch.latents.shape[:3]), batch.latents
        network = bind(trainer.net, variables, batch, batch.text, mask, 1.0)
        return solver.predict(network, x, middle, x, x, mask, None)

    program = measure.compiled(jax.jit(predict), variables, batch)
    about = {"case": "sample", "part": "forward", "branches": branches, **system.about()}
    work = flops.forward(system.network, system.shape, system.sizes.text[0])
    yield from meter.lines(
        about,
        lambda: program.call(variables, batch),
        program,
        branches * work / system.mesh.size,
    )


def end_to_end(values: Mapping[str, Any], views: int) -> Iterator[dict[str, Any]]:
    """The line of one sampled clip; a run of one step warms up."""
    import dataclasses
    import statistics
    import time

    from cosmos_jax import build_sample, flops
    from cosmos_jax.bench import measure, setup

    flags_given = {flag.name: flag.value for flag in (GUIDANCE, NUM_STEPS)}
    changes = {name: value for name, value in flags_given.items() if value is not None}
    with cli.user_errors():
        system = setup.system(values, views)
        generator = build_sample.generator(values, system.mesh, system.trainer, **changes)
    ceiling = measure.measure_ceiling()
    variables = setup.sampling_variables(system)
    codec_params = setup.codec_params(generator.codec, system.mesh)
    batch = setup.random_batch(system.sizes, 1, views, system.trainer.dtype)
    text = setup.random_batch(system.sizes, 1, views, system.trainer.dtype, seed=1).text
    short, decoding, first = dataclasses.replace(generator.config, num_steps=1), [], []

    def run(config: Any = None) -> None:
        began = time.perf_counter()

        def on_step(done: int, steps: int) -> None:
            if done == 1:
                first.append(time.perf_counter() - began)

        latents = generator.latents(variables, batch, text, 0, config, on_step=on_step)
        began_decoding = time.perf_counter()
        generator.pixels(codec_params, latents)
        decoding.append(time.perf_counter() - began_decoding)

    run(short)  # compiles what all steps share
    _, seconds = measure.repeat(run, REPEATS.value, warm_up=0)
    decode = statistics.median(decoding[1:])
    config = generator.config
    branches = 2 if config.guidance else 1
    evaluations = generator.evaluations
    work = flops.forward(system.network, system.shape, system.sizes.text[0]) * evaluations
    denoising = [whole - part for whole, part in zip(seconds, decoding[1:], strict=True)]
    line = measure.figures([], denoising, branches * work / system.mesh.size, ceiling)
    yield {
        "case": "sample",
        "part": "end to end",
        "branches": branches,
        "evaluations": evaluations,
        **system.about(),
        **line,
        "decode_seconds": round(decode, 6),
        "first_step_seconds": round(first[0], 3),
        **measure.peak_memory(),
        **measure.machine(),
    }
