"""Embeds all captions of a data set once, into a folder that training and sampling read.

    python -m cosmos_jax.prepare text --config=experiments/NAME.py --root=/path/to/clips
        [--overwrite] [--config.KEY=VALUE ...]

The folder is ROOT/text_embeddings, or config.text.cache. Equal captions are embedded once, and what
is there already stays: an interrupted command goes on where it stopped. Where the config does not
train the network's projection of the text, the projected text is kept, which is much smaller.
"""

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment: experiments/NAME.py.")
ROOT = flags.DEFINE_string("root", None, "Folder of clips; default: config.data.root.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Embed anew what an older cache holds.")


def main(argv: list[str]) -> None:
    """Checks the flags, then embeds."""
    cli.no_arguments(argv)
    config = cli.read_config(CONFIG)
    from cosmos_jax import build
    from cosmos_jax.prepare import captions

    with cli.user_errors():
        values = build.check_config(config)
        if ROOT.value:
            values["data"]["root"] = ROOT.value
        captions.embed(values, OVERWRITE.value)
