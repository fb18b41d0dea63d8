"""The geometry of the rendered driving scene: its boxes, its road, its ring of cameras.

A rig of synchronised pinhole cameras drives along a winding road, past buildings and trees and
among cars. Everything is a box on a ground plane, so where a thing is and which camera sees it is
known exactly. `cosmos_jax.data.synthetic` draws it.

World and rig frame: x forward, y left, z up, metres. Camera frame: x right, y down, z forward; the
centre of the pixel in row i and column j lies at (j + 0.5, i + 0.5).
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

RENDERER = 1
"""Raised when the same config gives another picture; it is part of a data set's fingerprint."""

CAMERA_HEIGHT = 1.6
CAMERA_RADIUS = 0.3
HORIZON = 0.45
"""Of the picture's height: the principal point lies above the centre."""

LANE = 3.5
SHOULDER = 0.4
VEHICLE, CABIN, BUILDING, TRUNK, CROWN = range(5)
COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.93, 0.83, 0.15),
    "green": (0.15, 0.62, 0.22),
    "teal": (0.10, 0.65, 0.65),
    "blue": (0.13, 0.28, 0.85),
    "purple": (0.52, 0.20, 0.70),
    "pink": (0.95, 0.50, 0.68),
    "white": (0.92, 0.92, 0.92),
    "grey": (0.42, 0.44, 0.47),
}
VERGES = {
    "grass": ((0.30, 0.50, 0.16), (0.45, 0.55, 0.20)),
    "sand": ((0.78, 0.64, 0.42), (0.66, 0.50, 0.32)),
    "snow": ((0.88, 0.90, 0.95), (0.72, 0.78, 0.88)),
    "clay": ((0.58, 0.30, 0.20), (0.45, 0.26, 0.18)),
}


class Light(NamedTuple):
    """A time of day: colours of the sky, of the light on everything, and of windows."""

    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    sun: tuple[float, float, float]
    window: tuple[float, float, float]
    clouds: float
    glow: float  # 1 where windows shine by themselves


