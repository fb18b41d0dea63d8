"""The videos in WORKDIR/samples, told apart by step, clip and kind.

`cosmos_jax.videos` writes CLIP/CAMERA.mp4 and CLIP_KIND.mp4 into a folder `step_000100`; folders in
between become a part of the clip's name, so other samples of a clip may lie beside it.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from cosmos_jax import rigs

FOLDER = "samples"
STACKED = ("compare", "grid", "control")
"""Kinds that show all cameras in one picture, in the order in which they are offered."""

LABELLED = "compare_"
"""Kinds that begin so show all cameras too, offered first; the names stand in the picture."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One file.

    Attributes:
        step: that it was sampled at.
        clip: what it is a sample of.
        kind: a camera, one of `STACKED`, or another word of the file's name.
        path: of the file.
    """

    step: int
    clip: str
    kind: str
    path: Path


def find(workdir: Path) -> list[Sample]:
    """All mp4 files of a run's samples, by step, clip and kind."""
    found = []
    for folder in (workdir / FOLDER).glob("step_*"):
        named = re.fullmatch(r"step_(\d+)", folder.name)
        if named and folder.is_dir():
            paths = sorted(folder.rglob("*.mp4"))
            clips = {path.parent for path in paths} - {folder}
            found += [Sample(int(named[1]), *_name(path, folder, clips), path) for path in paths]
    return sorted(found, key=lambda sample: (sample.step, sample.clip, sample.kind))


def _name(path: Path, folder: Path, clips: set[Path]) -> tuple[str, str]:
    """(clip, kind): beside a folder CLIP, CLIP_KIND.mp4 is of the same clip."""
    beside = [clip for clip in clips if path.name.startswith(f"{clip.name}_")]
    beside = [clip for clip in beside if clip.parent == path.parent]
    if beside:
        clip = max(beside, key=lambda other: len(other.name))
        return str(clip.relative_to(folder)), path.stem.removeprefix(f"{clip.name}_")
    if path.parent == folder:
        return path.stem, "video"
    return str(path.parent.relative_to(folder)), path.stem


def order(kinds: set[str], cameras: Sequence[str]) -> list[str]:
    """Kinds as they are offered: those that show all, then the cameras, then what else there is."""
    known = sorted(kind for kind in kinds if kind.startswith(LABELLED))
    known += [kind for kind in (*STACKED, *cameras) if kind in kinds]
    return known + sorted(kinds - set(known))


def labels(kind: str, kinds: set[str], cameras: Sequence[str]) -> list[list[str]]:
    """What each cell of a picture shows, row by row; empty for a kind that is one picture.

    Args:
        kind: of the picture.
        kinds: of all files of its clip and step.
        cameras: of the run, in order; a sample of fewer shows those that it has a file of.
    """
    shown = [camera for camera in cameras if camera in kinds]
    if kind not in STACKED or not shown:
        return []
    rows, columns, cells = rigs.grid(shown)
    grid = [[""] * columns for _ in range(rows)]
    for camera, (row, column) in cells.items():
        grid[row][column] = camera
    if kind != "compare":
        return grid
    parts = ("true", "control", "sampled") if "control" in kinds else ("true", "sampled")
    return [[f"{cell} ({part})" if cell else "" for cell in row] for part in parts for row in grid]
