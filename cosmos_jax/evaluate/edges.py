"""How well generated frames keep to a control video of edges."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from cosmos_jax.evaluate import pictures
from cosmos_jax.prepare import canny

Frames = UInt8[np.ndarray, "f y x 3"]
Edges = Bool[np.ndarray, "f y x"]
Thresholds = tuple[float | int, float | int]

LINE = 128  # an edge of a control video is at least this bright, of 255
# A picture of lines has hardly any colour, and few levels that are neither black nor white. Set on
# edge videos at the rate of `prepare edges`, whose lines compression has smeared.
COLOURLESS = 12.0  # levels
BETWEEN = (64, 192)
FEW = 0.15


def found_edges(frames: Frames, thresholds: Thresholds) -> Edges:
    """Canny's edges, as `prepare edges` finds them."""
    return np.stack([canny.canny(frame, *thresholds) for frame in frames])


def drawn_edges(control: Frames) -> Edges:
    """The white lines of an edge control video."""
    return pictures.luma(control) >= LINE


def is_drawn(control: Frames) -> bool:
    """Whether a video looks like white lines on black."""
    first = control[:: max(1, len(control) // 4)]
    grey = pictures.luma(first)
    tint = float((first.max(axis=-1) - first.min(axis=-1)).mean())
    between = float(((grey > BETWEEN[0]) & (grey < BETWEEN[1])).mean())
    bright = float((grey >= BETWEEN[1]).mean())
    return tint < COLOURLESS and between < FEW and 0 < bright < 0.5 and between < 4 * bright


def near(edges: Edges, tolerance: int) -> Edges:
    """Pixels with an edge at most `tolerance` rows and columns away."""
    for axis in (1, 2):
        grown = edges.copy()
        for step in range(1, tolerance + 1):
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            grown[tuple(ahead)] |= edges[tuple(behind)]
            grown[tuple(behind)] |= edges[tuple(ahead)]
        edges = grown
    return edges


def agreement(
    found: Edges, wanted: Bool[np.ndarray, "_ _ _"], tolerance: int
) -> Float[np.ndarray, "3"]:
    """Precision, recall and F1 of the edges found, over all frames.

    Precision: the share of the edges found that have a wanted edge within `tolerance`; recall: the
    share of the wanted that have one found there. NaN where there is nothing to take a share of; F1
    is NaN only where there are neither.

    Raises:
        ValueError: shapes differ.
    """
    pictures.check_same(found, wanted)
    count, due = int(found.sum()), int(wanted.sum())
    precision = (found & near(wanted, tolerance)).sum() / count if count else np.nan
    recall = (wanted & near(found, tolerance)).sum() / due if due else np.nan
    if not count or not due:
        return np.array([precision, recall, 0.0 if count or due else np.nan])
    both = precision + recall
    return np.array([precision, recall, 2 * precision * recall / both if both else 0.0])