LIGHTS = {
    "at noon": Light(
        (0.25, 0.48, 0.88), (0.72, 0.84, 0.96), (1.05, 1.03, 1.0), (0.35, 0.5, 0.65), 0.7, 0
    ),
    "at dusk": Light(
        (0.26, 0.20, 0.45), (0.98, 0.55, 0.30), (0.95, 0.72, 0.58), (1.0, 0.75, 0.4), 0.4, 0
    ),
    "at night": Light(
        (0.02, 0.03, 0.10), (0.09, 0.12, 0.26), (0.36, 0.4, 0.58), (1.0, 0.85, 0.4), 0.1, 1
    ),
    "at dawn": Light(
        (0.50, 0.66, 0.86), (1.0, 0.86, 0.70), (0.98, 0.90, 0.80), (0.5, 0.5, 0.5), 0.5, 0
    ),
    "under grey skies": Light(
        (0.50, 0.53, 0.58), (0.74, 0.76, 0.79), (0.78, 0.79, 0.82), (0.35, 0.4, 0.45), 0.9, 0
    ),
}


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """What to render.

    Attributes:
        seed: of the whole data set.
        episodes: number of episodes; each has its own road, boxes, colours and time of day.
        frames: frames of every video.
        fps: frames per second.
        cameras: number of cameras, at equal angles around the rig; the first looks forward.
        size: rows and columns of a picture, both even.
        overlap: degrees that a camera sees beyond its share 360/cameras of the ring. One or two
            cameras cannot cover the ring: they see 90 degrees each.
        supersample: rays per pixel along each side.

    Raises:
        ValueError: a value that cannot be rendered.
    """

    seed: int = 0
    episodes: int = 20
    frames: int = 29
    fps: int = 10
    cameras: int = 4
    size: Sequence[int] = (96, 160)
    overlap: float = 12.0
    supersample: int = 2

    def __post_init__(self):
        object.__setattr__(self, "size", tuple(self.size))
        for name in ("episodes", "frames", "fps", "cameras", "supersample"):
            if getattr(self, name) < 1:
                raise ValueError(f"scene: {name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"scene: seed is {self.seed}; it must not be negative")
        if len(self.size) != 2 or any(n < 8 or n % 2 for n in self.size):
            raise ValueError(
                f"scene: size is {self.size}; it must be two even numbers from 8 on (rows, columns)"
            )
        if not 0 < self.field_of_view < 160:
            raise ValueError(
                f"scene: {self.cameras} cameras with overlap {self.overlap} would see "
                f"{self.field_of_view:g} degrees each; choose an overlap that gives 1 to 159"
            )

    @property
    def field_of_view(self) -> float:
        """Horizontal field of view of every camera, in degrees."""
        return 360 / self.cameras + self.overlap if self.cameras > 2 else 90.0

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Folder names: the angle of every camera to the left of forward, in degrees."""
        return tuple(f"camera_{round(360 * k / self.cameras):03d}" for k in range(self.cameras))


class Boxes(NamedTuple):
    """One box, or (arrays with a leading axis n) all of a scene.

    Its foot stands at x = along + velocity * time, y = centre line of the road + aside, turned with
    the road there; `forward` and `lift` then move it along its own axis and up.
    """

    along: Any
    aside: Any
    velocity: Any
    size: Any  # [n 3]
    colour: Any  # [n 3]
    kind: Any
    forward: Any = 0.0
    lift: Any = 0.0


class World(NamedTuple):
    """The scene of an episode."""

    caption: str
    time_of_day: str
    verge: str
    lanes: int
    bend: tuple[float, float, float]  # amplitude, wave number and phase of the road's centre line
    speed: float
    aside: float  # of the rig
    sun: float  # its direction, in radians
    boxes: Boxes

    def centre(self, x: Any) -> Any:
        """y of the road's centre line."""
        amplitude, wave, phase = self.bend
        return amplitude * np.sin(wave * x + phase)

    def heading(self, x: Any) -> Any:
        """Direction of the road, in radians."""
        amplitude, wave, phase = self.bend
        return np.arctan(amplitude * wave * np.cos(wave * x + phase))


def _vehicle(rng, along, aside, velocity) -> tuple[str, list[Boxes]]:
    name = str(rng.choice(list(COLOURS)))
    place, colour = (along, aside, velocity), COLOURS[name]
    if rng.random() < 0.25:
        body = Boxes(*place, (8.5, 2.4, 1.4), colour, VEHICLE)
        return f"{name} bus", [body, body._replace(kind=CABIN, lift=1.4)]
    body = Boxes(*place, (4.3, 1.8, 0.95), colour, VEHICLE)
    back = -0.25 if velocity > 0 else 0.25
    return f"{name} car", [body, Boxes(*place, (2.3, 1.6, 0.6), colour, CABIN, back, 0.95)]


def _traffic(rng, lanes, own_lane, own_speed, seconds) -> list[tuple[str, list[Boxes]]]:
    """One speed a lane, so that nothing collides, and cars wherever a lane comes past the rig."""
    things = []
    for lane in range(lanes):
        ahead = lane < max(lanes // 2, own_lane + 1)
        velocity = own_speed * (rng.uniform(0.8, 1.2) if ahead else -rng.uniform(0.3, 0.7))
        velocity = own_speed if lane == own_lane else velocity
        drift = (own_speed - velocity) * seconds
        along = -25.0 + min(drift, 0.0) + rng.uniform(0, 8)
        while along < 45 + max(drift, 0.0):
            if lane != own_lane or abs(along) > 9:
                things.append(_vehicle(rng, along, (lane - (lanes - 1) / 2) * LANE, velocity))
            along += 11 + rng.exponential(9)
    return things


def _roadside(rng, edge, travel) -> list[tuple[str, list[Boxes]]]:
    """Rows of buildings and trees on both sides, `edge` metres from the centre line."""
    things = []
    for side in (-1, 1):
        along = -60.0
        while along < travel + 80:
            size = (rng.uniform(7, 14), rng.uniform(6, 10), rng.uniform(4, 16))
            name = str(rng.choice(list(COLOURS)))
            colour = tuple(0.75 * n + 0.12 for n in COLOURS[name])
            aside = side * (edge + 4.5 + size[1] / 2 + rng.uniform(0, 3))
            if rng.random() < 0.7:
                building = Boxes(along + size[0] / 2, aside, 0.0, size, colour, BUILDING)
                things.append(("building", [building]))
            along += size[0] + rng.uniform(2, 7)
        for post in np.arange(-40, travel + 60, 17.0):
            crown, stem = rng.uniform(2.0, 3.0), rng.uniform(1.6, 2.4)
            place = (post + rng.uniform(-4, 4), side * (edge + 3.0), 0.0)
            tint = (0.16, rng.uniform(0.32, 0.52), 0.12)
            if rng.random() < 0.6:
                trunk = Boxes(*place, (0.4, 0.4, stem), (0.36, 0.24, 0.14), TRUNK)
                size = (crown, crown, 1.2 * crown)
                things.append(("tree", [trunk, Boxes(*place, size, tint, CROWN, 0.0, stem)]))
    return things


def _list(things) -> str:
    counts = collections.Counter(name for name, _ in things)
    many = {name: name + ("es" if name.endswith("s") else "s") for name in counts}
    return ", ".join(f"{n} {name if n == 1 else many[name]}" for name, n in sorted(counts.items()))


@functools.lru_cache(maxsize=64)
def make_world(config: SceneConfig, episode: int) -> World:
    """Draws the scene of an episode from the config's seed.

    Raises:
        ValueError: no such episode.
    """
    if not 0 <= episode < config.episodes:
        raise ValueError(f"scene: no episode {episode}: the config has {config.episodes}")
    rng = np.random.default_rng([RENDERER, config.seed, episode])
    # Times of day take turns, so that also the smallest data set has them all.
    time_of_day = list(LIGHTS)[(config.seed + episode) % len(LIGHTS)]
    verge = str(rng.choice(list(VERGES)))
    lanes = int(rng.integers(2, 5))
    own_lane = int(rng.integers(0, lanes // 2))
    speed, seconds = float(rng.uniform(2, 6)), config.frames / config.fps
    wave = 2 * np.pi / rng.uniform(110, 220)
    bend = (float(rng.uniform(0, 5)), float(wave), float(rng.uniform(0, 2 * np.pi)))
    sun = float(rng.uniform(0, 2 * np.pi))
    things = _traffic(rng, lanes, own_lane, speed, seconds)
    things += _roadside(rng, lanes * LANE / 2 + SHOULDER, speed * seconds)
    caption = (
        f"Driving {time_of_day} on a road of {lanes} lanes through {verge}, past {_list(things)}."
    )
    columns = zip(*(box for _, boxes in things for box in boxes), strict=True)
    boxes = Boxes(*(np.array(column, np.float32) for column in columns))
    boxes = boxes._replace(kind=boxes.kind.astype(np.int32))
    aside = (own_lane - (lanes - 1) / 2) * LANE
    return World(caption, time_of_day, verge, lanes, bend, speed, aside, sun, boxes)


class Placed(NamedTuple):
    """Rig and boxes at one time: the rig in the world, the boxes in the rig's frame."""

    pose: np.ndarray  # [4 4] float64, rig to world
    heading: float
    centre: np.ndarray  # [n 3] float32
    yaw: np.ndarray  # [n] float32


def place(config: SceneConfig, world: World, frame: int) -> Placed:
    """Where everything is at a frame; the rig starts at x = 0."""
    seconds, boxes = frame / config.fps, world.boxes
    x = world.speed * seconds
    heading = float(world.heading(x))
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]]
    pose[:2, 3] = x, world.centre(x) + world.aside
    foot = boxes.along + np.float64(seconds) * boxes.velocity
    yaw = world.heading(foot)
    at = [
        foot + boxes.forward * np.cos(yaw),
        world.centre(foot) + boxes.aside + boxes.forward * np.sin(yaw),
        boxes.lift + boxes.size[:, 2] / 2,
    ]
    centre = (np.stack(at, -1) - pose[:3, 3]) @ pose[:3, :3]
    return Placed(pose, heading, centre.astype(np.float32), (yaw - heading).astype(np.float32))


def corners(world: World, placed: Placed) -> Float[np.ndarray, "n 8 3"]:
    """Corners of every box in the rig frame; bit k of a corner's number is its side on axis k."""
    sides = (np.arange(8)[:, None] >> np.arange(3) & 1) - np.float32(0.5)
    x, y, z = np.moveaxis(sides * world.boxes.size[:, None], -1, 0)
    cos, sin = np.cos(placed.yaw)[:, None], np.sin(placed.yaw)[:, None]
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + placed.centre[:, None]


def box_corners(config: SceneConfig, episode: int, frame: int) -> Float[np.ndarray, "n 8 3"]:
    """World positions of the corners of every box at a frame."""
    world = make_world(config, episode)
    placed = place(config, world, frame)
    return corners(world, placed) @ placed.pose[:3, :3].T + placed.pose[:3, 3]


def intrinsics(config: SceneConfig) -> Float[np.ndarray, "3 3"]:
    """The pinhole matrix that all cameras share, in pixels."""
    rows, columns = config.size
    focal = columns / 2 / np.tan(np.radians(config.field_of_view) / 2)
    return np.array([[focal, 0, columns / 2], [0, focal, HORIZON * rows], [0, 0, 1]])


def camera_to_rig(config: SceneConfig) -> Float[np.ndarray, "v 4 4"]:
    """The pose of every camera on the rig."""
    angle = np.arange(config.cameras) * 2 * np.pi / config.cameras
    poses = np.tile(np.eye(4), (config.cameras, 1, 1))
    poses[:, :2, 0] = np.stack([np.sin(angle), -np.cos(angle)], -1)
    poses[:, :3, 1] = 0, 0, -1
    poses[:, :2, 2] = np.stack([np.cos(angle), np.sin(angle)], -1)
    poses[:, 2, 2] = 0
    poses[:, :3, 3] = CAMERA_RADIUS * poses[:, :3, 2] + (0, 0, CAMERA_HEIGHT)
    return poses


def camera_to_world(config: SceneConfig, episode: int, frame: int) -> Float[np.ndarray, "v 4 4"]:
    """The pose of every camera at a frame: world point = pose @ camera point."""
    return place(config, make_world(config, episode), frame).pose @ camera_to_rig(config)


def project(
    config: SceneConfig, poses: Float[np.ndarray, "v 4 4"], points: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "v n 2"], Float[np.ndarray, "v n"]]:
    """World points to pixels (column, row) of every camera, and to depths in metres.

    A point can be in the picture only where its depth is positive.
    """
    local = np.einsum("vij,vni->vnj", poses[:, :3, :3], points - poses[:, None, :3, 3])
    pixels = local @ intrinsics(config).T
    return pixels[..., :2] / pixels[..., 2:], local[..., 2]
