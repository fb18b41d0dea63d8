"""Folders of camera views: which files make an episode, which words go with it, what is wrong.

    ROOT/videos/CAMERA/NAME.mp4                  one NAME is one episode
    ROOT/control_input_KIND/CAMERA/NAME.mp4
    ROOT/captions/CAMERA/NAME.json or .txt       or ROOT/metas/CAMERA/NAME.txt

Without camera folders (ROOT/videos/NAME.mp4, ROOT/metas/NAME.txt, ...) there is one camera, "".
Only headers and captions are read here; nothing is written below ROOT.
"""

import dataclasses
import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cosmos_jax.data import transforms, video
from cosmos_jax.data.video import FileError, VideoInfo

Cameras = tuple[tuple[str, int], ...]
"""(camera, view id) in the order of the view axis."""

Problem = tuple[str, str]
"""(file, what is wrong with it)."""

PREFIX_STYLES = ("joined", "apart", "instead")
SHORT = "too few frames"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read, how clips are cut from it, and by how many readers.

    Attributes:
        root: folder of the data set (see above), or of latents; or latents in TFDS:
            "tfds://NAME[:VERSION]".
        num_frames: frames of a clip.
        size: (rows, columns) of a clip.
        batch_size: samples of one step, over all hosts.
        cameras: the views, their order and their ids; see `find_cameras`.
        control: folder of the control videos, "auto" for the only control_input_* folder, or None.
        fps: wanted frames per second; the files' must be a multiple.
        stride: instead of fps: take every stride-th frame.
        resize: name of a rule in `transforms.RESIZE_RULES`.
        video_size: for resize="robotics": (rows, columns) to which RGB video, not control, is first
            stretched. The published recipe is (480, 832) with size (432, 768).
        starts: "every": clips start at every `window_stride`-th frame. "first": one clip of each
            episode, from its first frame (the published auto-multiview data set). "random": one
            clip of each episode, from a frame drawn by (seed, sample index) (the published
            single-view data set; unlike there, the last possible start is drawn too).
        window_stride: frames between the starts of clips; see `starts`.
        captions: "front": the caption camera's text in its own slot, "" in the others; "each":
            every camera has its text; "none": "" everywhere.
        caption_camera: the caption camera of "front"; None: the first that has captions.
        caption_kind: key of one text in files of the form {model: {kind: text}}; None: the first.
        view_prefixes: put the published sentence about each camera before its text.
        prefix_style: how: "joined", as one text; "apart": sentences that the encoder takes one by
            one (`types.APART`), as in Predict1; "instead": only where there is no text.
        validation_fraction: x: the last int(x n) + 1 of n sorted episodes are for validation, as
            in the robotics post-training; None: training and validation both use all.
        skip_bad: leave episodes with bad files out instead of stopping.
        skip_short: leave out those alone that are shorter than a clip.
        episodes: read only the first n episodes by name; None: all.
        views: (fewest, most) views of a training sample. How many is drawn for each batch, since a
            batch has one shape, and which for each sample; None: all. Validation sees all views.
        keep_front: the front view is among those drawn; False: it may be left out like any other.
            It is the caption camera, or else the first. The reference is neither: where it draws
            fewer views than there are, it always leaves the front out.
        num_threads: clips decoded at a time in a process, and headers read at a time.
        num_workers: processes that decode; 0: this process's threads do.
        prefetch: clips that each process decodes ahead.
        cache_dir: folder for the header cache; None: cosmos_jax in the user's cache folder.
        latents: folder of latents made by `prepare latents`, which are then read in place of
            pixels; "auto": ROOT/latents, if it is there; None: pixels.
    """

    root: str
    num_frames: int
    size: tuple[int, int]
    batch_size: int
    cameras: str | Mapping[str, int] | tuple[tuple[str, int], ...] = "all"
    control: str | None = "auto"
    fps: float | int | None = None
    stride: int | None = None
    resize: str = "cover"
    video_size: tuple[int, int] | None = None
    starts: str = "every"
    window_stride: int = 1
    captions: str = "front"
    caption_camera: str | None = None
    caption_kind: str | None = None
    view_prefixes: bool = False
    prefix_style: str = "joined"
    validation_fraction: float | None = 0.1
    skip_bad: bool = False
    skip_short: bool = False
    episodes: int | None = None
    views: tuple[int, int] | None = None
    keep_front: bool = True
    num_threads: int = 8
    num_workers: int = 0
    prefetch: int = 8
    cache_dir: str | None = None
    latents: str | None = "auto"

    def __post_init__(self):
        """Checks what can be checked without looking at files.

        Raises:
            ValueError: a value out of range, an unknown name, or two that contradict each other.
        """
        for field in ("num_frames", "batch_size", "window_stride", "num_threads", "prefetch"):
            if getattr(self, field) < 1:
                raise ValueError(f"data.{field}={getattr(self, field)} must be at least 1")
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"data.episodes={self.episodes} must be at least 1, or None for all")
        views = self.views
        if views is not None and (len(views) != 2 or not 1 <= views[0] <= views[1]):
            raise ValueError(f"data.views={self.views} must be (fewest, most), from 1 on, or None")
        if self.num_workers < 0 or min(self.size) < 1:
            raise ValueError(
                f"data.num_workers={self.num_workers}, data.size={self.size}: too small"
            )
        if self.resize not in transforms.RESIZE_RULES:
            known = sorted(transforms.RESIZE_RULES)
            raise ValueError(f"data.resize={self.resize!r} is none of {known}")
        if (self.resize == "robotics") != (self.video_size is not None):
            raise ValueError(
                "data.video_size belongs to data.resize='robotics': set both or neither"
            )
        if self.starts not in ("every", "first", "random"):
            raise ValueError(f"data.starts={self.starts!r} is none of 'every', 'first', 'random'")
        if self.starts != "every" and self.window_stride != 1:
            raise ValueError(f"data.window_stride has no meaning with data.starts={self.starts!r}")
        if self.validation_fraction is not None and not 0 <= self.validation_fraction < 1:
            raise ValueError(f"data.validation_fraction={self.validation_fraction} not in [0, 1)")
        if self.captions not in ("front", "each", "none"):
            raise ValueError(f"data.captions={self.captions!r} is none of 'front', 'each', 'none'")
        if self.prefix_style not in PREFIX_STYLES:
            raise ValueError(f"data.prefix_style={self.prefix_style!r} is none of {PREFIX_STYLES}")
        if self.caption_camera is not None and self.captions != "front":
            raise ValueError(f"data.caption_camera has no meaning with captions={self.captions!r}")
        rates = [x for x in (self.fps, self.stride) if x is not None]
        if len(rates) != 1 or rates[0] <= 0:
            raise ValueError(
                f"data.fps={self.fps}, data.stride={self.stride}: set one of them, above 0, and "
                "the other to None"
            )

    def stride_of(self, info: VideoInfo) -> int:
        """Frames of the file from one frame of a clip to the next.

        Raises:
            FileError: the file's frame rate is not a multiple of the wanted one.
        """
        if self.stride is not None:
            return self.stride
        ratio = float(info.fps / Fraction(self.fps or 0))
        if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-3:
            raise FileError(
                info.path,
                f"{float(info.fps):g} fps is not a multiple of data.fps={self.fps:g}; choose one "
                "that divides it, or set data.stride instead",
            )
        return round(ratio)

    def frames_needed(self, info: VideoInfo) -> int:
        """Frames of the file from the first frame of a clip to its last."""
        return (self.num_frames - 1) * self.stride_of(info) + 1

    @property
    def latents_folder(self) -> Path | None:
        """The folder of latents to read, or None."""
        if self.latents != "auto":
            return None if self.latents is None else Path(self.latents)
        if (Path(self.root) / "dataset_info.json").is_file():  # of TFDS, as in such a folder
            return Path(self.root)
        folder = Path(self.root) / "latents"
        return folder if folder.is_dir() else None


class BadDataError(ValueError):
    """A data set that cannot be used as it is. `problems` lists every bad file with its reason."""

    def __init__(self, root: Path, problems: Sequence[Problem]):
        lines = "".join(f"\n  {file}: {reason}" for file, reason in problems)
        files = len({file for file, _ in problems})
        super().__init__(
            f"{root}: {files} bad file{'s' * (files > 1)}; mend them, or leave their episodes out "
            f"with --config.data.skip_bad=True{lines}"
        )
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A data set's folders. `control` is the name of the control folder, or None."""

    root: Path
    cameras: Cameras
    control: str | None

    def video(self, camera: str, name: str) -> str:
        """Path of an episode's RGB video."""
        return str(self.root / "videos" / camera / f"{name}.mp4")

    def control_video(self, camera: str, name: str) -> str:
        """Path of an episode's control video."""
        return str(self.root / str(self.control) / camera / f"{name}.mp4")

    def episodes(self) -> list[str]:
        """Sorted names of the episodes that any camera has."""
        folders = (self.root / "videos" / camera for camera, _ in self.cameras)
        return sorted({p.stem for folder in folders for p in _mp4s(folder)})


