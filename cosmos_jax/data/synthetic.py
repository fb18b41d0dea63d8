"""The rendered driving scene as a data set: true multi-camera video with true control video.

`cosmos_jax.data.scene` says what stands where; here rays are cast and painted. The control video is
a layout map drawn from the same rays: flat dim colours for sky, verge and road, bright lane lines,
and every box filled with its own colour between bright edges. An episode is a function of its
`SceneConfig` and its number: the same arguments give the same bytes.
"""

import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from cosmos_jax.data import scene, video_writer
from cosmos_jax.data.scene import Placed, SceneConfig, World

CONTROL = "control_input_hdmap_bbox"
MARKER = "scene.json"


class Camera(NamedTuple):
    """What the rays of a camera share in every frame, in the rig frame; float32.

    Boxes are hit by `supersample` rays a pixel along each side, sky and ground (whose patterns are
    averaged over a pixel by formula) by one. Rays have length 1 along the camera's axis, so that a
    ray's parameter is the depth. Pixel rows from `horizon` on see the ground, those above the sky.
    """

    pose: np.ndarray  # [4 4], to the rig
    matrix: np.ndarray  # [3 3], intrinsics in samples
    rays: np.ndarray  # [3 r s], of the samples in all rows and columns
    pixel: np.ndarray  # [r s], the flat number of every sample's pixel
    horizon: int
    ground: np.ndarray  # [2 g x], where the pixels' rays meet the ground
    ground_depth: np.ndarray  # [g x]
    ground_mist: np.ndarray  # [g x], share of haze
    spread: np.ndarray  # [2 g x], size of a pixel on the ground along x and y
    sky: np.ndarray  # [2 k x], where the pixels' rays meet the clouds
    elevation: np.ndarray  # [k x], 0 at the horizon to 1 overhead


def _pinhole_rays(matrix: np.ndarray, rows: int, columns: int, pose: np.ndarray) -> np.ndarray:
    across = (np.arange(columns) + 0.5 - matrix[0, 2]) / matrix[0, 0]
    down = (np.arange(rows) + 0.5 - matrix[1, 2]) / matrix[1, 1]
    plane = np.stack([*np.meshgrid(across, down), np.ones((rows, columns))])
    return np.einsum("ij,jyx->iyx", pose[:3, :3], plane)


@functools.lru_cache(maxsize=4)
def make_cameras(config: SceneConfig) -> tuple[Camera, ...]:
    """Casts the rays of every camera to the ground and to the sky."""
    rows, columns = config.size
    times = config.supersample
    samples = np.diag([times, times, 1.0]) @ scene.intrinsics(config)
    pixel = np.arange(rows * columns).reshape(rows, columns).repeat(times, 0).repeat(times, 1)
    cameras = []
    for pose in scene.camera_to_rig(config):
        rays = _pinhole_rays(scene.intrinsics(config), rows, columns, pose)
        horizon = int(np.argmax(rays[2, :, 0] < 0))
        depth = -scene.CAMERA_HEIGHT / rays[2, horizon:]
        ground = pose[:2, 3, None, None] + rays[:2, horizon:] * depth
        spread = sum(np.abs(np.gradient(ground, axis=axis)) for axis in (1, 2)) + 1e-3
        above = rays[:, :horizon] / np.linalg.norm(rays[:, :horizon], axis=0)
        sky = above[:2] / (above[2] + 0.12)
        mist = _mist(depth, rays[:, horizon:])
        camera = Camera(
            pose=pose,
            matrix=samples,
            rays=_pinhole_rays(samples, rows * times, columns * times, pose),
            pixel=pixel,
            horizon=horizon,
            ground=ground,
            ground_depth=depth,
            ground_mist=mist,
            spread=spread,
            sky=sky,
            elevation=np.sqrt(above[2]),
        )
        single = {
            name: array.astype(np.float32)
            for name, array in camera._asdict().items()
            if name not in ("pixel", "horizon")
        }
        cameras.append(camera._replace(**single))
    return tuple(cameras)


def _mist(depth: np.ndarray, rays: np.ndarray) -> np.ndarray:
    return 1 - np.exp(depth * np.sqrt(rays[0] ** 2 + rays[1] ** 2 + rays[2] ** 2) / -150)


# ------------------------------------------------------------------------------
# Rays.


class Hits(NamedTuple):
    """The samples of a picture that see a box: which sample, which box, and where on it."""

    sample: np.ndarray  # [m], flat in [r s]
    box: np.ndarray  # [m]
    depth: np.ndarray  # [m]
    point: np.ndarray  # [3 m], in the box's frame


