"""Jobs to pixels: encodes what is given, denoises chunk after chunk, decodes, joins."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from cosmos_jax import build, sharding
from cosmos_jax.diffusion import guiding
from cosmos_jax.encode import Encoder
from cosmos_jax.generate import Generator
from cosmos_jax.sampling import chunks
from cosmos_jax.sampling.kept_chunks import KeptChunks
from cosmos_jax.sampling.reading import Job, clip_fields
from cosmos_jax.types import Batch

Pixels = UInt8[np.ndarray, "v f y x 3"]


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What comes of a job.

    Attributes:
        pixels: of all frames.
        control: that was followed, or None.
        evaluations: of the network, over all chunks that were not kept from before.
    """

    pixels: Pixels
    control: Pixels | None
    evaluations: int


def groups(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Jobs in their order, in groups of up to `size` that can share a batch."""

    def alike(job: Job) -> tuple[Any, ...]:
        request = job.request
        settings = dataclasses.replace(request.settings, seed=0)
        views = tuple(view.view_id for view in request.views)
        return (
            *(settings, views, request.given, request.negative is None, request.long),
            *(job.plan, job.config.size, job.control is None),
        )

    out: list[list[Job]] = []
    for job in jobs:
        if out and len(out[-1]) < size and alike(out[-1][0]) == alike(job):
            out[-1].append(job)
        else:
            out.append([job])
    return out


class Sampler:
    """Samples jobs with one set of weights.

    Args:
        generator: the denoising loop.
        encoder: of pixels and captions; holds the codec's weights.
        variables: the network's.
        on_step: called with the number of solver steps that were done since it was last called.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        variables: Any,
        on_step: Callable[[int], None],
    ):
        self._generator, self._encoder = generator, encoder
        self._variables, self._on_step = variables, on_step

    def __call__(self, jobs: Sequence[Job], kept: Sequence[KeptChunks]) -> list[Sampled]:
        """Samples jobs of one group (`groups`) together.

        Args:
            jobs: what to sample.
            kept: where each job's finished chunks are kept, and may be from before.
        """
        plan, overlap = jobs[0].plan, jobs[0].plan.overlap
        text = self._text(jobs)
        shape = (len(jobs[0].request.views), plan.frames, *jobs[0].config.size, 3)
        made = [np.empty(shape, np.uint8) for _ in jobs]
        follow = [None if job.control is None else np.empty(shape, np.uint8) for job in jobs]
        given, counts, evaluations = self._first_frames(jobs), jobs[0].request.given, 0
        for chunk in range(len(plan.starts)):
            more = chunk + 1 < len(plan.starts)
            control = [job.controls(chunk) for job in jobs]
            old = [store.read(chunk) for store in kept]
            if all(latents is not None for latents in old):
                latents = np.stack([latents for latents in old if latents is not None])
                self._on_step(len(jobs[0].request.settings.steps(self._generator.solver)))
            else:
                batch = self._batch(jobs, given, control, text[0])
                latents = self._denoise(jobs, batch, text[1], chunk, counts)
                evaluations += self._generator.evaluations
                for store, each in zip(kept, latents, strict=True):
                    if len(plan.starts) > 1 and jax.process_index() == 0:
                        store.write(chunk, each)
            placed = self._placed(latents)
            levels, tail = self._generator.decoded(
                self._encoder.params, placed, overlap if more else 0
            )
            fade = jobs[0].request.long.cross_fade
            for i in range(len(jobs)):
                chunks.put(made[i], plan, chunk, levels[i], fade)
                video, followed = follow[i], control[i]
                if video is not None and followed is not None:
                    chunks.put(video, plan, chunk, followed)
            if more:
                given, counts = self._handed_over(jobs[0], latents, tail), (overlap,) * len(counts)
        return [
            Sampled(pixels, followed, evaluations)
            for pixels, followed in zip(made, follow, strict=True)
        ]

    def _put(self, array: Any, dtype: Any) -> jax.Array:
        array = np.asarray(array, dtype)
        return sharding.put_rows(range(len(array)), array, len(array), self._generator.mesh)

    def _placed(self, clips: np.ndarray) -> jax.Array:
        """Latents on the mesh, of latents or of levels."""
        return self._encoder.latents(clips, range(len(clips)), len(clips))

    def _text(self, jobs: Sequence[Job]) -> tuple[jax.Array, jax.Array]:
        """Embeddings of both branches."""
        captions = [[view.caption for view in job.request.views] for job in jobs]
        text = self._put(self._encoder.embed(captions), self._encoder.dtype)
        negatives = [job.request.negative for job in jobs]
        if negatives[0] is not None:
            return text, self._put(self._encoder.embed(negatives), text.dtype)
        nothing = self._generator.net.no_text(self._variables["params"], text.shape[-1])
        return text, jnp.zeros_like(text) + nothing.astype(text.dtype)

    def _first_frames(self, jobs: Sequence[Job]) -> Float[np.ndarray, "b v n h w c"] | None:
        """Latents of the given frames of the first chunk; None where none are given."""
        if not max(jobs[0].request.given):
            return None
        return self._beginning(np.stack([job.given() for job in jobs]))

    def _beginning(self, pixels: np.ndarray) -> Float[np.ndarray, "b v n h w c"]:
        """Latents of the frames that a clip begins with, levels or in [-1, 1]."""
        codec, frames = self._generator.codec, pixels.shape[2]
        if codec.by_place and frames == 1:  # alone it would be coded as a picture
            pixels = np.repeat(pixels, 1 + codec.temporal, axis=2)
        if pixels.dtype == np.uint8:
            latents = self._whole(self._placed(pixels))
        else:
            latents = self._generator.encoded(self._encoder.params, pixels)
        return latents[:, :, : guiding.latent_frames(frames, codec.temporal)]

    def _whole(self, x: jax.Array) -> np.ndarray:
        return np.asarray(self._generator.gathered(x))

    def _handed_over(
        self, job: Job, latents: np.ndarray, tail: Float[np.ndarray, "b v n y x 3"]
    ) -> Float[np.ndarray, "b v n h w c"]:
        """Latents of the overlap, for the next chunk."""
        overlap, temporal = job.plan.overlap, self._generator.codec.temporal
        if job.request.long.pixels:
            levels = ((tail.astype(np.float32) + 1) / 2 * 255).astype(np.uint8)  # truncated
            return self._beginning(levels)
        return chunks.handed_over(latents, self._beginning(tail[:, :, :1]), overlap, temporal)

    def _batch(
        self,
        jobs: Sequence[Job],
        given: np.ndarray | None,
        control: Sequence[Pixels | None],
        text: jax.Array,
    ) -> Batch:
        rows, b = range(len(jobs)), len(jobs)
        fields = [clip_fields(job) for job in jobs]
        config, v = jobs[0].config, len(jobs[0].request.views)
        shape = build.latent_shape(self._generator.codec, config.num_frames, config.size)
        latents = np.zeros((b, v, *shape), np.float32)
        if given is not None:
            latents[:, :, : given.shape[2]] = given
        followed = [pixels for pixels in control if pixels is not None]
        return Batch(
            latents=self._placed(latents),
            control=self._encoder.latents(np.stack(followed), rows, b) if followed else None,
            text=text,
            view_ids=self._put([f["view_ids"] for f in fields], np.int32),
            index=self._put([f["index"] for f in fields], np.int32),
            fps=self._put([f["fps"] for f in fields], np.float32),
        )

    def _denoise(
        self,
        jobs: Sequence[Job],
        batch: Batch,
        uncond: jax.Array,
        chunk: int,
        counts: Sequence[int],
    ) -> Float[np.ndarray, "b v t h w c"]:
        done = 0

        def on_step(finished: int, steps: int) -> None:
            nonlocal done
            if finished > done:
                self._on_step(finished - done)
                done = finished

        settings = jobs[0].request.settings
        latents = self._generator.latents(
            self._variables,
            batch,
            uncond,
            [(job.request.settings.seed + chunk) % 2**32 for job in jobs],
            settings,
            counts,
            on_step,
        )
        return self._whole(latents)


