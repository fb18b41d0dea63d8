"""Every metric of one sample: what is compared with what, and why a value is absent."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cosmos_jax import rigs
from cosmos_jax.evaluate import drift, edges, nearest, pictures, sampson
from cosmos_jax.prepare import blur_filter, canny

GENERATED, REAL, CONTROL = "generated", "reference", "control"
Read = Callable[[str, str], np.ndarray | None]
"""(one of the three, camera) -> uint8 `[f y x 3]`, or None where there is no such video."""

CONTROL_KINDS = ("auto", "edge", "blur", "other")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the metrics are taken.

    Attributes:
        edge_thresholds: Canny's (low, high) for generated frames.
        edge_tolerance: rows and columns by which edges may be apart.
        control_kind: "edge": white lines are the wanted edges. "other": Canny finds them in the
            control too. "blur": there are none, and blur-SSIM can compare with the control. "auto":
            "edge" for what looks like lines, else "other".
        blur: a strength of `blur_filter.STRENGTHS`.
        few: frames (or pairs of frames), evenly spread, of the metrics that are slow: blur-SSIM and
            both Sampson errors.

    Raises:
        ValueError: a value out of range or unknown.
    """

    edge_thresholds: tuple[float | int, float | int] = canny.STRENGTHS["medium"]
    edge_tolerance: int = 2
    control_kind: str = "auto"
    blur: str = "medium"
    few: int = 8

    def __post_init__(self):
        canny.Edges(*self.edge_thresholds)
        if self.edge_tolerance < 0 or self.few < 1:
            raise ValueError(f"edge_tolerance={self.edge_tolerance}, few={self.few}: too small")
        if self.control_kind not in CONTROL_KINDS:
            raise ValueError(f"control_kind={self.control_kind!r} is none of {CONTROL_KINDS}")
        if self.blur not in blur_filter.STRENGTHS:
            raise ValueError(f"blur={self.blur!r} is none of {sorted(blur_filter.STRENGTHS)}")


@dataclasses.dataclass(frozen=True)
class Value:
    """One number.

    Attributes:
        value: of the generated video; None where it is absent.
        real: the same of the real video, where that has one.
        reason: why `value` is absent, or what part of it is.
        over_time: of each second or chunk, against the first.
    """

    value: float | None
    real: float | None = None
    reason: str = ""
    over_time: tuple[float, ...] = ()


Metrics = dict[str, Any]
"""{metric: {"value", "real", "reason", "by": {camera or "camera | camera": the same}}}."""


def absent(reason: str) -> Value:
    """A value that is not there."""
    return Value(None, None, reason)


def number(value: float | int, reason: str, real: float | int | None = None) -> Value:
    """A value, absent for this reason where it is not finite."""
    kept = None if real is None or not math.isfinite(real) else float(real)
    return Value(float(value), kept) if math.isfinite(value) else Value(None, kept, reason)


def sample_metrics(
    cameras: Sequence[str],
    read: Read,
    settings: Settings,
    fps: float | int,
    boundaries: Sequence[int] = (),
    train: Mapping[str, np.ndarray] | None = None,
) -> Metrics:
    """All metrics of one sample.

    Args:
        cameras: the sample's, in order.
        read: gives the videos; each is asked for once, and all frames of one camera are together
            in memory but not those of all cameras.
        fps: frames per second.
        boundaries: first frames of the chunks after the first, of a long video.
        train: thumbnails (`nearest.thumbnails`) of training frames by camera.

    Raises:
        ValueError: videos of one camera that differ in frames or size; no generated video; frames
            too small for a window.
    """
    found: dict[str, dict[str, Value]] = {}
    kept: dict[tuple[str, str], np.ndarray] = {}
    for camera in cameras:
        videos = {what: read(what, camera) for what in (GENERATED, REAL, CONTROL)}
        generated = videos[GENERATED]
        if generated is None:
            raise ValueError(f"camera {camera}: there is no generated video")
        for what in (REAL, CONTROL):
            _check(camera, what, generated, videos[what])
        nearby = None if train is None else _train_of(train, camera)
        values = view_metrics(
            generated, videos[REAL], videos[CONTROL], settings, fps, boundaries, nearby
        )
        for name, value in values.items():
            found.setdefault(name, {})[camera] = value
        for what in (GENERATED, REAL):
            if (frames := videos[what]) is not None:
                kept[what, camera] = frames[pictures.spread(len(frames), settings.few)].copy()
    found["cross_view_sampson"] = _cross_view(cameras, kept) or {
        "": absent("no two cameras that see something in common")
    }
    return {name: _together(by) for name, by in found.items()}


