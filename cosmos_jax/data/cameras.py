"""The cameras of the published models: their view ids, and the sentences about them."""

from collections.abc import Sequence

from cosmos_jax.types import APART

_CAR = "The video is captured from a camera mounted on a car. The camera is facing "
_AV = {
    "front_wide_120fov": _CAR + "forward.",
    "cross_right_120fov": _CAR + "to the right.",
    "rear_right_70fov": _CAR + "the rear right side.",
    "rear_tele_30fov": _CAR + "backwards.",
    "rear_left_70fov": _CAR + "the rear left side.",
    "cross_left_120fov": _CAR + "to the left.",
    "front_tele_30fov": "The video is captured from a telephoto camera mounted on a car. "
    "The camera is facing forward.",
}
_ROBOT = "The video is captured from a camera "
_WRIST = _ROBOT + "mounted on the {} robot arm wrist, showing the gripper's perspective."
_WAIST = _ROBOT + "on the {0} side of the robot base, showing the {0} workspace."
_WAYMO = {
    "pinhole_front_left": _CAR + "forward and slightly to the left.",
    "pinhole_front": _CAR + "forward.",
    "pinhole_front_right": _CAR + "forward and slightly to the right.",
    "pinhole_side_left": _CAR + "to the left.",
    "pinhole_side_right": _CAR + "to the right.",
}
PUBLISHED: tuple[dict[str, str], ...] = (
    {f"ftheta_camera_{name}": prefix for name, prefix in _AV.items()},
    {f"camera_{name}": prefix for name, prefix in _AV.items()},
    {
        "cam_high": _ROBOT + "mounted above the robot workspace, providing a top-down view.",
        "cam_left_wrist": _WRIST.format("left"),
        "cam_right_wrist": _WRIST.format("right"),
        "cam_waist_left": _WAIST.format("left"),
        "cam_waist_right": _WAIST.format("right"),
    },
    {
        "head_color": _ROBOT + "mounted on the head of the subject, facing forward.",
        "hand_left": _ROBOT + "mounted on the left hand of the subject.",
        "hand_right": _ROBOT + "mounted on the right hand of the subject.",
    },
    _WAYMO,
)
"""Camera sets of the published models, each with the sentences that may precede its captions.

A camera's place in its set is its view id. Sources: the camera tables and captions of
cosmos-transfer2.5's auto-multiview, robotics and agibot post-training; of cosmos-predict1,
get_t5_embeddings_from_waymo.py and the order of its Waymo experiment's views.
"""


def ids(names: Sequence[str]) -> tuple[tuple[str, int], ...] | None:
    """The cameras in published order, with published view ids; None if no set has them all."""
    for known in PUBLISHED:
        if set(names) <= known.keys():
            return tuple((name, i) for i, name in enumerate(known) if name in names)
    return None


def prefix(camera: str) -> str:
    """The published sentence about a camera.

    Raises:
        ValueError: no published set has the camera.
    """
    for known in PUBLISHED:
        if camera in known:
            return known[camera]
    raise ValueError(f"no published prefix for camera {camera!r}; set data.view_prefixes=False")


def worded(camera: str, text: str, style: str) -> str:
    """A camera's sentence and a text by a `DataConfig.prefix_style`."""
    sentence = prefix(camera)
    if style == "joined":
        return f"{sentence} {text}"
    if style == "apart":
        return f"{sentence}{APART}{text}" if text else sentence
    return text or sentence
