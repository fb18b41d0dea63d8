"""EDM as the diffusion process of a recipe: what `config.process` holds, and its loss."""

import dataclasses
import functools
from typing import Any

from jaxtyping import Array, Float

from cosmos_jax.diffusion import edm


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
        num_conditional_latents: probability of 0, 1, 2, ... given latent frames: none.
    """

    sigma_data: float = 0.5
    mean: float = 0.0
    std: float = 1.0
    text_dropout: float = 0.0
    text_dropout_per_view: bool = False
    num_conditional_latents: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Raises a ValueError for a setting out of range."""
        if not 0 <= self.text_dropout <= 1:
            raise ValueError(f"config.process.text_dropout={self.text_dropout} must lie in [0, 1]")
        if self.sigma_data <= 0 or self.std <= 0:
            raise ValueError(
                f"config.process.sigma_data={self.sigma_data} and .std={self.std} must be positive"
            )
        if tuple(self.num_conditional_latents) != (1.0,):
            raise ValueError(
                f"config.process.num_conditional_latents={self.num_conditional_latents}: EDM "
                "trains without given frames, (1.0,)"
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

        Args:
            network: a `models.predict1.Predict1` with its weights (`train.Bound`).
            latents: of a standard deviation of 1.
            mask: zeros; it is bound to the network already.
            epsilon: the noise.
            normal: standard normal draws for the noise level.
        """
        return edm.loss(
            network,
            functools.partial(network.net.log_variance, network.variables),
            self.sigma_data * latents,
            epsilon,
            edm.sigma_from_normal(normal, self.mean, self.std),
            data=self.sigma_data,
            dtype=network.net.config.dtype,
        )