def _check(camera: str, what: str, generated: np.ndarray, other: np.ndarray | None) -> None:
    if other is None:
        return
    f, *size = generated.shape[:3]
    if len(other) != f:
        apart = len(other) - f
        more = f"{abs(apart)} {'more' if apart > 0 else 'fewer'}"
        raise ValueError(
            f"camera {camera}: {f} generated frames, {len(other)} {what} frames ({more}); say how "
            f"many of the first are to be compared, as --frames={min(f, len(other))}"
        )
    if other.shape[1:3] != generated.shape[1:3]:
        raise ValueError(
            f"camera {camera}: generated frames are {size[0]}x{size[1]}, the {what}'s "
            f"{other.shape[1]}x{other.shape[2]}; say how they are resized, as --resize=stretch"
        )


def _train_of(train: Mapping[str, np.ndarray], camera: str) -> np.ndarray:
    return train[camera] if camera in train else np.concatenate(list(train.values()))


def view_metrics(
    generated: np.ndarray,
    real: np.ndarray | None,
    control: np.ndarray | None,
    settings: Settings,
    fps: float | int,
    boundaries: Sequence[int] = (),
    train: np.ndarray | None = None,
) -> dict[str, Value]:
    """The metrics of one camera's video uint8 `[f y x 3]`; see `sample_metrics`."""
    kind = settings.control_kind
    if control is not None and kind == "auto":
        kind = "edge" if edges.is_drawn(control) else "other"
    return {
        **_against_truth(generated, real),
        "blur_ssim": _blur_ssim(generated, real, control if kind == "blur" else None, settings),
        **_edges(generated, real, control, kind, settings),
        "temporal_sampson": _temporal(generated, real, settings),
        "sharpness": _sharpness(generated, real),
        **_drifts(generated, real, fps, boundaries),
        "seam": _seam(generated, real, boundaries),
        "train_distance": _train_distance(generated, real, train),
    }


def _against_truth(generated: np.ndarray, real: np.ndarray | None) -> dict[str, Value]:
    if real is None:
        return dict.fromkeys(("psnr", "ssim"), absent("no true video"))
    ratios = pictures.psnr(generated, real)
    finite = ratios[np.isfinite(ratios)]
    same = f"{len(ratios) - len(finite)} of {len(ratios)} frames equal the true ones (infinite)"
    psnr = number(finite.mean() if len(finite) else math.inf, same)
    if 0 < len(finite) < len(ratios):
        psnr = dataclasses.replace(psnr, reason=f"{same} and are left out")
    return {"psnr": psnr, "ssim": number(pictures.ssim(generated, real).mean(), "")}


def _blur_ssim(
    generated: np.ndarray, real: np.ndarray | None, control: np.ndarray | None, settings: Settings
) -> Value:
    if real is None and control is None:
        return absent("no true video, and no blurred control")
    chosen = pictures.spread(len(generated), settings.few)
    ours = pictures.blurred(generated[chosen], settings.blur)
    if control is not None:
        true = control[chosen]
    else:
        assert real is not None
        true = pictures.blurred(real[chosen], settings.blur)
    return number(pictures.ssim(ours, true).mean(), "")


def _edges(
    generated: np.ndarray,
    real: np.ndarray | None,
    control: np.ndarray | None,
    kind: str,
    settings: Settings,
) -> dict[str, Value]:
    names = ("edge_precision", "edge_recall", "edge_f1")
    if control is None or kind == "blur":
        why = "no control video" if control is None else "a blurred control has no edges"
        return dict.fromkeys(names, absent(why))
    canny_of = settings.edge_thresholds
    wanted = edges.drawn_edges(control) if kind == "edge" else edges.found_edges(control, canny_of)
    ours = edges.agreement(edges.found_edges(generated, canny_of), wanted, settings.edge_tolerance)
    true: Iterable[float | None] = (None, None, None)
    if real is not None:
        found = edges.found_edges(real, canny_of)
        true = edges.agreement(found, wanted, settings.edge_tolerance).tolist()
    reasons = ("no edges in the generated frames", "no edges in the control", "no edges in either")
    return {n: number(v, why, r) for n, v, why, r in zip(names, ours.tolist(), reasons, true)}


def _temporal(generated: np.ndarray, real: np.ndarray | None, settings: Settings) -> Value:
    if len(generated) < 2:
        return absent("a single frame")
    chosen = pictures.spread(len(generated) - 1, settings.few)

    def fits(frames: np.ndarray) -> list[sampson.Fit]:
        return [sampson.fit(frames[i : i + 1], frames[i + 1 : i + 2], moving=True) for i in chosen]

    return _fits(fits, generated, real)


