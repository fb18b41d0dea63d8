"""The rendered scene: geometry that agrees between views, control that agrees with video."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

from cosmos_jax.data import scene, synthetic, video_writer
from cosmos_jax.data.synthetic import SceneConfig

TINY = SceneConfig(episodes=3, frames=2, size=(24, 40), cameras=3)
SHARP = SceneConfig(episodes=5, frames=3, size=(96, 160))


def unproject(config, pose, depth):
    """World points [y x 3] of a view's pixel centres."""
    rows, columns = np.indices(config.size) + 0.5
    rays = np.stack([columns, rows, np.ones(config.size)], -1)
    rays = rays @ np.linalg.inv(scene.intrinsics(config)).T
    return (rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]


def outside_of_boxes(corners, points):
    """How far outside of each box's nearest slab points lie, in metres [m n]: 0 on the surface."""
    centre = corners.mean(1)
    axes = np.stack([corners[:, 1 << k] - corners[:, 0] for k in range(3)], 1)
    sizes = np.linalg.norm(axes, axis=-1)
    local = np.einsum("mni,nki->mnk", points[:, None] - centre, axes / sizes[..., None])
    return (np.abs(local) - sizes / 2).max(-1)


@pytest.mark.core
def test_an_episode_is_a_function_of_config_and_number():
    first = synthetic.render_episode(TINY, 1)
    synthetic.make_cameras.cache_clear()
    scene.make_world.cache_clear()
    again = synthetic.render_episode(TINY, 1)
    np.testing.assert_array_equal(first.video, again.video)
    np.testing.assert_array_equal(first.control, again.control)
    assert first.caption == again.caption
    assert first.video.shape == first.control.shape == (3, 2, 24, 40, 3)
    assert first.video.dtype == first.control.dtype == np.uint8

    others = [(TINY, 0), (TINY, 2), (dataclasses.replace(TINY, seed=1), 1)]
    for config, number in others:
        other = synthetic.render_episode(config, number)
        assert other.caption != first.caption
        for pair in ((other.video, first.video), (other.control, first.control)):
            assert np.abs(pair[0].astype(float) - pair[1]).mean() > 10


def test_episodes_are_independent_of_how_many_there_are():
    more = dataclasses.replace(TINY, episodes=9)
    episodes = (synthetic.render_episode(config, 2) for config in (TINY, more))
    np.testing.assert_array_equal(*(episode.video for episode in episodes))


@pytest.mark.core
@pytest.mark.parametrize("cameras", [1, 4, 5])
def test_rays_end_on_the_nearest_surface(cameras):
    config = dataclasses.replace(TINY, cameras=cameras, size=(32, 48))
    poses = scene.camera_to_world(config, 1, 1)
    corners = scene.box_corners(config, 1, 1)
    on_boxes = 0
    for pose, depth in zip(poses, synthetic.render_depth(config, 1, 1), strict=True):
        seen = np.isfinite(depth)
        points = unproject(config, pose, np.where(seen, depth, 0))[seen]
        gaps = outside_of_boxes(corners, points)
        on_ground = np.abs(points[:, 2]) < 1e-2
        on_box = np.abs(gaps).min(1) < 1e-2
        assert (on_ground | on_box).all()
        on_boxes += on_box.sum()
        # Nothing stands between the camera and what it sees, nor before the sky.
        ends = unproject(config, pose, np.where(seen, depth, 500.0))
        for share in (0.1, 0.3, 0.6, 0.9, 0.99):
            between = pose[:3, 3] + share * (ends.reshape(-1, 3) - pose[:3, 3])
            assert outside_of_boxes(corners, between).min() > -2e-2
    assert on_boxes > 50


@pytest.mark.core
def test_project_inverts_the_poses():
    poses = scene.camera_to_world(SHARP, 0, 2)
    depth = synthetic.render_depth(SHARP, 0, 2)
    for view in range(SHARP.cameras):
        flat = np.where(np.isfinite(depth[view]), depth[view], 7.0)
        points = unproject(SHARP, poses[view], flat).reshape(-1, 3)
        pixels, depths = scene.project(SHARP, poses, points)
        rows, columns = np.indices(SHARP.size) + 0.5
        np.testing.assert_allclose(pixels[view, :, 0], columns.ravel(), atol=1e-3)
        np.testing.assert_allclose(pixels[view, :, 1], rows.ravel(), atol=1e-3)
        np.testing.assert_allclose(depths[view], flat.ravel(), rtol=1e-5)


