"""Which frames a long video's chunks hold, and what one chunk hands to the next.

A chunk is a clip of the trained length. It begins with the last `overlap` frames of the chunk
before, as given frames. The codec's first latent frame holds one pixel frame and every later one
`temporal`, so of an overlap of 1 + m temporal frames the last m latents can be handed over as they
are: they lie on the same borders in both chunks. The first one cannot: its frame is encoded, alone,
from what the chunk before decoded it to. The reference encodes all of it from 8-bit pixels.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8


@dataclasses.dataclass(frozen=True)
class Plan:
    """The chunks of a video.

    Attributes:
        frames: of the whole video.
        clip: of a chunk.
        overlap: of a chunk and the next.
    """

    frames: int
    clip: int
    overlap: int

    @property
    def starts(self) -> list[int]:
        """First frame of every chunk in the video."""
        stride = self.clip - self.overlap
        count = 1 + max(0, -(-(self.frames - self.clip) // stride))
        return [i * stride for i in range(count)]

    @property
    def boundaries(self) -> list[int]:
        """First frame that each chunk after the first adds."""
        return [start + self.overlap for start in self.starts[1:]]

    def window(self, chunk: int, available: int) -> list[int]:
        """The frames that a chunk reads; past the last available one, that one again."""
        first = self.starts[chunk]
        return [min(first + i, available - 1) for i in range(self.clip)]


def plan(
    available: int | None,
    clip: int,
    chunks: int | None,
    overlap: int,
    whole: bool,
    frames: int | None,
) -> Plan:
    """Chunks of a video.

    Args:
        available: frames of its control; None: nothing limits.
        clip: frames of a chunk.
        chunks: the most; None: until the frames end.
        overlap: of a chunk and the next.
        whole: leave out a last chunk that is not filled.
        frames: of the video, exactly, in as many chunks as that takes; None: see `chunks`.

    Raises:
        ValueError: an overlap that leaves no new frames, no end to the chunks, or fewer frames than
            are wanted.
    """
    if not 1 <= overlap < clip:
        raise ValueError(f"chunk_overlap={overlap} must lie in 1..{clip - 1} for clips of {clip}")
    if chunks is not None and chunks < 1:
        raise ValueError(f"num_chunks={chunks} must be at least 1")
    if frames is not None:
        if available is not None and available < frames:
            raise ValueError(f"{frames} frames are wanted, and the control has {available}")
        return Plan(frames, clip, overlap)
    stride = clip - overlap
    if available is None:
        if chunks is None:
            raise ValueError("num_chunks=all needs a control video, whose end is the video's")
        return Plan(clip + (chunks - 1) * stride, clip, overlap)
    most = available if not whole else clip + max(0, available - clip) // stride * stride
    if chunks is not None:
        most = min(most, clip + (chunks - 1) * stride)
    return Plan(max(most, clip), clip, overlap)


def handed_over(
    latents: Float[np.ndarray, "b v t h w c"],
    first: Float[np.ndarray, "b v 1 h w c"],
    overlap: int,
    temporal: int,
) -> Float[np.ndarray, "b v n h w c"]:
    """Given latents of the next chunk: its first frame's, then the last of the chunk before."""
    kept = (overlap - 1) // temporal
    return np.concatenate([first, latents[:, :, latents.shape[2] - kept :]], axis=2)


def put(
    video: UInt8[np.ndarray, "v f y x 3"],
    plan: Plan,
    chunk: int,
    pixels: UInt8[np.ndarray, "v f2 y x 3"],
    cross_fade: bool = False,
) -> None:
    """Writes a chunk into its place in the whole video, behind the chunk before.

    Its first `overlap` frames are there already; with `cross_fade` they are blended, from the
    earlier chunk's to the later's in even steps. What is past the video's end is left out.
    """
    start, shared = plan.starts[chunk], plan.overlap if chunk else 0
    end = min(start + plan.clip, plan.frames)
    if shared and cross_fade:
        weight = (np.arange(1, shared + 1) / (shared + 1)).reshape(-1, 1, 1, 1)
        both = video[:, start : start + shared]
        blend = both * (1 - weight) + pixels[:, :shared] * weight
        video[:, start : start + shared] = np.round(blend).astype(np.uint8)
    video[:, start + shared : end] = pixels[:, shared : end - start]
