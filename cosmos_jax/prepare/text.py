"""Embeds all captions of a data set once, into a folder that training and sampling read.

    python -m cosmos_jax.prepare text --config=experiments/NAME.py --root=/path/to/clips
        [--overwrite] [--guide=read|write] [--config.KEY=VALUE ...]

The folder is ROOT/text_embeddings, or config.text.cache. Equal captions are embedded once, and what
is there already stays: an interrupted command goes on where it stopped. Where the config does not
train the network's projection of the text, the projected text is kept, which is much smaller.

Predict1's guide keeps T5 embeddings in pickles: ROOT/t5_xxl/CAMERA/CLIP.pickle (or .pkl) and
ROOT/cache/prefix_t5_embeddings_CAMERA.pickle (or prefix_CAMERA.pkl). --guide=read makes the folder
of these, without the encoder and without running the pickles; --guide=write makes such files.
"""

from absl import flags

from cosmos_jax import cli
from cosmos_jax.prepare import settings

CONFIG, ROOT = settings.config(), settings.root_of_config()
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Embed anew what an older cache holds.")
GUIDE = flags.DEFINE_enum("guide", None, ["read", "write"], "The guide's pickles; see above.")


def main(argv: list[str]) -> None:
    """Checks the flags, then embeds."""
    cli.no_arguments(argv)
    from cosmos_jax.prepare import captions, guide_text

    with cli.user_errors():
        values = settings.values(CONFIG, ROOT)
        if GUIDE.value == "read":
            guide_text.read(values, OVERWRITE.value)
        elif GUIDE.value == "write":
            guide_text.write(values)
        else:
            captions.embed(values, OVERWRITE.value)
