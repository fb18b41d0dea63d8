"""The flags that several cases have, each defined by the cases that read it, and what they mean.

A case takes no flag that it does not read: `bench vae --remat=full` is an error.
"""

import re
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli


def config() -> Any:
    """The experiment."""
    return config_flags.DEFINE_config_file("config", None, "An experiment: experiments/NAME.py.")


def views() -> Any:
    """Number of views."""
    return flags.DEFINE_integer("views", None, "N, the number of camera views.", lower_bound=1)


def mesh() -> Any:
    """Short for `--config.mesh.AXIS`."""
    return flags.DEFINE_string("mesh", None, "As in data:1,context:4; short for --config.mesh.AXIS")


def remat() -> Any:
    """Short for `--config.remat`."""
    return flags.DEFINE_string("remat", None, "Short for --config.remat")


def attention() -> Any:
    """Short for `--config.attention`."""
    return flags.DEFINE_string("attention", None, "Short for --config.attention")


def repeats(default: int) -> Any:
    """How often something is timed."""
    return flags.DEFINE_integer("repeats", default, "Timed runs, after the warm-up.", lower_bound=1)


def profile() -> Any:
    """Where a trace goes."""
    return flags.DEFINE_string(
        "profile", None, "Folder for a trace of one more run; adds a line of time by kernel."
    )


def step_seconds() -> Any:
    """A step's time, which other times are compared with."""
    return flags.DEFINE_float(
        "step_seconds", None, "Seconds of a training step (bench step).", lower_bound=1e-9
    )


def workdir() -> Any:
    """Where a case may write."""
    return flags.DEFINE_string("workdir", None, "Folder in which files may be written.")


def folder(flag: Any) -> Path | None:
    """The path that a flag names."""
    return None if flag.value is None else Path(flag.value)


def values(config: Any, **shorthands: Any) -> dict[str, Any]:
    """The config of a flag as plain values, changed by the flags `mesh`, `remat`, `attention`.

    Raises:
        ValueError: a bad config, or a mesh that is not of the form AXIS:SIZE,...
    """
    given = cli.read_config(config)
    from cosmos_jax import build

    changed = build.check_config(given)
    for name, flag in shorthands.items():
        if flag.value is not None:
            changed[name] = flag.value if name != "mesh" else changed[name] | axes(flag.value)
    return changed


def axes(text: str) -> dict[str, int]:
    """Sizes of mesh axes: {"data": 1, "context": 4} of "data:1,context:4" (or with "=").

    Raises:
        ValueError: the text is not of that form.
    """
    parts = [re.fullmatch(r"(\w+)[:=](-1|\d+)", part) for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"--mesh={text}: write it as data:1,fsdp:1,context:4")
    return {part[1]: int(part[2]) for part in parts if part}
