import pytest

from cosmos_jax import rigs
from cosmos_jax.data import cameras as published_cameras

AV = [
    "front_wide",
    "cross_right",
    "rear_right",
    "rear",
    "rear_left",
    "cross_left",
    "front_tele",
]
WAYMO = ["front", "front_left", "front_right", "side_left", "side_right"]


def picture(cameras):
    """Rows of names, as `rigs.grid` puts them."""
    rows, columns, cells = rigs.grid(cameras)
    assert sorted(cells) == sorted(cameras)
    at = {cell: camera for camera, cell in cells.items()}
    assert len(at) == len(cameras)  # no two in one cell
    return [[at.get((i, j), "") for j in range(columns)] for i in range(rows)]


@pytest.mark.core
def test_the_cars_ring_stands_over_rear_and_tele():
    assert picture(AV) == [
        ["rear_left", "cross_left", "front_wide", "cross_right", "rear_right"],
        ["", "rear", "front_tele", "", ""],
    ]


@pytest.mark.core
@pytest.mark.parametrize("names", published_cameras.PUBLISHED, ids=lambda names: next(iter(names)))
def test_published_cameras_are_a_known_rig(names):
    assert rigs.short_names(list(names)) is not None


@pytest.mark.core
def test_names_of_data_sets_mean_the_cameras_of_specs():
    for published in published_cameras.PUBLISHED[:2]:
        _, named = rigs.short_names(list(published))
        assert list(named) == AV  # in the order of the published table
        cells = rigs.grid(list(published))[2]
        assert [cells[camera] for camera in published] == list(
            map(rigs.grid(AV)[2].__getitem__, AV)
        )


@pytest.mark.core
def test_a_part_of_a_rig_keeps_its_order():
    assert picture(AV[:3]) == [["front_wide", "cross_right", "rear_right"]]
    assert picture(["rear_right", "rear_left", "front_wide"]) == [
        ["rear_left", "front_wide", "rear_right"]
    ]
    assert picture(["front_wide", "cross_left", "cross_right", "front_tele"]) == [
        ["cross_left", "front_wide", "cross_right"],
        ["", "front_tele", ""],
    ]
    assert picture(["front_wide"]) == [["front_wide"]]


@pytest.mark.core
def test_waymo_and_predict1_and_robots():
    pinholes = [f"pinhole_{name}" for name in WAYMO]
    assert picture(pinholes) == [
        ["pinhole_front_left", "pinhole_front", "pinhole_front_right"],
        ["pinhole_side_left", "", "pinhole_side_right"],
    ]
    assert picture(["front", "left", "right", "back_left", "back_right"]) == [
        ["left", "front", "right"],
        ["back_left", "", "back_right"],
    ]
    arms = ["cam_high", "cam_left_wrist", "cam_right_wrist"]
    assert picture(arms) == [["cam_left_wrist", "cam_high", "cam_right_wrist"]]
    assert picture([*arms, "cam_waist_left", "cam_waist_right"])[1] == [
        "cam_waist_left", "", "cam_waist_right",
    ]  # fmt: skip


@pytest.mark.core
@pytest.mark.parametrize(
    "count, shape",
    [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (6, (2, 3)), (7, (3, 3)),
     (9, (3, 3)), (10, (3, 4)), (12, (3, 4))],
)  # fmt: skip
def test_other_cameras_are_read_row_by_row(count, shape):
    cameras = [f"x{i}" for i in range(count)]
    assert rigs.grid(cameras)[:2] == shape
    flat = [name for row in picture(cameras) for name in row if name]
    assert flat == cameras


@pytest.mark.core
def test_one_camera_of_another_rig_makes_all_of_them_unknown():
    assert rigs.short_names(["front_wide", "cam_high"]) is None
    assert picture(["front_wide", "cam_high"]) == [["front_wide", "cam_high"]]
    assert rigs.short_names(["rear", "camera_rear_tele_30fov"]) is None  # one camera, twice


@pytest.mark.core
def test_neighbours():
    ring = rigs.neighbours(AV)
    assert len(ring) == 7 and ("front_wide", "front_tele") in ring and ("rear", "rear_left") in ring
    counts = [sum(camera in pair for pair in ring) for camera in AV]
    assert counts == [3, 2, 2, 2, 2, 2, 1]
    assert rigs.neighbours(["front_wide", "rear"]) == []
    assert rigs.neighbours(["pinhole_front_left", "pinhole_front"]) == [
        ("pinhole_front_left", "pinhole_front")
    ]
    scene = ["camera_000", "camera_240", "camera_120"]
    assert rigs.neighbours(scene) == [
        ("camera_000", "camera_120"), ("camera_120", "camera_240"), ("camera_240", "camera_000"),
    ]  # fmt: skip
    assert rigs.neighbours(["camera_000", "camera_180"]) == [("camera_000", "camera_180")]
    assert rigs.neighbours(["c", "a", "b"]) == [("c", "a"), ("a", "b")]
    assert rigs.neighbours(["only"]) == []


@pytest.mark.core
def test_what_moves_against_what():
    assert rigs.is_rigid("front_wide", "rear") and rigs.is_rigid("camera_000", "camera_090")
    assert rigs.is_rigid("cam_high", "cam_waist_left")
    assert not rigs.is_rigid("cam_high", "cam_left_wrist")
    assert not rigs.is_rigid("head_color", "hand_left") and not rigs.is_rigid("a", "b")


@pytest.mark.core
@pytest.mark.parametrize("cameras", [[], ["a", "a"]])
def test_no_cameras_and_one_given_twice_are_errors(cameras):
    for function in (rigs.grid, rigs.neighbours):
        with pytest.raises(ValueError, match="name at least one, and each once"):
            function(cameras)
