"""Examines a data set: would training on it work, and is it what it should be?

    python -m cosmos_jax.prepare check --root=/path/to/clips --config=experiments/NAME.py

Prints a table of cameras, what the recipe would use, and every error, warning and note with what
mends it. Exit status 2: training would fail. --config.data.KEY=VALUE changes a setting of the
recipe. The flags below do so too, and stand in for a recipe where none is given.

--fix encodes files again that are damaged at their end, unevenly spaced in time, of another rate
than the rest of their episode, longer than the rest by half a second at most, or not .mp4. Episodes
that cannot be mended are moved aside. Every original is kept in ROOT/set_aside.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli

ROOT = flags.DEFINE_string("root", None, "Folder of the data set: it holds videos/.")
CONFIG = config_flags.DEFINE_config_file("config", None, "A recipe: experiments/NAME.py.")
NUM_FRAMES = flags.DEFINE_integer("num_frames", None, "Frames of a clip (29).", lower_bound=1)
SIZE = flags.DEFINE_list("size", None, "Rows and columns of a clip (480,832).")
FPS = flags.DEFINE_float("fps", None, "Frames per second of a clip (those of the files).")
STRIDE = flags.DEFINE_integer("stride", None, "Instead of --fps: every n-th frame.", lower_bound=1)
CAMERAS = flags.DEFINE_string("cameras", None, "Cameras, with commas between them (all).")
CONTROL = flags.DEFINE_string("control", None, "Control folder, or none (what is there).")
JSON = flags.DEFINE_string("json", None, "File to write the whole report to.")
FIX = flags.DEFINE_bool("fix", False, "Mend what can be mended; see above.")
CONTENT = flags.DEFINE_bool("content", True, "Decode every frame; --nocontent reads headers only.")


def main(argv: list[str]) -> None:
    """Checks the flags, then the data set."""
    cli.no_arguments(argv)
    root = Path(cli.needed(ROOT))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the data is the same on any device
    from cosmos_jax.prepare import doctor, mend, report

    with cli.user_errors():
        if not root.is_dir():
            raise ValueError(f"--root={root} is not a folder")
        config, open_data, limit = recipe(root) if CONFIG.value else no_recipe(root)
        found = doctor.examine(config, open_data, CONTENT.value, limit)
        fixes: list[str] = []
        try:
            while FIX.value:
                before = len(fixes)
                for line in mend.mend(found):
                    print(f"fixed: {line}", flush=True)
                    fixes.append(line)
                if len(fixes) == before:
                    break
                found = doctor.examine(config, open_data, CONTENT.value, limit)
        finally:
            print(report.as_text(found), flush=True)
        if JSON.value is not None:
            text = json.dumps(report.as_json(found, fixes), indent=1, ensure_ascii=False)
            Path(JSON.value).write_text(text + "\n", "utf-8")
        said = f"{found.count('error')} errors, {found.count('warning')} warnings (above)"
        if found.count("error"):
            raise ValueError(f"training would fail: {said}")
    print(f"training would work: {said}")


def changes(root: Path) -> dict[str, Any]:
    """What the flags change of a recipe's data section.

    Raises:
        ValueError: a size that is not two numbers, or both --fps and --stride.
    """
    given: dict[str, Any] = {"root": str(root)}
    for flag in (NUM_FRAMES, CAMERAS):
        if flag.value is not None:
            given[flag.name] = flag.value
    if SIZE.value is not None:
        if len(SIZE.value) != 2 or not all(part.strip().isdigit() for part in SIZE.value):
            raise ValueError(f"--size={','.join(SIZE.value)} must be ROWS,COLUMNS, as in 480,832")
        given["size"] = (int(SIZE.value[0]), int(SIZE.value[1]))
    if CONTROL.value is not None:
        given["control"] = None if CONTROL.value == "none" else CONTROL.value
    if FPS.value is not None and STRIDE.value is not None:
        raise ValueError("--fps and --stride exclude each other")
    if FPS.value is not None or STRIDE.value is not None:
        given |= {"fps": FPS.value, "stride": STRIDE.value}
    return given


Judged = tuple[Any, Callable[[], Any], int]
"""How the data is read, a function that opens it, and how many tokens of a caption are kept."""


def recipe(root: Path) -> Judged:
    """What --config says, with the changes of the flags."""
    from cosmos_jax import build
    from cosmos_jax.data.layouts import DataConfig

    values = build.check_config(CONFIG.value)
    values["data"] |= changes(root)
    values["attention"] = "auto"
    config = build.make(DataConfig, values["data"], "config.data")
    return config, lambda: open_as_training(values, root), build.text_encoder(values).tokens


def no_recipe(root: Path) -> Judged:
    """What the flags say, and else what fits the folders."""
    from cosmos_jax.data import pipeline
    from cosmos_jax.data.layouts import DataConfig

    config = DataConfig(**(defaults(root) | changes(root)))
    return config, lambda: pipeline.open_dataset(config), 512


def defaults(root: Path) -> dict[str, Any]:
    """Settings that fit what is there, where no recipe says how to read it."""
    controls = [path for path in root.glob("control_input_*") if path.is_dir()]
    worded = any((root / kind).is_dir() for kind in ("captions", "metas"))
    return {
        "num_frames": 29,
        "size": (480, 832),
        "batch_size": 1,
        "stride": 1,
        "control": "auto" if controls else None,
        "captions": "front" if worded else "none",
        "validation_fraction": None,
    }


def open_as_training(values: dict[str, Any], root: Path) -> Any:
    """What run_train.py asks of the config and the data before it trains.

    Raises:
        ValueError: as there.
    """
    from cosmos_jax import build, sharding, validation
    from cosmos_jax.loop import ValidationConfig

    trainer = build.trainer(values)
    build.sizes(values, sharding.make_mesh(data=-1), trainer)
    data = build.data(values, trainer, root)
    config = build.make(ValidationConfig, values["validation"], "config.validation")
    if config.every:
        validation.check_clips(data, config)
    return data
