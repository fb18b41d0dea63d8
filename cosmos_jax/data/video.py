"""Video files: what the header says, and exact frames at random (`video_writer` writes them).

A frame number is the rank of its timestamp. Frames are looked up by timestamp, not by
`round(time * fps)`, so variable frame rates, odd start times and B-frames give the right pictures.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from absl import logging
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8

_CACHE_VERSION = 2  # of the rows in the header cache; another one is read anew


class FileError(ValueError):
    """A file that cannot be used; the message names the file and the reason."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:  # crosses from worker processes
        return FileError, (self.path, self.reason)


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Header of a video file.

    Attributes:
        path: the file.
        size: (rows, columns).
        fps: frames per second, the average where it varies.
        pts: timestamps of the frames in order, in units of the stream; a `range` where even.
    """

    path: str
    size: tuple[int, int]
    fps: Fraction
    pts: range | tuple[int, ...]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.pts)


@contextlib.contextmanager
def open_stream(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream; libav's errors become `FileError`."""
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise FileError(path, "holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # clips are decoded in parallel, one thread each
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        reason = str(error.strerror or error).lower()
        if isinstance(error, av.InvalidDataError):
            reason = "truncated, damaged or not a video"
        raise FileError(path, f"cannot be read: {reason}") from error


def _evenly_spaced(times: Sequence[int]) -> range | None:
    """The times as a `range`, or None where they are not evenly spaced."""
    if len(times) < 2 or times[1] <= times[0]:
        return None
    step = times[1] - times[0]
    even = range(times[0], times[0] + len(times) * step, step)
    return even if list(times) == list(even) else None


def _indexed_pts(stream: VideoStream, path: str) -> range | None:
    """Timestamps by the container's own index, no frame read; None where it cannot say.

    Raises:
        FileError: the index points beyond the end of the file.
    """
    entries = list(stream.index_entries)
    size = os.path.getsize(path)
    here = sum(e.pos + e.size <= size for e in entries)
    if here < len(entries):
        raise FileError(
            path, f"truncated: the header promises {len(entries)} frames, the file holds {here}"
        )
    decoded = _evenly_spaced([e.timestamp for e in entries])  # then so are the times of display
    if decoded is None or stream.start_time is None or any(e.is_discard for e in entries):
        return None
    if stream.frames != len(decoded) or stream.duration != len(decoded) * decoded.step:
        return None
    return range(stream.start_time, stream.start_time + len(decoded) * decoded.step, decoded.step)


def _demuxed_pts(
    container: InputContainer, stream: VideoStream, path: str
) -> range | tuple[int, ...]:
    """Timestamps by reading every packet."""
    packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
    if any(p.is_corrupt for p in packets):
        raise FileError(path, "holds corrupt packets; encode it again")
    pts = sorted(p.pts for p in packets if p.pts is not None)
    if len(pts) < len(packets) or len(set(pts)) < len(pts):
        raise FileError(path, "frames without a timestamp of their own; encode it again")
    if len(pts) < stream.frames - sum(e.is_discard for e in stream.index_entries):
        raise FileError(
            path,
            f"truncated: the header promises {stream.frames} frames, the file holds {len(pts)}",
        )
    return _evenly_spaced(pts) or tuple(pts)


def probe(path: str | os.PathLike) -> VideoInfo:
    """Reads the header (and, where it does not say when frames are shown, the packets).

    Raises:
        FileError: unreadable, truncated, not a video, or without frames.
    """
    path = str(path)
    with open_stream(path) as (container, stream):
        pts = _indexed_pts(stream, path) or _demuxed_pts(container, stream, path)
        if not pts:
            raise FileError(path, "holds no frames")
        fps = stream.average_rate
        if not fps:
            raise FileError(path, "states no frame rate; encode it again with one")
        if not stream.width or not stream.height:
            raise FileError(path, "states no frame size; it is truncated or damaged")
        return VideoInfo(path, (stream.height, stream.width), Fraction(fps), pts)


def _load_headers(cache: Path) -> dict[str, list]:
    """The cache file's rows, by path; empty where there is none or it is not ours."""
    try:
        content = json.loads(cache.read_text())
        return content["files"] if content["version"] == _CACHE_VERSION else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        logging.warning("header cache %s is not readable (%s); reading all headers", cache, error)
        return {}


def _save_headers(cache: Path, rows: dict[str, list]) -> None:
    partial = cache.with_name(f".{cache.name}.{os.getpid()}.partial")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"version": _CACHE_VERSION, "files": rows}))
        os.replace(partial, cache)
    except OSError as error:
        logging.warning("header cache %s is not writable (%s); headers are not kept", cache, error)


