"""Metrics over samples and checkpoints: means, which checkpoint is best, what looks amiss."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

HIGHER, LOWER, LIKE_REAL = "higher", "lower", "like real video"
NEAR_REAL = "like real video; without any, lower"


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric is called, and which values of it are good."""

    name: str
    title: str
    unit: str
    better: str
    about: str


METRICS = (
    Metric("psnr", "PSNR", "dB", HIGHER, "peak signal to noise ratio to the true frame"),
    Metric("ssim", "SSIM", "", HIGHER, "structural similarity to the true frame, 11x11 Gaussian"),
    Metric("blur_ssim", "blur-SSIM", "", HIGHER, "SSIM after both were blurred as controls are"),
    Metric("edge_precision", "edge precision", "", HIGHER, "share of generated edges that are due"),
    Metric("edge_recall", "edge recall", "", HIGHER, "share of the control's edges generated"),
    Metric("edge_f1", "edge F1", "", HIGHER, "harmonic mean of edge precision and recall"),
    Metric(
        "temporal_sampson", "temporal Sampson error", "px", NEAR_REAL,
        "misfit of matches between frames that follow each other to one rigid motion",
    ),
    Metric(
        "cross_view_sampson", "cross-view Sampson error", "px", NEAR_REAL,
        "misfit of matches between neighbouring cameras to one geometry",
    ),
    Metric("sharpness", "sharpness", "", LIKE_REAL, "variance of the brightness's Laplacian"),
    Metric(
        "sharpness_drift", "sharpness drift", "", NEAR_REAL,
        "sharpness of the last second (or chunk) over that of the first, minus 1",
    ),
    Metric(
        "colour_drift", "colour drift", "levels", NEAR_REAL,
        "largest distance of a second's (or chunk's) mean colour from the first's",
    ),
    Metric("seam", "seam", "", NEAR_REAL, "worst change at a seam over that around it"),
    Metric(
        "train_distance", "distance to training frames", "levels", LIKE_REAL,
        "of thumbnails, to the nearest of the training set",
    ),
    Metric("frechet_frames", "Frechet distance of frames", "", LOWER, "FID with the given network"),
    Metric("frechet_clips", "Frechet distance of clips", "", LOWER, "FVD with the given network"),
)  # fmt: skip
"""In the order of tables."""

BY_NAME = {metric.name: metric for metric in METRICS}

BLURRED, CRISP = 0.7, 1.5  # of real video's sharpness
MEMORISED = 0.7  # of real held-out video's distance to the training frames
IGNORED = 0.75  # of real video's agreement with the control
WORSE = 2.0  # standard errors of the difference between two checkpoints


@dataclasses.dataclass(frozen=True)
class Mean:
    """One metric of one checkpoint.

    Attributes:
        value: mean over the samples that have it; None: none has.
        stderr: its standard error; None for fewer than two samples.
        real: mean of real video's, where there is any.
        samples: how many have it, of `total`.
        total: samples of the checkpoint.
        reasons: why it is absent in others, or in parts, each once.
    """

    value: float | None
    stderr: float | None
    real: float | None
    samples: int
    total: int
    reasons: tuple[str, ...]


Samples = Mapping[str, Mapping[str, Any]]
"""{sample: its metrics, as of `measure.sample_metrics`}."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Metrics of each sample, and their means; a Frechet distance is in the means only."""

    samples: Samples
    means: Mapping[str, Mean]


Checkpoints = Mapping[str, Checkpoint]
"""By name, in order."""


def of_samples(samples: Samples) -> Checkpoint:
    """A checkpoint of which nothing is known but its samples' metrics."""
    return Checkpoint(samples, means(samples))


