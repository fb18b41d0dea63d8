"""Are pretrained weights in place? Their loss before the first step, against a baseline."""

import jax
import jax.numpy as jnp

from cosmos_jax.diffusion import edm, flow
from cosmos_jax.train import Trainer
from cosmos_jax.types import Batch, TrainState

NOISES = 8


def baseline(sigma: jax.Array) -> jax.Array:
    """The loss of the best linear predictor of the velocity, at unit-variance latents.

    With x = sigma eps + (1 - sigma) x0 and v = eps - x0: var v - cov(v, x)^2 / var x, which is
    1 / (sigma^2 + (1 - sigma)^2).
    """
    return 1 / (sigma**2 + (1 - sigma) ** 2)


def compared(losses: jax.Array, parts: flow.Flow | edm.EDM) -> jax.Array:
    """Losses as parts of those of a network that has learnt nothing.

    EDM's weighted error is 1 where the network says 0.
    """
    if isinstance(parts, edm.EDM):
        return parts.weight * jnp.mean((parts.prediction - parts.target) ** 2, axis=(1, 2, 3, 4, 5))
    return losses / baseline(parts.sigma)


def ratio(trainer: Trainer, state: TrainState, batch: Batch) -> float:
    """Mean of `compared` over 8 fixed noises, at the mid-quantiles of the noise levels.

    A network that has learnt nothing gives 1 or more. No frame is given.
    """
    count = len(batch.index)

    @jax.jit
    def score(state: TrainState, batch: Batch, noise: jax.Array) -> jax.Array:
        draws = flow.training_noise(jax.random.key(noise), batch.index, batch.latents.shape[1:])
        normal = jnp.full(count, jax.scipy.special.ndtri((noise + 0.5) / NOISES))
        given = jnp.zeros(count, jnp.int32)
        losses, parts = trainer.loss_given(
            state.params, state, batch, given, batch.text, draws.epsilon, normal
        )
        return jnp.mean(compared(losses, parts))

    return sum(float(score(state, batch, jnp.int32(i))) for i in range(NOISES)) / NOISES


def alarm(trainer: Trainer, state: TrainState, batch: Batch, limit: float) -> str | None:
    """Prints the `ratio`; what to say where it is above its limit."""
    found = ratio(trainer, state, batch)
    print(f"canary   loss / baseline {found:.3f} before step 1 (limit {limit})", flush=True)
    if found <= limit:
        return None
    return (
        f"the canary: loss / baseline is {found:.3f} before step 1, and above {limit} the weights "
        "of config.init_from are probably not in place (or the data are far from what they know); "
        "nothing was trained. Check them with python -m converters.convert --audit, or set "
        "config.canary=None"
    )
