"""Samples multi-camera videos from a trained, exported or published model.

    python run_sample.py --checkpoint=runs/demo --input=/path/to/clips --output=samples
    python run_sample.py --checkpoint=runs/demo --input=sample.json --output=samples
    python run_sample.py --checkpoint=model_ema_bf16.pt --config=experiments/NAME.py ...

`--input` is a folder of control clips, or JSON files as in the published guides. `--checkpoint` is
a workdir of run_train.py (its newest checkpoint), one checkpoint in it, or weights: .pt,
safetensors, a weights folder, an hf:// name; those need `--config`. A sample gets a video of each
view, pictures of all views, and a JSON file that says how it was made; the folder gets
gallery.html. The same command goes on where it was interrupted. docs/sampling.md.
"""

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of a run, a checkpoint, or weights.")
CHECKPOINTS = flags.DEFINE_string(
    "checkpoints", None, "all, or steps of the run as in 200,400; or more weights, with commas."
)
CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment of weights that are no run's.")
WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    ["ema", "regular"],
    "Averaged weights, or the last; default: averaged, if kept.",
)
INPUT = flags.DEFINE_list("input", None, "A folder of clips, or .json/.jsonl files with commas.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for the videos; new, unless --overwrite.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Write over the files of another run.")
COMPAT = flags.DEFINE_enum(
    "compat", "none", ["none", "reference"], "Do as the published samplers do, traps included."
)
MESH = flags.DEFINE_string("mesh", None, "As in data=2,context=4; default: what suits the devices.")
ATTENTION = flags.DEFINE_string("attention", "auto", "auto, xla, cudnn or fa3.")
BATCH = flags.DEFINE_integer("batch", 1, "Samples of one shape that go together.", lower_bound=1)
CONTROL = flags.DEFINE_string("control", None, "Control folder; default: the run's.")
MAX_SAMPLES = flags.DEFINE_integer("max_samples", None, "Only the first samples.", lower_bound=1)
SIZE = flags.DEFINE_list("size", None, "Rows,columns of a folder's samples; default: as trained.")
FPS = flags.DEFINE_float("fps", None, "Frames per second; the files' must be a multiple.")
PROMPT = flags.DEFINE_string("prompt", None, "Caption in place of the files'.")
NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", None, "Text of the unconditional branch; default: the run's, or the guide's."
)
TEXT_CACHE = flags.DEFINE_string(
    "text_cache", None, "Folder of text embeddings, auto, or none; default: the run's."
)
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Solver steps.")
SOLVER = flags.DEFINE_enum(
    "solver",
    None,
    ["euler", "2ab", "1euler", "2mid", "2heun_edm"],
    "Of Predict1: euler, the published inference's, or one of its training side, such as 2ab.",
)
GUIDANCE = flags.DEFINE_float("guidance", None, "g of cond + g (cond - uncond).")
GUIDANCE_INTERVAL = flags.DEFINE_list(
    "guidance_interval", None, "Noise levels where guidance acts, as in 0.1,0.9."
)
CACHE_THRESHOLD = flags.DEFINE_float(
    "cache_threshold",
    None,
    "Steps whose velocity changes less than this skip the network; 0: none.",
)
SEED = flags.DEFINE_integer("seed", None, "Of the noise; sample i of a folder takes seed + i.")
NUM_SEEDS = flags.DEFINE_integer("num_seeds", 1, "Samples with seed, seed + 1, ...", lower_bound=1)
CONTROL_WEIGHT = flags.DEFINE_float("control_weight", None, "Scale of the control, 0 to ignore it.")
NUM_CONDITIONAL_FRAMES = flags.DEFINE_integer(
    "num_conditional_frames", None, "Given pixel frames at the start of every view: 0, 1, 5, ..."
)
NUM_FRAMES = flags.DEFINE_integer(
    "num_frames", None, "For long videos: exactly so many frames.", lower_bound=1
)
NUM_CHUNKS = flags.DEFINE_string("num_chunks", None, "For long videos: the most chunks, or all.")
CHUNK_OVERLAP = flags.DEFINE_integer("chunk_overlap", None, "Frames that chunks share: 1, 5, ...")
HANDOVER = flags.DEFINE_enum(
    "handover", None, ["latents", "pixels"], "What a chunk hands to the next; default: latents."
)
CROSS_FADE = flags.DEFINE_bool("cross_fade", None, "Blend the frames that two chunks share.")
GUARDRAIL = flags.DEFINE_string(
    "guardrail", None, "module:function that checks prompts and frames."
)
METRICS = flags.DEFINE_bool(
    "metrics", None, "Measure samples (docs/evaluation.md); default: those of several checkpoints."
)
PLAN = flags.DEFINE_bool("plan", False, "Print memory and time, and sample nothing.")
PLAN_DEVICES = flags.DEFINE_integer("plan_devices", 1, "GPUs that --plan is for.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Checks everything, then samples."""
    cli.no_arguments(argv)
    checkpoint, _, output = (cli.needed(flag) for flag in (CHECKPOINT, INPUT, OUTPUT))

    from cosmos_jax.sampling import run

    with cli.user_errors():
        wanted = run.Wanted(
            checkpoint=checkpoint,
            checkpoints=CHECKPOINTS.value,
            config=None if CONFIG.value is None else cli.read_config(CONFIG),
            inputs=[Path(path) for path in INPUT.value or ()],
            output=Path(output),
            overwrite=OVERWRITE.value,
            reference=COMPAT.value == "reference",
            mesh=MESH.value,
            attention=ATTENTION.value,
            weights=WEIGHTS.value,
            batch=BATCH.value,
            seeds=NUM_SEEDS.value,
            limit=MAX_SAMPLES.value,
            control=CONTROL.value,
            frames=NUM_FRAMES.value,
            size=None if SIZE.value is None else pair(SIZE, int),
            text_cache=TEXT_CACHE.value,
            guardrail=GUARDRAIL.value,
            metrics=METRICS.value,
            fields={flag.name: flag.value for flag in FIELDS if flag.value is not None},
            settings=settings(),
            long=long(),
        )
        if PLAN.value:
            run.print_plan(wanted, PLAN_DEVICES.value)
            return
    run.sample(wanted)


FIELDS: tuple[Any, ...] = (FPS, PROMPT)
"""Flags that are fields of a specification, and no settings of the sampler."""


def settings() -> dict[str, Any]:
    """Settings of the sampler that flags change."""
    plain: tuple[Any, ...] = (NUM_STEPS, GUIDANCE, SEED, CONTROL_WEIGHT, NUM_CONDITIONAL_FRAMES)
    plain += (NEGATIVE_PROMPT, CACHE_THRESHOLD, SOLVER)
    changes = {flag.name: flag.value for flag in plain if flag.value is not None}
    if GUIDANCE_INTERVAL.value is not None:
        changes["guidance_interval"] = pair(GUIDANCE_INTERVAL, float)
    return changes


def long() -> dict[str, Any]:
    """How long videos are made, as far as flags say."""
    changes: dict[str, Any] = {}
    if NUM_CHUNKS.value is not None:
        if NUM_CHUNKS.value != "all" and not NUM_CHUNKS.value.isdecimal():
            raise ValueError(f"--num_chunks={NUM_CHUNKS.value} must be a number, or all")
        changes["chunks"] = None if NUM_CHUNKS.value == "all" else int(NUM_CHUNKS.value)
    for name, value in (("overlap", CHUNK_OVERLAP.value), ("cross_fade", CROSS_FADE.value)):
        if value is not None:
            changes[name] = value
    if HANDOVER.value is not None:
        changes["pixels"] = HANDOVER.value == "pixels"
    return changes


def pair(flag: Any, kind: type) -> tuple[Any, Any]:
    """Two numbers of a flag."""
    try:
        first, second = (kind(word) for word in flag.value)
    except ValueError as error:
        text = ",".join(flag.value)
        raise ValueError(f"--{flag.name}={text} must be two numbers with a comma") from error
    return first, second


if __name__ == "__main__":
    cli.run(main)
