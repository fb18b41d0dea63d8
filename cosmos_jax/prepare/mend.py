"""What `check --fix` does to the files of an episode. Every original is kept in ROOT/set_aside.

An episode is cut to what all its files have: to the end of the shortest, at one rate. One that
would lose more than half a second, is too short for a clip, or lacks a camera, is moved aside.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cosmos_jax.data import video
from cosmos_jax.data.video import FileError, VideoInfo
from cosmos_jax.prepare import doctor, render, streams
from cosmos_jax.prepare.report import File, Report

SET_ASIDE = "set_aside"
CRF = {"video": 10, "control": render.CRF}
MOST_CUT = Fraction(1, 2)  # seconds


def mend(report: Report) -> Iterator[str]:
    """Mends what a report says can be; yields what was done, one line a file or episode.

    Where something was done, examine the data set again and see what else there is.

    Raises:
        ValueError: more than half of the episodes would be moved aside; then nothing was done.
        OSError: the data set cannot be written.
    """
    root = report.layout.root
    converted = [line for path in _strays(report) for line in _convert(root, path)]
    if converted:
        yield from converted
        return  # the report does not know the new files
    episodes = {finding.episode for finding in report.findings if finding.episode}
    groups = collections.defaultdict(list)
    for file in report.files:
        if file.episode in episodes:
            groups[file.episode].append(file)
    plans = {name: _plan(report, files) for name, files in groups.items()}
    lost = [name for name, plan in plans.items() if isinstance(plan, str)]
    total = len({file.episode for file in report.files})
    if 2 * len(lost) > max(total, 2):
        raise ValueError(
            f"--fix would move {len(lost)} of {total} episodes aside, such as {lost[0]} "
            f"({plans[lost[0]]}); more likely a setting is wrong than the files: nothing was done"
        )
    for name, plan in plans.items():
        if isinstance(plan, str):
            moved = _move_aside(root, name)
            yield f"{name}: {plan}; {moved} files moved to {SET_ASIDE}/"
            continue
        for file, frames, fps in plan:
            _encode_again(root, root / file.path, root / file.path, file.role, frames, fps)
            yield f"{file.path}: encoded again, {frames} frames at {float(fps):g} fps"


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file really holds: frames that decode one after another, their size and rate."""

    frames: int
    size: tuple[int, int]
    fps: Fraction | None


def _probe(path: Path) -> VideoInfo | None:
    try:
        return video.probe(path)
    except FileError:
        return None


def _frames(path: Path) -> Iterator[av.VideoFrame]:
    """The frames of a file up to the first that is not right; of one without a good header, all."""
    info = _probe(path)
    with contextlib.suppress(FileError):
        if info is not None:
            yield from streams.decode(info)
            return
        with video.open_stream(str(path)) as (container, stream):
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    return
                yield frame


def _content(path: Path) -> Content | None:
    """What is in a file; None where nothing decodes."""
    frames = _frames(path)
    first = next(frames, None)
    if first is None:
        return None
    with video.open_stream(str(path)) as (_, stream):
        rate = stream.average_rate
    fps = Fraction(rate) if rate else None
    return Content(1 + sum(1 for _ in frames), (first.height, first.width), fps)


def _pixels(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    for frame in _frames(path):
        same = frame.reformat(width=size[1], height=size[0], format="rgb24", threads=1)
        yield same.to_ndarray()


Plan = list[tuple[File, int, Fraction]]
"""Files that are encoded again, with the number and the rate of their frames."""


def _plan(report: Report, files: Sequence[File]) -> Plan | str:
    """What is to be done for an episode; a string says why it is moved aside."""
    there = [file for file in files if file.header is not None]
    if any(file.header is None and file.role == "video" for file in files):
        return "a camera is missing"
    held = {file: _content(report.layout.root / file.path) for file in there}
    for file, content in held.items():
        if content is None:
            return f"{file.path} holds nothing that decodes"
    contents = {file: content for file, content in held.items() if content is not None}
    rates = collections.Counter(c.fps for c in contents.values() if c.fps is not None)
    if not rates:
        return "no file states a frame rate"
    fps = rates.most_common(1)[0][0]
    counts = [content.frames for content in contents.values()]
    keep = min(counts)
    if max(counts) - keep > MOST_CUT * fps:
        return f"its files hold {keep} to {max(counts)} frames"
    stride = report.config.stride or round(fps / Fraction(report.config.fps or fps))
    if keep < (report.config.num_frames - 1) * stride + 1:
        return f"{keep} frames are too few for a clip"
    odd = [f.path for f, c in contents.items() if c.size[0] % 2 or c.size[1] % 2]
    wrong = [f for f, c in contents.items() if _needs_work(f, c, keep, fps)]
    if odd and wrong:
        return f"{odd[0]} has an odd number of rows or columns, which H.264 does not take"
    return [(file, keep, fps) for file in wrong]


def _needs_work(file: File, content: Content, keep: int, fps: Fraction) -> bool:
    info = file.info
    return (
        info is None
        or (info.frames, content.frames) != (keep, keep)
        or abs(info.fps / fps - 1) > 5e-4
        or doctor.uneven(info)
    )


def _aside(root: Path, path: Path) -> Path:
    """A free place for an original: NAME.mp4, or NAME.2.mp4 where that is taken, and so on."""
    place = below = root / SET_ASIDE / path.relative_to(root)
    for number in itertools.count(2):
        if not place.exists():
            break
        place = below.with_name(f"{below.stem}.{number}{below.suffix}")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _encode_again(
    root: Path, source: Path, target: Path, role: str, frames: int, fps: Fraction
) -> None:
    """Encodes the first frames of `source` as `target`, and keeps the original.

    The original has its second name before the first is taken from it, so no stop loses it.
    """
    content = _content(source)
    if content is None:
        raise FileError(str(source), "holds nothing that decodes")
    kept = _aside(root, source)
    try:
        os.link(source, kept)
    except OSError:  # a file system without hard links
        shutil.copy2(source, kept)
    try:
        pictures = itertools.islice(_pixels(source, content.size), frames)
        streams.write(target, pictures, content.size, fps, frames, CRF[role])
    except (ValueError, OSError):
        kept.unlink()
        raise
    if source != target:
        source.unlink()


def _strays(report: Report) -> list[Path]:
    """Videos of other formats that nothing reads, with no .mp4 beside them."""
    folders = [report.layout.root / "videos" / camera for camera, _ in report.layout.cameras]
    paths = [path for folder in folders for path in doctor.other_videos(folder)]
    return [path for path in paths if not path.with_suffix(".mp4").exists()]


def _convert(root: Path, path: Path) -> list[str]:
    content, target = _content(path), path.with_suffix(".mp4")
    if content is None or content.fps is None or content.size[0] % 2 or content.size[1] % 2:
        return []
    _encode_again(root, path, target, "video", content.frames, content.fps)
    return [f"{path.relative_to(root)}: encoded as {target.name}, {content.frames} frames"]


def _move_aside(root: Path, name: str) -> int:
    """Moves all files of an episode; returns how many."""
    kinds = ("videos", "captions", "metas", *(p.name for p in root.glob("control_input_*")))
    paths = [
        path
        for kind in kinds
        for suffix in (".mp4", ".json", ".txt")
        for path in [root / kind / f"{name}{suffix}", *(root / kind).glob(f"*/{name}{suffix}")]
        if path.is_file()
    ]
    for path in paths:
        os.replace(path, _aside(root, path))
    return len(paths)
