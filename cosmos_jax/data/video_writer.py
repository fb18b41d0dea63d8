"""Videos that browsers play, and lossless ones for tests."""

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from jaxtyping import UInt8


def write_video(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "f y x 3"],
    fps: float | int | Fraction,
    crf: int = 18,
) -> None:
    """Writes an H.264 mp4 that browsers play. The file appears whole or not at all.

    Args:
        crf: x264's constant rate factor, from 1 (best) to 51. 0 is lossless RGB, which decodes to
            the exact bytes but which few browsers play.

    Raises:
        ValueError: no frames, or (unless lossless) an odd number of rows or columns.
    """
    f, y, x, _ = frames.shape
    if not f or not y or not x:
        raise ValueError(f"{path}: no frames to write (shape {frames.shape})")
    write_pictures(path, frames, (y, x), fps, crf)


def write_pictures(
    path: str | os.PathLike,
    pictures: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float | int | Fraction,
    crf: int = 18,
) -> None:
    """`write_video` of pictures of one size that come one by one, so that few are held at once."""
    path, (y, x) = Path(path), size
    if crf and (y % 2 or x % 2):
        raise ValueError(f"{path}: {y}x{x} frames; H.264 (4:2:0) needs even rows and columns")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        encode(partial, pictures, size, Fraction(fps).limit_denominator(1001), crf, "")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def encode(
    path: Path, frames: Iterable[np.ndarray], size: Sequence[int], fps: Fraction, crf: int, tag: str
) -> None:
    """Writes frames of one size one by one, as `write_video` does but in place, with a comment."""
    codec, pixels = ("libx264", "yuv420p") if crf else ("libx264rgb", "rgb24")
    # Without it x264's assembly gives other bytes now and then, also on one machine.
    exact = {"x264-params": "cpu-independent=1"}
    options = {"crf": str(crf), "preset": "medium", **exact}
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = tag
        stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=options))
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        context = stream.codec_context
        if crf:  # said in the file, or players guess by the size of the picture
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if crf:
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_picture(path: str | os.PathLike, picture: UInt8[np.ndarray, "y x 3"]) -> None:
    """Writes a PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
