"""Parity of the readers of clips with the published data sets.

The decoded pixels are compared by means and deviations of frames and by crops; whether they are
bit-equal is told.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.parity_checks.golden import Golden, Options, Row, check_options, compare
from converters.parity_checks.published_sizes import published_size
from cosmos_jax.data import layouts, pipeline
from cosmos_jax.types import Clip

AUTO = (
    *("name", "camera_keys", "resolution_hw", "fps_downsample_factor", "num_video_frames", "n"),
    *("add_view_prefix_to_caption", "items", "single_caption_camera_name"),
)
ROBOTICS = (
    *("num_frames", "resolution", "video_size", "camera_keys", "front_camera_key"),
    *("camera_to_view_id", "state_t", "is_train", "start_frame_interval"),
)
SINGLE = ("num_frames", "video_size", "caption_format", "prompt_type")


def check(golden: Golden, options: Options) -> Iterator[Row]:
    """The clips of every case; their kind is told by the arguments of the reference's data set."""
    cases, root = golden.json("cases_json"), options.root or golden.path.parent
    for case in [cases] if isinstance(cases, dict) else cases:
        if "kwargs" not in case:
            yield from _auto(golden, case, root)
        elif "camera_keys" in case["kwargs"]:
            yield from _robotics(golden, case, root)
        else:
            yield from _single(golden, case, root)


def _folder(root: Path, name: str) -> str:
    """The data set's folder: `root` itself, or the one of that name in it."""
    for folder in (root, root / name):
        if (folder / "videos").is_dir():
            return str(folder)
    raise ValueError(
        f"neither {root}/videos nor {root / name}/videos is there; --root names the folder"
    )


def _config(root: str, **settings: Any) -> layouts.DataConfig:
    return layouts.DataConfig(root=root, batch_size=1, num_threads=2, **settings)


def _control(golden: Golden) -> str | None:
    """Control is read where the file has any."""
    return "auto" if any("/control_input" in name for name in golden.names()) else None


def _auto(golden: Golden, case: Mapping[str, Any], root: Path) -> Iterator[Row]:
    check_options(case, AUTO, "the auto-multiview data set")
    folder = _folder(root, "auto_dataset")
    found = {path.name for path in (Path(folder) / "videos").iterdir()}
    names = [f"ftheta_{key}" if f"ftheta_{key}" in found else key for key in case["camera_keys"]]
    caption_camera, stride = case.get("single_caption_camera_name"), case["fps_downsample_factor"]
    clips = pipeline.open_dataset(
        _config(
            folder,
            cameras=",".join(names),
            caption_camera=names[case["camera_keys"].index(caption_camera)]
            if caption_camera
            else None,
            num_frames=case["num_video_frames"],
            stride=stride,
            resize="stretch",
            size=tuple(case["resolution_hw"]),
            starts="first",
            control=_control(golden),
            view_prefixes=case["add_view_prefix_to_caption"],
            validation_fraction=None,
        )
    ).train
    yield _same("auto: number of clips", {"n": case["n"]}, {"n": len(clips)}, golden)
    part = golden.under(f"{case['name']}/" if "name" in case else "")
    order = [episode.name for episode in clips.episodes]
    for item in case["items"]:
        stem = item["name"].removesuffix(".mp4")
        clip = clips.clip(order.index(stem))
        _, start = clips.locate(order.index(stem), 0, 0)
        ours = _described(clip, case["camera_keys"], clips)
        ours["frame_indices"] = [start + i * stride for i in range(case["num_video_frames"])]
        yield from _item(part.under(f"item_{stem}/"), clip, item["fields"], ours)


def _robotics(golden: Golden, case: Mapping[str, Any], root: Path) -> Iterator[Row]:
    kwargs, name = case["kwargs"], case["name"]
    check_options(kwargs, ROBOTICS, f"the robotics data set {name}")
    video_size = tuple(kwargs["video_size"])
    data = pipeline.open_dataset(
        _config(
            _folder(root, "robotics_dataset"),
            num_frames=kwargs["num_frames"],
            stride=1,
            window_stride=kwargs.get("start_frame_interval", 1),
            resize="robotics",
            size=published_size(kwargs["resolution"], video_size),
            video_size=video_size,
            cameras=tuple((key, kwargs["camera_to_view_id"][key]) for key in kwargs["camera_keys"]),
            caption_camera=kwargs["front_camera_key"],
            control=_control(golden),
        )
    )
    clips = data.train if kwargs["is_train"] else data.validation
    located = [clips.locate(w, 0, 0) for w in range(len(clips))]
    frames = range(kwargs["num_frames"])
    ours = [
        {"video": f"{e.name}.mp4", "frame_ids": [start + i for i in frames]} for e, start in located
    ]
    yield _same(f"{name}: clips", {"samples": case["samples"]}, {"samples": ours}, golden)
    for item in case["items"]:
        clip = clips.clip(item["index"])
        described = _described(clip, kwargs["camera_keys"], clips)
        described |= {
            "video_name": {"video_path": f"{located[item['index']][0].name}.mp4"},
            "latent_view_indices_B_T": np.repeat(clip.view_ids, kwargs["state_t"]).tolist(),
        }
        # These two speak of video_size, which the pixels no longer have (see `published_size`).
        del described["image_size"], described["padding_mask__shape"]
        part = golden.under(f"{name}/item{item['index']}/")
        yield from _item(part, clip, item["fields"], described)


