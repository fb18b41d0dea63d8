"""What only the published samplers do (`--compat=reference`): their resize, and their files.

Sources: multiview.py of cosmos-transfer2.5 and cosmos-predict2.5; robotics_inference.py and
mv_visualize_helper.py of the robotics post-training (synphonyco/cosmos-transfer2.5).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from cosmos_jax.data import transforms, video_writer

Views = UInt8[np.ndarray, "v f y x 3"]

Form = Literal["time", "height", "views", "robotics"]
"""Which files hold the views of a sample:

- time: NAME.mp4, one view after another
- height: NAME.mp4, one below the other
- views: NAME_VIEW.mp4 each, NAME_grid.mp4 of three rows of three
- robotics: NAME_generated.mp4, NAME_control.mp4 (`columns_of`), NAME_views/VIEW.mp4
"""


def cover_truncated(
    frames: UInt8[np.ndarray, "f y x 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "f h w 3"]:
    """Scaled (antialiased bilinear) to cover (rows, columns), the scaled size truncated; cropped.

    The crop is central, an odd rest rounded to even as in torchvision. [TRAP] Where the ratio is no
    exact float, truncation can leave a row or a column too few: it is black, the last one.

    Source: robotics_inference.py.
    """
    y, x = frames.shape[1:3]
    if (y, x) == size:
        return frames
    factor = max(size[1] / x, size[0] / y)
    scaled = (int(factor * y), int(factor * x))
    top, left = (max(round((n - m) / 2), 0) for n, m in zip(scaled, size, strict=True))
    kept = transforms.stretch(frames, scaled)[:, top : top + size[0], left : left + size[1]]
    lack = [n - m for n, m in zip(size, kept.shape[1:3], strict=True)]
    return np.pad(kept, ((0, 0), (0, lack[0]), (0, lack[1]), (0, 0)))


def columns_of(count: int) -> int:
    """Columns of the robotics sampler's picture of all views (its stack_mode grid_auto)."""
    if count <= 3:
        return count
    if count <= 6:
        return -(-count // 2)
    return 3 if count <= 9 else 4


def stems(name: str, cameras: Sequence[str], form: Form) -> list[str]:
    """What the files of a sample are named, beside those that are written anyway."""
    if form == "views":
        return [f"{name}_{camera}" for camera in cameras]
    return [f"{name}_generated", f"{name}_views"] if form == "robotics" else []


def write(
    folder: Path,
    name: str,
    cameras: Sequence[str],
    sampled: Views,
    control: Views | None,
    fps: float,
    form: Form,
) -> list[str]:
    """Writes the files of a sample; returns their paths in `folder`."""
    if form in ("time", "height"):
        views = sampled if form == "height" else sampled.reshape(1, -1, *sampled.shape[2:])
        return [_write(folder, f"{name}.mp4", views, 1, fps)]
    path = f"{name}_{{}}.mp4" if form == "views" else f"{name}_views/{{}}.mp4"
    files = [path.format(camera or "view") for camera in cameras]
    for file, frames in zip(files, sampled, strict=True):
        video_writer.write_video(folder / file, frames, fps)
    if form == "views":
        nine = [*sampled[:9], *[np.zeros_like(sampled[0])] * (9 - len(sampled))]
        return [*files, _write(folder, f"{name}_grid.mp4", nine, 3, fps)]
    columns = columns_of(len(cameras))
    files.append(_write(folder, f"{name}_generated.mp4", sampled, columns, fps))
    if control is not None:
        files.append(_write(folder, f"{name}_control.mp4", control, columns, fps))
    return files


def _write(
    folder: Path, file: str, views: Sequence[np.ndarray] | np.ndarray, columns: int, fps: float
) -> str:
    """Writes views side by side, row after row; what is left of the last row is black."""
    f, y, x, _ = views[0].shape
    rows = -(-len(views) // columns)

    def picture(i: int) -> UInt8[np.ndarray, "gy gx 3"]:
        out = np.zeros((rows * y, columns * x, 3), np.uint8)
        for place, frames in enumerate(views):
            row, column = divmod(place, columns)
            out[row * y : (row + 1) * y, column * x : (column + 1) * x] = frames[i]
        return out

    pictures = (picture(i) for i in range(f))
    video_writer.write_pictures(folder / file, pictures, (rows * y, columns * x), fps)
    return file
