"""Folders of control clips to sample from: data sets in which video and captions may be absent.

ROOT/control_input_KIND/CAMERA/NAME.mp4     what is to be followed (a network with control)
ROOT/videos/CAMERA/NAME.mp4                 given frames; needed where frames are given
ROOT/captions/CAMERA/NAME.json or .txt      words; a view without has none
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_jax.data import layouts, pipeline, video
from cosmos_jax.data.layouts import Cameras, DataConfig, Layout
from cosmos_jax.data.video import FileError
from cosmos_jax.types import Clip


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What to read.

    Attributes:
        config: the folder (`root`), and how clips are cut from it: from each file's first frame.
        cameras: views that the model was trained on, in their order; those with files are sampled.
        prompt: used for every caption camera in place of the files'; None: the files'.
        needs_video: whether frames are given, so that RGB video must be there.
    """

    config: DataConfig
    cameras: Cameras
    prompt: str | None
    needs_video: bool

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(self.config.root)


def _folder(inputs: Inputs) -> tuple[Path, str | None]:
    """The folder that says which views and clips there are, and the control folder's name."""
    if not inputs.root.is_dir():
        raise ValueError(f"{inputs.root} is not a folder of clips")
    if inputs.config.control is None:
        return inputs.root / "videos", None
    found = sorted(p.name for p in inputs.root.glob("control_input_*") if p.is_dir())
    name = inputs.config.control
    if name == "auto":
        if len(found) != 1:
            raise ValueError(
                f"{inputs.root}: {'several' if found else 'no'} control_input_* folders {found}; "
                "name one with --control"
            )
        name = found[0]
    if name not in found:
        raise ValueError(f"{inputs.root / name}: no such control folder; there are {found}")
    return inputs.root / name, name


def find_views(inputs: Inputs) -> Cameras:
    """The model's views that have files, in the model's order.

    Raises:
        ValueError: no view has files, or files are of a camera that the model does not know.
    """
    folder, _ = _folder(inputs)
    found = {p.name for p in folder.glob("*") if p.is_dir() and any(p.glob("[!.]*.mp4"))}
    if any(folder.glob("[!.]*.mp4")):
        found.add("")  # one view, without a folder of its own
    known = [camera for camera, _ in inputs.cameras]
    if strange := sorted(found - set(known)):
        raise ValueError(f"{folder / strange[0]}: the model knows no such camera, only {known}")
    if not found:
        raise ValueError(f"{folder}: no CAMERA/NAME.mp4 for any of the model's cameras {known}")
    return tuple((camera, view) for camera, view in inputs.cameras if camera in found)


def open_inputs(inputs: Inputs, limit: int | None) -> list["InputClip"]:
    """The clips of a folder, sorted by name, as functions that read them; headers are checked here.

    Clips without RGB video hold black frames, which nothing reads.

    Raises:
        ValueError: lists every file that is missing, unreadable or too short; or see `find_views`.
    """
    folder, control = _folder(inputs)
    views = find_views(inputs)
    layout = Layout(inputs.root, views, control)
    names = sorted({p.stem for camera, _ in views for p in (folder / camera).glob("[!.]*.mp4")})
    problems: list[str] = []
    opened = [_open(inputs, layout, name, problems) for name in names[:limit]]
    if problems:
        raise ValueError(f"{inputs.root}: {len(problems)} bad files:" + "".join(problems))
    return [InputClip(inputs.config, views, *files) for files in opened]


Files = tuple[str, list[video.VideoInfo], list[video.VideoInfo], tuple[str, ...]]


def _open(inputs: Inputs, layout: Layout, name: str, problems: list[str]) -> Files:
    """Name, control and RGB files, and captions of a clip; adds what is wrong to `problems`."""

    def attempt(read: Callable[..., Any], *arguments: Any) -> list[Any]:
        try:
            return [read(*arguments)]
        except FileError as error:
            problems.append(f"\n  {error}")
            return []

    def probe(paths: Sequence[str]) -> list[video.VideoInfo]:
        return [info for path in paths for info in attempt(_probe, inputs.config, path)]

    cameras = [camera for camera, _ in layout.cameras]
    controls = [layout.control_video(c, name) for c in cameras] if layout.control else []
    videos = [layout.video(c, name) for c in cameras]
    read_video = inputs.needs_video or not controls
    captions = attempt(_captions, inputs, layout, name)
    return name, probe(controls), probe(videos if read_video else []), (*captions, ())[0]


def _probe(config: DataConfig, path: str) -> video.VideoInfo:
    """Header of a file that is long enough."""
    if not Path(path).is_file():
        raise FileError(path, "missing")
    info = video.probe(path)
    missing = config.frames_needed(info) - info.frames
    if missing > 0:
        raise FileError(
            path,
            f"{missing} frames too short: {info.frames}, and a clip of {config.num_frames} frames "
            f"at stride {config.stride_of(info)} needs {info.frames + missing}",
        )
    return info


def _captions(inputs: Inputs, layout: Layout, name: str) -> tuple[str, ...]:
    cameras = [camera for camera, _ in layout.cameras]
    config = inputs.config
    speakers: Sequence[str] = cameras if config.captions == "each" else []
    if config.captions == "front":
        there = [c for c in cameras if any((layout.root / k / c).is_dir() for k in _WORDS)]
        heard = config.caption_camera or (there or cameras)[0]
        speakers = [c for c in cameras if c == heard]
        if inputs.prompt is not None and not speakers:
            raise ValueError(
                f"--prompt: the model takes the words of camera {heard}, which is not among the "
                f"views {cameras} of {layout.root}"
            )
    texts = dict.fromkeys(cameras, "")
    for camera in speakers:
        if inputs.prompt is not None:
            texts[camera] = inputs.prompt
        elif any((layout.root / kind / camera).is_dir() for kind in _WORDS):
            texts[camera] = layouts.read_caption(layout, camera, name, config.caption_kind)
    prefix = layouts.view_prefix if config.view_prefixes else None
    return tuple((prefix(c) + " " if prefix else "") + texts[c] for c in cameras)


_WORDS = ("captions", "metas")


@dataclasses.dataclass(frozen=True)
class InputClip:
    """A clip that is not decoded yet: its files and captions, one a view."""

    config: DataConfig
    cameras: Cameras
    name: str
    controls: list[video.VideoInfo]
    videos: list[video.VideoInfo]
    captions: tuple[str, ...]

    def __call__(self) -> Clip:
        """Reads it."""
        controls = [self._frames(info, True) for info in self.controls]
        videos = [self._frames(info, False) for info in self.videos]
        config, first = self.config, (self.controls or self.videos)[0]
        black = np.zeros((len(self.cameras), config.num_frames, *config.size, 3), np.uint8)
        return Clip(
            video=np.stack(videos) if videos else black,
            control=np.stack(controls) if controls else None,
            captions=self.captions,
            view_ids=np.array([view for _, view in self.cameras], np.int32),
            fps=np.float32(first.fps / config.stride_of(first)),
            index=np.int32(0),
            name=self.name,
        )

    def _frames(self, info: video.VideoInfo, is_control: bool) -> np.ndarray:
        stride = self.config.stride_of(info)
        numbers = range(0, self.config.num_frames * stride, stride)
        return pipeline.read_fitted(self.config, info, numbers, is_control)
