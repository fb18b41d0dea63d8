"""Folders of videos: which file is which camera of which sample, and which files belong together.

    FOLDER/NAME.json                       sidecars of run_sample.py name their own files
    FOLDER/videos/CAMERA/NAME.mp4          a data set
    FOLDER/CAMERA/NAME.mp4                 a part of one, such as control_input_edge
    FOLDER/NAME/CAMERA.mp4                 samples without sidecars
    FOLDER/NAME.mp4                        one camera

A folder of such folders holds one for each checkpoint.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cosmos_jax import rigs

VIEW = "view"
"""Name of the only camera, where it has none."""

LAYOUTS = ("camera/name", "name/camera")
STEP = r"step_(\d+)"
FILES = ("views", "control", "input")


@dataclasses.dataclass(frozen=True)
class Sample:
    """The videos of one sample, each by camera.

    Attributes:
        name: of the sample.
        views: generated videos, or the only ones there are.
        control: that they were made from, where the sample's sidecar names them.
        input: true videos, where the sidecar names them.
        sidecar: what run_sample.py wrote beside it; None: there is none.
    """

    name: str
    views: dict[str, Path]
    control: dict[str, Path]
    input: dict[str, Path]
    sidecar: dict[str, Any] | None = None


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """A sample's sidecar; None for JSON that is none.

    Raises:
        ValueError: the file is not JSON, or names its files in another way.
    """
    try:
        held = json.loads(path.read_bytes(), parse_constant=str)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(held, dict) or not {"name", "cameras", "files"} <= held.keys():
        return None
    files, cameras = held["files"], held["cameras"]
    if not isinstance(files, dict) or not isinstance(files.get("views"), dict):
        raise ValueError(f"{path}: files.views must be an object of a path for each camera")
    if not isinstance(cameras, list) or set(cameras) != files["views"].keys():
        raise ValueError(f"{path}: cameras and files.views do not name the same cameras")
    for kind in FILES:
        group = files.get(kind) or {}
        if not isinstance(group, dict) or not group.keys() <= set(cameras):
            raise ValueError(f"{path}: files.{kind} names something that is not a camera")
    return held


def sidecars(folder: Path) -> list[Sample]:
    """The samples of an output folder of run_sample.py, by name; empty where it is none.

    Raises:
        ValueError: see `read_sidecar`.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        held = read_sidecar(path)
        if held is not None:
            views, control, true = (
                {
                    camera or VIEW: folder / held["files"][kind][camera]
                    for camera in held["cameras"]
                    if camera in (held["files"].get(kind) or {})
                }
                for kind in FILES
            )
            found.append(Sample(str(held["name"]), views, control, true, held))
    return found


def find(folder: Path, layout: str = "auto", known: Iterable[str] = ()) -> list[Sample]:
    """The samples of a folder, by name.

    Args:
        layout: what two levels of names are, one of `LAYOUTS`, or "auto": whichever level has names
            of cameras (of a known rig, or beginning with cam).
        known: further names of cameras.

    Raises:
        ValueError: no videos, or layouts that cannot be told apart.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if found := sidecars(folder):
        return found
    top = folder / "videos" if (folder / "videos").is_dir() else folder
    layout = "camera/name" if top != folder and layout == "auto" else layout
    by_name: dict[str, dict[str, Path]] = {}
    flat = _mp4s(top)
    deep = [path for part in sorted(top.iterdir()) if part.is_dir() for path in _mp4s(part)]
    if flat and (top != folder or not deep):
        by_name = {path.stem: {VIEW: path} for path in flat}
    elif deep:
        first = _is_camera_first(deep, set(known), layout, folder)
        for path in deep:
            pair = (path.parent.name, path.stem)
            camera, name = pair if first else pair[::-1]
            by_name.setdefault(name, {})[camera] = path
    if not by_name:
        raise ValueError(
            f"{folder}: no videos; expected NAME.json of run_sample.py, CAMERA/NAME.mp4, "
            "NAME/CAMERA.mp4 or NAME.mp4"
        )
    return [Sample(name, views, {}, {}) for name, views in sorted(by_name.items())]


def _mp4s(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.mp4") if not path.name.startswith("."))


def _is_camera_first(paths: Sequence[Path], known: set[str], layout: str, folder: Path) -> bool:
    """Whether two levels are CAMERA/NAME and not NAME/CAMERA."""
    if layout != "auto":
        return layout == LAYOUTS[0]
    parents, stems = {path.parent.name for path in paths}, {path.stem for path in paths}
    scores = [
        sum(_is_camera(name, known) for name in names) / len(names) for names in (parents, stems)
    ]
    if max(scores) < 1 or min(scores) == 1:
        raise ValueError(
            f"{folder}: cannot tell whether {paths[0].parent.name} or {paths[0].stem} is a camera; "
            f"say --layout={LAYOUTS[0]} or --layout={LAYOUTS[1]}"
        )
    return scores[0] == 1


def _is_camera(name: str, known: set[str]) -> bool:
    return name in known or name.startswith("cam") or bool(rigs.short_names([name])) or name == VIEW


def checkpoints(folder: Path, layout: str = "auto") -> dict[str, Path]:
    """Folders of samples by checkpoint, by step and then by name; {"": folder} where it is one.

    Raises:
        ValueError: no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if sidecars(folder) or (folder / "videos").is_dir():
        return {"": folder}
    parts = [part for part in folder.iterdir() if part.is_dir()]
    inside = [part for part in parts if sidecars(part)]
    if not inside:
        steps = [part for part in parts if re.fullmatch(STEP, part.name)]
        deep = [part for part in parts if any(part.glob("*/*.mp4"))]
        inside = steps if len(steps) == len(parts) else deep
    if not inside:
        return {"": folder}
    return {part.name: part for part in sorted(inside, key=lambda part: order_of(part.name))}


def step_of(name: str) -> int | None:
    """The step that a checkpoint's folder is named after."""
    found = re.fullmatch(STEP, name)
    return int(found[1]) if found else None


def order_of(name: str) -> tuple[bool, int, str]:
    """Sorts checkpoints: those of a step first, by it."""
    step = step_of(name)
    return step is None, step or 0, name


def named_as(camera: str, cameras: Iterable[str]) -> str:
    """The one of `cameras` that is meant: of this name, or of this short name on a known rig.

    The camera's own name where there is none, or are several.
    """
    cameras = dict.fromkeys(cameras)
    here = short(camera)
    alike = [other for other in cameras if here and short(other) == here]
    return alike[0] if camera not in cameras and len(alike) == 1 else camera


def short(camera: str) -> str | None:
    """The short name of a camera of a known rig; None for others."""
    found = rigs.short_names([camera])
    return next(iter(found[1])) if found else None


def pair(
    samples: Sequence[Sample], other: Sequence[Sample], what: str, place: Path
) -> dict[tuple[str, str], Path]:
    """Videos of another folder that belong to (sample, camera), as far as there are any.

    Raises:
        ValueError: there is none for any sample.
    """
    by_name = {sample.name: sample for sample in other}
    found = {}
    for sample in samples:
        for camera in sample.views if sample.name in by_name else ():
            videos = by_name[sample.name].views
            name = named_as(camera, videos)
            if name in videos:
                found[sample.name, camera] = videos[name]
    if not found:
        raise ValueError(
            f"no pairs: the samples are {_some(s.name for s in samples)} of cameras "
            f"{_some(samples[0].views)}, the {what} videos in {place} are "
            f"{_some(by_name)} of cameras {_some(other[0].views)}"
        )
    return found


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
