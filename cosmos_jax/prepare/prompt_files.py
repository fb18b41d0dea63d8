"""One prompt for every clip, in the forms that `data.layouts` reads."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cosmos_jax.data import layouts
from cosmos_jax.data.layouts import Layout
from cosmos_jax.data.video import FileError


def places(root: Path, camera: str, name: str) -> tuple[Path, Path, Path]:
    """Where a caption may lie, in the order in which `layouts.read_caption` looks."""
    return (
        root / "captions" / camera / f"{name}.json",
        root / "captions" / camera / f"{name}.txt",
        root / "metas" / camera / f"{name}.txt",
    )


def _cameras(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise ValueError(f"--root={root} is not a folder")
    return tuple(camera for camera, _ in layouts.find_cameras(root, "all"))


def default_layout(root: Path) -> str:
    """The published form: metas for one view, captions for several."""
    return "metas" if _cameras(root) == ("",) else "captions"


def speakers(root: Path, layout: str, cameras: str | None) -> tuple[str, ...]:
    """The cameras that get captions.

    Args:
        cameras: "all", or names with commas between them; None: every camera for metas_per_view,
            and for captions the ones that have some, or else the first in published order.

    Raises:
        ValueError: no videos, an unknown camera, or a layout that does not fit the folders.
    """
    found = _cameras(root)
    here, metas = ("NAME.mp4", "metas") if found == ("",) else ("CAMERA/NAME.mp4", "metas_per_view")
    if layout not in (metas, "captions"):
        raise ValueError(
            f"--layout={layout} does not fit {root} with videos/{here}; use {metas} or captions"
        )
    if cameras is not None and cameras != "all":
        return tuple(camera for camera, _ in layouts.find_cameras(root, cameras))
    if layout == "metas_per_view" or cameras == "all":
        return found
    there = tuple(c for c in found if any((root / k / c).is_dir() for k in ("captions", "metas")))
    return there or found[:1]


def _clips_without(
    root: Path, layout: str, cameras: Sequence[str], overwrite: bool
) -> tuple[list[Path], int]:
    """The files that are to be written, and how many captions are kept."""
    place = 0 if layout == "captions" else 2
    missing, kept = [], 0
    for camera in cameras:
        folders = Layout(root, ((camera, 0),), None)
        for name in folders.episodes():
            where = places(root, camera, name)
            if not overwrite and any(path.exists() for path in where):
                try:
                    layouts.read_caption(folders, camera, name, None)
                except FileError as error:
                    raise ValueError(f"{error}; --overwrite replaces it") from error
                kept += 1
                continue
            if before := [path for path in where[:place] if path.exists()]:
                raise ValueError(
                    f"{before[0]} is read before {where[place]}; use --layout=captions, or move it"
                )
            missing.append(where[place])
    return missing, kept


def write_prompt(
    root: Path, prompt: str, layout: str, cameras: Sequence[str], overwrite: bool
) -> tuple[int, int]:
    """Writes the prompt for every clip of the cameras; returns (written, kept).

    Raises:
        ValueError: an empty prompt, or captions in the way; then nothing is written.
        OSError: a folder that is not writable.
    """
    if not prompt.strip():
        raise ValueError("--prompt is empty")
    paths, kept = _clips_without(root, layout, cameras, overwrite)
    text = prompt.strip()
    if layout == "captions":
        text = json.dumps({"caption": text}, ensure_ascii=False)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            draft.write_text(text + "\n", "utf-8")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return len(paths), kept
