"""A run that starts from weights: what its source must hold, and what the run adds to that.

Imported where a config names weights (`build_weights`).
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util
from jaxtyping import Array, Key

from cosmos_jax import build, optim, train
from cosmos_jax.build_weights import RANDOM, open_weights, place
from cosmos_jax.models import adapters
from cosmos_jax.models.dit import DiTConfig
from cosmos_jax.train import Trainer
from cosmos_jax.types import Params, TrainState, round_to

CONTROL_OUT = "control/blocks/after/kernel"
NO_CONTROL: dict[str, Any] = {"control_blocks": (), "control_channels": 0, "hint_widths": ()}


def source_config(values: Mapping[str, Any], config: DiTConfig) -> DiTConfig:
    """The network whose weights `config.init_from` holds: without what a run makes new.

    Raises:
        ValueError: `config.init_control` is unknown, or has nothing to copy from or to;
            `config.init_base` is unknown, or of weights that are not named.
    """
    control = values["init_control"]
    if (base := values["init_base"]) is not None:
        if values["init_from"] == RANDOM or control != "source":
            raise ValueError(
                f"config.init_base={base!r} needs weights in config.init_from, and "
                'config.init_control="source"'
            )
        config = build.network({**values, "model": {**values["model"], "base": base}}).config
    if control not in ("source", "copy"):
        raise ValueError(f'config.init_control={control!r} must be "source" or "copy"')
    if control == "source":
        return dataclasses.replace(config, adapter=None)
    if not config.control_blocks:
        raise ValueError('config.init_control="copy": the network has no control branch')
    if values["init_from"] == RANDOM:
        raise ValueError('config.init_control="copy" needs weights in config.init_from')
    return dataclasses.replace(config, adapter=None, **NO_CONTROL)


def check_source(values: Mapping[str, Any]) -> None:
    """Raises a ValueError where `config.init_from` does not hold what the run needs of it."""
    trainer = build.trainer(values)
    source, held = values["init_from"], source_config(values, trainer.net.config)
    if values["init_control"] == "copy" and not re.fullmatch(trainer.trainable, CONTROL_OUT):
        raise ValueError(
            'config.init_control="copy" makes a branch whose outputs are zero, and with '
            f"config.trainable={trainer.trainable!r} they stay so; train control/.* too"
        )
    try:
        open_weights(source, "dit", held)
    except ValueError:
        if held.control_blocks and _holds(source, dataclasses.replace(held, **NO_CONTROL)):
            raise ValueError(
                f"{source} has no control branch, and the network has one; start one from its "
                'blocks with config.init_control="copy", or give weights that have one'
            ) from None
        raise


def _holds(source: str, config: DiTConfig) -> bool:
    try:
        return bool(open_weights(source, "dit", config))
    except ValueError:
        return False


def initial_state(values: Mapping[str, Any], trainer: Trainer, sizes: build.Sizes) -> TrainState:
    """The state before the first step.

    Raises:
        ValueError: the source cannot be read, or is of another network.
    """
    wanted, constants = optim.merge(sizes.state.params, sizes.state.frozen), sizes.state.constants
    config, new = source_config(values, trainer.net.config), None
    if values["init_base"] is not None:
        pattern = unlike(trainer, sizes.inputs, config, wanted)
        new, wanted = optim.split_trainable(wanted, pattern)
    elif config != trainer.net.config:
        copies = values["init_control"] == "copy"
        pattern = f"{optim.ADAPTERS}|control/.*" if copies else optim.ADAPTERS
        new, wanted = optim.split_trainable(wanted, pattern)
    tree = place(values["init_from"], "dit", config, {"params": wanted, "constants": constants})
    if new:
        tree["params"] = grow(trainer, sizes.inputs, tree["params"], new)
    params, frozen = optim.split_trainable(tree["params"], trainer.trainable)
    return trainer.start(sizes.state, params, frozen, tree["constants"])


def unlike(trainer: Trainer, inputs: dict[str, Any], source: DiTConfig, wanted: Params) -> str:
    """A regex of the parameters that a source of another network does not give; says which.

    Args:
        trainer: of the run's network.
        inputs: the network's, small ones.
        source: the source's network.
        wanted: shapes of the run's parameters.
    """
    other = type(trainer.net)(source)
    shapes = jax.eval_shape(lambda key: other.init(key, **inputs)["params"], jax.random.key(0))
    held = {path: x.shape for path, x in traverse_util.flatten_dict(shapes, sep="/").items()}
    ours = {path: x.shape for path, x in traverse_util.flatten_dict(wanted, sep="/").items()}
    fresh = [path for path, shape in ours.items() if path not in held or held[path] != shape]
    for path in fresh:
        lost = f", in place of {held[path]}" if path in held else ""
        print(f"fresh    {path} {ours[path]}{lost}", flush=True)
    for path in sorted(held.keys() - ours.keys()):
        print(f"unused   {path} {held[path]} of the weights", flush=True)
    return "|".join(map(re.escape, fresh)) or "(?!)"


def grow(trainer: Trainer, inputs: dict[str, Any], params: Params, new: Params) -> Params:
    """The network's parameters from a part of them: the rest is made, by the run's seed.

    A control branch of which nothing is given has copies of the first trunk blocks, and is new
    beside them (cosmos-transfer2.5, "first_n" copy): its projections are zero, so the network
    computes what its trunk does. DoRA's magnitudes are the norms of the kernels that are given.

    Args:
        trainer: of the network.
        inputs: the network's, small ones (`train.network_inputs`).
        params: what is given, on devices.
        new: the rest, as `jax.ShapeDtypeStruct` with shardings.
    """
    config = trainer.net.config
    wanted = traverse_util.flatten_dict(new, sep="/")
    copies = bool(config.control_blocks) and "control" not in params

    def norms(kernel: Array) -> Array:
        return adapters.column_norms(round_to(kernel, config.dtype), config.dtype)

    # What is not returned is not computed: the compiler drops the rest of the initial weights.
    @functools.partial(jax.jit, out_shardings={path: x.sharding for path, x in wanted.items()})
    def make(key: Key[Array, ""], params: Params) -> dict[str, Array]:
        flat = traverse_util.flatten_dict(trainer.net.init(key, **inputs)["params"], sep="/")
        flat |= traverse_util.flatten_dict(params, sep="/")
        if copies:
            plain = {path: x for path, x in flat.items() if "/lora_" not in path}
            copied = control_from_trunk(traverse_util.unflatten_dict(plain, sep="/"))
            flat |= traverse_util.flatten_dict(copied, sep="/")
        for path in wanted:
            if path.endswith("/lora_magnitude"):
                kernel = flat[path.removesuffix("lora_magnitude") + "kernel"]
                flat[path] = jax.lax.map(norms, kernel)  # one layer in memory at a time
        return {path: flat[path].astype(leaf.dtype) for path, leaf in wanted.items()}

    key = jax.random.fold_in(jax.random.key(trainer.seed), train.INIT)
    return optim.merge(params, traverse_util.unflatten_dict(make(key, params), sep="/"))


def control_from_trunk(params: Params) -> Params:
    """Parameters whose control block i is a copy of trunk block i, whichever blocks it hints to.

    So new control training starts in cosmos-transfer2.5 ("first_n" copy). The other parameters of
    the control branch keep their values.
    """
    control = params["control"]
    blocks = dict(control["blocks"])
    count = jax.tree.leaves(blocks)[0].shape[0]
    blocks |= jax.tree.map(lambda stacked: stacked[:count], params["blocks"])
    return params | {"control": control | {"blocks": blocks}}
