"""Times attention kernels alone, forward and forward with backward, in bfloat16 on one device.

    python -m cosmos_jax.bench attention --tokens=62400,197120 --attention=cudnn,fa3

Queries, keys, values and the gradient are random.
"""

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from cosmos_jax import cli
from cosmos_jax.bench import settings

BACKENDS = flags.DEFINE_list("attention", ["auto"], "Backends (config.attention).")
TOKENS = flags.DEFINE_list("tokens", ["62400", "197120"], "Numbers of queries.")
KEYS = flags.DEFINE_integer("keys", None, "Number of keys; default: as queries.", lower_bound=1)
HEADS = flags.DEFINE_integer("heads", 16, "Number of heads.", lower_bound=1)
HEAD_WIDTH = flags.DEFINE_integer("head_width", 128, "Width of a head.", lower_bound=1)
REPEATS, PROFILE = settings.repeats(5), settings.profile()
DTYPE = "bfloat16"


def main(argv: list[str]) -> None:
    """Checks the flags, then prints the lines."""
    cli.no_arguments(argv)
    for text in TOKENS.value:
        if not text.isdecimal() or not int(text):
            cli.fail(f"--tokens={','.join(TOKENS.value)}: {text!r} is no number of tokens")
    for line in attention([int(text) for text in TOKENS.value], BACKENDS.value):
        print(json.dumps(line), flush=True)


def attention(lengths: Sequence[int], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Two lines for each number of tokens and each backend."""
    import jax

    from cosmos_jax import build, flops, metrics
    from cosmos_jax.bench import measure, setup
    from cosmos_jax.models import attention

    with cli.user_errors():
        backends = [build.attention_backend(name, DTYPE) for name in names]
        meter = measure.meter(REPEATS.value, settings.folder(PROFILE))
    heads, width = HEADS.value, HEAD_WIDTH.value
    for queries, backend in ((n, backend) for n in lengths for backend in backends):
        before = metrics.memory()
        keys = KEYS.value or queries
        shapes = [(1, n, heads, width) for n in (queries, keys, keys, queries)]
        arrays = [setup.normal(seed, shape, DTYPE) for seed, shape in enumerate(shapes)]
        attend = functools.partial(attention.kernel, backend=backend)

        def both(*arrays: jax.Array, attend: Any = attend) -> Any:
            y, pull = jax.vjp(attend, *arrays[:3])
            return y, pull(arrays[3])

        count = flops.Count(0, flops.scores(queries, keys, heads * width))
        parts: dict[str, tuple[Any, ...]] = {
            "forward": (attend, arrays[:3], count.forward),
            "forward+backward": (both, arrays, count.step(trained=False)),
        }
        for part, (function, inputs, work) in parts.items():
            program = measure.compiled(jax.jit(function), *inputs)
            about = {
                "case": "attention",
                "part": part,
                "tokens": queries,
                "keys": keys,
                "heads": heads,
                "head_width": width,
                "attention": backend,
                "dtype": DTYPE,
            }
            run = functools.partial(program.call, *inputs)
            yield from meter.lines(about, run, program, work, before)
            before = metrics.memory()
