"""Where the pictures lie in a file of the Waymo Open Dataset (perception, version 1).

A file is a TFRecord of one drive: a record a frame, each a protobuf message `Frame`. Only what is
wanted of it is looked at, in a memory map: neither TensorFlow nor the dataset's package is needed,
and the lidar, which is most of a file, is not read.

Source: TensorFlow's record format; waymo_open_dataset/dataset.proto.
"""

import dataclasses
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmos_jax.data.video import FileError

CAMERAS = {
    1: "pinhole_front",
    2: "pinhole_front_left",
    3: "pinhole_front_right",
    4: "pinhole_side_left",
    5: "pinhole_side_right",
}
"""Folders of the values of `CameraName.Name`."""
FRAME_IMAGES, IMAGE_NAME, IMAGE_JPEG = 4, 1, 2  # numbers of fields

Span = tuple[int, int]
"""Where bytes of a file begin and end."""


@dataclasses.dataclass(frozen=True)
class Drive:
    """What a file holds.

    Attributes:
        path: the file.
        clip: its name, without what all such files are called.
        frames: how many there are.
        pictures: the JPEG of every frame, by camera.
        gaps: cameras without a picture in some frames, and in how many.
    """

    path: Path
    clip: str
    frames: int
    pictures: dict[str, list[Span]]
    gaps: dict[str, int]


def clip_name(path: Path) -> str:
    """`1005081002024129653_5313_150_5333_150` of segment-..._with_camera_labels.tfrecord."""
    stem = re.sub(r"\.tfrecords?\b.*", "", path.name)
    return re.sub(r"^.*segment-", "", stem).removesuffix("_with_camera_labels")


def scan(path: Path) -> Drive:
    """Looks for the pictures of a file.

    Raises:
        FileError: no TFRecord, no frames of the dataset, damaged or cut short.
    """
    if not path.stat().st_size:
        raise FileError(str(path), "is empty")
    frames: list[dict[str, Span]] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for begin, end in _records(data, str(path)):
            try:
                frames.append(_pictures(data, begin, end))
            except ValueError as error:
                where = f"record {len(frames)} is no frame of the Waymo Open Dataset"
                raise FileError(str(path), f"{where}: {error}") from error
    seen = {name: [f[name] for f in frames if name in f] for name in CAMERAS.values()}
    whole = {name: spans for name, spans in seen.items() if len(spans) == len(frames)}
    gaps = {name: len(frames) - len(spans) for name, spans in seen.items() if name not in whole}
    if not whole:
        raise FileError(str(path), f"no camera has a picture in all of the {len(frames)} frames")
    return Drive(path, clip_name(path), len(frames), whole, gaps)


def _records(data: Any, path: str) -> Iterator[Span]:
    """Each record's data. A record is its length, that length's checksum, data, data's checksum.

    The checksum of the data is left to those who decode it: in Python it would take minutes.
    """
    at = 0
    while at < len(data):
        head = data[at : at + 12]
        if len(head) == 12:
            length, check = struct.unpack("<QI", head)
            if check != _masked_crc(head[:8]):
                what = "is no TFRecord" if at == 0 else f"is damaged at byte {at}"
                raise FileError(path, f"{what} (the checksum of a record's length is wrong)")
        if len(head) < 12 or at + 16 + length > len(data):
            raise FileError(path, f"is cut short: {len(data)} bytes; fetch it again")
        yield at + 12, at + 12 + length
        at += 16 + length


def _masked_crc(data: bytes) -> int:
    """TensorFlow's checksum: CRC-32C, turned by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _pictures(data: Any, begin: int, end: int) -> dict[str, Span]:
    """The JPEGs of a frame by camera."""
    found: dict[str, Span] = {}
    for number, image in _fields(data, begin, end):
        if number == FRAME_IMAGES and isinstance(image, tuple):
            parts = dict(_fields(data, *image))
            name, jpeg = parts.get(IMAGE_NAME, 0), parts.get(IMAGE_JPEG)
            if isinstance(jpeg, tuple) and isinstance(name, int) and name in CAMERAS:
                found[CAMERAS[name]] = jpeg
    return found


def _fields(data: Any, at: int, end: int) -> Iterator[tuple[int, int | Span]]:
    """The fields of a message: a number, or where the bytes lie.

    Raises:
        ValueError: it is no message.
    """
    while at < end:
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at, end)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at, end)
        else:
            length = {1: 8, 5: 4}.get(kind, -1)
        if length < 0 or at + length > end or not number:
            raise ValueError(f"field {number} of type {kind} does not fit at byte {at}")
        yield number, (at, at + length)
        at += length


def _varint(data: Any, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first; and where it ends."""
    value = 0
    for i in range(at, min(at + 10, end)):
        value |= (data[i] & 127) << 7 * (i - at)
        if data[i] < 128:
            return value, i + 1
    raise ValueError(f"a number at byte {at} has no end")
