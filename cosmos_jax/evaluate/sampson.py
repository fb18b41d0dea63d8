"""Whether two pictures can be of one rigid scene: distance from the best epipolar geometry.

SIFT features are matched between two frames (of one camera at two times, or of two cameras at one
time), a fundamental matrix is fitted by RANSAC, and each match's Sampson distance to it is the
number of pixels by which the match fails the geometry. Cameras that do not move against each other
have one matrix for all times. Needs OpenCV (the extra `evaluate`).
"""

import dataclasses
import importlib
import math
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

Frame = UInt8[np.ndarray, "y x 3"]
Frames = UInt8[np.ndarray, "f y x 3"]
Points = Float[np.ndarray, "n 2"]

FEATURES = 4000  # at most, of a frame
RATIO = 0.8  # Lowe's: the second-best match is at least so much worse
THRESHOLD = 1.0  # pixels: what RANSAC takes for an inlier
CONFIDENCE = 0.999
TRIALS = 5000
FEWEST = 20  # matches, for a fit that 7 of them do not make up by themselves
STILL = 0.2  # pixels: matches that move less than this at the median tell no geometry
MISSING = "needs OpenCV: pip install 'cosmos_jax[evaluate]'"


@dataclasses.dataclass(frozen=True)
class Fit:
    """The geometry of two frames.

    Attributes:
        error: median over the matches of the Sampson distance (its root), in pixels; NaN: no fit.
        inliers: share of the matches that are within `THRESHOLD`; NaN: no fit.
        matches: how many features were matched.
        reason: why there is no fit; "" where there is one.
    """

    error: float
    inliers: float
    matches: int
    reason: str = ""


def opencv() -> Any:
    """The module cv2.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ValueError(f"the Sampson error {MISSING}") from error


def distances(
    fundamental: Float[np.ndarray, "3 3"], first: Points, second: Points
) -> Float[np.ndarray, "n"]:
    """Root of each match's Sampson distance to `x2 F x1 = 0`, in pixels.

    Source: Hartley and Zisserman, Multiple View Geometry, 11.4.3.
    """
    ones = np.ones((len(first), 1))
    a, b = np.hstack([first, ones]), np.hstack([second, ones])
    lines, back = a @ fundamental.T, b @ fundamental
    residual = np.einsum("ni,ni->n", b, lines)
    slope = np.square(lines[:, :2]).sum(1) + np.square(back[:, :2]).sum(1)
    return np.abs(residual) / np.sqrt(np.maximum(slope, 1e-30))


def matches(first: Frame, second: Frame) -> tuple[Points, Points]:
    """Places (column, row) of features that are each other's best match.

    Raises:
        ValueError: OpenCV is not installed.
    """
    cv2 = opencv()
    finder = cv2.SIFT_create(FEATURES)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    (places, about), (others, what) = (finder.detectAndCompute(picture, None) for picture in grey)
    nothing = np.zeros((0, 2))
    if about is None or what is None or min(len(about), len(what)) < 2:
        return nothing, nothing
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    forth = {
        best.queryIdx: best.trainIdx
        for best, second_best in matcher.knnMatch(about, what, k=2)
        if best.distance < RATIO * second_best.distance
    }
    back = {match.queryIdx: match.trainIdx for match in matcher.match(what, about)}
    kept = [(i, j) for i, j in forth.items() if back[j] == i]
    if not kept:
        return nothing, nothing
    return (
        np.array([places[i].pt for i, _ in kept], np.float64),
        np.array([others[j].pt for _, j in kept], np.float64),
    )


def fit(first: Frames, second: Frames, moving: bool) -> Fit:
    """Matches frames pair by pair, and fits one fundamental matrix to all matches.

    Args:
        first: frames of one camera.
        second: as many of another, or of the same at other times.
        moving: the frames are of one camera at two times: where next to nothing moved, any geometry
            fits, so there is none to report.

    Raises:
        ValueError: OpenCV is not installed.
    """
    pairs = [matches(a, b) for a, b in zip(first, second, strict=True)]
    a, b = (np.concatenate(points) for points in zip(*pairs))
    if len(a) < FEWEST:
        return Fit(math.nan, math.nan, len(a), f"fewer than {FEWEST} matches")
    if moving and np.median(np.hypot(*(a - b).T)) < STILL:
        return Fit(math.nan, math.nan, len(a), f"nothing moves by {STILL} pixels")
    return fit_points(a, b)


def fit_points(first: Points, second: Points) -> Fit:
    """A fundamental matrix by RANSAC, and how far the matches are from it.

    Raises:
        ValueError: OpenCV is not installed.
    """
    cv2 = opencv()
    found, _ = cv2.findFundamentalMat(first, second, cv2.FM_RANSAC, THRESHOLD, CONFIDENCE, TRIALS)
    if found is None or found.shape != (3, 3):
        return Fit(math.nan, math.nan, len(first), "no geometry fits the matches")
    apart = distances(found, first, second)
    inliers = float((apart <= THRESHOLD).mean())
    return Fit(float(np.median(apart)), inliers, len(first))