def steps(jobs: Sequence[Job], solver: Any) -> int:
    """Solver steps of all jobs, for a display of progress."""
    return sum(len(job.request.settings.steps(solver)) * len(job.plan.starts) for job in jobs)


def check(job: Job, codec: Any, solver: Any) -> None:
    """Raises a ValueError where sizes, given or overlapping frames do not fill latents, or given
    frames are not taken."""
    name, temporal = job.request.name, codec.temporal
    build.latent_shape(codec, job.config.num_frames, job.config.size)
    for count in job.request.given:
        guiding.latent_frames(count, temporal)
    long = len(job.plan.starts) > 1
    if not solver.takes_given and (max(job.request.given) or long):
        raise ValueError(
            f"sample {name!r}: the network takes no given frames, and so makes no long videos; set "
            "num_conditional_frames=0 and one chunk"
        )
    if long and codec.by_place and job.plan.overlap > 1 and not job.request.long.pixels:
        raise ValueError(
            f"sample {name!r}: the codec's latents depend on their place in a clip: no more than "
            "the first can be handed over; give --handover=pixels, or --chunk_overlap=1"
        )
    if long and (job.plan.overlap - 1) % temporal:
        raise ValueError(
            f"sample {name!r}: chunk_overlap={job.plan.overlap} must be 1, {1 + temporal}, "
            f"{1 + 2 * temporal}, ...: whole latent frames"
        )
