"""What the data set doctor found, as a table for people and as JSON for programs."""

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_jax.data import pipeline
from cosmos_jax.data.layouts import DataConfig, Episode, Layout
from cosmos_jax.data.video import FileError, VideoInfo
from cosmos_jax.prepare.motion import Timing

LEVELS = ("error", "warning", "note")
MOST_LINES = 40  # of findings of one level in the table; JSON has all


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing to say.

    Attributes:
        level: one of `LEVELS`. Training fails where there is an error.
        file: path below the root, or "" for the whole data set.
        what: what is the matter.
        mend: what to do about it, or "".
        episode: the episode that --fix would work on, or "".
    """

    level: str
    file: str
    what: str
    mend: str = ""
    episode: str = ""


@dataclasses.dataclass(frozen=True)
class File:
    """A video that the recipe's cameras have or should have.

    Attributes:
        path: below the root.
        role: "video" or "control".
        camera: its camera, "" where there is one only.
        episode: its name.
        header: None where the file is missing.
        codec: codec and pixel format, or "".
    """

    path: str
    role: str
    camera: str
    episode: str
    header: VideoInfo | FileError | None
    codec: str

    @property
    def info(self) -> VideoInfo | None:
        """The header, if there is a good one."""
        return self.header if isinstance(self.header, VideoInfo) else None


@dataclasses.dataclass(frozen=True)
class Windows:
    """The clips that a recipe cuts from an episode, and the frames that are in none of them."""

    episode: str
    split: str
    frames: int
    windows: int
    unused: int


@dataclasses.dataclass(frozen=True)
class Report:
    """All that was seen.

    Attributes:
        layout: the folders.
        config: how the recipe reads them.
        files: every video and control of the recipe's cameras.
        captions: path of each caption to its text.
        windows: by episode; empty where the recipe cannot open the data set.
        timings: (episode, first file, second file, how they lie in time).
        findings: errors first.
    """

    layout: Layout
    config: DataConfig
    files: tuple[File, ...]
    captions: Mapping[str, str]
    windows: tuple[Windows, ...]
    timings: tuple[tuple[str, str, str, Timing], ...]
    findings: tuple[Finding, ...]

    def count(self, level: str) -> int:
        """Number of findings of a level."""
        return sum(finding.level == level for finding in self.findings)


def windows_of(data: pipeline.DataSet) -> tuple[Windows, ...]:
    """What the recipe uses of each episode."""
    found = [_windows(data.train, "train", episode) for episode in data.train.episodes]
    if data.train.episodes != data.validation.episodes:
        found += [_windows(data.validation, "validation", e) for e in data.validation.episodes]
    return tuple(found)


def _windows(clips: pipeline.Clips, split: str, episode: Episode) -> Windows:
    config, info = clips.config, episode.videos[0]
    windows = len(dataclasses.replace(clips, episodes=(episode,)))
    last = info.frames - config.frames_needed(info) + 1
    starts = {"every": range(0, last, config.window_stride), "first": range(1)}
    used = np.zeros(info.frames, bool)
    for start in starts.get(config.starts, range(last)):
        used[start : start + config.frames_needed(info) : config.stride_of(info)] = True
    return Windows(episode.name, split, info.frames, windows, int(np.sum(~used)))


def tokens(text: str) -> int:
    """About how many tokens a text has: four letters each, as English prose on average."""
    return -(-len(text) // 4)


# ---- For programs.


def as_json(report: Report, fixes: Sequence[str]) -> dict[str, Any]:
    """The report as JSON values; `fixes` says what --fix did."""
    return {
        "root": str(report.layout.root),
        "would_train": not report.count("error"),
        "cameras": [{"name": name, "view_id": view} for name, view in report.layout.cameras],
        "control": report.layout.control,
        "recipe": json.loads(json.dumps(vars(report.config), default=dict)),
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "fixes": list(fixes),
        "files": [_file_json(file) for file in report.files],
        "captions": [
            {"file": file, "words": len(text.split()), "tokens": tokens(text), "text": text}
            for file, text in report.captions.items()
        ],
        "windows": [dataclasses.asdict(row) for row in report.windows],
        "timings": [
            {"episode": episode, "first": first, "second": second, **dataclasses.asdict(timing)}
            for episode, first, second, timing in report.timings
        ],
    }


def _file_json(file: File) -> dict[str, Any]:
    row = {key: getattr(file, key) for key in ("path", "role", "camera", "episode", "codec")}
    if isinstance(file.header, FileError):
        return {**row, "error": file.header.reason}
    if file.header is None:
        return {**row, "error": "missing"}
    info = file.header
    return {
        **row,
        "frames": info.frames,
        "fps": float(info.fps),
        "seconds": round(float(info.frames / info.fps), 3),
        "size": list(info.size),
    }


# ---- For people.


def as_text(report: Report) -> str:
    """The report as a table and one line for each finding."""
    return "\n".join([*_head(report), *_table(_rows(report)), *_summary(report), *_said(report)])


def _head(report: Report) -> Iterator[str]:
    episodes = len({file.episode for file in report.files})
    control = report.layout.control or "no control"
    yield f"{report.layout.root}: {episodes} episodes, {control}"


def _span(values: Sequence[Any]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def _rows(report: Report) -> Iterator[tuple[str, ...]]:
    yield "camera", "id", "kind", "files", "captions", "size", "fps", "frames", "codec"
    for camera, view in report.layout.cameras:
        told = sum(Path(file).parent.name == camera for file in report.captions)
        for role in ("video", "control"):
            files = [f for f in report.files if (f.camera, f.role) == (camera, role)]
            if not files:
                continue
            infos = [file.info for file in files if file.info is not None]
            yield (
                camera or "(one view)",
                str(view),
                role,
                f"{len(infos)} of {len(files)}",
                "" if role == "control" else str(told if camera else len(report.captions)),
                " ".join(sorted({f"{i.size[0]}x{i.size[1]}" for i in infos})) or "-",
                _span([round(float(i.fps), 3) for i in infos]),
                _span([i.frames for i in infos]),
                ", ".join(sorted({file.codec for file in files if file.codec})) or "-",
            )


def _table(rows: Iterator[tuple[str, ...]]) -> list[str]:
    kept = list(rows)
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    return ["  ".join(cell.ljust(n) for cell, n in zip(row, widths)).rstrip() for row in kept]


def _summary(report: Report) -> Iterator[str]:
    config = report.config
    for split in ("train", "validation"):
        rows = [row for row in report.windows if row.split == split]
        if rows:
            counts = [row.windows for row in rows]
            unused, frames = sum(row.unused for row in rows), sum(row.frames for row in rows)
            yield (
                f"{split}: {sum(counts)} windows of {config.num_frames} frames in {len(rows)} "
                f"episodes ({_span(counts)} each); {unused} of {frames} frames in no window"
            )
    if report.captions:
        texts = list(report.captions.values())
        yield (
            f"captions: {len(texts)}, {len(set(texts))} different, "
            f"{_span([len(text.split()) for text in texts])} words, about "
            f"{_span([tokens(text) for text in texts])} tokens"
        )
    kinds = collections.Counter(timing.verdict for _, _, _, timing in report.timings)
    if kinds:
        pairs = ", ".join(f"{kinds[verdict]} {verdict}" for verdict in sorted(kinds))
        yield f"timing of pairs of files by what moves when: {pairs}"


def _said(report: Report) -> Iterator[str]:
    for level in LEVELS:
        findings = [finding for finding in report.findings if finding.level == level]
        for finding in findings[:MOST_LINES]:
            yield f"{level.upper()}: {finding.file + ': ' if finding.file else ''}{finding.what}"
            if finding.mend:
                yield f"    -> {finding.mend}"
        if len(findings) > MOST_LINES:
            yield f"... and {len(findings) - MOST_LINES} more of this kind; --json=FILE has all"
