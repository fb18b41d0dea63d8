"""Measures generated videos, against true, control and training videos where they are given.

    python -m cosmos_jax.evaluate --generated=FOLDER [--reference=FOLDER] [--control=FOLDER]
        [--train=FOLDER] [--output=metrics.json]

A folder holds NAME.json with its videos (run_sample.py's output, which names its control and true
videos itself), CAMERA/NAME.mp4, NAME/CAMERA.mp4, NAME.mp4, or a data set's videos/CAMERA/NAME.mp4.
A folder of several such folders, such as step_001000/ and step_002000/, is one of checkpoints: the
table then tells which of them is best. Videos belong together by NAME and camera.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from cosmos_jax import cli

GENERATED = flags.DEFINE_string("generated", None, "Folder of generated videos.")
REFERENCE = flags.DEFINE_string("reference", None, "Folder of true videos.")
CONTROL = flags.DEFINE_string("control", None, "Folder of control videos.")
TRAIN = flags.DEFINE_string("train", None, "Folder of training videos: is anything memorised?")
OUTPUT = flags.DEFINE_string("output", None, "JSON to write; default: GENERATED/metrics.json.")
LAYOUT = flags.DEFINE_enum(
    "layout", "auto", ["auto", "camera/name", "name/camera"], "What two levels of names are."
)
RESIZE = flags.DEFINE_enum(
    "resize",
    None,
    ["cover", "stretch", "stretch_truncated", "robotics"],
    "Rule by which true and control videos are brought to the size of the generated.",
)
FRAMES = flags.DEFINE_integer("frames", None, "Measure the first so many frames of each video.")
STRIDE = flags.DEFINE_integer("stride", 1, "Every n-th frame of true and control videos.")
SKIP = flags.DEFINE_integer(
    "skip", None, "First frames that are not measured; default: those given to run_sample.py."
)
EDGES = flags.DEFINE_string(
    "edges", "medium", "Canny's thresholds: a strength of prepare edges, or LOW,HIGH."
)
TOLERANCE = flags.DEFINE_integer("tolerance", 2, "Pixels by which edges may be apart.")
CONTROL_KIND = flags.DEFINE_enum(
    "control_kind", "auto", ["auto", "edge", "blur", "other"], "What control videos show."
)
BLUR = flags.DEFINE_enum(
    "blur", "medium", ["very_low", "low", "medium", "high", "very_high"], "Blur of blur-SSIM."
)
FEW = flags.DEFINE_integer("few", 8, "Frames of blur-SSIM and of the Sampson errors.")
TRAIN_FRAMES = flags.DEFINE_integer("train_frames", 8, "Frames of each training video.")
FEATURES = flags.DEFINE_string(
    "features",
    None,
    "Network for Frechet distances: package.module:function, or a file of jax.export; takes uint8 "
    "[n y x 3] (or [n f y x 3]) and gives features [n d].",
)
FEATURES_OF = flags.DEFINE_enum(
    "features_of", "frames", ["frames", "clips"], "What the network takes: FID or FVD."
)
CLIP_FRAMES = flags.DEFINE_integer("clip_frames", 16, "Frames of a clip for --features_of=clips.")
WORKERS = flags.DEFINE_integer("workers", None, "Samples measured at a time (default: at most 4).")


def main(argv: list[str]) -> None:
    """Checks the flags, then measures."""
    cli.no_arguments(argv)
    generated = Path(cli.needed(GENERATED))
    from cosmos_jax.evaluate import measure, run, summary
    from cosmos_jax.gallery import page
    from cosmos_jax.prepare import render

    def folder(flag: Any) -> Path | None:
        return Path(flag.value) if flag.value else None

    with cli.user_errors():
        job = run.Job(
            generated,
            reference=folder(REFERENCE),
            control=folder(CONTROL),
            train=folder(TRAIN),
            layout=LAYOUT.value,
            resize=RESIZE.value,
            frames=FRAMES.value,
            stride=STRIDE.value,
            skip=SKIP.value,
            train_frames=TRAIN_FRAMES.value,
            features=FEATURES.value,
            features_of=FEATURES_OF.value,
            clip_frames=CLIP_FRAMES.value,
            workers=min(4, render.cores()) if WORKERS.value is None else WORKERS.value,
        )
        settings = measure.Settings(
            run.thresholds(EDGES.value), TOLERANCE.value, CONTROL_KIND.value, BLUR.value, FEW.value
        )
        result = run.evaluate(job, settings, lambda line: print(line, flush=True))
        output = Path(OUTPUT.value) if OUTPUT.value else generated / run.SAVED
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        print(f"\n{summary.report(summary.of_result(result))}\n\n{output}")
        if output == generated / run.SAVED and page.is_output(generated):
            print(page.write_gallery(generated))


if __name__ == "__main__":
    cli.run(main)
