"""From encoded inputs to sampled pixels: the denoising loop around one network."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, UInt8

from cosmos_jax import sample, sharding
from cosmos_jax.diffusion import conditioning, guiding
from cosmos_jax.diffusion.step_cache import StepCache
from cosmos_jax.train import bind
from cosmos_jax.types import Batch, Params


class Step(NamedTuple):
    """An evaluation of the network.

    Attributes:
        row: the solver's.
        guided: whether guidance acts.
    """

    row: Any
    guided: bool


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
        solver: None: the published one. Predict1 (EDM) has "euler", the published, and those of its
            training side, of which "2ab" is its choice (`diffusion.edm_solvers.EVALUATIONS`).
        negative_prompt: text of the unconditional branch, in the slots that are trained with text;
            "published": the published samplers'; None: no text at all (zeros). Previews of a
            training run take none, as the published ones.
        guidance_interval: (lowest, highest) share of noise in the noisy latents, from 0 to 1, at
            which guidance acts; steps outside evaluate the conditional branch alone, in half the
            time (Kynkäänniemi et al. 2024, arXiv:2404.07724). The share is sigma of rectified flow,
            and sigma / (sigma + sigma_data) of EDM.
        cache_threshold: up to which predicted relative change of what the solver follows (velocity,
            or EDM's clean guess) a step is taken with the last one, without the network
            (`diffusion.step_cache`); 0: never.
    """

    num_steps: int = 35
    guidance: float | int = 3.0
    seed: int = 0
    control_weight: float | int = 1.0
    num_conditional_frames: int = 0
    karras: bool = False
    solver: str | None = None
    negative_prompt: str | None = None
    guidance_interval: tuple[float | int, float | int] = (0.0, 1.0)
    cache_threshold: float | int = 0.0

    def __post_init__(self) -> None:
        """Raises a ValueError for a setting out of range."""
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0..2^32 - 1")
        if self.control_weight < 0:
            raise ValueError(f"control_weight={self.control_weight} must be at least 0")
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"guidance_interval={self.guidance_interval} must be (lowest, highest) noise "
                "level, within 0 and 1"
            )
        if not 0 <= self.cache_threshold < 1:
            raise ValueError(f"cache_threshold={self.cache_threshold} must lie in [0, 1)")

    def steps(self, solver: Any) -> list[Step]:
        """Every evaluation of the network by a solver (`sample.FlowSolver`)."""
        solver = solver.named(self.solver)
        rows = solver.rows(self.num_steps, self.karras)
        low, high = self.guidance_interval
        return [
            Step(
                jax.tree.map(lambda column, i=i: column[i], rows),
                self.guidance != 0 and bool(low <= share <= high),
            )
            for i, share in enumerate(solver.noise_share(rows))
        ]


def _silent(done: int, steps: int) -> None:
    """Says nothing of a step."""


