"""Looks at a data set as training would, and further: what is wrong, and what would mend it.

Errors are what makes training fail: all that opening the data set reports, and frames that do not
decode. Warnings are likely mistakes that training would not notice.
"""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cosmos_jax.data import layouts, pipeline, transforms, video
from cosmos_jax.data.layouts import DataConfig, Layout
from cosmos_jax.data.video import FileError, VideoInfo
from cosmos_jax.prepare import motion, prompt_files
from cosmos_jax.prepare.motion import Motion, Timing
from cosmos_jax.prepare.report import LEVELS, File, Finding, Report, tokens, windows_of
from cosmos_jax.progress import Progress

COMMAND = "python -m cosmos_jax.prepare"
OTHER_ASPECT = 1.1  # beyond this ratio of aspect ratios, much of the picture is lost or bent
OTHER_FORMATS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"}
STILL = 0.5  # share of frames that repeat the one before, beyond which a video is worth a word


def examine(
    config: DataConfig,
    open_data: Callable[[], pipeline.DataSet],
    content: bool,
    token_limit: int,
) -> Report:
    """Examines a data set.

    Args:
        config: how the recipe reads it.
        open_data: opens it as the recipe would, and raises the ValueError that a run would.
        content: decode every frame, and compare what moves when.
        token_limit: tokens of a caption that the text encoder keeps.

    Raises:
        ValueError: there is nothing to look at: no videos, cameras or control folder.
    """
    if config.control is not None and not any(Path(config.root).glob("control_input_*")):
        raise ValueError(
            f"{config.root} has no control_input_* folder, which the recipe reads; make one with: "
            f"{COMMAND} edges --root={config.root}, or do without: --control=none"
        )
    layout = layouts.find_layout(config.root, config.cameras, config.control)
    files = list_files(layout, config)
    data, findings = _opened(layout, files, open_data)
    captions = _captions(layout, config)
    findings += _shapes(config, files) + _strays(layout) + _rates(files)
    findings += _caption_findings(captions, token_limit)
    timings: list[tuple[str, str, str, Timing]] = []
    for episode, motions, wrong in _motions(layout, config, files) if content else ():
        findings += wrong
        timings += [(episode, *pair) for pair in _compared(motions)]
    findings += _suspicions(timings)
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return Report(
        layout,
        config,
        tuple(files),
        captions,
        windows_of(data) if data else (),
        tuple(timings),
        tuple(dict.fromkeys(findings)),
    )


def list_files(layout: Layout, config: DataConfig) -> list[File]:
    """Every video and control that the recipe's cameras have or should have."""
    wanted = []
    for name in layout.episodes():
        for camera, _ in layout.cameras:
            wanted.append((layout.video(camera, name), "video", camera, name))
        for camera, _ in layout.cameras if layout.control else ():
            wanted.append((layout.control_video(camera, name), "control", camera, name))
    paths = [row[0] for row in wanted]
    headers = video.probe_all(paths, layouts.header_cache(config), config.num_threads)

    def codec(path: str) -> str:
        if not isinstance(headers.get(path), VideoInfo):
            return ""
        with video.open_stream(path) as (_, stream):
            return f"{stream.codec_context.name} {stream.codec_context.pix_fmt}"

    with concurrent.futures.ThreadPoolExecutor(config.num_threads) as pool:
        codecs = list(pool.map(codec, paths))
    return [
        File(_below(layout.root, path), role, camera, name, headers.get(path), how)
        for (path, role, camera, name), how in zip(wanted, codecs, strict=True)
    ]


def _below(root: Path, path: str | Path) -> str:
    return str(Path(path).relative_to(root))


# ---- What opening the data set says.


def _opened(
    layout: Layout, files: Sequence[File], open_data: Callable[[], pipeline.DataSet]
) -> tuple[pipeline.DataSet | None, list[Finding]]:
    known = {file.path: file for file in files}
    try:
        data = open_data()
    except layouts.BadDataError as error:
        return None, [_bad(layout, known, "error", *problem) for problem in error.problems]
    except ValueError as error:
        return None, [Finding("error", "", str(error))]
    return data, [_bad(layout, known, "warning", *problem) for problem in data.skipped]


