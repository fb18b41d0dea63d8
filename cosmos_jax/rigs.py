"""Where the cameras of a known rig stand: cells of a picture of all views, and who sees what alike.

A camera is known by its short name: of `ftheta_camera_front_wide_120fov`, `camera_front_wide` and
`front_wide` that is `front_wide`.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

Cell = tuple[int, int]
"""(row, column), from the top left."""

Grid = tuple[int, int, dict[str, Cell]]
"""Rows, columns, and every camera's cell."""


@dataclasses.dataclass(frozen=True)
class Rig:
    """A published set of cameras.

    Attributes:
        prefix: regex of what may precede the short names.
        rows: short names as seen from above, row by row; None is an empty cell.
        pairs: short names of cameras that share a part of their view.
    """

    prefix: str
    rows: tuple[tuple[str | None, ...], ...]
    pairs: tuple[tuple[str, str], ...]


RIGS = (
    Rig(  # the Cosmos auto-multiview cars
        r"(?:ftheta_)?(?:camera_)?",
        (
            ("rear_left", "cross_left", "front_wide", "cross_right", "rear_right"),
            (None, "rear", "front_tele", None, None),
        ),
        (
            ("rear_left", "cross_left"),
            ("cross_left", "front_wide"),
            ("front_wide", "cross_right"),
            ("cross_right", "rear_right"),
            ("rear_right", "rear"),
            ("rear", "rear_left"),
            ("front_wide", "front_tele"),
        ),
    ),
    Rig(  # Waymo's cars
        r"pinhole_",
        (("front_left", "front", "front_right"), ("side_left", None, "side_right")),
        (
            ("side_left", "front_left"),
            ("front_left", "front"),
            ("front", "front_right"),
            ("front_right", "side_right"),
        ),
    ),
    Rig(  # Predict1's multiview cars
        r"(?:pinhole_)?",
        (("left", "front", "right"), ("back_left", "back", "back_right")),
        (
            ("left", "front"),
            ("front", "right"),
            ("right", "back_right"),
            ("back_right", "back"),
            ("back", "back_left"),
            ("back_left", "left"),
        ),
    ),
    Rig(  # the robotics post-training
        r"cam_",
        (("left_wrist", "high", "right_wrist"), ("waist_left", None, "waist_right")),
        (
            ("high", "left_wrist"),
            ("high", "right_wrist"),
            ("high", "waist_left"),
            ("high", "waist_right"),
            ("left_wrist", "waist_left"),
            ("right_wrist", "waist_right"),
        ),
    ),
    Rig(  # the AgiBot post-training
        r"",
        (("hand_left", "head_color", "hand_right"),),
        (("head_color", "hand_left"), ("head_color", "hand_right")),
    ),
)
ALIASES = {"rear_tele": "rear"}
MOVING = {"left_wrist", "right_wrist", "head_color", "hand_left", "hand_right"}
"""Short names of cameras that do not keep their place among the others."""
FIELD_OF_VIEW = r"(?:_\d+fov)?"
RING = r"camera_(\d{3})"
"""Of the rendered driving scene: the angle to the left of forward, in degrees."""


def grid_shape(views: int) -> tuple[int, int]:
    """(rows, columns): up to 3 views in a row, 4 as 2x2, 5 and 6 in two rows, then rows of 3 or 4.

    Source: the robotics guide's `--stack_mode grid_auto`.
    """
    if views <= 3:
        return 1, views
    columns = math.ceil(views / 2) if views <= 6 else 3 if views <= 9 else 4
    return math.ceil(views / columns), columns


def short_names(cameras: Sequence[str]) -> tuple[Rig, dict[str, str]] | None:
    """The rig that all cameras belong to, and each camera by its short name; None for no such rig.

    Raises:
        ValueError: no cameras, or two of one name.
    """
    if not cameras or len(set(cameras)) < len(cameras):
        raise ValueError(f"cameras {list(cameras)}: name at least one, and each once")
    for rig in RIGS:
        known = {name for row in rig.rows for name in row if name} | ALIASES.keys()
        pattern = f"{rig.prefix}({'|'.join(known)}){FIELD_OF_VIEW}"
        found = [re.fullmatch(pattern, camera) for camera in cameras]
        shorts = [ALIASES.get(match[1], match[1]) for match in found if match]
        if len(set(shorts)) == len(cameras):
            return rig, dict(zip(shorts, cameras))
    return None


def grid(cameras: Sequence[str]) -> Grid:
    """A cell for every camera: where it stands on a known rig, else row by row in the given order.

    Of a known rig's cameras, up to three stand in one row from left to right; rows and columns in
    which no camera is left are dropped.

    Raises:
        ValueError: no cameras, or two of one name.
    """
    found = short_names(cameras)
    if found is None:
        rows, columns = grid_shape(len(cameras))
        return rows, columns, {camera: divmod(i, columns) for i, camera in enumerate(cameras)}
    rig, named = found
    cells = {
        named[short]: (i, j)
        for i, row in enumerate(rig.rows)
        for j, short in enumerate(row)
        if short in named
    }
    if len(cells) <= 3:
        return 1, len(cells), {camera: (0, i) for i, camera in enumerate(cells)}
    rows_left, columns_left = (sorted(set(axis)) for axis in zip(*cells.values()))
    packed = {c: (rows_left.index(i), columns_left.index(j)) for c, (i, j) in cells.items()}
    return len(rows_left), len(columns_left), packed


def neighbours(cameras: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of cameras that see a part of the scene in common.

    Of a known rig, those of its table that are among the cameras. The rendered scene's cameras are
    a closed ring. Of any others, each and the next.

    Raises:
        ValueError: no cameras, or two of one name.
    """
    found = short_names(cameras)
    if found is not None:
        rig, named = found
        return [(named[a], named[b]) for a, b in rig.pairs if a in named and b in named]
    ring = all(re.fullmatch(RING, camera) for camera in cameras) and len(cameras) > 2
    order = sorted(cameras) if ring else list(cameras)
    following = [*order[1:], *order[:1]] if ring else order[1:]
    return list(zip(order, following))


def is_rigid(first: str, second: str) -> bool:
    """Whether two cameras are known not to move against each other, as those of one car."""
    found = short_names([first, second])
    if found is not None:
        return not MOVING & found[1].keys()
    return all(re.fullmatch(RING, camera) for camera in (first, second))