def _mp4s(folder: Path) -> list[Path]:
    return [p for p in folder.glob("*.mp4") if not p.name.startswith(".")]


CameraChoice = str | Mapping[str, int] | Sequence[tuple[str, int]]


def find_cameras(root: Path, cameras: CameraChoice) -> Cameras:
    """The cameras of a data set, in the order of the view axis, with their view ids.

    Args:
        cameras: "all": the cameras found, in published order with published ids, or else sorted and
            numbered. "a,b": these, in this order, with published ids, or else numbered. Pairs
            (camera, view id): exactly these. A mapping: these, in the order of their view ids.

    Raises:
        ValueError: no videos, a camera without a folder, a camera or view id given twice.
    """
    videos = root / "videos"
    folders = sorted(p.name for p in videos.glob("*") if p.is_dir() and _mp4s(p))
    loose = _mp4s(videos)
    if folders and loose:
        raise ValueError(f"{min(loose)} lies beside camera folders; move it into one of {folders}")
    found = folders or ([""] if loose else [])
    if not found:
        raise ValueError(
            f"{root}: no videos; expected {videos}/CAMERA/NAME.mp4 (one view: {videos}/NAME.mp4)"
        )
    return choose_cameras(found, cameras, videos)


def choose_cameras(found: Sequence[str], cameras: CameraChoice, place: Path) -> Cameras:
    """The cameras wanted of those `found` in a place; see `find_cameras`."""
    if cameras == "all":
        wanted = _published().ids(found) or tuple((name, i) for i, name in enumerate(found))
    elif isinstance(cameras, str):
        names = cameras.split(",")
        ids = dict(_published().ids(names) or [(name, i) for i, name in enumerate(names)])
        wanted = tuple((name, ids[name]) for name in names)
    elif isinstance(cameras, Mapping):
        wanted = tuple(sorted(cameras.items(), key=lambda item: item[1]))
    elif any(isinstance(pair, str) for pair in cameras):  # whose ids would be a guess
        raise ValueError(f"data.cameras={cameras}: write pairs, (('CAMERA', VIEW_ID), ...)")
    else:
        wanted = tuple((name, view) for name, view in cameras)
    absent = [name for name, _ in wanted if name not in found]
    if absent or not wanted:
        raise ValueError(
            f"{place}: no .mp4 files for cameras {absent}; data.cameras may be {found}"
        )
    for what, values in (("camera", [n for n, _ in wanted]), ("view id", [i for _, i in wanted])):
        if len(set(values)) < len(values):
            raise ValueError(f"data.cameras: a {what} is given twice: {values}")
    return wanted


