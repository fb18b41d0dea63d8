"""Several camera views in one picture, and the files that a sample is written to."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cosmos_jax.data import video_writer


def grid_shape(views: int) -> tuple[int, int]:
    """(rows, columns): up to 3 views in a row, 4 as 2x2, 5 and 6 in two rows, then rows of 3 or 4.

    Source: the robotics guide's `--stack_mode grid_auto`.
    """
    if views <= 3:
        return 1, views
    columns = math.ceil(views / 2) if views <= 6 else 3 if views <= 9 else 4
    return math.ceil(views / columns), columns


def grid(views: UInt8[np.ndarray, "v f y x 3"]) -> UInt8[np.ndarray, "f gy gx 3"]:
    """All views side by side, row by row in view order; cells that are left over are black."""
    v, f, y, x, _ = views.shape
    rows, columns = grid_shape(v)
    cells = np.zeros((rows * columns, f, y, x, 3), np.uint8)
    cells[:v] = views
    cells = cells.reshape(rows, columns, f, y, x, 3)
    return cells.transpose(2, 0, 3, 1, 4, 5).reshape(f, rows * y, columns * x, 3)


def stack_rows(*videos: UInt8[np.ndarray, "f gy gx 3"]) -> UInt8[np.ndarray, "f gy2 gx 3"]:
    """Videos of one size above each other, to compare them frame by frame."""
    return np.concatenate(videos, axis=1)


def write_sample(
    folder: Path,
    name: str,
    cameras: Sequence[str],
    views: UInt8[np.ndarray, "v f y x 3"],
    control: UInt8[np.ndarray, "v f y x 3"] | None,
    fps: float,
) -> list[Path]:
    """Writes NAME/CAMERA.mp4 for each view, NAME_grid.mp4 and, with control, NAME_control.mp4."""
    paths = []
    for camera, frames in zip(cameras, views, strict=True):
        paths.append(folder / name / f"{camera or 'view'}.mp4")
        video_writer.write_video(paths[-1], frames, fps)
    paths.append(folder / f"{name}_grid.mp4")
    video_writer.write_video(paths[-1], grid(views), fps)
    if control is not None:
        paths.append(folder / f"{name}_control.mp4")
        video_writer.write_video(paths[-1], grid(control), fps)
    return paths
