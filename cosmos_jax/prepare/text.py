"""Embeds all captions of a data set once, into a folder that training and sampling read.

    python -m cosmos_jax.prepare text --config=experiments/NAME.py --root=/path/to/clips
        [--overwrite] [--config.KEY=VALUE ...]

The folder is ROOT/text_embeddings, or config.text.cache. Equal captions are embedded once, and what
is there already stays: an interrupted command goes on where it stopped. Where the config does not
train the network's projection of the text, the projected text is kept, which is much smaller.
"""

from absl import flags

from cosmos_jax import cli
from cosmos_jax.prepare import settings

CONFIG, ROOT = settings.config(), settings.root_of_config()
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Embed anew what an older cache holds.")


def main(argv: list[str]) -> None:
    """Checks the flags, then embeds."""
    cli.no_arguments(argv)
    from cosmos_jax.prepare import captions

    with cli.user_errors():
        captions.embed(settings.values(CONFIG, ROOT), OVERWRITE.value)
