"""The files of a sample, and what is said of it beside them.

OUT/NAME/CAMERA.mp4            sampled          OUT/NAME_grid.mp4         all views
OUT/NAME/control/CAMERA.mp4    followed         OUT/NAME_control.mp4
OUT/NAME/input/CAMERA.mp4      true             OUT/NAME_input.mp4
OUT/NAME.png                   first frame      OUT/NAME_comparison.mp4   true, control, sampled
OUT/NAME.json                  how it was made; written last: it says that the rest is there
OUT/run.json                   what the folder is for
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from cosmos_jax import videos
from cosmos_jax.data import video_writer

RUN = "run.json"

Views = UInt8[np.ndarray, "v f y x 3"]


def file_name(camera: str) -> str:
    """Of a camera's file; the only view of a single-view model has no name of its own."""
    return f"{camera or 'view'}.mp4"


def write(
    folder: Path,
    name: str,
    cameras: Sequence[str],
    sampled: Views,
    control: Views | None,
    true: Views | None,
    fps: float,
    combined: bool,
) -> dict[str, Any]:
    """Writes the videos and the picture of a sample; returns their paths in `folder`, by kind."""
    files: dict[str, Any] = {}
    parts = {"views": sampled, "control": control, "input": true}
    for kind, views in parts.items():
        if views is not None:
            place = Path(name) if kind == "views" else Path(name) / kind
            files[kind] = {c: str(place / file_name(c)) for c in cameras}
            for camera, frames in zip(cameras, views, strict=True):
                video_writer.write_video(folder / files[kind][camera], frames, fps)
    if combined:
        for kind, views in parts.items():
            if views is not None:
                key, stem = ("grid", "grid") if kind == "views" else (f"{kind}_grid", kind)
                files[key] = f"{name}_{stem}.mp4"
                write_grid(folder / files[key], cameras, [views], fps)
        if true is not None:
            files["comparison"] = f"{name}_comparison.mp4"
            below = [views for views in (true, control, sampled) if views is not None]
            write_grid(folder / files["comparison"], cameras, below, fps)
    files["image"] = f"{name}.png"
    video_writer.write_picture(folder / files["image"], videos.picture(cameras, sampled[:, :1])[0])
    return files


def write_grid(path: Path, cameras: Sequence[str], rows: Sequence[Views], fps: float) -> None:
    """Writes all views in one picture, several videos of them one below the other.

    Pictures are made one by one: of minutes of seven cameras at 720p, all would be tens of GiB.
    """

    def picture(i: int) -> UInt8[np.ndarray, "gy gx 3"]:
        return np.concatenate([videos.picture(cameras, views[:, i : i + 1])[0] for views in rows])

    size = picture(0).shape[:2]
    pictures = (picture(i) for i in range(rows[0].shape[1]))
    video_writer.write_pictures(path, pictures, size, fps)


def write_as_reference(
    folder: Path, name: str, cameras: Sequence[str], sampled: Views, fps: float, combined: bool
) -> None:
    """The reference's own files: NAME.mp4 with the views one after another in time; or, without
    `combined`, NAME_VIEW.mp4 each and NAME_grid.mp4 of three rows of three, in view order."""
    _, f, y, x, _ = sampled.shape
    if combined:
        in_time = (frame for view in sampled for frame in view)
        video_writer.write_pictures(folder / f"{name}.mp4", in_time, (y, x), fps)
        return
    for camera, frames in zip(cameras, sampled, strict=True):
        video_writer.write_video(folder / f"{name}_{camera}.mp4", frames, fps)
    grid = np.zeros((f, 3 * y, 3 * x, 3), np.uint8)
    for i, frames in enumerate(sampled[:9]):
        row, column = divmod(i, 3)
        grid[:, row * y : (row + 1) * y, column * x : (column + 1) * x] = frames
    video_writer.write_video(folder / f"{name}_grid.mp4", grid, fps)


def sidecar(folder: Path, name: str) -> Path:
    """Where it is said how a sample was made."""
    return folder / f"{name}.json"


def finished(folder: Path, name: str, fingerprint: str) -> bool:
    """Whether a sample is there, whole, and was made by the same request and weights."""
    path = sidecar(folder, name)
    if not path.is_file():
        return False
    held = json.loads(path.read_text("utf-8"))
    if held.get("fingerprint") != fingerprint:
        return False
    return all((folder / file).is_file() for file in jax.tree.leaves(held["files"]))


def keep(path: Path, about: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(about, indent=1), "utf-8")
    draft.replace(path)


def begin(folder: Path, run: Mapping[str, Any], overwrite: bool) -> None:
    """Says in OUT/run.json what goes into a folder, so that the same command goes on there.

    Raises:
        ValueError: the folder holds other files, or another run's.
    """
    check(folder, run, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    keep(folder / RUN, run)


def check(folder: Path, run: Mapping[str, Any], overwrite: bool) -> None:
    """Raises a ValueError where a run may not write."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if overwrite or not folder.is_dir() or not any(folder.iterdir()):
        return
    advice = "give a new folder, or --overwrite"
    if not (folder / RUN).is_file():
        raise ValueError(f"{folder} is not empty; {advice}")
    before = json.loads((folder / RUN).read_text("utf-8"))
    now = json.loads(json.dumps(run))
    if different := [key for key in now if before.get(key) != now[key]]:
        raise ValueError(
            f"{folder} holds the samples of another run (other {', '.join(different)}); {advice}"
        )
