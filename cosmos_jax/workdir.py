"""The folder of a run: the config that it keeps for restarts and for sampling."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from cosmos_jax.build import check_config
from cosmos_jax.data.layouts import Cameras

CONFIG_FILE = "config.json"


def keep_config(values: Mapping[str, Any], cameras: Cameras, folder: Path) -> None:
    """Writes WORKDIR/config.json: the config, and the views that its data set turned out to have.

    Says on the console what a restart changed.
    """
    path = folder / CONFIG_FILE
    now = json.loads(json.dumps({"config": values, "cameras": cameras}))
    if path.exists():
        before = traverse_util.flatten_dict(json.loads(path.read_text("utf-8")), sep=".")
        after = traverse_util.flatten_dict(now, sep=".")
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                print(f"{key}: {before.get(key)} before, {after.get(key)} now", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(now, indent=1), "utf-8")
        draft.replace(path)


def read_config(folder: Path) -> tuple[dict[str, Any], Cameras]:
    """The config that a run was started with, and the views that it was trained on.

    Raises:
        ValueError: the folder is not a run's.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG_FILE}: it is not a workdir of run_train.py")
    kept = json.loads(path.read_text("utf-8"))
    return check_config(kept["config"]), tuple((name, view) for name, view in kept["cameras"])
