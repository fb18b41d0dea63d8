"""Turns files of the Waymo Open Dataset into the folders of videos that training reads.

    python -m cosmos_jax.prepare waymo --source=/path/to/tfrecords --root=datasets/waymo

    ROOT/videos/pinhole_front/CLIP.mp4      and pinhole_front_left, pinhole_front_right,
                                            pinhole_side_left, pinhole_side_right

The files are those of the perception data set, version 1 (segment-*.tfrecord), and hold about 198
frames of five cameras, 10 a second, at 1920 x 1280 (side cameras 1920 x 886). TensorFlow is not
needed. Cameras that lack pictures are left out. Next come `prepare prompts
--layout=metas_per_view` and `prepare text`.
"""

from pathlib import Path

from absl import flags

from cosmos_jax import cli
from cosmos_jax.prepare import settings

SOURCE = flags.DEFINE_string("source", None, "A .tfrecord file, or a folder of them.")
ROOT = flags.DEFINE_string("root", None, "Folder of the data set that is made.")
WORKERS = settings.workers()


def main(argv: list[str]) -> None:
    """Checks the flags, then converts."""
    cli.no_arguments(argv)
    source, root = Path(cli.needed(SOURCE)), Path(cli.needed(ROOT))
    from cosmos_jax.prepare import render, waymo_videos

    with cli.user_errors():
        print(waymo_videos.run(source, root, WORKERS.value or render.cores()))
