"""Learning-rate factors by regex; loaded for a run that has some."""

import re
from collections.abc import Sequence

import optax
from flax import traverse_util

from cosmos_jax import optim
from cosmos_jax.types import Params

Factors = Sequence[tuple[str, float]]


def scaling(factors: Factors) -> optax.GradientTransformation:
    """Multiplies updates as `scale_by_path` does.

    Raises:
        ValueError: factors that are not positive, or not of a regex.
    """
    for pattern, factor in factors:
        optim.compiled(pattern, "config.optimizer.lr_factors")
        if not 0 < factor < float("inf"):
            raise ValueError(
                f"config.optimizer.lr_factors: {pattern!r} has factor {factor}; factors are "
                "positive, and what is not to be trained is left out of config.trainable"
            )
    return optax.stateless(lambda updates, params: scale_by_path(updates, factors))


def scale_by_path(updates: Params, factors: Factors) -> Params:
    """Updates times the factor of the first regex that fits the parameter's whole path, or 1.

    Raises:
        ValueError: a regex that is the first to fit for no parameter; names the nearest paths.
    """
    flat = traverse_util.flatten_dict(updates, sep="/")
    first = {
        path: next((row for row in factors if re.fullmatch(row[0], path)), None) for path in flat
    }
    for row in factors:
        if row not in first.values():
            raise ValueError(
                f"config.optimizer.lr_factors: {row[0]!r} is the first to fit for no trained "
                f"parameter; near it: {optim.near(row[0], flat)}"
            )
    scaled = {path: flat[path] * row[1] if row else flat[path] for path, row in first.items()}
    return traverse_util.unflatten_dict(scaled, sep="/")
