"""Measures speed and memory; one JSON line a case.

    python -m cosmos_jax.bench step --config=experiments/transfer25_robotics_edge.py --views=5

`step` times whole training steps (loss, gradients, clipping, AdamW, EMA) of a config on random
latents, without data loading and encoding. The weights are random.
"""

import json
import platform
import statistics
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment: experiments/NAME.py.")
VIEWS = flags.DEFINE_integer("views", None, "Number of camera views.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps, after two that are not.", lower_bound=1)
CASES = ("step",)


def main(argv: list[str]) -> None:
    """Runs the named case."""
    if len(argv) != 2 or argv[1] not in CASES:
        cli.fail(f"name one case: {', '.join(CASES)}")
    if VIEWS.value is None:
        cli.fail("--views=N is missing: the number of camera views")
    print(json.dumps(step(cli.read_config(CONFIG), VIEWS.value, REPEATS.value)), flush=True)


def step(config: Any, views: int, repeats: int) -> dict[str, Any]:
    """Times training steps of a config; returns the figures of one line."""
    import jax

    from cosmos_jax import build, metrics, sharding

    with cli.user_errors():
        values = build.check_config(config)
        mesh = build.mesh(values)
        jax.set_mesh(mesh)
        trainer, batch_size = build.trainer(values), values["data"]["batch_size"]
        sharding.batch_rows(mesh, batch_size)
        sizes = build.sizes(values, mesh, trainer)
    state = trainer.init_state(sizes.inputs, mesh)
    batch = random_batch(sizes, batch_size, views, trainer.dtype)
    began = time.perf_counter()
    run = jax.jit(trainer.step, donate_argnums=0).lower(state, batch).compile()
    compiled = time.perf_counter() - began
    seconds = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        state, out = run(state, batch)
        loss = float(out["loss"])
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[2:])
    return {
        "case": "step",
        "trainable": values["trainable"],
        "mesh": dict(mesh.shape),
        "batch": batch_size,
        "tokens": sizes.tokens(views),
        "seconds": round(median, 4),
        "seconds_all": [round(s, 4) for s in seconds],
        "model_tflops": round(sizes.flops(views) * batch_size / median / mesh.size / 1e12, 1),
        **{k: round(v, 2) for k, v in metrics.memory().items()},
        "compile_seconds": round(compiled, 1),
        "loss": round(loss, 4),
        "dtype": values["dtype"],
        "attention": trainer.net.config.attention,
        "remat": values["remat"],
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def random_batch(sizes: Any, size: int, views: int, dtype: Any) -> Any:
    """A batch of normal latents and text, made on the devices."""
    import jax
    import jax.numpy as jnp

    from cosmos_jax import sharding
    from cosmos_jax.types import Batch

    shape = (size, views, *sizes.latents)

    def make(key: Any) -> Batch:
        keys = jax.random.split(key, 3)
        latents, control = (
            sharding.constrain(jax.random.normal(k, shape), "b v t h w c") for k in keys[:2]
        )
        return Batch(
            latents=latents,
            control=control if sizes.network.control_blocks else None,
            text=jax.random.normal(keys[2], (size, views, *sizes.text), dtype),
            view_ids=jnp.tile(jnp.arange(views, dtype=jnp.int32), (size, 1)),
            index=jnp.arange(size, dtype=jnp.int32),
            fps=jnp.full(size, 10.0),
        )

    return jax.jit(make)(jax.random.key(0))


if __name__ == "__main__":
    cli.run(main)
