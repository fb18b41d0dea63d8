"""EDM: the preconditioned denoiser, the noise levels and the loss of Cosmos-Predict1.

With clean latents x0 (of standard deviation `data`), noise eps and a level sigma, x_t = x0 + sigma
eps. A network F becomes a guess of x0 by scales that keep its input and output near unit size
(Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1).
A head beside the network guesses the logarithm u of the error's variance at a level, and the loss
weighs the error by exp(-u) and adds u (Kendall, Gal 2017). All views and frames share one sigma.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from cosmos_jax.diffusion import conditioning
from cosmos_jax.types import round_to

Network = Callable[[Array, Array], Array]
"""network(scaled latents `[b v t h w c]`, timesteps `[b 1 1]`, ln(sigma) / 4) -> their shape."""

LogVariance = Callable[[Array], Array]
"""log_variance(timesteps `[b 1 1]`) -> u `[b 1 1]`."""


class Scaling(NamedTuple):
    """How the network is used at a noise level.

    Attributes:
        skip: weight of the noisy latents in the clean guess.
        out: weight of the network's output in it.
        input: what the noisy latents are multiplied by for the network.
        timestep: what the network is told of sigma.
    """

    skip: Float[Array, "*shape"]
    out: Float[Array, "*shape"]
    input: Float[Array, "*shape"]
    timestep: Float[Array, "*shape"]


def scaling(sigma: Float[Array, "*shape"], data: float) -> Scaling:
    """The scales at noise levels, for clean latents of standard deviation `data`."""
    square = sigma**2 + data**2
    root = square**0.5
    return Scaling(data**2 / square, sigma * data / root, 1 / root, 0.25 * jnp.log(sigma))


def weight(sigma: Float[Array, "*shape"], data: float) -> Float[Array, "*shape"]:
    """Of the squared error of the clean guess: 1 / `out`^2, so at first all levels count alike."""
    return (sigma**2 + data**2) / (sigma * data) ** 2


def sigma_from_normal(
    normal: Float[Array, "b"], mean: float = 0.0, std: float = 1.0
) -> Float[Array, "b"]:
    """Log-normal noise levels from standard normal draws; nothing is clipped."""
    return jnp.exp(mean + std * normal)


def clean_guess(
    network: Network,
    x: Float[Array, "b v t h w c"],
    sigma: Float[Array, "b"],
    *,
    data: float,
    dtype: DTypeLike,
) -> Float[Array, "b v t h w c"]:
    """The clean latents that the network sees in noisy ones, float32.

    Args:
        network: the network; text and views are its own affair.
        x: noisy latents, float32.
        sigma: their noise level.
        data: standard deviation of clean latents.
        dtype: the compute dtype, to which the network's input is rounded.
    """
    scale = scaling(sigma[:, None, None, None, None, None], data)
    timesteps = scaling(sigma[:, None, None], data).timestep
    output = network((scale.input * x).astype(dtype), timesteps).astype(jnp.float32)
    return scale.skip * x + scale.out * output


class Given(NamedTuple):
    """Frames that the network is given, in training.

    Attributes:
        mask: 1 where a latent frame is given `[b v t]`.
        sigma: noise level of given frames `[b]`, which the network is not told.
    """

    mask: Float[Array, "b v t"]
    sigma: Float[Array, "b"]


def shown(
    given: Float[Array, "b v t h w c"],
    noise: Float[Array, "b v t h w c"],
    faint: Float[Array, "*shape"],
    sigma: Float[Array, "*shape"],
    data: float,
) -> Float[Array, "b v t h w c"]:
    """Given frames as they stand among noisy ones of level `sigma`.

    They have a noise of their own level, `faint`, and the size at which the network's input has
    them as if that were the level of all.
    """
    return (given + faint * noise) * (scaling(faint, data).input / scaling(sigma, data).input)


class EDM(NamedTuple):
    """What the loss was computed from, all float32.

    Attributes:
        sigma: `[b]`.
        timesteps: `[b 1 1]`, as the network received them.
        noisy: x_t `[b v t h w c]`.
        target: the clean latents `[b v t h w c]`.
        prediction: the guess of them `[b v t h w c]`.
        weight: `[b]`, of the squared error.
        log_variance: u `[b]`.
    """

    sigma: Float[Array, "b"]
    timesteps: Float[Array, "b 1 1"]
    noisy: Float[Array, "b v t h w c"]
    target: Float[Array, "b v t h w c"]
    prediction: Float[Array, "b v t h w c"]
    weight: Float[Array, "b"]
    log_variance: Float[Array, "b"]

    @property
    def errors(self) -> Float[Array, "b v t"]:
        """The error of each latent frame, weighed by the noise level."""
        squares = jnp.mean((self.prediction - self.target) ** 2, axis=(3, 4, 5))
        return self.weight[:, None, None] * squares


def loss(
    network: Network,
    log_variance: LogVariance,
    latents: Float[Array, "b v t h w c"],
    epsilon: Float[Array, "b v t h w c"],
    sigma: Float[Array, "b"],
    *,
    data: float,
    dtype: DTypeLike,
    given: Given | None = None,
) -> tuple[Float[Array, "b"], EDM]:
    """The loss of each sample: mean over all elements of exp(-u) weight (guess - clean)^2 + u.

    The guess of given frames is they themselves: they give no error but count in the mean.

    Args:
        network: see `clean_guess`.
        log_variance: the head that says u; its gradient flows.
        latents: clean latents of standard deviation `data`.
        epsilon: the noise; it stays float32 also where the network computes in bfloat16.
        sigma: noise levels (`sigma_from_normal`). They are rounded to `dtype` first, as in
            cosmos-predict1, and so are the latents.
        data: standard deviation of clean latents.
        dtype: the compute dtype.
        given: given frames, whose noise is `epsilon` too; None: there are none.

    Returns:
        The loss of each sample, and what it was computed from.
    """
    clean, sigma = round_to(latents, dtype), round_to(sigma, dtype)
    level = sigma[:, None, None, None, None, None]
    noisy = clean + level * epsilon
    if given is not None:
        faint = given.sigma[:, None, None, None, None, None]
        held = shown(clean, epsilon, faint, level, data)
        noisy = conditioning.replace_given(noisy, held, given.mask)
    guess = clean_guess(network, noisy, sigma, data=data, dtype=dtype)
    if given is not None:
        guess = conditioning.replace_given(guess, clean, given.mask)
    timesteps = scaling(sigma, data).timestep[:, None, None]
    u = log_variance(timesteps).astype(jnp.float32)[:, 0, 0]
    error = jnp.mean((guess - clean) ** 2, axis=(1, 2, 3, 4, 5))
    by_level = weight(sigma, data)
    per_sample = jnp.exp(-u) * by_level * error + u
    return per_sample, EDM(sigma, timesteps, noisy, clean, guess, by_level, u)