def _to_row(info: VideoInfo) -> list:
    pts = info.pts  # a range as [[start, stop, step]]
    times = [[pts.start, pts.stop, pts.step]] if isinstance(pts, range) else list(pts)
    return [*info.size, *info.fps.as_integer_ratio(), times]


def _from_row(path: str, row: list) -> VideoInfo:
    rows, columns, numerator, denominator, times = row
    pts = range(*times[0]) if isinstance(times[0], list) else tuple(times)
    return VideoInfo(path, (rows, columns), Fraction(numerator, denominator), pts)


def probe_all(paths: Sequence[str], cache: Path, threads: int) -> dict[str, VideoInfo | FileError]:
    """`probe` of every path that exists: its header, or what is wrong with it.

    Headers are kept in the file `cache`, and read again only where size or time of change differ.
    Files that are wrong are not kept. A cache that cannot be read or written costs time only.
    """
    kept = _load_headers(cache)

    def look(path: str) -> tuple[list[int], VideoInfo | FileError] | None:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        stamp = [status.st_size, status.st_mtime_ns]
        if path in kept and kept[path][0] == stamp:
            return stamp, _from_row(path, kept[path][1])
        try:
            return stamp, probe(path)
        except FileError as error:
            return stamp, error

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        looked = zip(paths, pool.map(look, paths), strict=True)
        seen = {path: result for path, result in looked if result is not None}
    good = {p: [t, _to_row(i)] for p, (t, i) in seen.items() if isinstance(i, VideoInfo)}
    if any(kept.get(path) != row for path, row in good.items()):
        _save_headers(cache, kept | good)
    return {path: info for path, (_, info) in seen.items()}


def _decode(
    container: InputContainer, stream: VideoStream, info: VideoInfo, wanted: dict[int, int]
) -> dict[int, np.ndarray]:
    """RGB of the frames whose timestamps are `wanted`, decoding on from where the container stands.

    `wanted` maps timestamp to frame number.
    """
    found: dict[int, np.ndarray] = {}
    last = max(wanted)
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        if (number := wanted.get(frame.pts)) is not None:
            if frame.is_corrupt:
                raise FileError(info.path, f"frame {number} is damaged")
            if (frame.height, frame.width) != info.size:
                raise FileError(
                    info.path,
                    f"frame {number} is {frame.height}x{frame.width}, the first {info.size[0]}x"
                    f"{info.size[1]}; encode it again at one size",
                )
            found[number] = frame.reformat(format="rgb24", threads=1).to_ndarray()
        if frame.pts >= last:
            break
    return found


def read_frames(info: VideoInfo, frames: Sequence[int]) -> UInt8[np.ndarray, "f y x 3"]:
    """The given frames, in the given order, as RGB; exact for lossless RGB files.

    Raises:
        FileError: a frame beyond the end, damaged, or not where the header says.
    """
    outside = [i for i in frames if not 0 <= i < info.frames]
    if outside or not frames:
        raise FileError(info.path, f"frames {outside} asked of a video of {info.frames} frames")
    wanted = {info.pts[i]: i for i in frames}
    with open_stream(info.path) as (container, stream):
        container.seek(min(wanted), stream=stream)
        found = _decode(container, stream, info, wanted)
    if len(found) < len(wanted):  # some containers seek past the frame: then from the start
        with open_stream(info.path) as (container, stream):
            found = _decode(container, stream, info, wanted)
    missing = sorted(set(wanted.values()) - found.keys())
    if missing:
        raise FileError(
            info.path,
            f"frame {missing[0]} cannot be decoded ({len(missing)} of {len(wanted)} are missing); "
            "the file is damaged or has changed since it was scanned",
        )
    return np.stack([found[i] for i in frames])
