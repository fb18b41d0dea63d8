"""From folders to numbers: reads the videos, measures every sample of every checkpoint."""

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_jax.data import transforms, video
from cosmos_jax.evaluate import (
    drift,
    folders,
    frechet,
    measure,
    nearest,
    pictures,
    sampson,
    summary,
)
from cosmos_jax.evaluate.folders import Sample
from cosmos_jax.prepare import canny

VERSION = 1
SAVED = "metrics.json"
FRAMES_OF = ("frames", "clips")


@dataclasses.dataclass(frozen=True)
class Job:
    """What is compared, and how it is read.

    Attributes:
        generated: folder of samples, or of a folder of samples for each checkpoint.
        reference: folder of true videos of the same names; None: those that sidecars name.
        control: folder of control videos of the same names; None: those that sidecars name.
        train: folder of training videos; None: no distance to training frames.
        layout: see `folders.find`.
        resize: rule of `transforms.RESIZE_RULES` by which true and control videos are brought to
            the size of the generated; None: sizes have to be the same.
        frames: only so many first frames of each video; None: all, which have to be as many.
        stride: every stride-th frame of true and control videos.
        skip: frames at the begin that are not measured; None: those that were given to the sampler
            (num_conditional_frames of a sidecar), else 0.
        train_frames: frames of each training video, evenly spread.
        features: a network for Frechet distances, see `frechet.load`; None: no such distance.
        features_of: what it takes, "frames" or "clips".
        clip_frames: frames of a clip.
        workers: samples measured at a time.

    Raises:
        ValueError: a value out of range or unknown.
    """

    generated: Path
    reference: Path | None = None
    control: Path | None = None
    train: Path | None = None
    layout: str = "auto"
    resize: str | None = None
    frames: int | None = None
    stride: int = 1
    skip: int | None = None
    train_frames: int = 8
    features: str | None = None
    features_of: str = "frames"
    clip_frames: int = 16
    workers: int = 2

    def __post_init__(self):
        for name in ("frames", "stride", "train_frames", "clip_frames", "workers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.skip is not None and self.skip < 0:
            raise ValueError(f"skip={self.skip} must not be negative")
        if self.features_of not in FRAMES_OF:
            raise ValueError(f"features_of={self.features_of!r} is none of {FRAMES_OF}")
        known = sorted(transforms.RESIZE_RULES)
        if self.resize is not None and self.resize not in known:
            raise ValueError(f"resize={self.resize!r} is none of {known}")


def evaluate(
    job: Job, settings: measure.Settings, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measures a folder.

    Args:
        tell: is called with a line for each sample.

    Returns:
        JSON values: settings, and for each checkpoint its samples' metrics and their means.

    Raises:
        ValueError: no videos or no pairs; videos that differ in frames, frame rate or size; a file
            that cannot be read (`video.FileError`).
    """
    network = None
    if job.features is not None:
        network = frechet.load(job.features, 4 if job.features_of == "frames" else 5)
    places = folders.checkpoints(job.generated, job.layout)
    found = {name: folders.find(place, job.layout) for name, place in places.items()}
    inputs = [_Inputs.find(job, samples) for samples in found.values()]
    train = None
    if job.train is not None:
        own = {path.resolve() for one in inputs for path in one.reference.values()}
        train = _training_frames(
            job, own, [c for s in found.values() for one in s for c in one.views]
        )
    made = {}
    for (name, samples), given in zip(found.items(), inputs):
        made[name] = _checkpoint(job, settings, name, samples, given, train, tell)
        if network is not None and job.features is not None:
            key = f"frechet_{job.features_of}"
            made[name]["metrics"][key] = _frechet(job, network, samples, given)
    taken = described(job, settings)
    return {
        "version": VERSION,
        "settings": _said(job, settings, train),
        "metrics": {
            metric.name: {**dataclasses.asdict(metric), "settings": taken[metric.name]}
            for metric in summary.METRICS
        },
        "checkpoints": made,
    }


def _checkpoint(
    job: Job,
    settings: measure.Settings,
    name: str,
    samples: Sequence[Sample],
    given: "_Inputs",
    train: "_Train | None",
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """The metrics of all samples of one checkpoint, and their means."""

    def one(sample: Sample) -> dict[str, Any]:
        return _sample(job, settings, sample, given, train)

    values: dict[str, Any] = {}
    with concurrent.futures.ThreadPoolExecutor(job.workers) as pool:
        for sample, made in zip(samples, pool.map(one, samples)):
            values[sample.name] = made
            tell(f"{name + ': ' if name else ''}{sample.name}: {made['frames']} frames a camera")
    metrics = {sample: made["metrics"] for sample, made in values.items()}
    held = summary.means(metrics)
    return {
        "step": folders.step_of(name),
        "samples": values,
        "metrics": {key: dataclasses.asdict(mean) for key, mean in held.items()},
    }


def _said(job: Job, settings: measure.Settings, train: "_Train | None") -> dict[str, Any]:
    """Every setting, as JSON values."""
    own = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(job).items()
        if key != "workers"
    }
    rule = {"resize": job.resize or "none", "crop": "centre" if job.resize == "cover" else "none"}
    more = {} if train is None else {"train_videos": train.videos, "train_left_out": train.left_out}
    return {**own, **dataclasses.asdict(settings), **rule, **more}


def described(job: Job, settings: measure.Settings) -> dict[str, dict[str, Any]]:
    """What each metric was taken with, beside how the videos were read."""
    edge = {
        "canny_thresholds": settings.edge_thresholds,
        "tolerance": settings.edge_tolerance,
        "control_kind": settings.control_kind,
    }
    geometry = {
        "features": f"SIFT, at most {sampson.FEATURES}, each other's best, ratio {sampson.RATIO}",
        "ransac": f"{sampson.THRESHOLD} px, {sampson.CONFIDENCE}, at most {sampson.TRIALS} trials",
        "fewest_matches": sampson.FEWEST,
        "pairs_of_frames": settings.few,
        "value": "median over matches of the root of the Sampson distance; mean over pairs",
    }
    parts = {"parts": "1 second, or chunks"}
    network = {"features": job.features}
    return {
        "psnr": {"peak": pictures.PEAK, "mean": "over frames"},
        "ssim": {"window": "11x11", "sigma": pictures.SIGMA, "range": 255, "channels": "RGB, mean"},
        "blur_ssim": {"blur": settings.blur, "frames": settings.few},
        **dict.fromkeys(("edge_precision", "edge_recall", "edge_f1"), edge),
        "temporal_sampson": {**geometry, "frames_apart": 1},
        "cross_view_sampson": {**geometry, "rigid_cameras": "one fit for all pairs of frames"},
        "sharpness": {"filter": "Laplacian of 4 neighbours", "brightness": "ITU-R BT.601"},
        "sharpness_drift": parts,
        "colour_drift": parts,
        "seam": {"compared_with": f"{drift.REACH} differences on either side"},
        "train_distance": {"thumbnails": nearest.SIZE, "frames_of_each_video": job.train_frames},
        "frechet_frames": network,
        "frechet_clips": {**network, "clip_frames": job.clip_frames},
    }


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """True and control videos by (sample, camera)."""

    reference: Mapping[tuple[str, str], Path]
    control: Mapping[tuple[str, str], Path]

    @staticmethod
    def find(job: Job, samples: Sequence[Sample]) -> "_Inputs":
        known = {camera for sample in samples for camera in sample.views}

        def other(folder: Path, what: str) -> Mapping[tuple[str, str], Path]:
            return folders.pair(samples, folders.find(folder, job.layout, known), what, folder)

        def own(kind: str) -> Mapping[tuple[str, str], Path]:
            return {(s.name, c): path for s in samples for c, path in getattr(s, kind).items()}

        return _Inputs(
            own("input") if job.reference is None else other(job.reference, "true"),
            own("control") if job.control is None else other(job.control, "control"),
        )


def _sample(
    job: Job,
    settings: measure.Settings,
    sample: Sample,
    given: _Inputs,
    train: "_Train | None",
) -> dict[str, Any]:
    """Reads one sample and measures it; errors name the sample."""
    skip = _skipped(job, sample)
    sizes: dict[str, tuple[int, int]] = {}
    rates: dict[str, Fraction] = {}
    counts: list[int] = []

    def read(what: str, camera: str) -> np.ndarray | None:
        if what == measure.GENERATED:
            info = video.probe(sample.views[camera])
            sizes[camera], rates[camera] = info.size, info.fps
            frames = _frames(info, 1, job.frames, skip)
            counts.append(len(frames))
            return frames
        group = given.reference if what == measure.REAL else given.control
        if (sample.name, camera) not in group:
            return None
        info = video.probe(group[sample.name, camera])
        if abs(float(info.fps / rates[camera]) - job.stride) > 1e-3:
            raise ValueError(
                f"{info.path}: {float(info.fps):g} fps with stride={job.stride} are not the "
                f"{float(rates[camera]):g} fps of the generated video; set --stride to their ratio"
            )
        if what == measure.REAL and job.reference is None and info.frames < counts[-1] + skip:
            return None  # a few frames to begin with, and not the true video
        frames = _frames(info, job.stride, job.frames, skip)
        return (
            frames
            if job.resize is None
            else transforms.RESIZE_RULES[job.resize](frames, sizes[camera])
        )

    try:
        cameras = list(sample.views)
        fps = float(video.probe(sample.views[cameras[0]]).fps)
        metrics = measure.sample_metrics(
            cameras, read, settings, fps, _boundaries(job, sample, skip),
            None if train is None else train.by_camera,
        )  # fmt: skip
    except video.FileError:
        raise  # names its file
    except ValueError as error:
        raise ValueError(f"{sample.name}: {error}") from error
    size = sizes[cameras[0]]
    return {
        "frames": counts[0],
        "skipped": skip,
        "size": list(size),
        "fps": fps,
        "metrics": metrics,
    }


def _frames(info: video.VideoInfo, stride: int, count: int | None, skip: int) -> np.ndarray:
    """The frames to measure.

    Raises:
        video.FileError: there are fewer than asked for, or none beside those skipped.
    """
    chosen = range(0, info.frames, stride)
    if count is not None:
        if len(chosen) < count:
            raise video.FileError(
                info.path, f"{len(chosen)} frames at stride {stride}, not the {count} asked for"
            )
        chosen = chosen[:count]
    if len(chosen) <= skip:
        raise video.FileError(
            info.path,
            f"{len(chosen)} frames, of which the first {skip} are not measured: none left",
        )
    return video.read_frames(info, chosen[skip:])


def _skipped(job: Job, sample: Sample) -> int:
    """Frames at the begin that were given to the sampler, not generated; of views, the most."""
    if job.skip is not None:
        return job.skip
    sidecar = sample.sidecar or {}
    try:
        if "request" in sidecar:
            return max(int(view["given"]) for view in sidecar["request"]["views"])
        return int(sidecar["settings"]["num_conditional_frames"]) if sidecar else 0
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{sample.name}: its sidecar does not say how many frames were given; set --skip"
        ) from error


def _boundaries(job: Job, sample: Sample, skip: int) -> list[int]:
    """First frames of later chunks, among the frames that are measured."""
    starts = (sample.sidecar or {}).get("boundaries", [])
    end = math.inf if job.frames is None else job.frames
    return [int(start) - skip for start in starts if skip < start < end]


@dataclasses.dataclass(frozen=True)
class _Train:
    """Thumbnails of training frames by camera, and how many videos they are of."""

    by_camera: Mapping[str, np.ndarray]
    videos: int
    left_out: int


def _training_frames(job: Job, own: set[Path], cameras: Sequence[str]) -> _Train:
    """Reads frames of all training videos but the samples' own true ones, which are held out.

    Raises:
        ValueError: no such video.
    """
    assert job.train is not None
    samples = folders.find(job.train, job.layout, set(cameras))
    videos = [(c, path) for sample in samples for c, path in sample.views.items()]
    kept = [(camera, path) for camera, path in videos if path.resolve() not in own]
    if not kept:
        raise ValueError(f"{job.train}: no training video beside the samples' own true videos")

    def read(path: Path) -> np.ndarray:
        info = video.probe(path)
        chosen = pictures.spread(info.frames, job.train_frames)
        return nearest.thumbnails(video.read_frames(info, chosen))

    with concurrent.futures.ThreadPoolExecutor(job.workers) as pool:
        thumbnails = list(pool.map(read, [path for _, path in kept]))
    by_camera: dict[str, list[np.ndarray]] = {}
    for (camera, _), rows in zip(kept, thumbnails):
        by_camera.setdefault(folders.named_as(camera, cameras), []).append(rows)
    joined = {camera: np.concatenate(rows) for camera, rows in by_camera.items()}
    return _Train(joined, len(kept), len(videos) - len(kept))


def _frechet(
    job: Job, network: frechet.Features, samples: Sequence[Sample], given: _Inputs
) -> dict[str, Any]:
    """The Frechet distance of all generated to all true videos of a checkpoint."""
    assert job.features is not None
    groups: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for sample in samples:
        skip = _skipped(job, sample)
        for camera, path in sample.views.items():
            if (sample.name, camera) not in given.reference:
                continue
            ours = _frames(video.probe(path), 1, job.frames, skip)
            true = _frames(
                video.probe(given.reference[sample.name, camera]), job.stride, job.frames, skip
            )
            if job.resize is not None:
                true = transforms.RESIZE_RULES[job.resize](true, ours.shape[1:3])
            for group, frames in zip(groups, (ours, true)):
                pieces = frames if job.features_of == "frames" else _clips(frames, job.clip_frames)
                if len(pieces):
                    group.append(frechet.features(network, pieces, job.features))
    absent: dict[str, Any] = {"value": None, "stderr": None, "real": None, "samples": 0}
    total = len(samples)
    if not groups[0]:
        why = f"no true video, or none of {job.clip_frames} frames"
        return {**absent, "total": total, "reasons": [why]}
    ours, true = (np.concatenate(group) for group in groups)
    n, d = ours.shape
    few = [f"{n} {job.features_of} for {d} features: too few to compare with other counts"]
    return {
        **absent,
        "value": frechet.distance(ours, true),
        "samples": total,
        "total": total,
        "reasons": few if n <= d else [],
    }


def _clips(frames: np.ndarray, length: int) -> np.ndarray:
    """Clips one after another, without a rest that is too short: `[n f y x 3]`."""
    count = len(frames) // length
    return frames[: count * length].reshape(count, length, *frames.shape[1:])


def thresholds(text: str) -> tuple[float, float]:
    """Canny's (low, high) of a strength's name or of "LOW,HIGH".

    Raises:
        ValueError: neither.
    """
    if text in canny.STRENGTHS:
        low, high = canny.STRENGTHS[text]
        return float(low), float(high)
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"--edges={text}: neither LOW,HIGH nor {list(canny.STRENGTHS)}") from error
    return low, high
