"""Rectified flow: the noise, the time, and the loss of one training step.

With clean latents x0, noise eps and sigma in (0, 1): x_t = sigma eps + (1 - sigma) x0, and the
network learns the velocity eps - x0 (Liu et al. 2022, "Flow Straight and Fast"; the time shift is
of Esser et al. 2024, "Scaling Rectified Flow Transformers"). All frames and views share one sigma.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from cosmos_jax.diffusion import conditioning
from cosmos_jax.types import round_to

Velocity = Callable[[Array, Array], Array]
"""velocity(x `[b v t h w c]`, timesteps `[b v|1 t|1]` in 0..1000) -> `[b v t h w c]`."""

EPSILON, TIME, CONDITION, TEXT = range(4)  # what a draw is for; folded into a sample's key


class Draws(NamedTuple):
    """All randomness of one training step.

    Attributes:
        epsilon: standard normal `[b v t h w c]`, the noise.
        normal: standard normal `[b]`, becomes the time (`sigma_from_normal`).
        condition: uniform `[b]`, becomes the number of given frames (`conditioning.choose_counts`).
        text: uniform `[b v]`, decides text dropout (`conditioning.drop_text`).
    """

    epsilon: Float[Array, "b v t h w c"]
    normal: Float[Array, "b"]
    condition: Float[Array, "b"]
    text: Float[Array, "b v"]


class Flow(NamedTuple):
    """What the loss was computed from, all float32 but `net_input`, which has the compute dtype.

    Attributes:
        sigma: `[b]`.
        timesteps: `[b 1 1]` or `[b v t]`, as the network received them.
        noisy: x_t `[b v t h w c]`, before the given frames were put in.
        net_input: `[b v t h w c]`, as the network received it.
        target: the velocity to learn `[b v t h w c]`.
        prediction: the network's velocity `[b v t h w c]`, on given frames the target.
    """

    sigma: Float[Array, "b"]
    timesteps: Float[Array, "b _ _"]
    noisy: Float[Array, "b v t h w c"]
    net_input: Float[Array, "b v t h w c"]
    target: Float[Array, "b v t h w c"]
    prediction: Float[Array, "b v t h w c"]

    @property
    def errors(self) -> Float[Array, "b v t"]:
        """What each latent frame adds to the loss."""
        return jnp.mean((self.prediction - self.target) ** 2, axis=(3, 4, 5))


def training_noise(
    key: Key[Array, ""], index: Int[Array, "b"], shape: tuple[int, int, int, int, int]
) -> Draws:
    """Draws the randomness of a batch, each sample from its own key.

    A sample's draws depend on `key`, its global index and `shape` only, never on its place in the
    batch, the batch size or the mesh.

    Args:
        key: of this step.
        index: global sample indices.
        shape: v, t, h, w, c of the latents.
    """

    def sample(i: Array) -> Draws:
        own = jax.random.fold_in(key, i)
        return Draws(
            epsilon=jax.random.normal(jax.random.fold_in(own, EPSILON), shape),
            normal=jax.random.normal(jax.random.fold_in(own, TIME)),
            condition=jax.random.uniform(jax.random.fold_in(own, CONDITION)),
            text=jax.random.uniform(jax.random.fold_in(own, TEXT), shape[:1]),
        )

    return jax.vmap(sample)(index)


def sigma_from_normal(
    normal: Float[Array, "b"], shift: float, levels: int | None = None
) -> Float[Array, "b"]:
    """Time from a standard normal draw: u = sigmoid(normal), sigma = shift u / (1 + (shift - 1) u).

    Args:
        normal: one draw a sample.
        shift: moves times towards noise; the published runs take 5.
        levels: None for a continuous time (cosmos-transfer2.5); 1000 for the first release of
            cosmos-predict2.5, which takes entry floor(1000 u) of a table that FALLS from sigma 1.
    """
    u = jax.nn.sigmoid(normal)
    if levels is not None:
        u = 1 - jnp.floor(levels * u) / levels
    return shift * u / (1 + (shift - 1) * u)


def frame_timesteps(
    timesteps: Float[Array, "b"], mask: Float[Array, "b v t"], conditional_frame_timestep: float
) -> Float[Array, "b _ _"]:
    """The timesteps (0..1000) that the network receives: one a sample, or one a frame.

    Args:
        timesteps: of the noisy frames.
        mask: 1 where a frame is given.
        conditional_frame_timestep: -1 where given frames take the timestep of the others (result
            `[b 1 1]`; the pre-trained base and all multiview models), else the timestep of given
            frames (result `[b v t]`; 0.1 in Predict2.5-2B/post-trained).

    Raises:
        ValueError: `conditional_frame_timestep` is neither -1 nor in 0..1000.
    """
    whole = timesteps[:, None, None]
    if conditional_frame_timestep == -1:
        return whole
    if not 0 <= conditional_frame_timestep <= 1000:
        raise ValueError(
            f"conditional_frame_timestep={conditional_frame_timestep}: give a timestep in 0..1000 "
            "for the given frames, or -1 for the timestep of the noisy ones"
        )
    return jnp.where(mask > 0, jnp.float32(conditional_frame_timestep), whole)


def loss(
    velocity: Velocity,
    latents: Float[Array, "b v t h w c"],
    mask: Float[Array, "b v t"],
    epsilon: Float[Array, "b v t h w c"],
    normal: Float[Array, "b"],
    *,
    shift: float,
    conditional_frame_timestep: float,
    dtype: DTypeLike,
    levels: int | None = None,
) -> tuple[Float[Array, "b"], Flow]:
    """The rectified flow loss of each sample: mean over all elements of (velocity - target)^2.

    Given frames enter the network clean, and its output there is replaced by the target: they give
    zero loss but still count in the mean, as in cosmos-transfer2.5.

    Args:
        velocity: the network; control, text and the mask are its own affair.
        latents: normalised clean latents.
        mask: 1 where a frame is given (`conditioning.condition_mask`).
        epsilon: the noise; it stays float32 also where the network computes in bfloat16.
        normal: standard normal draws for the time.
        shift: see `sigma_from_normal`.
        conditional_frame_timestep: see `frame_timesteps`.
        dtype: the compute dtype. Latents are rounded to it before the noise is added, and what the
            network receives is rounded again.
        levels: see `sigma_from_normal`.

    Returns:
        The loss of each sample, and what it was computed from.
    """
    clean = round_to(latents, dtype)
    sigma = sigma_from_normal(normal, shift, levels)
    timesteps = frame_timesteps(1000 * sigma, mask, conditional_frame_timestep)
    s = sigma[:, None, None, None, None, None]
    noisy = s * epsilon + (1 - s) * clean
    target = epsilon - clean
    net_input = conditioning.replace_given(noisy, clean, mask).astype(dtype)
    output = velocity(net_input, timesteps).astype(jnp.float32)
    prediction = conditioning.replace_given(output, target, mask)
    per_sample = jnp.mean((prediction - target) ** 2, axis=(1, 2, 3, 4, 5))
    return per_sample, Flow(sigma, timesteps, noisy, net_input, target, prediction)