def _bad(layout: Layout, known: Mapping[str, File], level: str, path: str, reason: str) -> Finding:
    """What to do about a problem that the scan found."""
    where = _below(layout.root, path)
    file = known.get(where)
    if file is None:
        mend = f"write it, or: {COMMAND} prompts --root={layout.root} --prompt=..."
        return Finding(level, where, reason, mend)
    if file.header is None and file.role == "control":
        mend = f"copy it, or: {COMMAND} edges --root={layout.root} --target={layout.control}"
        return Finding(level, where, reason, mend)
    if "data.fps" in reason:  # it says itself which setting fits
        return Finding(level, where, reason)
    mend = "copy it there" if file.header is None else "export it again"
    return Finding(level, where, reason, f"{mend}, or run this with --fix", file.episode)


# ---- What headers and folders say.


def _shapes(config: DataConfig, files: Sequence[File]) -> list[Finding]:
    """Sizes that the recipe cannot bring to its own, or only at a loss."""
    kinds = collections.Counter((f.role, f.info.size) for f in files if f.info is not None)
    findings, (rows, columns) = [], config.size
    for (role, size), count in sorted(kinds.items()):
        if role == "video" and config.video_size is not None:
            size = config.video_size
        here = f"{count} {role} files of {size[0]}x{size[1]} for data.size={rows}x{columns}"
        try:
            transforms.RESIZE_RULES[config.resize](np.zeros((1, *size, 3), np.uint8), config.size)
        except ValueError as error:
            findings.append(Finding("error", "", f"{here}: {error}"))
            continue
        ratio = size[1] * rows / (size[0] * columns)
        loss = 1 - min(ratio, 1 / ratio)
        if max(ratio, 1 / ratio) > OTHER_ASPECT:
            verb = {"cover": "crops", "robotics": "mirrors"}.get(config.resize, "distorts by")
            what = f"{here}: data.resize={config.resize} {verb} {loss:.0%} of the picture"
            mend = "choose a data.size with the aspect ratio of the videos"
            findings.append(Finding("warning", "", what, mend))
        elif size[0] < rows and size[1] < columns:
            findings.append(Finding("note", "", f"{here}: they are enlarged"))
    return findings


def other_videos(folder: Path) -> list[Path]:
    """Videos in a folder whose names say another format than .mp4, or say it in capitals."""
    return sorted(
        path
        for path in folder.glob("[!.]*")
        if path.suffix.lower() in OTHER_FORMATS and path.suffix != ".mp4"
    )


def _strays(layout: Layout) -> list[Finding]:
    """Files and cameras that the recipe does not read."""
    root, findings = layout.root, []
    names, cameras = set(layout.episodes()), [camera for camera, _ in layout.cameras]
    for camera in cameras:
        for path in other_videos(root / "videos" / camera):
            what = "is not read: only files named NAME.mp4 are"
            mend = "encode it as .mp4, or run this with --fix"
            findings.append(Finding("warning", _below(root, path), what, mend, path.stem))
        extra = (root / layout.control / camera).glob("[!.]*.mp4") if layout.control else ()
        for path in sorted(extra):
            if path.stem not in names:
                findings.append(Finding("note", _below(root, path), "belongs to no video"))
    found = {p.name for p in (root / "videos").glob("[!.]*") if p.is_dir()}
    if unused := sorted(found - set(cameras)):
        findings.append(Finding("note", "", f"the recipe does not use the cameras {unused}"))
    return findings


def uneven(info: VideoInfo) -> bool:
    """Whether frames are further apart in time than twice their mean distance, or nearer than half.

    Smaller differences come of the clock of the file.
    """
    steps = np.diff(np.array(info.pts, np.float64))
    return bool(steps.size and (steps.max() > 2 * steps.mean() or steps.min() < steps.mean() / 2))