def _cross_view(
    cameras: Sequence[str], kept: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, Value]:
    """Of every pair of neighbours, at the frames that were kept: one fit where they are rigid."""
    found = {}
    for a, b in rigs.neighbours(cameras):
        rigid = rigs.is_rigid(a, b)

        def fits(both: tuple[np.ndarray, np.ndarray], rigid: bool = rigid) -> list[sampson.Fit]:
            if rigid:
                return [sampson.fit(*both, moving=False)]
            frames = range(len(both[0]))
            return [sampson.fit(both[0][i : i + 1], both[1][i : i + 1], False) for i in frames]

        real = None
        if (REAL, a) in kept and (REAL, b) in kept:
            real = kept[REAL, a], kept[REAL, b]
        found[f"{a} | {b}"] = _fits(fits, (kept[GENERATED, a], kept[GENERATED, b]), real)
    return found


def _fits(take: Callable[[Any], list[sampson.Fit]], generated: Any, real: Any) -> Value:
    """The mean error of those fits that there are, of the generated and of the real video."""
    try:
        sampson.opencv()
    except ValueError:
        return absent(sampson.MISSING)
    made = take(generated)
    errors = [fit.error for fit in made if not fit.reason]
    why = sorted({fit.reason for fit in made if fit.reason})
    part = f"{len(made) - len(errors)} of {len(made)} pairs of frames: " if len(made) > 1 else ""
    reason = part + ", ".join(why)
    true = [fit.error for fit in take(real) if not fit.reason] if real is not None else []
    return Value(
        float(np.mean(errors)) if errors else None,
        float(np.mean(true)) if true else None,
        reason if why else "",
    )


def _sharpness(generated: np.ndarray, real: np.ndarray | None) -> Value:
    true = None if real is None else float(pictures.sharpness(real).mean())
    return number(pictures.sharpness(generated).mean(), "", true)


def _drifts(
    generated: np.ndarray, real: np.ndarray | None, fps: float | int, boundaries: Sequence[int]
) -> dict[str, Value]:
    ours = drift.drift(generated, fps, boundaries)
    names = ("sharpness_drift", "colour_drift")
    if len(ours.parts) < 2:
        return dict.fromkeys(names, absent("the video is one part (a second, or a chunk)"))
    true = None if real is None else drift.drift(real, fps, boundaries)
    first = ours.parts[0]
    sharp = number(
        ours.sharpness,
        "the first part has no sharpness at all",
        None if true is None else true.sharpness,
    )
    colour = number(ours.colour, "", None if true is None else true.colour)
    if sharp.value is not None:
        course = tuple(part.sharpness / first.sharpness - 1 for part in ours.parts)
        sharp = dataclasses.replace(sharp, over_time=course)
    away = tuple(math.dist(part.colour, first.colour) for part in ours.parts)
    return {names[0]: sharp, names[1]: dataclasses.replace(colour, over_time=away)}


def _seam(generated: np.ndarray, real: np.ndarray | None, boundaries: Sequence[int]) -> Value:
    if not boundaries:
        return absent("no seams: the video is one chunk")
    worst, true = (
        None if video is None else max(seam.ratio for seam in drift.seams(video, boundaries))
        for video in (generated, real)
    )
    return number(worst or 0.0, "a seam in a video that does not move", true)


def _train_distance(
    generated: np.ndarray, real: np.ndarray | None, train: np.ndarray | None
) -> Value:
    if train is None:
        return absent("no training videos given; see --train of cosmos_jax.evaluate")
    ours = float(nearest.distances(nearest.thumbnails(generated), train).mean())
    if real is None:
        return number(ours, "")
    true = float(nearest.distances(nearest.thumbnails(real), train).mean())
    return number(ours, "", true)


def _together(by: Mapping[str, Value]) -> dict[str, Any]:
    """The mean over cameras or pairs, with what is absent named."""
    values = [v.value for v in by.values() if v.value is not None]
    reals = [v.real for v in by.values() if v.real is not None]
    said = [(where, v.reason) for where, v in by.items() if v.reason]
    reason = ""
    if said:
        groups = itertools.groupby(sorted(said, key=lambda one: one[1]), key=lambda one: one[1])
        reason = "; ".join(_named(why, [w for w, _ in found], len(by)) for why, found in groups)
    return {
        "value": float(np.mean(values)) if values else None,
        "real": float(np.mean(reals)) if reals else None,
        "reason": reason,
        "by": {where: dataclasses.asdict(value) for where, value in by.items()},
    }


def _named(why: str, where: Sequence[str], count: int) -> str:
    return why if len(where) == count else f"{', '.join(where)}: {why}"
