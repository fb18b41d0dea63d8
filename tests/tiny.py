"""The smallest control network and batch that have every part; shared so that they compile once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cosmos_jax import optim, train
from cosmos_jax.models.dit import DiT, DiTConfig
from cosmos_jax.types import Batch

CHANNELS, TEXT, VIEWS = 16, 8, 2
OPTIM = optim.OptimConfig(
    lr=1e-3,
    weight_decay=1e-2,
    clip=1.0,
    warm_up_steps=2,
    cycle_length=100,
    f_max=1.0,
    f_min=0.1,
)


def config(**changes) -> DiTConfig:
    """A control network of two blocks."""
    base = dict(
        width=32,
        blocks=2,
        heads=2,
        mlp_width=64,
        modulation_rank=8,
        text_width=16,
        text_features=TEXT,
        rope_ratios=(1.0, 3.0, 3.0),
        view_rows=7,
        view_channels=7,
        control_blocks=(0,),
        control_channels=23,
        hint_widths=(32,),
        dtype="float32",
        remat="none",
    )
    return DiTConfig(**(base | changes))


@functools.cache
def trainer(trainable: str) -> train.Trainer:
    """A trainer of that network, one for each choice of what is trained."""
    return train.Trainer(
        net=DiT(config()),
        process=train.Process(num_conditional_latents=(0.5, 0.5), text_dropout=0.2),
        optimizer=optim.optimizer(OPTIM, 100),
        learning_rate=optim.learning_rate(OPTIM, 100),
        trainable=trainable,
        ema_rate=0.1,
        seed=3,
    )


INPUTS = train.network_inputs(CHANNELS, TEXT, control=True, frames=4)


def batch(index: range, t: int = 2) -> Batch:
    """Random latents; a sample depends on its global index alone."""

    def draw(i: int, purpose: int, *shape: int) -> np.ndarray:
        rng = np.random.default_rng([i, purpose])
        return rng.standard_normal(shape).astype(np.float32)

    def stack(purpose: int, *shape: int) -> jax.Array:
        return jnp.asarray(np.stack([draw(i, purpose, *shape) for i in index]))

    latents = (VIEWS, t, 4, 4, CHANNELS)
    return Batch(
        latents=stack(0, *latents),
        control=stack(1, *latents),
        text=stack(2, VIEWS, 3, TEXT),
        view_ids=jnp.tile(jnp.arange(VIEWS, dtype=jnp.int32), (len(index), 1)),
        index=jnp.asarray(list(index), jnp.int32),
        fps=jnp.full(len(index), 10.0),
    )
