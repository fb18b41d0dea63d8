"""Pictures of several views, and the files of a sample."""

import numpy as np
import pytest

from cosmos_jax import videos
from cosmos_jax.data import video

pytestmark = pytest.mark.core


def views_of(count, f=2, y=4, x=6):
    """Views whose pixels say view, frame, row and column."""
    grid = np.indices((count, f, y, x)).astype(np.uint8)
    return np.stack([100 + 10 * grid[0] + grid[1], grid[2], grid[3]], axis=-1)


def test_a_grid_holds_every_view_in_order_and_black_cells():
    views = views_of(5)
    grid = videos.picture([f"camera_{i}" for i in range(5)], views)
    assert grid.shape == (2, 8, 18, 3) and grid.dtype == np.uint8
    for view, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        cell = grid[:, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
        np.testing.assert_array_equal(cell, views[view])
    assert not grid[:, 4:, 12:].any()


@pytest.mark.parametrize("controlled", [True, False])
def test_a_sample_is_a_file_a_view_and_the_grids(tmp_path, controlled):
    views = np.full((2, 5, 32, 48, 3), 60, np.uint8)
    views[1] = 180
    control = views // 2 if controlled else None
    paths = videos.write_sample(tmp_path, "clip", ("left", "right"), views, control, 12.5)
    wanted = {"clip/left.mp4": 60, "clip/right.mp4": 180, "clip_grid.mp4": None}
    wanted |= {"clip_control.mp4": None} if controlled else {}
    assert [str(p.relative_to(tmp_path)) for p in paths] == list(wanted)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(paths)
    for path, colour in zip(paths, wanted.values(), strict=True):
        info = video.probe(path)
        assert (info.frames, float(info.fps)) == (5, 12.5)
        frames = video.read_frames(info, range(5)).astype(int)
        if colour is None:
            scale = 2 if "control" in path.name else 1
            assert info.size == (32, 96)
            assert np.abs(frames[:, :, 4:44] - 60 // scale).max() <= 3
            assert np.abs(frames[:, :, 52:92] - 180 // scale).max() <= 3
        else:
            assert info.size == (32, 48)
            assert np.abs(frames - colour).max() <= 3
