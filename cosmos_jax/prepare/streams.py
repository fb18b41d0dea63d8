"""Videos frame by frame: what does not fit in memory is read and written as it comes."""

import glob
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from cosmos_jax.data import video, video_writer
from cosmos_jax.data.video import FileError, VideoInfo


def decode(info: VideoInfo) -> Iterator[av.VideoFrame]:
    """All frames of a file in order, as decoded; each is checked as `video.read_frames` does.

    Raises:
        FileError: a frame that is damaged, missing or of another size.
    """
    numbers = {time: number for number, time in enumerate(info.pts)}
    count = 0
    with video.open_stream(info.path) as (container, stream):
        for frame in container.decode(stream):
            if frame.pts not in numbers:
                continue
            if frame.is_corrupt or numbers[frame.pts] != count:
                raise FileError(info.path, f"frame {count} is damaged or missing")
            if (frame.height, frame.width) != info.size:
                raise FileError(
                    info.path,
                    f"frame {count} is {frame.height}x{frame.width}, the first {info.size[0]}x"
                    f"{info.size[1]}; encode it again at one size",
                )
            count += 1
            yield frame
    if count < info.frames:
        raise FileError(
            info.path, f"frame {count} of {info.frames} cannot be decoded; the file is damaged"
        )


def read(info: VideoInfo) -> Iterator[UInt8[np.ndarray, "y x 3"]]:
    """All frames of a file in order, as RGB. Raises as `decode`."""
    for frame in decode(info):
        yield frame.reformat(format="rgb24", threads=1).to_ndarray()


def write(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "y x 3"]],
    size: tuple[int, int],
    fps: Fraction,
    count: int,
    crf: int,
    comment: str = "",
) -> None:
    """Writes an H.264 mp4 of `count` frames. The file appears whole or not at all.

    Args:
        crf: see `video_writer.write_video`.
        comment: kept in the file (see `comment_of`).

    Raises:
        FileError: an odd number of rows or columns; another number of frames was written.
        OSError: the folder is not writable, or the disk is full.
    """
    if size[0] % 2 or size[1] % 2:
        raise FileError(str(path), f"{size[0]}x{size[1]} frames; H.264 needs even rows and columns")
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):  # of a killed command
        left.unlink(missing_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        video_writer.encode(draft, frames, size, fps.limit_denominator(1001), crf, comment)
        if (written := video.probe(draft).frames) != count:
            raise FileError(str(path), f"{written} frames were written, not {count}")
        os.replace(draft, path)
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


def comment_of(path: str) -> str:
    """The comment that a file was written with; "" where it has none.

    Raises:
        FileError: the file cannot be read.
    """
    with video.open_stream(path) as (container, _):
        return container.metadata.get("comment", "")
