"""Several camera views in one picture, and the files that a sample is written to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cosmos_jax import rigs
from cosmos_jax.data import video_writer


def picture(
    cameras: Sequence[str], views: UInt8[np.ndarray, "v f y x 3"]
) -> UInt8[np.ndarray, "f gy gx 3"]:
    """All views in one picture, each where its camera stands (`rigs.grid`); the rest is black."""
    rows, columns, cells = rigs.grid(cameras)
    _, f, y, x, _ = views.shape
    out = np.zeros((f, rows * y, columns * x, 3), np.uint8)
    for camera, frames in zip(cameras, views, strict=True):
        row, column = cells[camera]
        out[:, row * y : (row + 1) * y, column * x : (column + 1) * x] = frames
    return out


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
    video_writer.write_video(paths[-1], picture(cameras, views), fps)
    if control is not None:
        paths.append(folder / f"{name}_control.mp4")
        video_writer.write_video(paths[-1], picture(cameras, control), fps)
    return paths
