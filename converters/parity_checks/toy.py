"""The network in the place of the real one in files about training steps and samplers."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from cosmos_jax.diffusion.flow import Velocity


def velocity(
    coefs: Float[Array, "6"],
    control: Float[Array, "b v t h w c"],
    mask: Float[Array, "b v t"],
    text_means: Float[Array, "rows"],
) -> Velocity:
    """v = a x + b sin x + c control + d time + e mask + f text, in float32.

    `text_means` has one entry for each row of the batch that the network gets; control and mask
    are repeated where it has more rows than they (the branches of guidance).
    """
    a, b, c, d, e, f = coefs

    def network(x: Array, timesteps: Array) -> Array:
        means = text_means[:, None, None, None, None, None]
        assert len(x) == len(timesteps) == len(means)
        control_rows = jnp.tile(control, (len(x) // len(control), 1, 1, 1, 1, 1))
        mask_rows = jnp.tile(mask, (len(x) // len(mask), 1, 1))[..., None, None, None]
        time = timesteps[..., None, None, None] / 1000
        x = x.astype(jnp.float32)
        return a * x + b * jnp.sin(x) + c * control_rows + d * time + e * mask_rows + f * means

    return network


def coefficients(case: Mapping[str, Any]) -> Float[Array, "6"]:
    """a..f of a case."""
    return jnp.asarray([case["coefs"][name] for name in "abcdef"], jnp.float32)


def control_weight(case: Mapping[str, Any]) -> float:
    """The factor of the control latents, which only multi-view networks take; None is 1."""
    weight = case["control_weight"]
    return (1.0 if weight is None else weight) * case["multiview"]
