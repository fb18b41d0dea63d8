"""From encoded inputs to sampled pixels: the denoising loop, compiled once, around one network."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, UInt8

from cosmos_jax import sample, sharding
from cosmos_jax.diffusion import conditioning, guiding, unipc
from cosmos_jax.train import Process, bind
from cosmos_jax.types import Batch, Params


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How to sample.

    Attributes:
        num_steps: solver steps (36 network evaluations for 35 with Karras sigmas).
        guidance: g of `cond + g (cond - uncond)`; 0 evaluates the conditional branch alone.
        seed: of the initial noise of the first sample; the next takes seed + 1.
        control_weight: scale of the control branch's hints.
        num_conditional_frames: given PIXEL frames at the start of every view: 0, 1, 5, 9, ...
        karras: Karras sigmas, as Predict2.5-2B/post-trained, in place of the shifted ones.
    """

    num_steps: int = 35
    guidance: float = 3.0
    seed: int = 0
    control_weight: float = 1.0
    num_conditional_frames: int = 0
    karras: bool = False

    def __post_init__(self) -> None:
        """Raises a ValueError for a setting out of range."""
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0..2^32 - 1")
        if self.control_weight < 0:
            raise ValueError(f"control_weight={self.control_weight} must be at least 0")


class Generator:
    """Samples videos with fixed settings; compiles at the first call of each shape."""

    def __init__(self, net: Any, codec: Any, process: Process, config: SampleConfig, mesh: Mesh):
        self.net, self.config, self.codec, self.mesh = net, config, codec, mesh
        sigmas = (
            unipc.karras_sigmas(config.num_steps)
            if config.karras
            else unipc.shift_sigmas(config.num_steps, process.shift)
        )
        schedule = unipc.schedule(sigmas)

        def denoise(
            variables: Any, batch: Batch, uncond_text: Array, noise: Array, mask: Array
        ) -> Array:
            guided = config.guidance != 0
            text = batch.text
            if guided:
                text = jnp.concatenate([text, uncond_text])
                batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
            return sample.denoise(
                bind(
                    net,
                    variables,
                    batch,
                    text,
                    jnp.concatenate([mask, mask]) if guided else mask,
                    config.control_weight,
                ),
                noise,
                batch.latents[: len(noise)],
                mask,
                schedule,
                config.guidance if guided else None,
                conditional_frame_timestep=process.conditional_frame_timestep,
                dtype=net.config.dtype,
            )

        def decode(params: Params, latents: Array) -> Array:
            pixels = codec.decode(params, latents.astype(net.config.dtype)).astype(jnp.float32)
            return jnp.round((jnp.clip(pixels, -1, 1) + 1) * 127.5).astype(jnp.uint8)

        self._denoise = jax.jit(denoise)
        self._decode = jax.jit(decode, out_shardings=NamedSharding(mesh, sharding.P()))

    def latents(
        self, variables: Any, batch: Batch, uncond_text: Float[Array, "b v s e"], seed: int
    ) -> Float[Array, "b v t h w c"]:
        """Samples latents.

        Args:
            variables: the network's "params" and "constants".
            batch: control, text and views; `latents` are read only where frames are given.
            uncond_text: of the unconditional branch (`DiT.no_text`, or a negative prompt's).
            seed: of the noise; sample i of the batch takes seed + i.

        Raises:
            ValueError: `num_conditional_frames` does not fill whole latent frames, or exceeds them.
        """
        b, v, t, h, w, c = batch.latents.shape
        count = guiding.latent_frames(self.config.num_conditional_frames, self.codec.temporal)
        counts = jnp.asarray(guiding.view_counts(count, v, t))
        mask = jnp.broadcast_to(conditioning.condition_mask(counts[None], v, t), (b, v, t))
        noise = np.concatenate(
            [sample.initial_noise(seed + i, b=1, v=v, t=t, h=h, w=w, c=c) for i in range(b)]
        )
        place = NamedSharding(
            self.mesh, sharding.activation_spec(noise.shape, "b v t h w c", self.mesh)
        )
        placed = jax.make_array_from_callback(noise.shape, place, lambda index: noise[index])
        return self._denoise(variables, batch, uncond_text, placed, mask)

    def pixels(
        self, codec_params: Params, latents: Float[Array, "b v t h w c"]
    ) -> UInt8[np.ndarray, "b v f y x 3"]:
        """Decodes latents to RGB on the host."""
        return np.asarray(self._decode(codec_params, latents))
