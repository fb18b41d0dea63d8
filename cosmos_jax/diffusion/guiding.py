"""What sampling is asked for: how many frames are given, and how strongly the text guides.

Source: cosmos-transfer2.5 and cosmos-predict2.5, inference.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int


def latent_frames(frames: int, temporal: int) -> int:
    """Latent frames that hold exactly the first `frames` pixel frames.

    That is 0 of 0, else 1 + (frames - 1) / temporal.

    Raises:
        ValueError: no number of latent frames holds exactly so many pixel frames.
    """
    if frames == 0:
        return 0
    if frames < 0 or (frames - 1) % temporal:
        raise ValueError(
            f"num_conditional_frames={frames}: a latent frame holds {temporal} pixel frames and "
            f"the first one holds 1, so give 0, 1, {1 + temporal}, {1 + 2 * temporal}, ..."
        )
    return 1 + (frames - 1) // temporal


def pixel_frames(latents: int, temporal: int) -> int:
    """Pixel frames that the first `latents` latent frames hold: the inverse of `latent_frames`."""
    return 1 + (latents - 1) * temporal if latents else 0


def view_counts(counts: int | Sequence[int], v: int, t: int) -> Int[np.ndarray, "v"]:
    """Explicit numbers of given latent frames: one for all views, or one for each view.

    Raises:
        ValueError: not one count per view, or a count outside 0..t.
    """
    per_view = [counts] * v if isinstance(counts, int) else list(counts)
    if len(per_view) != v:
        raise ValueError(
            f"{len(per_view)} counts of conditional latent frames {per_view} for {v} views; give "
            "one number, or one for each view"
        )
    if any(not 0 <= n <= t for n in per_view):
        raise ValueError(f"conditional latent frames {per_view} do not all lie in 0..{t}")
    return np.array(per_view, np.int32)


def guide(
    cond: Float[Array, "b v t h w c"],
    uncond: Float[Array, "b v t h w c"],
    guidance: float | Float[Array, ""],
) -> Float[Array, "b v t h w c"]:
    """Classifier-free guidance in the form `cond + g (cond - uncond)`: g = 0 is no guidance.

    Predict2.5 multiview publishes g of `uncond + g (cond - uncond)`; here that is g - 1.
    """
    return cond + guidance * (cond - uncond)
