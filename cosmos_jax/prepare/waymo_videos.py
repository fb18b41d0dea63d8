"""Files of the Waymo Open Dataset to the folders of videos that training reads."""

import collections
import concurrent.futures
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cosmos_jax.data import video_writer
from cosmos_jax.data.video import FileError
from cosmos_jax.prepare import waymo_records
from cosmos_jax.prepare.waymo_records import Drive, Span
from cosmos_jax.progress import Progress

FPS = Fraction(10)  # of the dataset
CRF = 18


def run(source: Path, root: Path, workers: int) -> str:
    """Writes ROOT/videos/CAMERA/CLIP.mp4 of every file; returns what was done, in words.

    A video that is there is kept, and none is there by half. Cameras without a picture in some
    frames are left out of a clip, which is told.

    Raises:
        ValueError: no files; files that cannot be used, listed when all others are done.
    """
    files = find(source)
    problems: list[str] = []
    made = kept = 0
    lines: list[str] = []
    progress = Progress("waymo", len(files), "files")
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for done in concurrent.futures.as_completed(
            [pool.submit(convert, file, root) for file in files]
        ):
            try:
                drive, new = done.result()
            except FileError as error:
                problems.append(str(error))
            else:
                made, kept = made + new, kept + len(drive.pictures) - new
                lines += _gaps(drive)
            progress.add(1)
    print("\n".join(sorted(lines)), end="\n" * bool(lines), flush=True)
    said = f"{root}: {made} videos written, {kept} kept, {len(lines)} cameras of clips left out"
    if problems:
        listed = "".join(f"\n  {line}" for line in sorted(problems))
        raise ValueError(f"{said}; {len(problems)} of {len(files)} files failed{listed}")
    return said


def find(source: Path) -> list[Path]:
    """The file, or the .tfrecord files below a folder.

    Raises:
        ValueError: there are none, or two of one clip.
    """
    if source.is_file():
        return [source]
    files = sorted(path for path in source.rglob("*.tfrecord*") if path.is_file())
    if not files:
        raise ValueError(
            f"--source={source} {'holds no .tfrecord files' if source.is_dir() else 'is not there'}"
            "; name one, or a folder of them (perception data set, version 1)"
        )
    counts = collections.Counter(map(waymo_records.clip_name, files))
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"--source={source} holds several files of the clips {twice[:5]}")
    return files


def convert(path: Path, root: Path) -> tuple[Drive, int]:
    """Writes the videos of a file that are not there; returns what it holds, and how many.

    Raises:
        FileError: the file, or a picture in it, is damaged; pictures of odd rows or columns.
    """
    drive, made = waymo_records.scan(path), 0
    for camera, spans in drive.pictures.items():
        target = root / "videos" / camera / f"{drive.clip}.mp4"
        if target.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            size = next(decoded(path, camera, spans[:1])).shape[:2]
            if size[0] % 2 or size[1] % 2:
                raise FileError(
                    str(path),
                    f"{camera} has pictures of {size[0]}x{size[1]}; H.264 needs even ones",
                )
            frames = decoded(path, camera, spans)
            video_writer.encode(draft, frames, size, FPS, CRF, f"cosmos_jax waymo {path.name}")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        made += 1
    return drive, made


def decoded(path: Path, camera: str, spans: Sequence[Span]) -> Iterator[np.ndarray]:
    """The pictures of a camera as RGB, one at a time.

    Raises:
        FileError: one that is damaged, or of another size than the first.
    """
    size = None
    with path.open("rb") as file:
        for number, (begin, end) in enumerate(spans):
            file.seek(begin)
            picture = _jpeg(file.read(end - begin))
            if picture is None or picture.shape != (size or picture.shape):
                what = "is damaged" if picture is None else "has another size than those before"
                raise FileError(str(path), f"frame {number} of {camera} {what}")
            size = picture.shape
            yield picture


def _jpeg(data: bytes) -> np.ndarray | None:
    """RGB rows and columns of a JPEG; None where it is damaged."""
    if data[:2] != b"\xff\xd8" or data.rstrip(b"\0")[-2:] != b"\xff\xd9":
        return None
    decoder = av.CodecContext.create("mjpeg", "r")
    try:
        (frame,) = decoder.decode(av.Packet(data)) + decoder.decode(None)
    except (av.FFmpegError, ValueError):
        return None
    return frame.to_ndarray(format="rgb24")


def _gaps(drive: Drive) -> list[str]:
    return [
        f"left out {camera} of {drive.clip}: {count} of {drive.frames} frames have no picture"
        for camera, count in drive.gaps.items()
    ]
