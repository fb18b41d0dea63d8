"""Makes edge control videos from the RGB videos of a data set.

    python -m cosmos_jax.prepare edges --root=/path/to/clips

For every videos/CAMERA/NAME.mp4 it writes control_input_edge/CAMERA/NAME.mp4: Canny's edges, white
on black, with the same number of frames, frame rate and size, without sound. The strengths are the
thresholds of cosmos-transfer2.5, whose default is "medium".

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
    None,
    ["very_low", "low", "medium", "high", "very_high"],
    "Thresholds by name (default: medium): very_low=20,50 finds the most edges, low=50,100, "
    "medium=100,200, high=200,300, very_high=300,400 only the strongest.",
)
LOW = flags.DEFINE_float("low", None, "Threshold of weak edges, 0 to 2040; with --high.")
HIGH = flags.DEFINE_float("high", None, "Threshold of strong edges; weak ones join them.")
TARGET = flags.DEFINE_string("target", "control_input_edge", "Control folder that is written.")
OVERWRITE, WORKERS = settings.overwrite_videos(), settings.workers()


def main(argv: list[str]) -> None:
    """Checks the flags, then makes the videos."""
    cli.no_arguments(argv)
    root = Path(cli.needed(ROOT))
    from cosmos_jax.prepare import canny, render

    with cli.user_errors():
        low, high = LOW.value, HIGH.value
        if (low is None) != (high is None):
            raise ValueError("--low and --high go together: give both, or --strength")
        if low is None or high is None:
            low, high = canny.STRENGTHS[STRENGTH.value or "medium"]
        elif STRENGTH.value is not None:
            raise ValueError("--strength stands for --low and --high: give the one or the others")
        edges = canny.Edges(low, high)
        made_by = f"cosmos_jax edges low={low:g} high={high:g}"
        workers = WORKERS.value or render.cores()
        print(render.run(root, TARGET.value, made_by, edges, OVERWRITE.value, workers))
