"""Samples multi-camera videos from a trained model and a folder of control clips.

    python run_sample.py --checkpoint=runs/demo --input=/path/to/clips --output=samples

`--checkpoint` is a workdir of run_train.py (its newest checkpoint) or one checkpoint in it.
For every clip NAME of the input folder the output folder gets NAME/CAMERA.mp4, NAME_grid.mp4 (all
views), NAME_control.mp4 and NAME.json, which says how it was made. Settings that no flag names are
those of the run (config.sample).
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from cosmos_jax import cli

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of a run, or one of its checkpoints.")
INPUT = flags.DEFINE_string("input", None, "Folder with control_input_*/, and videos/, captions/.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for the videos; new, unless --overwrite.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Write over the files of an earlier run.")
WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "regular"], "Averaged weights, or the last.")
MESH = flags.DEFINE_string(
    "mesh", None, "As in data=2,context=4. Default: context takes what fits."
)
CONTROL = flags.DEFINE_string("control", None, "Control folder; default: the run's.")
MAX_SAMPLES = flags.DEFINE_integer("max_samples", None, "Only the first clips.", lower_bound=1)
PROMPT = flags.DEFINE_string("prompt", None, "Caption in place of the files'.")
NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", None, "Text of the unconditional branch; default: none (zeros)."
)
TEXT_CACHE = flags.DEFINE_string(
    "text_cache", None, "Folder of text embeddings, auto, or none; default: the run's."
)
FPS = flags.DEFINE_float("fps", None, "Frames per second; the files' must be a multiple.")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Solver steps.")
GUIDANCE = flags.DEFINE_float("guidance", None, "g of cond + g (cond - uncond).")
SEED = flags.DEFINE_integer("seed", None, "Of the noise; clip i takes seed + i.")
CONTROL_WEIGHT = flags.DEFINE_float("control_weight", None, "Scale of the control, 0 to ignore it.")
NUM_CONDITIONAL_FRAMES = flags.DEFINE_integer(
    "num_conditional_frames", None, "Given pixel frames at the start of every view: 0, 1, 5, ..."
)


def main(argv: list[str]) -> None:
    """Checks the flags, then samples."""
    cli.no_arguments(argv)
    sample(*(Path(cli.needed(flag)) for flag in (CHECKPOINT, INPUT, OUTPUT)))


def sample(checkpoint: Path, folder: Path, output: Path) -> None:
    """Reads weights and inputs, then samples and writes one clip after the other."""
    import jax

    from cosmos_jax import (
        build,
        build_sample,
        build_weights,
        checkpoints,
        preview,
        startup,
        workdir,
    )
    from cosmos_jax.data import inputs as input_clips
    from cosmos_jax.data import pipeline
    from cosmos_jax.run_weights import load_variables

    # ---- Inputs: everything is checked before weights are read.
    with cli.user_errors():
        startup.keep_programs()
        path = checkpoints.locate(checkpoint)
        run = path.parent.parent
        values, cameras = workdir.read_config(run)
        values["attention"] = "auto"  # of this machine, not of the one that trained
        changes = {flag.name: flag.value for flag in SAMPLE_FLAGS if flag.value is not None}
        wanted = build_sample.inputs(
            values, cameras, folder, changes, CONTROL.value, FPS.value, PROMPT.value
        )
        clips = input_clips.open_inputs(wanted, MAX_SAMPLES.value)
        views = [camera for camera, _ in input_clips.find_views(wanted)]
        trainer = build.trainer(values)
        mesh = build_sample.sampling_mesh(values, trainer, MESH.value)
        jax.set_mesh(mesh)
        sizes = build.sizes(values, mesh, trainer)
        generator = build_sample.generator(values, mesh, trainer, **changes)
        negative = build_sample.negative_captions(
            values, views, NEGATIVE_PROMPT.value, generator.config.guidance
        )
        if (seed := generator.config.seed) + len(clips) > 2**32:
            raise ValueError(f"--seed={seed}: clip i takes seed + i, below 2^32")
        if CONTROL_WEIGHT.value is not None and not sizes.network.control_blocks:
            raise ValueError("--control_weight: the model has no control branch")
        check_output(output)
        said = [*(negative or ()), *(caption for clip in clips for caption in clip.captions)]
        text = build_sample.text(values, mesh, sizes, path.parent.parent, said, TEXT_CACHE.value)

        # ---- Weights.
        variables = load_variables(path, trainer, sizes.state, ema=WEIGHTS.value == "ema")
        text.check(variables["params"])
        encoder = build_weights.encoder(values, mesh, text)
    print(f"text     {text.description}", flush=True)
    print(f"{path}, {WEIGHTS.value} weights, {len(clips)} clips of views {views}", flush=True)

    # ---- Sample.
    for i, read in enumerate(clips):
        with cli.user_errors():
            clip = read()
        seed, stack = generator.config.seed + i, pipeline.stack_clips([vars(clip)])
        try:
            pixels = preview.sample_clips(generator, encoder, variables, stack, seed, negative)
        except OSError as error:  # of text embeddings that are damaged
            cli.fail(error)
        if jax.process_index() == 0:
            about = settings(path, views, clip, generator.config, seed)
            with cli.user_errors():
                write(output, views, clip, pixels[0], about)
        print(f"{i + 1}/{len(clips)} {output / clip.name}_grid.mp4", flush=True)


def write(output: Path, views: list[str], clip: Any, pixels: Any, about: dict[str, Any]) -> None:
    """Writes a sample's videos, and how it was made."""
    from cosmos_jax import videos

    videos.write_sample(output, clip.name, views, pixels, clip.control, float(clip.fps))
    (output / f"{clip.name}.json").write_text(json.dumps(about, indent=1), "utf-8")


def check_output(output: Path) -> None:
    """Raises a ValueError where samples may not be written."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is not a folder")
    if not OVERWRITE.value and output.is_dir() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty; give a new folder, or --overwrite")


def settings(path: Path, views: list[str], clip: Any, config: Any, seed: int) -> dict[str, Any]:
    """How a sample was made, for its .json file."""
    import dataclasses

    import jax

    return {
        "checkpoint": str(path),
        "weights": WEIGHTS.value,
        "views": views,
        "captions": clip.captions,
        "negative_prompt": NEGATIVE_PROMPT.value,
        "fps": float(clip.fps),
        **dataclasses.asdict(config),
        "seed": seed,
        "jax": jax.__version__,
    }


SAMPLE_FLAGS: tuple[Any, ...] = (NUM_STEPS, GUIDANCE, SEED, CONTROL_WEIGHT, NUM_CONDITIONAL_FRAMES)


if __name__ == "__main__":
    cli.run(main)
