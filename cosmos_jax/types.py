"""The axis legend, the three records that pass between the parts, and rounding.

Axis letters, in jaxtyping annotations, einsum and einops patterns alike:

    b  sample in the batch         v  camera view
    f  pixel frame                 y, x  pixel row, column
    t  latent frame                h, w  latent (or patch) row, column
    c  channel                     d  network width
    l  token                       s  text token          e  text feature
    n  attention head, or layer in a stack of parameters  k  head width

Latents are always `b v t h w c`: the view is an axis of its own, and a single-view model has v=1.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Params = dict[str, Any]
"""A plain nested dict of arrays, as `flax.linen` makes it."""

APART = "\x1e"  # the "record separator" of ASCII, which no caption holds
"""Stands between the sentences of a caption that a text encoder takes one by one."""

Leaf = Any
"""A `jax.Array`, or what stands for it when the same tree holds shapes or shardings."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One sample, or a stack of samples, in host memory. A stack has a leading `b` on every field.

    Attributes:
        video: uint8 `[v f y x 3]`, RGB; or latents `[v t h w c]`, bfloat16 or float32.
        control: of the same shape and type, or None where the data set is read without control.
        captions: one string a view; "" where a view has no text of its own. A stack
            holds a tuple of such tuples.
        view_ids: int32 `[v]`, the row of the model's view table that each view takes.
        fps: frames per second after striding.
        index: the global sample index: the position in the endless shuffled stream of samples
            that a run consumes. All randomness of training is derived from it, never from a worker
            or host.
        name: episode and first frame, for messages.
    """

    video: np.ndarray
    control: np.ndarray | None
    captions: tuple
    view_ids: np.ndarray
    fps: Any
    index: Any
    name: Any


class Batch(flax.struct.PyTreeNode):
    """What the training step sees, on the devices.

    Attributes:
        latents: normalised video latents `[b v t h w c]`.
        control: control latents `[b v t h w c]` (several modalities are concatenated in c), or
            None.
        text: text embeddings `[b v s e]`, before the network's own projection.
        view_ids: int32 `[b v]`.
        index: int32 `[b]`, global sample indices (see `Clip.index`).
        fps: float32 `[b]`.
    """

    latents: Leaf
    control: Leaf | None
    text: Leaf
    view_ids: Leaf
    index: Leaf
    fps: Leaf


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes, and the frozen arrays that it reads.

    Attributes:
        step: int32 scalar, the number of finished steps.
        params: trainable parameters, float32 masters.
        frozen: parameters that are not trained, held once in the compute dtype.
        constants: arrays of the network that are never trained (rope ranges).
        opt_state: of the trainable parameters only.
        ema: float32 average of the trainable parameters, or None.
    """

    step: Leaf
    params: Params
    frozen: Params
    constants: Params
    opt_state: Any
    ema: Params | None


def round_to(x: Float[Array, "*shape"], dtype: DTypeLike) -> Float[Array, "*shape"]:
    """The values of `x` rounded to `dtype`, still in the dtype of `x`.

    Not `x.astype(dtype).astype(x.dtype)`: XLA may drop such a pair of casts
    (xla_allow_excess_precision is on by default), and then nothing is rounded.
    """
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=info.nmant)