def find_layout(root: str | os.PathLike, cameras: CameraChoice, control: str | None) -> Layout:
    """Looks at the folders of a data set (see `find_cameras`).

    Args:
        control: the control folder's name; "auto": the only control_input_* folder; None: without.

    Raises:
        ValueError: no videos, an unknown camera, no such control folder, or several for "auto".
    """
    root = Path(root)
    found = sorted(p.name for p in root.glob("control_input_*") if p.is_dir())
    views = find_cameras(root, cameras)
    if control == "auto":
        if len(found) != 1:
            raise ValueError(
                f"{root}: {'several control folders, ' if found else 'no control_input_* folder'}"
                f"{', '.join(found)}; set data.control to one, or to None to read without control"
            )
        control = found[0]
    elif control is not None and not (root / control).is_dir():
        raise ValueError(f"{root / control}: no such control folder; data.control may be {found}")
    return Layout(root, views, control)


def caption_cameras(layout: Layout, config: DataConfig) -> tuple[str, ...]:
    """The cameras whose captions are read.

    Raises:
        ValueError: the data set has no captions, or the camera is not a view.
    """
    names = [name for name, _ in layout.cameras]
    if config.captions != "front":
        return tuple(names) if config.captions == "each" else ()
    folders = [layout.root / kind for kind in ("captions", "metas")]
    with_text = [n for n in names if any((folder / n).is_dir() for folder in folders)]
    camera = config.caption_camera
    if camera is None:
        camera = next(iter(with_text), None)
    if camera is None or camera not in names:
        raise ValueError(
            f"{layout.root}: {'no captions' if camera is None else f'no view {camera!r}'} for "
            f"data.captions='front' among the cameras {names}; set data.caption_camera or "
            "data.captions='none'"
        )
    return (camera,)


