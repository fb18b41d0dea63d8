"""Files of a request: checked by their headers, then read chunk by chunk."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cosmos_jax.data import transforms, video
from cosmos_jax.data.layouts import DataConfig
from cosmos_jax.data.video import FileError, VideoInfo
from cosmos_jax.sampling import as_reference, chunks
from cosmos_jax.sampling.requests import Request

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
RESIZE_RULES = transforms.RESIZE_RULES | {"cover_truncated": as_reference.cover_truncated}
"""What `Request.fit` names."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A request whose files are there.

    Attributes:
        request: what is asked.
        config: how frames are brought to size.
        plan: its chunks.
        control: header of each view's control video; None: the model has no control.
        video: header of each view's true video; None where there is none.
        fps: frames per second of what comes out.
    """

    request: Request
    config: DataConfig
    plan: chunks.Plan
    control: tuple[VideoInfo, ...] | None
    video: tuple[VideoInfo | None, ...]
    fps: float

    @property
    def truth(self) -> bool:
        """Whether every view's true video lasts as long as the sample.

        A control that stands in for it, as the robotics reference has it, is none.
        """
        return not self.request.from_end and all(
            info is not None
            and view.video != view.control
            and available(info, self.config) >= self.plan.frames
            for view, info in zip(self.request.views, self.video, strict=True)
        )

    def controls(self, chunk: int) -> UInt8[np.ndarray, "v f y x 3"] | None:
        """The control of a chunk."""
        if self.control is None:
            return None
        window = self.plan.window(chunk, self.control_frames)
        return np.stack([self._read(info, window, is_control=True) for info in self.control])

    @property
    def control_frames(self) -> int:
        """Frames that every view's control has."""
        return min(available(info, self.config) for info in self.control or ())

    def true(self, frames: Sequence[int]) -> UInt8[np.ndarray, "v f y x 3"]:
        """Frames of the true videos; black for a view without."""
        black = np.zeros((len(frames), *self.config.size, 3), np.uint8)
        return np.stack(
            [black if info is None else self._read(info, frames, False) for info in self.video]
        )

    def given(self) -> UInt8[np.ndarray, "v f y x 3"]:
        """The given frames at the start, as many as the view with the most has."""
        count = max(self.request.given)
        first = 0
        if self.request.from_end and (info := self.video[0]) is not None:
            first = available(info, self.config) - count
        return self.true(range(first, first + count))

    def _read(self, info: VideoInfo, frames: Sequence[int], is_control: bool) -> np.ndarray:
        stride = 1 if is_picture(info) else self.config.stride_of(info)
        last = available(info, self.config) - 1
        numbers = [min(i, last) * stride for i in frames]
        wanted = sorted(set(numbers))
        decoded = video.read_frames(info, wanted)
        if self.config.video_size is not None and not is_control:
            decoded = transforms.stretch_truncated(decoded, self.config.video_size)
        rule = RESIZE_RULES[self.request.fit or self.config.resize]
        fitted = rule(decoded, self.config.size)
        return fitted[[wanted.index(number) for number in numbers]]


def is_picture(info: VideoInfo) -> bool:
    """Whether a file holds a single picture, which has no frame rate."""
    return Path(info.path).suffix.lower() in PICTURES


