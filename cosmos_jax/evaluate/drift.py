"""What changes over a video: sharpness and colour by the second or chunk, and seams of chunks."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from cosmos_jax.evaluate import pictures

Frames = UInt8[np.ndarray, "f y x 3"]

REACH = 6  # differences on each side that a seam's is compared with


@dataclasses.dataclass(frozen=True)
class Part:
    """Means over frames `begin` to `end` (without it): sharpness, and levels of the colours."""

    begin: int
    end: int
    sharpness: float
    colour: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Drift:
    """How the parts differ from the first.

    Attributes:
        parts: the video's, in order.
        sharpness: of the last part over that of the first, minus 1; NaN where the first has none.
        colour: distance of the mean colours of the first and the farthest part, in levels.
    """

    parts: tuple[Part, ...]
    sharpness: float
    colour: float


def drift(frames: Frames, fps: float | int, boundaries: Sequence[int] = ()) -> Drift:
    """Sharpness and colour over time, against the first part.

    Args:
        boundaries: first frames of the chunks after the first; none: parts of one second, the last
            of which may be up to half a second longer or shorter.

    Raises:
        ValueError: boundaries that do not increase within the video.
    """
    starts = _starts(len(frames), fps, boundaries)
    sharp, colour = pictures.sharpness(frames), pictures.colour(frames)
    parts = tuple(
        Part(begin, end, float(sharp[begin:end].mean()), tuple(colour[begin:end].mean(0).tolist()))
        for begin, end in itertools.pairwise(starts)
    )
    first, last = parts[0], parts[-1]
    change = last.sharpness / first.sharpness - 1 if first.sharpness else math.nan
    far = max(math.dist(part.colour, first.colour) for part in parts)
    return Drift(parts, change, far)


def _starts(count: int, fps: float | int, boundaries: Sequence[int]) -> list[int]:
    if boundaries:
        _check(count, boundaries)
        return [0, *boundaries, count]
    seconds = max(1, round(count / fps))
    return [min(round(i * fps), count) for i in range(seconds)] + [count]


@dataclasses.dataclass(frozen=True)
class Seam:
    """The change from the frame before a boundary to the frame at it.

    Attributes:
        frame: the boundary: the first frame of the later chunk.
        difference: mean absolute difference of the two frames, in levels.
        around: median of such differences between the frames nearby.
        ratio: of the two. About 1: as smooth as its surroundings; inf: they do not move at all.
    """

    frame: int
    difference: float
    around: float
    ratio: float


def seams(
    frames: Frames, boundaries: Sequence[int], reach: int = REACH, step: int = 1
) -> list[Seam]:
    """Each boundary's frame difference against those of up to `reach` steps on either side.

    Differences at other boundaries do not count among the surroundings.

    Args:
        boundaries: first frames of the chunks after the first.
        reach: how many differences count on either side.
        step: frames from one that counts to the next. With the pixel frames of a codec's latent
            frame, a seam is compared with other borders of latent frames, as it is one itself.

    Raises:
        ValueError: boundaries that do not increase within the video, or nothing around one.
    """
    _check(len(frames), boundaries)
    change = np.array(
        [np.abs(a.astype(np.int16) - b).mean() for a, b in itertools.pairwise(frames)]
    )
    found = []
    for frame in boundaries:
        nearby = range(frame - reach * step, frame + reach * step + 1, step)
        others = [change[i - 1] for i in nearby if 0 < i < len(frames) and i not in boundaries]
        if not others:
            raise ValueError(f"the seam at frame {frame} has nothing around it to compare with")
        here, around = float(change[frame - 1]), float(np.median(others))
        ratio = here / around if around else (math.inf if here else 1.0)
        found.append(Seam(frame, here, around, ratio))
    return found


def _check(count: int, boundaries: Sequence[int]) -> None:
    given = [0, *boundaries, count]
    if any(a >= b for a, b in itertools.pairwise(given)):
        raise ValueError(
            f"chunk boundaries {list(boundaries)} do not increase within a video of {count} frames"
        )