def read_caption(layout: Layout, camera: str, name: str, kind: str | None) -> str:
    """The text of one camera of an episode. Text files are stripped; JSON strings are kept as is.

    With a `kind`, only JSON files are looked for.

    Source of the forms: {"caption": text} of the multi-view data sets, {model: {kind: text}} and
    metas/*.txt of cosmos-predict2.5's VideoDataset.

    Raises:
        FileError: no caption file, an empty caption, or JSON of another form.
    """
    root = layout.root
    paths = [root / "captions" / camera / f"{name}.json"]
    if kind is None:
        paths += [root / folder / camera / f"{name}.txt" for folder in ("captions", "metas")]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise FileError(str(paths[0]), "missing caption")
    try:
        text = path.read_text("utf-8")
        caption = _json_caption(json.loads(text), kind) if path.suffix == ".json" else text.strip()
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(str(path), f"cannot be read: {error}") from error
    if not isinstance(caption, str):
        expected = '{"caption": text}' if kind is None else f'{{model: {{"{kind}": text}}}}'
        raise FileError(str(path), f"holds no caption; expected {expected}")
    if not caption.strip():
        raise FileError(str(path), "empty caption")
    return caption


def _json_caption(content: object, kind: str | None) -> object:
    if isinstance(content, dict) and content:
        if kind is None and "caption" in content:
            return content["caption"]
        texts = next(iter(content.values()))
        if isinstance(texts, dict) and texts:
            return next(iter(texts.values())) if kind is None else texts.get(kind)
    return None


def view_caption(config: DataConfig, camera: str, text: str) -> str:
    """The words of a view: a text, and the published sentence about the camera where it is asked.

    Raises:
        ValueError: a camera of no published set.
    """
    return _published().worded(camera, text, config.prefix_style) if config.view_prefixes else text


def _published() -> Any:
    """`cameras`, loaded where published cameras are asked for."""
    return importlib.import_module("cosmos_jax.data.cameras")


@dataclasses.dataclass(frozen=True)
class Episode:
    """A usable episode: one video a view, as many controls or none, one caption a view."""

    name: str
    videos: tuple[VideoInfo, ...]
    controls: tuple[VideoInfo, ...]
    captions: tuple[str, ...]


def _same_timing(infos: Sequence[VideoInfo]) -> Iterable[Problem]:
    """Files whose number or rate of frames is not that of the first."""
    first = infos[0]
    for info in infos[1:]:
        if info.frames != first.frames:
            yield info.path, f"{info.frames} frames, but {first.path} has {first.frames}"
        if abs(info.fps / first.fps - 1) > 5e-4:
            yield info.path, f"{float(info.fps):g} fps, but {first.path} has {float(first.fps):g}"


def _file_problems(
    files: dict[str, str], headers: dict[str, VideoInfo | FileError], config: DataConfig
) -> Iterable[Problem]:
    """What is wrong with the files of one episode; `files` says what each is."""
    infos = []
    for file, what in files.items():
        header = headers.get(file)
        if header is None:
            yield file, f"missing {what}"
        elif isinstance(header, FileError):
            yield file, header.reason
        else:
            infos.append(header)
    if not infos:
        return
    yield from _same_timing(infos)
    try:
        needed = config.frames_needed(infos[0])
    except FileError as error:
        yield error.path, error.reason
        return
    for info in infos:
        if info.frames < needed:
            yield info.path, f"{SHORT}: {info.frames}, and a clip needs {needed}"


def header_cache(config: DataConfig) -> Path:
    """The file that keeps the headers of a data set between runs.

    Raises:
        ValueError: `cache_dir` lies inside the data set.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(config.cache_dir or Path(home) / "cosmos_jax").resolve()
    root = Path(config.root).resolve()
    if folder.is_relative_to(root):
        raise ValueError(f"data.cache_dir={folder} lies inside the data set {root}; choose another")
    return folder / f"headers-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"


def scan(layout: Layout, config: DataConfig) -> tuple[list[Episode], list[Problem]]:
    """Reads every header and caption: the usable episodes, sorted by name, and all problems."""
    names = layout.episodes()[: config.episodes]
    views = [camera for camera, _ in layout.cameras]
    files = {name: {layout.video(c, name): "view" for c in views} for name in names}
    if layout.control is not None:
        for name in names:
            files[name] |= {layout.control_video(c, name): "control" for c in views}
    everything = [file for name in names for file in files[name]]
    headers = video.probe_all(everything, header_cache(config), config.num_threads)
    speakers = caption_cameras(layout, config)
    episodes, problems = [], []
    for name in names:
        wrong = list(_file_problems(files[name], headers, config))
        texts = dict.fromkeys(views, "")
        for camera in speakers:
            try:
                texts[camera] = read_caption(layout, camera, name, config.caption_kind)
            except FileError as error:
                wrong.append((error.path, error.reason))
        problems += wrong
        if not wrong:
            infos = tuple(h for f in files[name] if isinstance(h := headers[f], VideoInfo))
            captions = tuple(view_caption(config, c, texts[c]) for c in views)
            episodes.append(Episode(name, infos[: len(views)], infos[len(views) :], captions))
    return episodes, problems
