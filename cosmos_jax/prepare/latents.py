"""Encodes all clips of a data set once, into a folder that training reads in place of the videos.

    python -m cosmos_jax.prepare latents --config=experiments/NAME.py --root=/path/to/clips
        [--output=DIR] [--overwrite] [--shard_gb=1] [--config.KEY=VALUE ...]

The folder is ROOT/latents, or --output, or config.data.latents. It holds a window at every
config.data.window_stride-th frame, of all views, video and control, in ArrayRecord files that TFDS
opens too. An interrupted command goes on at the first file that is missing.
"""

from absl import flags

from cosmos_jax import cli
from cosmos_jax.prepare import settings

CONFIG, ROOT = settings.config(), settings.root_of_config()
OUTPUT = flags.DEFINE_string("output", None, "Folder of the latents; default: ROOT/latents.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Encode anew what an older cache holds.")
SHARD = flags.DEFINE_float("shard_gb", 1, "GiB of a file, about.", lower_bound=0)


def main(argv: list[str]) -> None:
    """Checks the flags, then encodes."""
    cli.no_arguments(argv)
    from cosmos_jax.prepare import encoding

    with cli.user_errors():
        values = settings.values(CONFIG, ROOT)
        if OUTPUT.value:
            values["data"]["latents"] = OUTPUT.value
        encoding.encode(values, OVERWRITE.value, int(SHARD.value * 2**30))