def _single(golden: Golden, case: Mapping[str, Any], root: Path) -> Iterator[Row]:
    kwargs, name = case["kwargs"], case["name"]
    check_options(kwargs, SINGLE, f"the video data set {name}")
    folder = _folder(root, "video_dataset")
    wanted, found = kwargs.get("caption_format", "auto"), (Path(folder) / "captions").is_dir()
    if wanted != "auto" and (wanted == "json") != found:
        raise ValueError(
            f"{name}: option caption_format is {wanted!r}, and {folder}/captions is "
            f"{'there' if found else 'missing'}; the folders alone tell which captions are read"
        )
    clips = pipeline.open_dataset(
        _config(
            folder,
            num_frames=kwargs["num_frames"],
            stride=1,
            resize="stretch_truncated",
            size=tuple(kwargs["video_size"]),
            control=None,
            caption_kind=kwargs.get("prompt_type"),
            validation_fraction=None,
        )
    ).train
    located = [clips.locate(w, 0, 0) for w in range(len(clips))]
    starts = [(episode.name, start) for episode, start in located]
    for item in case["items"]:
        episode = clips.episodes[item["index"]]
        place = (episode.name, item["start_frame"])
        if place not in starts:
            raise ValueError(f"{name}: no clip starts at frame {place[1]} of {place[0]}.mp4")
        clip, fields = clips.clip(starts.index(place)), item["fields"]
        ours = _described(clip, [], clips) | {"num_frames": clips.config.num_frames}
        part = golden.under(f"{name}/item{item['index']}/")
        yield from _item(part, clip, fields, ours)


def _described(clip: Clip, cameras: Sequence[str], clips: pipeline.Clips) -> dict[str, Any]:
    """What the reference says of a clip beside its pixels, in its words."""
    views, frames, *size = clip.video.shape[:-1]
    return {
        "ai_caption": list(clip.captions),
        "fps": float(clip.fps),
        "view_indices_selection": clip.view_ids.tolist(),
        "view_indices": np.repeat(clip.view_ids, frames).tolist(),
        "camera_keys_selection": list(cameras),
        "sample_n_views": views,
        "num_video_frames_per_view": frames,
        "image_size": size * 2,
        "padding_mask__shape": [1, *size],
        "front_cam_view_idx_sample_position": _front(clips),
    }


def _front(clips: pipeline.Clips) -> int:
    """The place of the view whose caption is read."""
    names = [name for name, _ in clips.cameras]
    return names.index(clips.caption_cameras[0])


def _item(
    golden: Golden, clip: Clip, fields: dict[str, Any], ours: dict[str, Any]
) -> Iterator[Row]:
    what = golden.prefix.rstrip("/")
    for name in sorted({name.split("/")[0] for name in golden.names()}):
        pixels = clip.video if name == "video" else clip.control
        if not name.startswith(("video", "control_input")) or pixels is None:
            continue  # never read, so it is listed
        yield from _pixels(f"{what}/{name}", golden.under(f"{name}/"), pixels)
    # The reference holds one caption alone, or one a view.
    front = ours["front_cam_view_idx_sample_position"]
    if isinstance(fields["ai_caption"], str):
        ours["ai_caption"] = ours["ai_caption"][front]
    elif len(fields["ai_caption"]) == 1:
        ours["ai_caption"] = [ours["ai_caption"][front]]
    if isinstance(fields.get("front_cam_view_idx_sample_position"), list):
        ours["front_cam_view_idx_sample_position"] = [front]
    yield _same(f"{what}: fields", fields, ours, golden)


def _same(what: str, theirs: dict[str, Any], ours: dict[str, Any], golden: Golden) -> Row:
    """How many of the reference's fields are others in ours; those that we lack are not counted."""

    def differ(a: Any, b: Any) -> bool:
        if isinstance(a, float):
            return not math.isclose(a, b, rel_tol=1e-4)
        return a != b

    wrong = [k for k, value in theirs.items() if k in ours and differ(value, ours[k])]
    if absent := [k for k in theirs if k not in ours]:
        golden.skipped.append(f"{what} {', '.join(absent)}")
    return Row(": ".join([what, ", ".join(wrong)][: 1 + bool(wrong)]), len(wrong), len(wrong), 0)


def _pixels(what: str, golden: Golden, views: np.ndarray) -> Iterator[Row]:
    """Views [v f y x 3] against shape, statistics and crops of the reference's [3 (v f) y x]."""
    pixels = views.reshape(-1, *views.shape[2:]).transpose(3, 0, 1, 2)
    yield compare(f"{what}/shape", pixels.shape, golden["shape"], 0.0)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    bits = "bit-equal" if digest == str(golden["sha256"]) else "not bit-equal"
    means = pixels.mean(axis=(0, 2, 3), dtype=np.float64)
    yield compare(f"{what}/mean_per_frame ({bits})", means, golden["mean_per_frame"], 1e-2)
    deviations = np.sqrt(pixels.astype(np.float64).var(axis=(0, 2, 3)))
    yield compare(f"{what}/std_per_frame", deviations, golden["std_per_frame"], 5e-2)
    few = pixels[:, :: max(pixels.shape[1] // 5, 1)].astype(int)
    y, x = pixels.shape[2] // 2, pixels.shape[3] // 2
    crops = {
        "tl": few[..., :12, :12],
        "c": few[..., y : y + 12, x : x + 12],
        "br": few[..., -12:, -12:],
    }
    for name, crop in crops.items():
        yield compare(f"{what}/crop_{name}", crop, golden[f"crop_{name}"], 1.0)