def _rates(files: Sequence[File]) -> list[Finding]:
    what = "frames are not evenly spaced in time; training takes them as if they were"
    mend = "encode it again at a constant rate, or run this with --fix"
    return [
        Finding("warning", file.path, what, mend, file.episode)
        for file in files
        if file.info is not None and uneven(file.info)
    ]


# ---- Captions.


def _captions(layout: Layout, config: DataConfig) -> dict[str, str]:
    """Every readable caption that the recipe uses, by its place."""
    try:
        cameras = layouts.caption_cameras(layout, config)
    except ValueError:  # opening the data set has said so
        return {}
    found = {}
    for camera, name in itertools.product(cameras, layout.episodes()):
        try:
            text = layouts.read_caption(layout, camera, name, config.caption_kind)
            place = next(p for p in prompt_files.places(layout.root, camera, name) if p.exists())
            found[_below(layout.root, place)] = text
        except FileError:
            continue
    return found


def _caption_findings(captions: Mapping[str, str], limit: int) -> list[Finding]:
    findings = [
        Finding(
            "warning",
            place,
            f"about {tokens(text)} tokens, and the text encoder keeps {limit}",
            "shorten it",
        )
        for place, text in captions.items()
        if tokens(text) > limit
    ]
    texts = collections.Counter(captions.values())
    if len(captions) > 1 and (repeated := sum(n for n in texts.values() if n > 1)):
        findings.append(Finding("note", "", f"{repeated} captions are shared by several clips"))
    return findings


# ---- Content.


def _motions(
    layout: Layout, config: DataConfig, files: Sequence[File]
) -> Iterator[tuple[str, list[tuple[File, Motion]], list[Finding]]]:
    """Decodes all files, an episode at a time: (episode, what moves in each file, findings)."""
    cache = layouts.header_cache(config).parent / "motion"
    total = sum(file.info.frames for file in files if file.info is not None)
    progress = Progress("decoding", total, "frames")

    def measure(file: File) -> Motion | FileError | None:
        if file.info is None:
            return None
        try:
            return motion.measure_once(file.info, cache)
        except FileError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(config.num_threads) as pool:
        for episode, group in itertools.groupby(files, key=lambda file: file.episode):
            members, seen, wrong = list(group), [], []
            for file, result in zip(members, pool.map(measure, members), strict=True):
                if isinstance(result, FileError):
                    mend = "copy or export it again, or run this with --fix"
                    wrong.append(Finding("error", file.path, result.reason, mend, episode))
                elif result is not None:
                    seen.append((file, result))
                    wrong += _still(file, result)
                progress.add(file.info.frames if file.info is not None else 0)
            yield episode, seen, wrong


def _still(file: File, motions: Motion) -> list[Finding]:
    still = int(np.sum(motions.max(1, initial=0) == 0))
    if file.role == "control" or still <= STILL * len(motions):
        return []
    return [
        Finding("warning", file.path, f"{still} of {len(motions)} frames repeat the one before")
    ]


def _compared(motions: Sequence[tuple[File, Motion]]) -> Iterator[tuple[str, str, Timing]]:
    """The timing of each camera against the first, and of each control against its video."""
    videos = [(file, seen) for file, seen in motions if file.role == "video"]
    for file, seen in videos[1:]:
        yield videos[0][0].path, file.path, motion.compare(videos[0][1], seen, "camera")
    for file, seen in motions:
        for other, shown in videos if file.role == "control" else ():
            if other.camera == file.camera:
                yield other.path, file.path, motion.compare(shown, seen, "control")


def _suspicions(timings: Sequence[tuple[str, str, str, Timing]]) -> list[Finding]:
    return [
        Finding(
            "warning",
            second,
            f"seems to run {abs(timing.lag)} frames {'behind' if timing.lag > 0 else 'ahead of'} "
            f"{first}: what moves agrees best there (correlation {timing.best:.2f}, and "
            f"{timing.at_zero:.2f} as they are)",
            "look at both side by side; cut the late start off both, or make the control again",
        )
        for _, first, second, timing in timings
        if timing.verdict == "suspicion"
    ]