class Generator:
    """Samples videos; compiles once for each shape, with guidance and without.

    Args:
        net: the network.
        codec: the video codec.
        solver: of the process of its training (`build_sample.solver`).
        config: how to sample, unless a call says else.
        mesh: the devices.

    Attributes:
        evaluations: of the network in the last call of `latents`.
    """

    def __init__(self, net: Any, codec: Any, solver: Any, config: SampleConfig, mesh: Mesh):
        self.net, self.codec, self.solver, self.config, self.mesh = net, codec, solver, config, mesh
        self.evaluations = 0

        def predict(
            variables: Any,
            batch: Batch,
            uncond_text: Array,
            mask: Array,
            noise: Array,
            x: Array,
            row: Any,
            guidance: Array,
            control_weight: Array,
            guided: bool,
        ) -> Array:
            given, text = batch.latents, batch.text
            if guided:
                text = jnp.concatenate([text, uncond_text])
                batch = jax.tree.map(lambda a: jnp.concatenate([a, a]), batch)
            both = jnp.concatenate([mask, mask]) if guided else mask
            network = bind(net, variables, batch, text, both, control_weight)
            return solver.predict(network, x, row, noise, given, mask, guidance if guided else None)

        def decode(params: Params, latents: Array, tail: int) -> tuple[Array, Array]:
            pixels = codec.decode(params, latents.astype(net.config.dtype)).astype(jnp.float32)
            pixels = jnp.clip(pixels, -1, 1)
            levels = jnp.round((pixels + 1) * 127.5).astype(jnp.uint8)
            return levels, pixels[:, :, pixels.shape[2] - tail :]

        def encode(params: Params, pixels: Array) -> Array:
            return codec.encode(params, pixels.astype(net.config.dtype)).astype(jnp.float32)

        whole = NamedSharding(mesh, sharding.P())
        self._predict = jax.jit(predict, static_argnames="guided")
        self._step = jax.jit(
            lambda solver, state, followed, row: solver.step(state, followed, row), static_argnums=0
        )
        self._decode = jax.jit(decode, static_argnames="tail", out_shardings=whole)
        self._encode = jax.jit(encode, out_shardings=whole)
        self.gathered = jax.jit(lambda x: x, out_shardings=whole)

    def latents(
        self,
        variables: Any,
        batch: Batch,
        uncond_text: Float[Array, "b v s e"],
        seed: int | Sequence[int],
        config: SampleConfig | None = None,
        given: Sequence[int] | None = None,
        on_step: Callable[[int, int], None] = _silent,
    ) -> Float[Array, "b v t h w c"]:
        """Samples latents.

        Args:
            variables: the network's "params" and "constants".
            batch: control, text and views; `latents` are read only where frames are given.
            uncond_text: of the unconditional branch (`DiT.no_text`, or a negative prompt's).
            seed: of the noise, one a sample; or of the first, and sample i takes seed + i.
            config: in place of the generator's own.
            given: given pixel frames of each view; None: the config's, in every view.
            on_step: called with the number of steps done, and of all.

        Raises:
            ValueError: given frames that do not fill whole latent frames, or exceed them.
        """
        config = config or self.config
        b, v, t, h, w, c = batch.latents.shape
        frames = [config.num_conditional_frames] * v if given is None else given
        counts = guiding.view_counts(
            [guiding.latent_frames(n, self.codec.temporal) for n in frames], v, t
        )
        mask = jnp.broadcast_to(
            conditioning.condition_mask(jnp.asarray(counts)[None], v, t), (b, v, t)
        )
        seeds = [seed + i for i in range(b)] if isinstance(seed, int) else seed
        drawn = [sample.initial_noise(n, b=1, v=v, t=t, h=h, w=w, c=c) for n in seeds]
        noise = self._placed(np.concatenate(drawn))
        solver, steps = self.solver.named(config.solver), config.steps(self.solver)
        state = solver.start(noise)
        cache, self.evaluations = StepCache(config.cache_threshold, len(steps)), 0
        for i, (row, guided) in enumerate(steps):
            x, seen = state.x, solver.seen(state.x, row)
            followed = cache.reuse(i, seen, guided)
            if followed is None:
                followed = self._predict(
                    variables,
                    batch,
                    uncond_text,
                    mask,
                    noise,
                    x,
                    row,
                    np.float32(config.guidance),
                    np.float32(config.control_weight),
                    guided=guided,
                )
                self.evaluations += 1
                cache.evaluated(seen, followed, guided)
            state = self._step(solver, state, followed, row)
            jax.block_until_ready(x)  # one step is queued while another runs
            on_step(i, len(steps))
        jax.block_until_ready(state.x)
        on_step(len(steps), len(steps))
        return solver.latents(state)

    def _placed(self, latents: np.ndarray) -> jax.Array:
        spec = sharding.activation_spec(latents.shape, "b v t h w c", self.mesh)
        place = NamedSharding(self.mesh, spec)
        return jax.make_array_from_callback(latents.shape, place, lambda index: latents[index])

    def pixels(
        self, codec_params: Params, latents: Float[Array, "b v t h w c"]
    ) -> UInt8[np.ndarray, "b v f y x 3"]:
        """Decodes latents to RGB on the host."""
        return self.decoded(codec_params, latents, tail=0)[0]

    def decoded(
        self, codec_params: Params, latents: Float[Array, "b v t h w c"], tail: int
    ) -> tuple[UInt8[np.ndarray, "b v f y x 3"], Float[np.ndarray, "b v {tail} y x 3"]]:
        """Decodes latents; beside RGB, the last `tail` frames in [-1, 1], not rounded to levels."""
        levels, end = self._decode(codec_params, latents, tail=tail)
        return np.asarray(levels), np.asarray(end)

    def encoded(
        self, codec_params: Params, pixels: Float[np.ndarray, "b v f y x 3"]
    ) -> Float[np.ndarray, "b v t h w c"]:
        """Latents of frames in [-1, 1]."""
        return np.asarray(self._encode(codec_params, pixels))