EDGES = np.array([(a, a | 1 << k) for k in range(3) for a in range(8) if not a >> k & 1]).T
"""The corners at the ends of a box's 12 edges, [2 12]."""


def _bounds(camera: Camera, ends: np.ndarray) -> np.ndarray:
    """First row, row past the last, and the same of columns [n 4], of the picture of every box.

    Edges, whose ends [n 8 3] are given in the rig frame, are cut where they pass behind the camera.
    """
    near = np.float32(0.05)
    local = (ends - camera.pose[:3, 3]) @ camera.pose[:3, :3]
    start, end = local[:, EDGES[0]], local[:, EDGES[1]]
    gap = end - start
    gap[..., 2] = np.where(gap[..., 2] == 0, near, gap[..., 2])
    crossing = start + gap * np.clip((near - start[..., 2:]) / gap[..., 2:], 0, 1)
    points = np.concatenate([np.where(p[..., 2:] < near, crossing, p) for p in (start, end)], 1)
    seen = points[..., 2] > 0.99 * near
    pixels = points @ camera.matrix.T / np.maximum(points[..., 2:], near)
    limits = []
    for axis, size in zip((1, 0), camera.pixel.shape, strict=True):
        limits.append(np.where(seen, pixels[..., axis], np.inf).min(1).clip(0, size))
        limits.append(np.where(seen, pixels[..., axis], -np.inf).max(1).clip(0, size))
    return np.ceil(np.stack(limits, -1) - 0.5).astype(int)


def _turn(x, y, cos, sin):
    """Components of a direction in a frame whose yaw has this cosine and sine."""
    return cos * x + sin * y, cos * y - sin * x


def cast(camera: Camera, world: World, placed: Placed) -> Hits:
    """Finds the nearest box on every ray: slab tests within each box's bounds in the picture."""
    depth = np.full(camera.pixel.shape, np.inf, np.float32)
    nearest = np.full(camera.pixel.shape, -1, np.int32)
    cos, sin = np.cos(placed.yaw), np.sin(placed.yaw)
    x, y, z = (camera.pose[:3, 3] - placed.centre).T
    origin = np.stack([*_turn(x, y, cos, sin), z], -1)
    half = world.boxes.size / 2
    for number, (top, bottom, left, right) in enumerate(
        _bounds(camera, scene.corners(world, placed))
    ):
        if bottom <= top or right <= left:
            continue
        region = np.s_[top:bottom, left:right]
        x, y, z = camera.rays[:, *region]
        enter, leave = np.float32(0), np.float32(np.inf)
        for axis, ray in enumerate((*_turn(x, y, cos[number], sin[number]), z)):
            inverse = 1 / (ray + np.float32(1e-12))  # A ray along a face would divide by zero.
            middle, reach = -origin[number, axis] * inverse, half[number, axis] * np.abs(inverse)
            enter, leave = np.maximum(enter, middle - reach), np.minimum(leave, middle + reach)
        closer = (enter < leave) & (enter > 0) & (enter < depth[region])
        np.copyto(depth[region], enter, where=closer)
        np.copyto(nearest[region], np.int32(number), where=closer)
    sample = np.flatnonzero(nearest >= 0)
    box, distance = nearest.reshape(-1)[sample], depth.reshape(-1)[sample]
    x, y, z = camera.rays.reshape(3, -1)[:, sample] * distance
    point = np.stack([*_turn(x, y, cos[box], sin[box]), z]) + origin[box].T
    return Hits(sample, box, distance, point)


def render_depth(config: SceneConfig, episode: int, frame: int) -> Float[np.ndarray, "v y x"]:
    """Depth in metres at the pixels' centres, along the camera's axis; infinite in the sky."""
    config = dataclasses.replace(config, supersample=1)
    world = scene.make_world(config, episode)
    placed = scene.place(config, world, frame)
    maps = []
    for camera in make_cameras(config):
        hits = cast(camera, world, placed)
        depth = np.full(camera.pixel.shape, np.inf, np.float32)
        depth[camera.horizon :] = camera.ground_depth
        depth.reshape(-1)[hits.sample] = hits.depth
        maps.append(depth)
    return np.stack(maps)


# ------------------------------------------------------------------------------
# Paint. Colours are float32 planes [3 ...] in [0, 1]. Every pattern is averaged over the size of a
# pixel (`spread`), so that it does not flicker in the distance.


