"""What a training step takes of a device's memory, from shapes alone.

State, gradients and batch are counted from their shapes and shardings. What the backward pass keeps
is counted from the traced step: the outputs of its forward part. The rest, which only the compiler
knows, is `workspace`, fitted to what was measured.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import numpy as np

from cosmos_jax import build, encode, sharding
from cosmos_jax.diffusion import flow
from cosmos_jax.models.dit import DiTConfig
from cosmos_jax.train import Trainer
from cosmos_jax.types import Batch, TrainState

GIB = 2**30

TOKEN_ARRAYS = {"trunk": 33.0, "control": 20.5}
"""Workspace of a device's tokens, in arrays [tokens, width] of the compute dtype: the temporaries
of one block's backward pass, by whether anything of the trunk is trained. Fitted to what is left of
the peaks of `plan_measured.ROWS` on one card: 32.2 and 32.6 (all, 62,400 tokens), 36.1 (all,
197,120), 26.5 to 34.3 (compiler's figures, other `remat`); 21.5 and 19.4 (control branch)."""
GATHERED = {"trained": 1.0, "frozen": 0.5}
"""Workspace of parameters that are split over devices, in gathered copies of all of them in the
compute dtype. Fitted likewise: 6.3 GiB are left on four cards at 62,400 tokens and 10.2 at 197,120,
of which 2.0 and 6.2 are token arrays; one copy takes 4.45. With a frozen trunk 4.6 are left on two
cards, of which 2.4 are token arrays and 0.6 the trained copy; a frozen one takes 3.84."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device; `host_...`: in host memory, for each device.

    Attributes:
        parameters: trained parameters, float32 masters.
        frozen: the other parameters and constants.
        optimizer: moments.
        ema: average of the trained parameters.
        gradients: float32, twice where they are accumulated.
        saved: what is kept for the backward pass.
        batch: latents and text.
        workspace: the rest, see above.
        host_saved: what is kept for the backward pass in host memory.
        host_state: moments and average in host memory.
    """

    parameters: int
    frozen: int
    optimizer: int
    ema: int
    gradients: int
    saved: int
    batch: int
    workspace: int
    host_saved: int
    host_state: int

    def device(self) -> dict[str, int]:
        """The components on a device."""
        found = dataclasses.asdict(self)
        return {name: n for name, n in found.items() if not name.startswith("host_")}

    @property
    def total(self) -> int:
        """All of a device."""
        return sum(self.device().values())


def count(
    trainer: Trainer,
    sizes: build.Sizes,
    mesh: sharding.AnyMesh,
    batch: int,
    views: int,
    kernel: str,
) -> Memory:
    """Memory of a training step; no array is made. `mesh` must be set, as for the step.

    Args:
        trainer: its network computes attention by "xla", which stands in for `kernel`.
        sizes: on that mesh.
        mesh: the devices.
        batch: samples of a step.
        views: of a sample.
        kernel: the backend of attention that will run. Only "xla" holds scores.
    """
    state, network = sizes.state, sizes.network
    part = batch // trainer.accumulate
    device, host = _saved(trainer, sizes, part, views, kernel)
    averages = shard_bytes(state.opt_state), shard_bytes(state.ema)
    params = shard_bytes(state.params)
    tokens = sizes.tokens(views) * part / mesh.size
    width = network.width * np.dtype(trainer.dtype).itemsize
    arrays = TOKEN_ARRAYS["control" if control_only(state) else "trunk"]
    workspace = arrays * tokens * width + _gathered(trainer, state, mesh)
    if kernel == "xla":  # scores of one block and their gradient, float32
        workspace += 8 * tokens * network.heads * _keys(network, sizes.tokens(views), views)
    return Memory(
        parameters=params,
        frozen=shard_bytes((state.frozen, state.constants)),
        optimizer=0 if trainer.offload else averages[0],
        ema=0 if trainer.offload else averages[1],
        gradients=params * min(trainer.accumulate, 2),
        saved=device // mesh.size,
        batch=shard_bytes(encode.placed(sizes.batch(batch, views), mesh)),
        workspace=round(workspace),
        host_saved=host // mesh.size,
        host_state=sum(averages) if trainer.offload else 0,
    )


def shard_bytes(tree: Any) -> int:
    """Bytes that each device holds of shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(_nbytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in leaves)


def control_only(state: TrainState) -> bool:
    """Whether no parameter of the trunk is trained."""
    return set(state.params) == {"control"}


def _nbytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * dtype.itemsize


def _gathered(trainer: Trainer, state: TrainState, mesh: sharding.AnyMesh) -> float:
    if math.prod(mesh.shape[name] for name in sharding.WEIGHTS) == 1:
        return 0.0
    kinds = {"trained": state.params, "frozen": state.frozen}
    size = np.dtype(trainer.dtype).itemsize
    return sum(
        GATHERED[kind] * size * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for kind, tree in kinds.items()
    )


def _keys(network: DiTConfig, tokens: int, views: int) -> int:
    return tokens if network.joint_views else tokens // views


def _saved(
    trainer: Trainer, sizes: build.Sizes, batch: int, views: int, kernel: str
) -> tuple[int, int]:
    """Bytes that the forward part of a step keeps for the backward, on all devices and their hosts.

    Kernels other than "xla" keep no scores but a log-sum-exp for each query and head.
    """
    network = sizes.network
    arrays = _residuals(trainer, sizes.state, sizes.batch(batch, views))
    if kernel == "xla":
        kept, logs = arrays, 0
    else:
        is_scores = _scores(sizes, views)
        kept = [aval for aval in arrays if not is_scores(aval.shape)]
        blocks = 0 if network.remat == "full" else network.blocks + len(network.control_blocks)
        logs = 4 * network.heads * blocks * batch * sizes.tokens(views)
    totals = {False: logs, True: 0}
    for aval in kept:
        totals[aval.memory_space == jax.memory.Space.Host] += _nbytes(aval.shape, aval.dtype)
    return totals[False], totals[True]


def _residuals(trainer: Trainer, state: TrainState, batch: Batch) -> list[Any]:
    """Shapes of what the backward pass is given, beside state and batch."""
    adapter = trainer.net.config.adapter

    def forward(state: TrainState, batch: Batch) -> Any:
        key = jax.random.key(trainer.seed)
        draws = flow.training_noise(key, batch.index, batch.latents.shape[1:])
        dropout = key if adapter and adapter.dropout else None

        def mean_loss(params: Any) -> Any:
            return trainer.loss(params, state, batch, draws, dropout)[0].mean()

        return jax.vjp(mean_loss, state.params)[1]  # a pytree of what it keeps

    traced = jax.make_jaxpr(forward)(state, batch).jaxpr
    given = set(traced.invars)
    found = {v: v.aval for v in traced.outvars if isinstance(v, jax.extend.core.Var)}
    return [aval for v, aval in found.items() if v not in given]


def _scores(sizes: build.Sizes, views: int) -> Callable[[tuple[int, ...]], bool]:
    """Tells arrays of attention scores `[... queries keys]` by their last two axes."""
    tokens, (_, h, w, _), network = sizes.tokens(views), sizes.latents, sizes.network
    view, grid = tokens // views, h * w // network.patch**2
    near = max((len(ids) for ids in network.neighbours), default=0)
    keys = {tokens, view, sizes.text[0], near * grid}
    queries = {n // c for n in (tokens, view, grid) for c in (1, sharding.axis_size("context"))}

    def is_scores(shape: tuple[int, ...]) -> bool:
        return len(shape) > 3 and shape[-2] in queries and shape[-1] in keys

    return is_scores
