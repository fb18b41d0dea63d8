"""The files of a sample, and what is said of it beside them.

OUT/NAME/CAMERA.mp4            sampled          OUT/NAME_grid.mp4         all views
OUT/NAME/control/CAMERA.mp4    followed         OUT/NAME_control.mp4
OUT/NAME/input/CAMERA.mp4      true             OUT/NAME_input.mp4
OUT/NAME.png                   first frame      OUT/NAME_comparison.mp4   true, control, sampled
OUT/NAME.json                  how it was made; written last: it says that the rest is there
OUT/run.json                   what the folder is for
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from cosmos_jax import videos
from cosmos_jax.data import video_writer

RUN = "run.json"
METRICS = "metrics.json"

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


def sidecar(folder: Path, name: str) -> Path:
    """Where it is said how a sample was made."""
    return folder / f"{name}.json"


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """What a sidecar says; None where there is none, or something that is none."""
    try:
        held = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    ours = isinstance(held, dict) and {"fingerprint", "name", "files", "weights"} <= held.keys()
    return held if ours and held["name"] == path.stem else None


def finished(folder: Path, name: str, fingerprint: str) -> bool:
    """Whether a sample is there, whole, and was made by the same request and weights."""
    held = read_sidecar(sidecar(folder, name))
    if held is None or held["fingerprint"] != fingerprint:
        return False
    return all((folder / file).is_file() for file in jax.tree.leaves(held["files"]))


def remove(path: Path) -> bool:
    """Removes a sample: the files that its sidecar names, folders that are empty then, the sidecar.

    Returns whether there was one. No other file is touched.
    """
    held, folder = read_sidecar(path), path.parent
    if held is None:
        return False
    named = [Path(file) for file in jax.tree.leaves(held["files"])]
    named = [file for file in named if not file.is_absolute() and ".." not in file.parts]
    for file in named:
        (folder / file).unlink(missing_ok=True)
    for place in sorted({p for file in named for p in file.parents if p.name}, reverse=True):
        remove_empty(folder / place)
    path.unlink()
    return True


def remove_empty(folder: Path) -> None:
    """Removes a folder that holds nothing, if there is one."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def remove_others(folder: Path, ours: Collection[Path]) -> None:
    """Removes what an earlier run left in its output folder, but for the samples of some sidecars.

    Samples are those that have a sidecar, in the folder or (of several checkpoints) one below it;
    folders with a run of their own are left alone.
    """
    (folder / METRICS).unlink(missing_ok=True)
    deeper = [place for place in sorted(folder.iterdir()) if place.is_dir()]
    for place in (folder, *(p for p in deeper if not (p / RUN).exists())):
        gone = [path for path in sorted(place.glob("*.json")) if path not in ours and remove(path)]
        if gone:
            print(f"removed  {len(gone)} samples of an earlier run from {place}", flush=True)
        if gone and place != folder:
            remove_empty(place)


def is_measured(folder: Path) -> bool:
    """Whether there are metrics of the samples, and none is newer."""
    path = folder / METRICS
    found = (p for p in (*folder.glob("*.json"), *folder.glob("*/*.json")) if read_sidecar(p))
    return path.is_file() and all(
        sample.stat().st_mtime_ns <= path.stat().st_mtime_ns for sample in found
    )


def keep(path: Path, about: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(about, indent=1), "utf-8")
    draft.replace(path)


def begin(
    folder: Path, run: Mapping[str, Any], overwrite: bool, sidecars: Collection[Path]
) -> None:
    """Says in OUT/run.json what goes into a folder, so that the same command goes on there.

    With `overwrite` what another run left there is removed, but for the samples of `sidecars`.

    Raises:
        ValueError: the folder holds other files, or another run's.
    """
    check(folder, run, overwrite)
    if (folder / RUN).is_file() and differences(folder, run):
        remove_others(folder, sidecars)
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
    if different := differences(folder, run):
        raise ValueError(
            f"{folder} holds the samples of another run (other {', '.join(different)}); {advice}"
        )


def differences(folder: Path, run: Mapping[str, Any]) -> list[str]:
    """In what a run is another than the one that a folder is for."""
    now = json.loads(json.dumps(run))
    try:
        before = json.loads((folder / RUN).read_bytes())
    except ValueError:  # damaged: whatever it was
        return list(now)
    return [key for key in now if key not in before or before[key] != now[key]]
