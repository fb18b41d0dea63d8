"""Times whole training steps of a config: loss, gradients, clipping, AdamW, EMA.

    python -m cosmos_jax.bench step --config=experiments/NAME.py --views=5

Latents, text and weights are random; nothing is loaded or encoded.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cosmos_jax import cli
from cosmos_jax.bench import settings

CONFIG, VIEWS = settings.config(), settings.views()
MESH, REMAT, ATTENTION = settings.mesh(), settings.remat(), settings.attention()
REPEATS, PROFILE = settings.repeats(5), settings.profile()


def main(argv: list[str]) -> None:
    """Checks the flags, then prints the lines."""
    cli.no_arguments(argv)
    views: Any = cli.needed(VIEWS)
    with cli.user_errors():
        values = settings.values(CONFIG, mesh=MESH, remat=REMAT, attention=ATTENTION)
    for line in step(values, views):
        print(json.dumps(line), flush=True)


def step(values: Mapping[str, Any], views: int) -> Iterator[dict[str, Any]]:
    """The line of a config's training step."""
    from cosmos_jax import sharding
    from cosmos_jax.bench import measure, setup

    size = values["data"]["batch_size"]
    with cli.user_errors():
        system = setup.system(values, views)
        sharding.batch_rows(system.mesh, size)
        meter = measure.meter(REPEATS.value, settings.folder(PROFILE))
    trainer, sizes = system.trainer, system.sizes
    state = setup.training_state(system)
    batch = setup.random_batch(sizes, size, views, trainer.dtype)
    program = measure.compiled(trainer.jit_step(), state, batch)
    about = {
        "case": "step",
        "trainable": values["trainable"],
        "batch": size,
        **system.about(),
        "remat": values["remat"],
        "loss": None,
    }

    def run() -> Any:
        nonlocal state
        state, out = program.call(state, batch)
        about["loss"] = round(float(out["loss"]), 4)
        return state

    yield from meter.lines(about, run, program, sizes.flops(views) * size / system.mesh.size)
