"""Makes blurred control videos from the RGB videos of a data set.

    python -m cosmos_jax.prepare blur --root=/path/to/clips

For every videos/CAMERA/NAME.mp4 it writes control_input_vis/CAMERA/NAME.mp4 with the same number of
frames, frame rate and size, without sound. The blur and its strengths are those that
cosmos-transfer2.5 samples with when it is given no blurred video; its default is "medium".

A command that was stopped goes on where it was: finished videos are left as they are, and videos
whose source has changed are made anew.
"""

from pathlib import Path

from absl import flags

from cosmos_jax import cli
from cosmos_jax.prepare import settings

ROOT = flags.DEFINE_string("root", None, "Folder of the data set: it holds videos/.")
STRENGTH = flags.DEFINE_enum(
    "strength",
    "medium",
    ["very_low", "low", "medium", "high", "very_high"],
    "How much detail is lost: the picture is made 4, 4, 10, 16, 16 times smaller and back.",
)
TARGET = flags.DEFINE_string("target", "control_input_vis", "Control folder that is written.")
OVERWRITE, WORKERS = settings.overwrite_videos(), settings.workers()


def main(argv: list[str]) -> None:
    """Checks the flags, then makes the videos."""
    cli.no_arguments(argv)
    root = Path(cli.needed(ROOT))
    from cosmos_jax.prepare import blur_filter, render

    with cli.user_errors():
        blur = blur_filter.Blur(STRENGTH.value)
        made_by = f"cosmos_jax blur strength={STRENGTH.value}"
        workers = WORKERS.value or render.cores()
        print(render.run(root, TARGET.value, made_by, blur, OVERWRITE.value, workers))