@functools.lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """A periodic patch [512 512] of smooth noise within [-1, 1]; a cell is a quarter of a metre."""
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)) * 512
    spectrum = np.fft.rfft2(np.random.default_rng(0).standard_normal((512, 512)))
    noise = np.fft.irfft2(spectrum * np.exp(-((frequency / 60) ** 2)) / (frequency + 6))
    return np.clip(noise / noise.std() / 2, -1, 1).astype(np.float32)


def _sample_noise(x, y):
    row, column = (np.floor(4 * n).astype(np.int32) & 511 for n in (y, x))
    return _noise().reshape(-1)[row << 9 | column]


def _pulses(x, period, width, spread):
    """Share of `spread` around x that lies in pulses starting at the multiples of `period`."""

    def integral(x):
        whole = np.floor(x / period)
        return whole * width + np.minimum(x - whole * period, width)

    return (integral(x + spread / 2) - integral(x - spread / 2)) / spread


def _stripe(distance, width, spread):
    """Share of `spread`, at a distance from a stripe's middle, that lies in the stripe."""
    low = np.maximum(distance - spread / 2, -width / 2)
    return np.maximum(np.minimum(distance + spread / 2, width / 2) - low, 0) / spread


def _inside(distance, spread):
    """Share of `spread`, at a distance outside an edge, that lies inside."""
    return np.clip(0.5 - distance / spread, 0, 1)


def _colour(rgb) -> np.ndarray:
    return np.array(rgb, np.float32).reshape(3, 1, 1)


def _blend(below, above, share):
    return below + (above - below) * share


def _paint_sky(camera: Camera, world: World, placed: Placed) -> np.ndarray:
    light = scene.LIGHTS[world.time_of_day]
    x, y = np.einsum("ij,jyx->iyx", placed.pose[:2, :2].astype(np.float32), camera.sky)
    clouds = np.clip(1.5 * _sample_noise(6 * x + 10 * world.sun, 6 * y), 0, 1)
    clouds *= light.clouds * np.minimum(2 * camera.elevation, 1)
    sky = _blend(_colour(light.horizon), _colour(light.zenith), camera.elevation)
    return _blend(sky, 1.1 * _colour(light.horizon) + 0.05, clouds)


def _paint_ground(camera: Camera, world: World, placed: Placed) -> tuple[np.ndarray, np.ndarray]:
    """The ground in the video and in the control, [3 g x]."""
    pose, light = placed.pose.astype(np.float32), scene.LIGHTS[world.time_of_day]
    x, y = np.einsum("ij,jyx->iyx", pose[:2, :2], camera.ground) + pose[:2, 3, None, None]
    aside = y - world.centre(x)
    along_spread, spread = camera.spread
    grain = _sample_noise(x, aside) / (1 + along_spread**2 + spread**2)
    edge = world.lanes * scene.LANE / 2
    outside = np.abs(aside) - (edge + scene.SHOULDER)
    road = _inside(outside, spread)
    first, second = (_colour(rgb) for rgb in scene.VERGES[world.verge])
    paint = _blend(first, second, np.clip(0.5 + grain, 0, 1)) * (1 + 0.12 * grain)
    paint = _blend(paint, _colour((0.58, 0.56, 0.54)), _inside(outside - 1.5, spread))
    paint = _blend(paint, _colour((0.27, 0.27, 0.29)) * (1 + 0.2 * grain), road)

    lane = (aside + edge) % scene.LANE
    lane = np.minimum(lane, scene.LANE - lane)
    dashes = (
        np.where(np.abs(aside) > edge - scene.LANE / 2, 1, _pulses(x, 7.0, 3.5, along_spread))
        * road
    )
    paint = _blend(paint, np.float32(0.9), dashes * _stripe(lane, 0.22, spread))

    # The control's lines are at least a pixel wide, and fade before they crowd at the horizon.
    fade = np.exp(-camera.ground_depth / 50)
    control = _blend(0.3 * first * _colour(light.sun), np.float32(0.1), road)
    line = dashes * _stripe(lane, np.maximum(0.3, spread), spread) * fade
    control = _blend(control, 0.5 * _colour(light.horizon) + 0.5, line)
    border = _stripe(outside, np.maximum(0.4, spread), spread) * fade
    return paint * _colour(light.sun), _blend(control, _colour((0.9, 0.3, 0.9)), border)


class Face(NamedTuple):
    """Where on its box every hit lies; `along` and `up` are measured from the face's middle."""

    axis: np.ndarray  # [m], 0 front or back, 1 left or right, 2 top or bottom
    positive: np.ndarray
    along: np.ndarray
    up: np.ndarray
    half_along: np.ndarray
    half_up: np.ndarray


