"""A user's own check of prompts and frames. The published models' licence asks for one.

`--guardrail=package.module:function` names a function that is called as

    function(prompt="text")          before anything is sampled, for every prompt
    function(frames=array)           for every view: uint8 [f y x 3]

A ValueError refuses the sample, with its words. Frames that are returned (of the same shape and
type) take the place of the sampled ones, as with blurred faces; None leaves them as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cosmos_jax import build
from cosmos_jax.sampling.requests import Request
from cosmos_jax.types import APART

Guardrail = Callable[..., Any]


class RefusedError(ValueError):
    """Sampled frames that a guardrail refuses."""


def load(name: str | None) -> Guardrail | None:
    """The function that a flag names; None for none."""
    return None if name is None else build.load(name, "--guardrail")


def check_prompts(guardrail: Guardrail | None, requests: Sequence[Request]) -> None:
    """Raises a ValueError for a prompt that is refused."""
    if guardrail is None:
        return
    for request in requests:
        for prompt in dict.fromkeys(
            (*(v.caption for v in request.views), *(request.negative or ()))
        ):
            try:
                guardrail(prompt=prompt.replace(APART, " "))
            except ValueError as error:
                raise ValueError(f"sample {request.name!r}: refused: {error}") from error


def check_frames(
    guardrail: Guardrail | None, views: UInt8[np.ndarray, "v f y x 3"]
) -> UInt8[np.ndarray, "v f y x 3"]:
    """Frames as the guardrail lets them pass.

    Raises:
        RefusedError: they are refused.
        ValueError: what comes back is of another shape or type.
    """
    if guardrail is None:
        return views
    passed = []
    for frames in views:
        try:
            back = guardrail(frames=frames)
        except ValueError as error:
            raise RefusedError(f"refused: {error}") from error
        back = frames if back is None else np.asarray(back)
        if back.shape != frames.shape or back.dtype != np.uint8:
            raise ValueError(
                f"the guardrail gave back {back.dtype} {back.shape} for uint8 {frames.shape}"
            )
        passed.append(back)
    return np.stack(passed)
