"""Times the codec of a config: encoding and decoding of all views of one clip.

    python -m cosmos_jax.bench vae --config=experiments/NAME.py --views=1

Pixels, latents and weights are random; chunks are those of config.codec.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cosmos_jax import cli
from cosmos_jax.bench import settings

CONFIG, VIEWS, MESH = settings.config(), settings.views(), settings.mesh()
REPEATS, PROFILE = settings.repeats(5), settings.profile()


def main(argv: list[str]) -> None:
    """Checks the flags, then prints the lines."""
    cli.no_arguments(argv)
    views: Any = cli.needed(VIEWS)
    with cli.user_errors():
        values = settings.values(CONFIG, mesh=MESH)
    for line in vae(values, views):
        print(json.dumps(line), flush=True)


def vae(values: Mapping[str, Any], views: int) -> Iterator[dict[str, Any]]:
    """A line for each direction."""
    import jax

    from cosmos_jax import build, flops_vae, metrics
    from cosmos_jax.bench import measure, setup
    from cosmos_jax.models.wan_vae import WanVAE

    frames, size, dtype = values["data"]["num_frames"], values["data"]["size"], values["dtype"]
    with cli.user_errors():
        mesh, codec = build.mesh(values), build.codec(values)
        shape = build.latent_shape(codec, frames, size)
        jax.set_mesh(mesh)
        meter = measure.meter(REPEATS.value, settings.folder(PROFILE))
    params = setup.codec_params(codec, mesh)
    counts: Any = (None, None)
    if isinstance(codec, WanVAE):
        counts = (flops_vae.encode(codec, (frames, *size)), flops_vae.decode(codec, shape[:3]))
    inputs = {"encode": (1, views, frames, *size, 3), "decode": (1, views, *shape)}
    for (part, wanted), count in zip(inputs.items(), counts, strict=True):
        before = metrics.memory()
        array = setup.normal(0, wanted, dtype, mesh)
        program = measure.compiled(jax.jit(getattr(codec, part)), params, array)
        about = {
            "case": "vae",
            "part": part,
            "codec": {k: v for k, v in values["codec"].items() if k != "weights"},
            "mesh": dict(mesh.shape),
            "views": views,
            "frames": frames,
            "size": size,
            "dtype": dtype,
        }
        work = None if count is None else count.forward * views / mesh.size

        def run(call: Any = program.call, array: Any = array) -> Any:
            return call(params, array)

        yield from meter.lines(about, run, program, work, before)