def _faces(world: World, hits: Hits) -> Face:
    point, half = hits.point, world.boxes.size[hits.box].T / 2
    x, y, z = np.abs(point) / half
    axis = np.where(z > np.maximum(x, y), 2, np.where(y > x, 1, 0))
    front, top = axis == 0, axis == 2
    positive = np.where(top, point[2], np.where(front, point[0], point[1])) > 0
    along, half_along = (np.where(front, n[1], n[0]) for n in (point, half))
    up, half_up = (np.where(top, n[1], n[2]) for n in (point, half))
    return Face(axis, positive, along, up, half_along, half_up)


def _shade(world: World, placed: Placed) -> np.ndarray:
    """Light on the faces of every box, [n 3 2]: by axis and side."""
    angle = (
        placed.yaw[:, None, None] + placed.heading - world.sun + np.pi / 2 * np.arange(3)[:, None]
    )
    shade = 0.72 + np.array([-0.22, 0.22]) * np.cos(angle)
    shade[:, 2] = 1.05
    return shade.astype(np.float32)


def _paint_boxes(
    config: SceneConfig, camera: Camera, world: World, placed: Placed, hits: Hits
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the hits in the video and in the control, [3 m]."""
    light, boxes = scene.LIGHTS[world.time_of_day], world.boxes
    axis, positive, along, up, half_along, half_up = face = _faces(world, hits)
    spread = hits.depth * (config.supersample / camera.matrix[0, 0])
    colour = boxes.colour.T[:, hits.box]
    paint, glow = _paint_details(world, hits, face, colour, spread)
    sun = _colour(light.sun)[:, 0]
    shade = _shade(world, placed).reshape(-1)[hits.box * 6 + axis * 2 + positive]
    paint = paint * _blend(sun * shade, np.float32(1), glow)

    edge = np.minimum(half_along - np.abs(along), half_up - np.abs(up))
    line = _inside(edge - np.minimum(2.5 * spread, 0.25 * np.minimum(half_along, half_up)), spread)
    control = colour * np.array([0.8, 0.65, 0.95], np.float32)[axis]
    return paint, _blend(control, 0.45 * colour + 0.55, line)


def _paint_details(
    world: World, hits: Hits, face: Face, colour: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unlit colours [3 m] with grain, windows, wheels and lamps, and the share that shines [m]."""
    axis, positive, along, up, half_along, half_up = face
    light, kind = scene.LIGHTS[world.time_of_day], world.boxes.kind[hits.box]
    height = up + half_up
    elsewhere = hits.box.astype(np.float32)  # so that no two boxes look alike
    grain = _sample_noise(along + 3 * elsewhere, up + 5 * elsewhere)
    paint = colour * (1 + grain * np.where(kind == scene.CROWN, np.float32(0.35), np.float32(0.08)))
    rows = _pulses(height - 1.2, 3.0, 1.5, spread) * (height > 1)
    windows = rows * _pulses(along + half_along - 0.8, 2.6, 1.4, spread)
    windows *= (kind == scene.BUILDING) & (axis < 2)
    paint = _blend(paint, _colour(light.window)[:, 0], windows)
    glass = _stripe(up, 1.3 * half_up, spread) * _stripe(along, 1.8 * half_along, spread)
    glass *= (kind == scene.CABIN) & (axis < 2)
    paint = _blend(paint, _colour((0.10, 0.13, 0.17))[:, 0], glass)
    vehicle = kind == scene.VEHICLE
    paint = _blend(paint, np.float32(0.08), _inside(height - 0.3, spread) * (vehicle & (axis < 2)))
    lamps = vehicle & (axis == 0) & (np.abs(along) > 0.55 * half_along) & (np.abs(up) < 0.16)
    front = positive == (world.boxes.velocity[hits.box] > 0)
    lamp = np.array([[0.9, 0.1, 0.08], [1.0, 1.0, 0.85]], np.float32).T[:, front.astype(int)]
    return np.where(lamps, lamp, paint), np.maximum(windows * np.float32(light.glow), lamps)


def _render_view(
    config: SceneConfig, camera: Camera, world: World, placed: Placed
) -> tuple[np.ndarray, np.ndarray]:
    """Video and control of a view, uint8 [y x 3]."""
    light, horizon = scene.LIGHTS[world.time_of_day], camera.horizon
    haze, hits = _colour(light.horizon), cast(camera, world, placed)
    paint = np.empty((3, *config.size), np.float32)
    control = np.empty_like(paint)
    ground, control[:, horizon:] = _paint_ground(camera, world, placed)
    paint[:, horizon:] = _blend(ground, haze, camera.ground_mist)
    paint[:, :horizon] = _paint_sky(camera, world, placed)
    control[:, :horizon] = 0.25 * _colour(light.zenith)

    boxes, layout = _paint_boxes(config, camera, world, placed, hits)
    mist = _mist(hits.depth, camera.rays.reshape(3, -1)[:, hits.sample])
    boxes = _blend(boxes, haze[:, 0], mist)
    pixel, rays = camera.pixel.reshape(-1)[hits.sample], config.supersample**2
    behind = 1 - np.bincount(pixel, minlength=paint[0].size) / rays

    def finish(below, above):
        planes = [np.bincount(pixel, plane, behind.size) / rays for plane in above]
        image = np.clip(np.stack(planes) + below.reshape(3, -1) * behind, 0, 1)
        return (image * 255 + 0.5).astype(np.uint8).T.reshape(*config.size, 3)

    return finish(paint, boxes), finish(control, layout)


class Episode(NamedTuple):
    """A rendered episode; the views are in the order of `cameras`."""

    video: UInt8[np.ndarray, "v f y x 3"]
    control: UInt8[np.ndarray, "v f y x 3"]
    caption: str
    cameras: tuple[str, ...]


def render_episode(config: SceneConfig, episode: int) -> Episode:
    """Renders all frames of all views, with their control video and a caption.

    Raises:
        ValueError: no such episode.
    """
    world = scene.make_world(config, episode)
    shape = (config.cameras, config.frames, *config.size, 3)
    pixels, control = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for frame in range(config.frames):
        placed = scene.place(config, world, frame)
        for view, camera in enumerate(make_cameras(config)):
            pixels[view, frame], control[view, frame] = _render_view(config, camera, world, placed)
    return Episode(pixels, control, world.caption, config.camera_names)


def write_dataset(root: str | pathlib.Path, config: SceneConfig) -> pathlib.Path:
    """Writes all episodes in the folder layout of driving data, or finds them already written.

    `root` gets videos/CAMERA/episode_0000.mp4, control_input_hdmap_bbox/CAMERA/episode_0000.mp4,
    captions/FIRST_CAMERA/episode_0000.json and scene.json, which says what was rendered. The folder
    appears under its name when it is complete, never before.

    Raises:
        ValueError: `root` exists and holds something else.
    """
    root = pathlib.Path(root).absolute()
    marker = {"renderer": scene.RENDERER, **dataclasses.asdict(config), "size": list(config.size)}
    if root.exists():
        _check_marker(root, marker)
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = pathlib.Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        (draft / "captions" / config.camera_names[0]).mkdir(parents=True)
        # An episode is held in memory while it is written: a few at a time.
        with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            list(pool.map(functools.partial(_write_episode, draft, config), range(config.episodes)))
        (draft / MARKER).write_text(json.dumps(marker, indent=1))
        draft.chmod(0o755)
        try:
            draft.rename(root)
        except OSError:
            if not root.exists():
                raise
            _check_marker(root, marker)  # Another process was faster.
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _write_episode(root: pathlib.Path, config: SceneConfig, number: int) -> None:
    episode, name = render_episode(config, number), f"episode_{number:04d}"
    for folder, videos in (("videos", episode.video), (CONTROL, episode.control)):
        for camera, frames in zip(episode.cameras, videos, strict=True):
            video_writer.write_video(
                root / folder / camera / f"{name}.mp4", frames, float(config.fps)
            )
    caption = root / "captions" / episode.cameras[0] / f"{name}.json"
    caption.write_text(json.dumps({"caption": episode.caption}))


def _check_marker(root: pathlib.Path, wanted: dict) -> None:
    mend = "choose another folder or remove this one"
    if not (root / MARKER).is_file():
        raise ValueError(f"{root} exists and is no rendered data set (it has no {MARKER}): {mend}")
    found = json.loads((root / MARKER).read_text())
    differing = [f"{k}={v}" for k, v in wanted.items() if k not in found or found[k] != v]
    if differing:
        raise ValueError(f"{root} holds a data set rendered without {', '.join(differing)}: {mend}")


@dataclasses.dataclass(frozen=True)
class RenderedScene(SceneConfig):
    """The data set as a config names it (`config.scene.kind`)."""

    def write(self, root: str | pathlib.Path) -> pathlib.Path:
        """Renders it into a folder, or finds it there; see `write_dataset`."""
        return write_dataset(root, self)