def available(info: VideoInfo, config: DataConfig) -> int:
    """Frames of a file at the wanted rate."""
    if is_picture(info):
        return 1
    return -(-info.frames // config.stride_of(info))


class BadFilesError(ValueError):
    """Files of a request that are missing or cannot be used, all of them listed."""


def open_jobs(requests: Sequence[Request], config: DataConfig, controlled: bool) -> list[Job]:
    """Checks all files of all requests; see `open_job`, whose lists of bad files come together."""
    jobs, problems = [], []
    for request in requests:
        try:
            jobs.append(open_job(request, config, controlled))
        except BadFilesError as error:
            problems.append(str(error))
    if problems:
        raise BadFilesError("\n".join(problems))
    return jobs


def open_job(request: Request, config: DataConfig, controlled: bool) -> Job:
    """Checks all files of a request by their headers.

    Args:
        request: what is asked.
        config: the model's data settings; rate and stride are the request's.
        controlled: whether the model has a control branch.

    Raises:
        BadFilesError: lists every file that is missing, unreadable, too short, or of another rate.
        ValueError: chunks that cannot be made.
    """
    config = dataclasses.replace(
        config,
        fps=request.fps,
        stride=request.stride,
        size=request.size or config.size,
        video_size=None if request.fit else config.video_size,
    )
    if (count := max(request.given)) > config.num_frames:
        raise ValueError(
            f"sample {request.name!r}: {count} given frames exceed the {config.num_frames} of a "
            "clip"
        )
    problems: list[str] = []
    control = tuple(
        _open(view.control, f"control of view {view.camera!r}", 0, config, problems)
        for view in request.views
        if controlled
    )
    true = tuple(
        _open(
            view.video,
            f"video of view {view.camera!r}",
            min(view.given, 1) if request.pad else view.given,
            config,
            problems,
        )
        for view in request.views
    )
    lengths = {info.path: available(info, config) for info in control if info is not None}
    clip = config.num_frames
    problems += [
        f"{path}: {clip - length} frames too short: {length} at the wanted rate, and a clip has "
        f"{clip}"
        for path, length in lengths.items()
        if length < clip and not request.pad
    ]
    moving = [info for info in (*control, *true) if info is not None and not is_picture(info)]
    rates = {float(info.fps) for info in moving}
    # By rate each file has a stride of its own; and where a rate is written, none is told.
    if len(rates) > 1 and request.stride is not None and request.out_fps is None:
        problems.append(f"files of different frame rates {sorted(rates)}; say which with fps")
    if problems:
        lines = "".join(f"\n  {line}" for line in problems)
        raise BadFilesError(f"sample {request.name!r}: {len(problems)} bad files:{lines}")
    long = request.long
    try:
        plan = chunks.plan(
            # A padded video may be longer than its control, but "all" chunks end with that.
            min(lengths.values()) if lengths and not (request.pad and long.chunks) else None,
            clip,
            long.chunks,
            long.overlap,
            long.whole,
            request.frames,
        )
    except ValueError as error:
        raise ValueError(f"sample {request.name!r}: {error}") from error
    return Job(
        request,
        config,
        plan,
        tuple(info for info in control if info is not None) if controlled else None,
        true,
        _rate(request, config, moving),
    )


def _rate(request: Request, config: DataConfig, moving: Sequence[VideoInfo]) -> float:
    """Frames per second of what comes out."""
    if (rate := request.out_fps or request.fps) is not None:
        return float(rate)
    if not moving:
        raise ValueError(f"sample {request.name!r}: fps is not said, and no file tells it")
    return float(moving[0].fps) / config.stride_of(moving[0])


def _open(
    path: str | None, what: str, needed: int, config: DataConfig, problems: list[str]
) -> VideoInfo | None:
    """Header of a file; a problem where it is needed and not there, or too short."""
    if path is None:
        if needed or what.startswith("control"):
            problems.append(f"{what}: none is given" + (f", {needed} frames needed" * bool(needed)))
        return None
    try:
        if not Path(path).is_file():
            raise FileError(path, "missing")
        info = video.probe(path)
        length = available(info, config)
        if length < needed:
            raise FileError(path, f"{needed - length} frames too short: {length} of {needed} given")
        return info
    except FileError as error:
        problems.append(str(error))
        return None


def clip_fields(job: Job) -> dict[str, Any]:
    """What the network is told of a sample beside its pixels: `Clip`'s other fields."""
    return {
        "captions": tuple(view.caption for view in job.request.views),
        "view_ids": np.array([view.view_id for view in job.request.views], np.int32),
        "fps": np.float32(job.request.model_fps or job.fps),
        "index": np.int32(0),
        "name": job.request.name,
    }
