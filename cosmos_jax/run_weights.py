"""The weights of a run for sampling: one checkpoint's, without its optimiser."""

import os
import pathlib
from pathlib import Path

import jax
from flax import traverse_util

from cosmos_jax import checkpoints, optim
from cosmos_jax.train import Trainer
from cosmos_jax.types import Params, TrainState


def load_variables(
    path: Path, trainer: Trainer, abstract: TrainState, ema: bool
) -> dict[str, Params]:
    """The network's variables from one checkpoint, in the compute dtype; no optimiser is read."""
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, trainer.dtype, sharding=leaf.sharding),
        optim.merge(abstract.params, abstract.frozen),
    )
    params, constants = restore_weights(path, shapes, abstract.constants, ema)
    return {"params": params, "constants": constants}


def restore_weights(
    path: str | os.PathLike, params: Params, constants: Params, ema: bool
) -> tuple[Params, Params]:
    """The whole network of one checkpoint, for sampling; the optimiser is not read.

    Which parameters were trained is read from the checkpoint: those come from the EMA (or, where
    `ema` is False, from the float32 masters), the others from the frozen arrays.

    Args:
        path: one checkpoint folder, as `locate` returns.
        params: all parameters, as `jax.ShapeDtypeStruct` with shardings. Values are cast to these
            dtypes as they are read.
        constants: the constants, likewise.
        ema: whether to take the EMA.

    Returns:
        The parameters and the constants.

    Raises:
        ValueError: the checkpoint is of another model, or has no EMA.
    """
    path = pathlib.Path(path).absolute()
    record = checkpoints.read_record(path)
    item = "ema" if ema else "params"
    if not (path / item).is_dir():
        raise ValueError(
            f"{path} holds no {item}: the run kept no EMA; sample from the regular weights instead"
        )
    still_path = checkpoints.frozen_path(path, record)
    names = checkpoints.leaves(checkpoints.metadata(path, item))
    flat = traverse_util.flatten_dict(params, sep="/")
    trained, frozen = (
        traverse_util.unflatten_dict(
            {k: v for k, v in flat.items() if (k in names) == chosen}, sep="/"
        )
        for chosen in (True, False)
    )
    still = {"frozen": frozen, "constants": constants}
    checkpoints.check_arrays(path, path, {item: trained}, dtypes=False)
    checkpoints.check_arrays(path, still_path, still, dtypes=False)
    still = checkpoints.read_items(still_path, still)
    moving = checkpoints.read_items(path, {item: trained})
    return optim.merge(moving[item], still["frozen"]), still["constants"]
