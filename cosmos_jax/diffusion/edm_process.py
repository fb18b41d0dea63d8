"""EDM as the diffusion process of a recipe: what `config.process` holds, and its loss."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cosmos_jax.diffusion import edm

GIVEN = 0x617E  # key of the noise levels of given frames


@dataclasses.dataclass(frozen=True)
class EDMProcess:
    """The process of Cosmos-Predict1, in place of `train.Process`.

    Latents come from the codec with a standard deviation of 1, and are scaled to `sigma_data` here.

    Attributes:
        sigma_data: standard deviation of the clean latents that noise is added to.
        mean: of ln(sigma) in training.
        std: of ln(sigma) in training.
        text_dropout: probability of training a sample without text.
        text_dropout_per_view: drop the text of each view by itself, not of the sample.
        num_conditional_latents: probability of 0, 1, 2, ... given latent frames, in every view.
        given_mean: of ln(sigma) of the noise on given frames.
        given_std: of ln(sigma) of the noise on given frames.
        solver: what samples it, loaded where a run samples.
    """

    sigma_data: float = 0.5
    mean: float = 0.0
    std: float = 1.0
    text_dropout: float = 0.0
    text_dropout_per_view: bool = False
    num_conditional_latents: tuple[float, ...] = (1.0,)
    given_mean: float = -3.0
    given_std: float = 2.0
    solver: ClassVar[str] = "cosmos_jax.sample_edm:EDMSolver"

    def __post_init__(self) -> None:
        """Raises a ValueError for a setting out of range."""
        if not 0 <= self.text_dropout <= 1:
            raise ValueError(f"config.process.text_dropout={self.text_dropout} must lie in [0, 1]")
        if self.sigma_data <= 0 or self.std <= 0 or self.given_std <= 0:
            raise ValueError(
                f"config.process.sigma_data={self.sigma_data}, .std={self.std} and "
                f".given_std={self.given_std} must be positive"
            )

    def loss(
        self,
        network: Any,
        latents: Float[Array, "b v t h w c"],
        mask: Float[Array, "b v t"],
        epsilon: Float[Array, "b v t h w c"],
        normal: Float[Array, "b"],
    ) -> tuple[Float[Array, "b"], edm.EDM]:
        """The loss of each sample; see `edm.loss`.

        Given frames have the noise that is drawn for them, which nothing else reads. Its level is
        drawn by a key that the sample's own draw makes.

        Args:
            network: a `models.predict1.Predict1` with its weights (`train.Bound`).
            latents: of a standard deviation of 1.
            mask: 1 where a frame is given; it is bound to the network already.
            epsilon: the noise.
            normal: standard normal draws for the noise level.

        Raises:
            ValueError: frames are given to a network that takes none.
        """
        given = None
        if tuple(self.num_conditional_latents) != (1.0,):
            if not network.net.config.masked:
                raise ValueError(
                    f"config.process.num_conditional_latents={self.num_conditional_latents}: the "
                    "network takes no given frames; set (1.0,), or config.model.base to a network "
                    "that does (predict1_7b_multiview_av_video)"
                )
            levels = edm.sigma_from_normal(_hashed(normal), self.given_mean, self.given_std)
            given = edm.Given(mask, levels)
        return edm.loss(
            network,
            functools.partial(network.net.log_variance, network.variables),
            self.sigma_data * latents,
            epsilon,
            edm.sigma_from_normal(normal, self.mean, self.std),
            data=self.sigma_data,
            dtype=network.net.config.dtype,
            given=given,
        )


def _hashed(normal: Float[Array, "b"]) -> Float[Array, "b"]:
    """Standard normal draws, each from a key that is the bits of another draw."""

    def draw(bits: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(GIVEN), bits))

    return jax.vmap(draw)(jax.lax.bitcast_convert_type(normal, jnp.uint32))