@pytest.mark.core
def test_the_cameras_turn_to_the_left():
    poses = scene.camera_to_world(SHARP, 0, 0)
    turns = np.swapaxes(poses[:, :3, :3], 1, 2) @ poses[:, :3, :3]
    np.testing.assert_allclose(turns, np.tile(np.eye(3), (4, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1)
    ahead, left = poses[0, :3, 2], poses[1, :3, 2]
    np.testing.assert_allclose(np.cross(ahead, left), [0, 0, 1], atol=1e-12)
    assert scene.place(SHARP, scene.make_world(SHARP, 0), 5).pose[0, 3] > 0.9  # it drives ahead
    point = poses[0, :3, 3] + 10 * ahead + 4 * left + [0, 0, 1]
    (column, row), depth = (n[0, 0] for n in scene.project(SHARP, poses, point[None]))
    assert column < SHARP.size[1] / 2
    assert row < scene.HORIZON * SHARP.size[0]
    assert depth == pytest.approx(10)


def seen_twice(config, episode, frame):
    """Yields for every pair of neighbours the pixels [m 2] (row, column) of points both see."""
    depth = synthetic.render_depth(config, episode, frame)
    poses = scene.camera_to_world(config, episode, frame)
    for view in range(config.cameras):
        other = (view + 1) % config.cameras
        points = unproject(config, poses[view], np.where(np.isfinite(depth[view]), depth[view], 1))
        pixels, depths = scene.project(config, poses, points.reshape(-1, 3))
        column, row = np.floor(pixels[other]).astype(int).T
        inside = (depths[other] > 0.1) & np.isfinite(depth[view]).ravel()
        inside &= (row >= 0) & (row < config.size[0]) & (column >= 0) & (column < config.size[1])
        inside &= points[..., 2].ravel() > 0.2  # on a box
        here = np.stack(np.unravel_index(np.flatnonzero(inside), config.size), -1)
        there = np.stack([row, column], -1)[inside]
        visible = np.abs(depth[other][tuple(there.T)] / depths[other][inside] - 1) < 0.02
        yield view, other, here[visible], there[visible]


@pytest.mark.parametrize("cameras", [4, 6])
def test_neighbouring_views_show_the_same_boxes_in_the_same_colours(cameras):
    config = dataclasses.replace(SHARP, cameras=cameras)
    same, moved, pairs = [], [], 0
    for number in range(config.episodes):
        episode = synthetic.render_episode(config, number)
        videos = np.concatenate([episode.video[:, 2], episode.control[:, 2]], -1).astype(float)
        for view, other, here, there in seen_twice(config, number, 2):
            pairs += len(here) > 20
            colour = videos[view][tuple(here.T)]
            away = (there + np.array([0, 20])) % config.size
            same.append(np.abs(colour - videos[other][tuple(there.T)]))
            moved.append(np.abs(colour - videos[other][tuple(away.T)]))
    same, moved = (np.concatenate(n).reshape(-1, 2, 3) for n in (same, moved))
    assert pairs > 2 * config.episodes
    assert (np.median(same, (0, 2)) <= 1).all()
    assert (same.mean((0, 2)) < 4).all()
    assert (moved.mean((0, 2)) > 8 * same.mean((0, 2))).all()


def edges(pixels):
    """Size of the colour gradient [y x]."""
    pixels = pixels.astype(float)
    return sum(np.abs(np.gradient(pixels, axis=axis)).sum(-1) for axis in (0, 1))


@pytest.mark.core
def test_control_edges_are_edges_of_the_video():
    config = dataclasses.replace(SHARP, frames=1)
    for number in range(config.episodes):
        episode = synthetic.render_episode(config, number)
        on, off, moved = [], [], []
        for pixels, control in zip(episode.video[:, 0], episode.control[:, 0], strict=True):
            strength, outline = edges(pixels), edges(control) > 80
            on.append(strength[outline])
            off.append(strength[~outline])
            moved.append(strength[np.roll(outline, (7, 11), (0, 1))])
        on, off, moved = (np.concatenate(n).mean() for n in (on, off, moved))
        assert on > 2 * off
        assert on > 1.6 * moved


def visible(config, episode, points):
    """Views and pixels [m 3] (view, row, column) that show world points at frame 0."""
    depth = synthetic.render_depth(config, episode, 0)
    pixels, depths = scene.project(config, scene.camera_to_world(config, episode, 0), points)
    column, row = np.moveaxis(np.floor(pixels).astype(int), -1, 0)
    inside = (depths > 1) & (row >= 0) & (row < config.size[0])
    inside &= (column >= 0) & (column < config.size[1])
    found = np.stack([np.nonzero(inside)[0], row[inside], column[inside]], -1)
    return found[np.abs(depth[tuple(found.T)] / depths[inside] - 1) < 0.02]


@pytest.mark.core
def test_control_draws_the_edges_of_boxes():
    config = dataclasses.replace(SHARP, frames=1)
    for number in range(config.episodes):
        corners = scene.box_corners(config, number, 0)
        ends = [(a, a | 1 << k) for k in range(3) for a in range(8) if not a >> k & 1]
        middles = np.concatenate([corners[:, pair].mean(1) for pair in ends])
        axes = [[a for a in range(8) if a >> k & 1 == side] for k in range(3) for side in (0, 1)]
        faces = np.concatenate([corners[:, face].mean(1) for face in axes])
        control = synthetic.render_episode(config, number).control[:, 0].astype(float).mean(-1)
        on_edges, on_faces = (
            control[tuple(visible(config, number, points).T)] for points in (middles, faces)
        )
        assert len(on_edges) > 20
        assert len(on_faces) > 20
        assert on_edges.mean() > 1.3 * on_faces.mean()


@pytest.mark.core
def test_control_colours_tell_the_colours_of_the_video():
    config = dataclasses.replace(SHARP, frames=1, size=(48, 80))
    videos, controls = [], []
    for number in range(config.episodes):
        episode = synthetic.render_episode(config, number)
        for source, target in ((episode.video, videos), (episode.control, controls)):
            pixels = source[:, 0].astype(float)
            red, green, blue = np.moveaxis(pixels, -1, 0)
            target.append((red - blue, 2 * green - red - blue))

    def agreement(control, pixels):
        return [np.corrcoef(control[k].ravel(), pixels[k].ravel())[0, 1] for k in (0, 1)]

    numbers = range(config.episodes)
    own = np.array([agreement(controls[n], videos[n]) for n in numbers])
    pairs = itertools.permutations(numbers, 2)
    foreign = np.array([agreement(controls[m], videos[n]) for m, n in pairs])
    assert (own.mean(0) > 0.5).all()
    assert (own.mean(0) > foreign.mean(0) + 0.3).all()


@pytest.mark.core
def test_the_caption_lists_what_there_is():
    for number in range(SHARP.episodes):
        world = scene.make_world(SHARP, number)
        caption = synthetic.render_episode(dataclasses.replace(SHARP, size=(8, 8)), number).caption
        kinds = np.bincount(world.boxes.kind, minlength=5)
        counted = {"car": 0, "bus": 0, "building": 0, "tree": 0}
        for n, thing in re.findall(r"(\d+) (?:\w+ )?(car|bus|building|tree)(?:e?s)?\b", caption):
            counted[thing] += int(n)
        assert counted["car"] + counted["bus"] == kinds[scene.VEHICLE]
        assert counted["building"] == kinds[scene.BUILDING]
        assert counted["tree"] == kinds[scene.CROWN]
        assert world.time_of_day in caption
        assert world.verge in caption
        assert f"{world.lanes} lanes" in caption


def test_vehicles_move_and_never_meet():
    config = dataclasses.replace(SHARP, frames=100, episodes=8)
    for number in range(config.episodes):
        boxes = scene.make_world(config, number).boxes
        vehicles = np.flatnonzero(boxes.kind == scene.VEHICLE)
        for frame in (0, 50, 99):
            centre = scene.box_corners(config, number, frame)[vehicles].mean(1)
            gaps = np.linalg.norm(centre[:, None] - centre, axis=-1)
            assert (gaps + np.eye(len(gaps)) * 99).min() > 3
        start = scene.box_corners(config, number, 0).mean(1)
        travel = np.linalg.norm(scene.box_corners(config, number, 99).mean(1) - start, axis=-1)
        assert (travel[vehicles] > 5).all()
        assert (travel[boxes.kind == scene.BUILDING] < 1e-4).all()


@pytest.mark.core
def test_supersampling_only_smooths():
    plain, smooth = (
        synthetic.render_episode(dataclasses.replace(SHARP, frames=1, supersample=n), 0).video
        for n in (1, 3)
    )
    difference = np.abs(plain.astype(float) - smooth).max(-1)
    assert 0.001 < (difference > 20).mean() < 0.15


def test_write_dataset_writes_the_layout_once(tmp_path):
    root = synthetic.write_dataset(tmp_path / "deep" / "data", TINY)
    cameras = ("camera_000", "camera_120", "camera_240")
    assert TINY.camera_names == cameras
    expected = {"scene.json"}
    for n in range(3):
        expected.add(f"captions/camera_000/episode_{n:04d}.json")
        for folder, camera in itertools.product(("videos", "control_input_hdmap_bbox"), cameras):
            expected.add(f"{folder}/{camera}/episode_{n:04d}.mp4")
    files = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    assert files.keys() == expected
    assert [p.name for p in root.parent.iterdir()] == ["data"]
    caption = json.loads(files["captions/camera_000/episode_0001.json"].read_text())["caption"]
    assert caption == scene.make_world(TINY, 1).caption

    times = {name: path.stat().st_mtime_ns for name, path in files.items()}
    assert synthetic.write_dataset(root, TINY) == root
    assert {name: path.stat().st_mtime_ns for name, path in files.items()} == times
    copy = synthetic.write_dataset(tmp_path / "copy", TINY)
    for name, path in files.items():
        assert (copy / name).read_bytes() == path.read_bytes()


def test_write_dataset_leaves_other_folders_alone(tmp_path):
    root = synthetic.write_dataset(tmp_path / "data", dataclasses.replace(TINY, episodes=1))
    with pytest.raises(
        ValueError, match=r"data holds a data set rendered without seed=5, episodes"
    ):
        synthetic.write_dataset(root, dataclasses.replace(TINY, seed=5))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(
        ValueError, match=r"other exists and is no rendered data set.*another folder"
    ):
        synthetic.write_dataset(other, TINY)
    assert list(other.iterdir()) == []


def test_the_slower_of_two_writers_takes_what_the_faster_wrote(tmp_path, monkeypatch):
    config, root = dataclasses.replace(TINY, episodes=1), tmp_path / "data"
    write = video_writer.write_video

    def overtaken(*args):
        monkeypatch.setattr(video_writer, "write_video", write)
        synthetic.write_dataset(root, config)
        (root / "mark").touch()
        write(*args)

    monkeypatch.setattr(video_writer, "write_video", overtaken)
    assert synthetic.write_dataset(root, config) == root
    assert (root / "mark").exists()
    assert list(tmp_path.iterdir()) == [root]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(path, frames, fps):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_writer, "write_video", full_disk)
    with pytest.raises(OSError, match="No space left"):
        synthetic.write_dataset(tmp_path / "data", TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.core
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"episodes": -1}, "episodes is -1"),
        ({"cameras": 0}, "cameras is 0"),
        ({"supersample": 0}, "supersample is 0"),
        ({"fps": 0}, "fps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"size": (33, 40)}, r"size is \(33, 40\)"),
        ({"size": (32,)}, r"size is \(32,\)"),
        ({"overlap": 80.0}, "3 cameras with overlap 80"),
        ({"overlap": -130.0}, "3 cameras with overlap -130"),
    ],
)
def test_bad_configs_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.core
@pytest.mark.parametrize("number", [-1, 3])
def test_an_episode_that_is_not_there_is_an_error(number):
    with pytest.raises(ValueError, match=f"no episode {number}: the config has 3"):
        synthetic.render_episode(TINY, number)
