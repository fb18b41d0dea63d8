"""Whether two videos show the same moments: how much moves from frame to frame, and when.

What moves is the mean change of grey in each cell of an 8x8 grid. It is compared over time, without
its slow part, at every lag; a file that runs early or late agrees best at a lag that is not 0.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Float32

from cosmos_jax.data.video import VideoInfo
from cosmos_jax.prepare import streams

CELLS = 8
WIDTH, HEIGHT = 64, 48  # of the grey picture in which change is measured
LONGEST_LAG = 30  # frames
FEWEST = 12  # changes that two videos must share, or nothing can be told
SMOOTH = 9  # frames whose mean is the slow part
# A suspicion needs this correlation (two cameras see different things, a control the same), and to
# be that much better than lag 0. Set on real drives and their edges, shifted and encoded again.
ENOUGH = {"camera": 0.6, "control": 0.2}
BETTER = 0.15
CHANCE = 4.0  # two curves of n numbers that have nothing in common seldom reach 4 / sqrt(n)

Motion = Float32[np.ndarray, "_ cell"]


def measure(info: VideoInfo) -> Motion:
    """Change from each frame to the next in each cell, in grey levels; decodes the whole file.

    Raises:
        FileError: a frame that cannot be decoded.
    """
    before, changes = None, [np.zeros((0, CELLS * CELLS), np.float32)]
    for frame in streams.decode(info):
        small = frame.reformat(width=WIDTH, height=HEIGHT, format="gray", interpolation="AREA")
        grey = small.to_ndarray().astype(np.float32)
        if before is not None:
            change = np.abs(grey - before).reshape(CELLS, HEIGHT // CELLS, CELLS, WIDTH // CELLS)
            changes.append(change.mean((1, 3)).reshape(1, -1))
        before = grey
    return np.concatenate(changes).astype(np.float32)


def measure_once(info: VideoInfo, cache: Path) -> Motion:
    """`measure`, kept in the folder `cache` until the file changes.

    Raises:
        FileError: a frame that cannot be decoded.
    """
    status = os.stat(info.path)
    stamp = f"{Path(info.path).resolve()} {status.st_size} {status.st_mtime_ns}"
    path = cache / f"{hashlib.sha256(stamp.encode()).hexdigest()[:32]}.npy"
    try:
        return np.load(path).astype(np.float32)
    except (OSError, ValueError, EOFError):  # absent, or the rest of a write that was stopped
        motion = measure(info)
    draft = path.with_suffix(f".{os.getpid()}.partial")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            np.save(file, motion.astype(np.float16))
        os.replace(draft, path)
    except OSError as error:  # costs time only
        draft.unlink(missing_ok=True)
        text = "%s cannot be written (%s): what it holds is worked out anew next time"
        logging.log_first_n(logging.WARNING, text, 1, path, error)
    return motion


@dataclasses.dataclass(frozen=True)
class Timing:
    """How two videos of an episode lie in time.

    Attributes:
        lag: frames that the second runs late (early, where negative) for the best agreement.
        best: correlation at that lag.
        at_zero: correlation as the files are.
        verdict: "together", "suspicion" (of the lag), or "cannot tell".
    """

    lag: int
    best: float
    at_zero: float
    verdict: str


def _quick(motion: Motion) -> np.ndarray:
    """What is left of the logarithm without its mean over `SMOOTH` frames around."""
    log = np.log1p(motion)
    half = SMOOTH // 2
    sums = np.cumsum(np.pad(log, ((half + 1, half), (0, 0)), mode="edge"), axis=0)
    return log - (sums[SMOOTH:] - sums[:-SMOOTH]) / SMOOTH


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of all cells together, each without its own mean over time; 0 where one does not change."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / size if size > 1e-6 else 0.0


def compare(first: Motion, second: Motion, kind: str) -> Timing:
    """Compares two videos.

    Args:
        kind: "camera": two views, whose cells show different things, so only the sum counts;
            "control": a video and its control, cell by cell.
    """
    if kind == "camera":
        first, second = first.mean(1, keepdims=True), second.mean(1, keepdims=True)
    count = min(len(first), len(second))
    if count < FEWEST:
        return Timing(0, 0.0, 0.0, "cannot tell")
    a, b = _quick(first[:count]), _quick(second[:count])
    reach = min(LONGEST_LAG, count - FEWEST, count // 3)
    found = {
        lag: _correlation(
            a[max(0, -lag) : count - max(0, lag)], b[max(0, lag) : count + min(0, lag)]
        )
        for lag in range(-reach, reach + 1)
    }
    lag = max(found, key=lambda k: (found[k], -abs(k)))
    enough = ENOUGH[kind]
    if kind == "camera":  # one curve each; a control has one for each cell
        enough = max(enough, CHANCE / float(np.sqrt(count - abs(lag))))
    if found[lag] < enough:
        verdict = "cannot tell"
    elif lag and found[lag] - found[0] > BETTER:
        verdict = "suspicion" if abs(lag) < reach else "cannot tell"  # no peak, but a slope
    else:
        verdict = "together"
    return Timing(lag, round(found[lag], 3), round(found[0], 3), verdict)