def of_result(result: Mapping[str, Any]) -> dict[str, Checkpoint]:
    """The checkpoints of what `run.evaluate` returned, or of its JSON.

    Raises:
        ValueError: it is of another form.
    """
    try:
        return {
            name: Checkpoint(
                {sample: one["metrics"] for sample, one in held["samples"].items()},
                {
                    metric: Mean(**{**mean, "reasons": tuple(mean["reasons"])})
                    for metric, mean in held["metrics"].items()
                },
            )
            for name, held in result["checkpoints"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the JSON of python -m cosmos_jax.evaluate: {error!r}") from error


def means(samples: Samples) -> dict[str, Mean]:
    """Every metric that any sample names, in the order of `METRICS`, then others."""
    named = {name for metrics in samples.values() for name in metrics}
    order = [m.name for m in METRICS if m.name in named] + sorted(named - BY_NAME.keys())
    return {name: _mean([metrics.get(name) for metrics in samples.values()]) for name in order}


def _mean(found: Sequence[Mapping[str, Any] | None]) -> Mean:
    values = [one["value"] for one in found if one and one["value"] is not None]
    reals = [one["real"] for one in found if one and one.get("real") is not None]
    reasons = dict.fromkeys(one["reason"] for one in found if one and one.get("reason"))
    if any(one is None for one in found):
        reasons["not measured"] = None
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(
        float(np.mean(values)) if values else None,
        spread,
        float(np.mean(reals)) if reals else None,
        len(values),
        len(found),
        tuple(reasons),
    )


def badness(name: str, value: float, real: float | None) -> float | None:
    """A number that is lower for better values; None where good cannot be told.

    What should be like real video is not the better for being lower: blurred frames have a small
    Sampson error, as their few features are coarse ones.
    """
    better = BY_NAME[name].better if name in BY_NAME else None
    if better == HIGHER:
        return -value
    if better == LOWER:
        return value
    if better is None:
        return None
    if real is None:
        return abs(value) if better == NEAR_REAL else None
    if name == "sharpness_drift":  # has a sign
        return abs(value - real)
    return abs(math.log(value / real)) if min(value, real) > 0 else abs(value - real)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One metric over checkpoints.

    Attributes:
        best: the checkpoint with the best mean.
        tied: others that are not worse than it by `WORSE` standard errors of the difference over
            the samples that both have. With fewer than two such samples nothing can be told apart,
            and all others are here.
    """

    best: str
    tied: tuple[str, ...]


def verdicts(checkpoints: Checkpoints) -> dict[str, Verdict]:
    """The best checkpoint by each metric that all checkpoints have, and whose good can be told."""
    found = {}
    for metric, scores in _scores(checkpoints).items():
        best = min(scores, key=lambda name: scores[name])
        tied = [
            name
            for name in scores
            if name != best
            and not _worse(metric, checkpoints[best].samples, checkpoints[name].samples)
        ]
        found[metric] = Verdict(best, tuple(tied))
    return found


def _scores(checkpoints: Checkpoints) -> dict[str, dict[str, float]]:
    """`badness` by metric and checkpoint, of the metrics for which all checkpoints have one."""
    found = {}
    for metric in METRICS:
        scores = {}
        for name, held in checkpoints.items():
            mean = held.means.get(metric.name)
            bad = None
            if mean is not None and mean.value is not None:
                bad = badness(metric.name, mean.value, mean.real)
            if bad is not None:
                scores[name] = bad
        if len(scores) == len(checkpoints):
            found[metric.name] = scores
    return found


def _worse(metric: str, best: Samples, other: Samples) -> bool:
    """Whether a checkpoint is surely worse than the best, sample by sample."""
    apart = []
    for name in best.keys() & other.keys():
        scores = []
        for samples in (best, other):
            one = samples[name].get(metric)
            bad = None
            if one and one["value"] is not None:
                bad = badness(metric, one["value"], one["real"])
            scores += [] if bad is None else [bad]
        if len(scores) == 2:
            apart.append(scores[1] - scores[0])
    if len(apart) < 2:
        return False
    return float(np.mean(apart)) > WORSE * float(np.std(apart, ddof=1)) / math.sqrt(len(apart))


def ranks(checkpoints: Checkpoints) -> dict[str, float]:
    """Mean place of each checkpoint over the metrics of `verdicts`; 1 for the best by all."""
    places: dict[str, list[int]] = {name: [] for name in checkpoints}
    for scores in _scores(checkpoints).values():
        for name, score in scores.items():
            places[name].append(1 + sum(other < score for other in scores.values()))
    return {name: float(np.mean(found)) for name, found in places.items() if found}


def signs(samples: Samples) -> list[str]:
    """What of a checkpoint looks over- or underfitted, in words."""
    said = []

    def ratio(name: str) -> float | None:
        both = [
            (m[name]["value"], m[name]["real"])
            for m in samples.values()
            if name in m and m[name]["value"] is not None and m[name]["real"]
        ]
        return (
            float(np.mean([a for a, _ in both]) / np.mean([b for _, b in both])) if both else None
        )

    sharp = ratio("sharpness")
    if sharp is not None and sharp < BLURRED:
        said.append(f"blurred ({sharp:.2f} of real sharpness): underfitted, or too few steps")
    if sharp is not None and sharp > CRISP:
        said.append(f"noisy or too crisp ({sharp:.2f} of real sharpness): guidance may be too high")
    f1 = ratio("edge_f1")
    if f1 is not None and f1 < IGNORED:
        said.append(f"keeps badly to its control ({f1:.2f} of real edge F1): underfitted")
    train = ratio("train_distance")
    if train is not None and train < MEMORISED:
        said.append(
            f"nearer to training frames than real video is ({train:.2f} of that): overfitted"
        )
    return said


def trends(checkpoints: Checkpoints) -> list[str]:
    """What got worse again up to the last checkpoint; `checkpoints` are in their order."""
    names = list(checkpoints)
    said = []
    for metric, verdict in verdicts(checkpoints).items():
        last = names[-1]
        if verdict.best != last and last not in verdict.tied:
            title = BY_NAME[metric].title
            truth = metric in ("psnr", "ssim", "blur_ssim")
            why = ": a sign of overfitting" if truth else ""
            said.append(f"{title} was best at {verdict.best} and is surely worse at {last}{why}")
    return said


def report(checkpoints: Checkpoints) -> str:
    """The table, and in words what looks amiss and which checkpoint comes first."""
    lines = [table(checkpoints), ""]
    for name, held in checkpoints.items():
        lines += [f"{name + ': ' if name else ''}{sign}" for sign in signs(held.samples)]
    if len(checkpoints) > 1:
        lines += trends(checkpoints)
        places = sorted(ranks(checkpoints).items(), key=lambda item: item[1])
        if places:
            order = ", ".join(f"{name} {place:.2f}" for name, place in places)
            lines.append(f"mean place over the metrics: {order}")
    return "\n".join(lines).rstrip()


def table(checkpoints: Checkpoints) -> str:
    """The means as text: one row a metric, one column a checkpoint, and real video's."""
    best = verdicts(checkpoints) if len(checkpoints) > 1 else {}
    head = ["metric", *(name or "value" for name in checkpoints), "real", "samples", "better"]
    rows, notes = [head], []
    for name in dict.fromkeys(metric for held in checkpoints.values() for metric in held.means):
        metric = BY_NAME.get(name)
        of_each = [held.means[name] for held in checkpoints.values() if name in held.means]
        cells = [
            _cell(held.means.get(name), best.get(name), at) for at, held in checkpoints.items()
        ]
        reals = [mean.real for mean in of_each if mean.real is not None]
        counts = " ".join(dict.fromkeys(f"{mean.samples}/{mean.total}" for mean in of_each))
        unit = f" [{metric.unit}]" if metric and metric.unit else ""
        title = f"{metric.title if metric else name}{unit}"
        better = metric.better if metric else ""
        rows.append([title, *cells, shown(reals[0]) if reals else "-", counts, better])
        reasons = list(dict.fromkeys(reason for mean in of_each for reason in mean.reasons))
        more = f" (and {len(reasons) - 1} more in the JSON)" if len(reasons) > 1 else ""
        notes += [f"  {title}: {reasons[0]}{more}"] if reasons else []
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["* best by its mean; ~ not surely worse than the best"] if best else []
    lines += ["", "absent, wholly or in part:", *notes] if notes else []
    return "\n".join(lines)


def _cell(mean: Mean | None, verdict: Verdict | None, checkpoint: str) -> str:
    if mean is None or mean.value is None:
        return "absent"
    mark = ""
    if verdict is not None:
        mark = " *" if verdict.best == checkpoint else " ~" if checkpoint in verdict.tied else ""
    return f"{with_error(mean)}{mark}"


def shown(value: float) -> str:
    """Four digits of a number."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def with_error(mean: Mean) -> str:
    """The mean, and its standard error where there is one."""
    around = "" if mean.stderr is None else f" ± {mean.stderr:.2g}"
    return "absent" if mean.value is None else f"{shown(mean.value)}{around}"
