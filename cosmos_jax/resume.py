"""What an earlier start of a run left in its folder, read with the eyes of today's code.

Settings come and go between versions. A run that goes on has those of the command that is given
now, so nothing has to be mended: what is new or gone is said. Sampling takes the config that was
kept; settings that came later get the defaults of `experiments.base`, which is said too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from cosmos_jax import build, cli
from cosmos_jax.data.layouts import Cameras

CONFIG_FILE = "config.json"


def flat(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of a kept config by dotted path."""
    return traverse_util.flatten_dict(dict(kept), sep=".")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines that say what a start changes in config.json."""
    old, new = flat(before), flat(now)
    lines = [
        f"{key}: {old[key]} before, {new[key]} now"
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key]
    ]
    added = [f"{key}={new[key]}" for key in sorted(new.keys() - old.keys()) if _setting(key)]
    if added:
        lines.append(f"settings that {CONFIG_FILE} did not have: {', '.join(added)}")
    if gone := [f"{key}={old[key]}" for key in sorted(old.keys() - new.keys()) if _setting(key)]:
        lines.append(f"settings that there are no more: {', '.join(gone)}")
    return lines


def _setting(key: str) -> bool:
    return key.startswith("config.")


def read_config(folder: Path) -> tuple[dict[str, Any], Cameras]:
    """The config that a run was started with, and the views that it was trained on.

    The caption camera of the config is the one that the data set had. Settings that came after the
    run get their defaults, which one line on the console names.

    Raises:
        ValueError: the folder is not a run's.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG_FILE}: it is not a workdir of run_train.py")
    kept = json.loads(path.read_text("utf-8"))
    held = filled(kept["config"])
    if added := sorted(flat(held).keys() - flat(kept["config"]).keys()):
        told = ", ".join(f"config.{key}={flat(held)[key]}" for key in added)
        print(f"{path} is of an earlier version; settings that it lacks: {told}", flush=True)
    values = build.check_config(held)
    if values["data"]["captions"] == "front":
        values["data"]["caption_camera"] = kept["caption_cameras"][0]
    return values, tuple((name, view) for name, view in kept["cameras"])


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config of an earlier version with the settings that came later, at their defaults.

    Of sections whose keys are the fields of what `kind` names, only keys that no class has are
    filled: the class has defaults of its own.
    """
    defaults = build.load("experiments.base:get_config", CONFIG_FILE)().to_dict()
    made = {**defaults, **values}
    for name, default in defaults.items():
        if not isinstance(default, dict) or name not in values:
            continue
        if name in build.FILES and "kind" in values[name]:
            default = {k: default[k] for k in build.FILES[name] if default[k] is not None}
        made[name] = {**default, **values[name]}
    for place in cli.MOVED:
        section, key = place.split(".")
        made[section].pop(key, None)
    return made


def drop_lines_after(path: Path, step: int | None) -> None:
    """Drops the lines of steps after `step` (all of them for None), and a line cut short by a kill.

    The file is replaced at once, so that a kill leaves the old one or the new.
    """
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if step is not None and row["step"] <= step:
            kept.append(line + "\n")
    draft = path.with_name(path.name + ".draft")
    draft.write_text("".join(kept), encoding="utf-8")
    draft.replace(path)
