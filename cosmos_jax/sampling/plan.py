"""What a run of the sampler would take: `run_sample.py --plan`. No weights are read."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import numpy as np

from cosmos_jax import build, flops, flops_codecs, flops_vae, plan_measured
from cosmos_jax.models.wan_vae import WanVAE
from cosmos_jax.progress import duration
from cosmos_jax.sampling.reading import Job

if TYPE_CHECKING:
    from cosmos_jax.sampling.run import Prepared

GIB = 2**30
# One evaluation on an H200 (docs/performance.md): model TFLOP/s, and bytes beside the weights for
# each token of each branch (width 2,048, 62,400 tokens).
TFLOPS = {"cudnn": 587, "fa3": 641}
TOKEN_BYTES, TOKEN_WIDTH = 107_000, 2048
NOT_MEASURED = ", at the speed of the Wan2.1 VAE: this codec was not measured"
DECODE = ((29, 480, 832), 0.276)  # frames, rows, columns of one view, and seconds of its VAE


@dataclasses.dataclass(frozen=True)
class Work:
    """What one job takes.

    Attributes:
        tokens: of a chunk.
        evaluations: of the network over all chunks, without what a cache saves.
        tflop: of the model, over all evaluations and branches.
        decode: seconds of decoding on one device, at the speed of the VAE, whatever the codec; None
            for a stand-in.
    """

    tokens: int
    evaluations: int
    tflop: float
    decode: float | None


def work(prepared: "Prepared", job: Job) -> Work:
    """Counts a job."""
    settings, codec = job.request.settings, build.codec(prepared.source.values)
    t, h, w, _ = build.latent_shape(codec, job.config.num_frames, job.config.size)
    shape = (len(job.request.views), t, h, w)
    steps = settings.steps(prepared.generator.solver)
    branches = sum(1 + step.guided for step in steps)
    chunks = len(job.plan.starts)
    one = flops.forward(prepared.sizes.network, shape, prepared.sizes.text[0])
    decoded = flops_codecs.decode(codec, (t, h, w)).forward * shape[0] * chunks
    (clip, seconds), vae = DECODE, WanVAE()
    measured = flops_vae.decode(vae, build.latent_shape(vae, clip[0], clip[1:])[:3]).forward
    return Work(
        flops.tokens(prepared.sizes.network, shape),
        len(steps) * chunks,
        float(one) * branches * chunks / 1e12,
        decoded / measured * seconds if decoded else None,
    )


def lines(prepared: "Prepared", attention: str) -> Iterator[str]:
    """The plan with an attention kernel, line by line."""
    found = [work(prepared, job) for job in prepared.jobs]
    for job, counted in zip(prepared.jobs, found, strict=True):
        chunks, (rows, columns) = len(job.plan.starts), job.config.size
        yield (
            f"sample   {job.request.name}: {len(job.request.views)} views, {job.plan.frames} "
            f"frames of {rows}x{columns} in {chunks} chunk{'s' * (chunks > 1)} of "
            f"{counted.tokens:,} tokens, {counted.evaluations} evaluations, {counted.tflop:,.4g} "
            "TFLOP"
        )
    yield from _memory(prepared, max(counted.tokens for counted in found))
    yield from _time(prepared, found, attention)


def _memory(prepared: "Prepared", tokens: int) -> Iterator[str]:
    """GiB of each component on each device."""
    state, mesh = prepared.sizes.state, prepared.mesh
    count = sum(leaf.size for leaf in jax.tree.leaves((state.params, state.frozen)))
    share = mesh.shape["fsdp"] * mesh.shape["context"]
    guided = any(job.request.settings.guidance for job in prepared.jobs)
    branches = 2 if guided else 1
    ways = min(mesh.shape["data"], branches) * mesh.shape["context"]
    network = prepared.sizes.network
    codec = jax.eval_shape(build.codec(prepared.source.values).init, jax.random.key(0))
    width = np.dtype(network.dtype).itemsize
    parts = {
        "network": count * width / share,
        "codec": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(codec)),
        "evaluation": TOKEN_BYTES
        * network.width
        / TOKEN_WIDTH
        * width
        / 2
        * tokens
        * branches
        / ways,
    }
    for name, nbytes in parts.items():
        yield f"memory   {name:12}{nbytes / GIB:8.2f} GiB"
    yield (
        f"memory   {'in all':12}{sum(parts.values()) / GIB:8.2f} GiB on each of {mesh.size} "
        f"devices (mesh {dict(mesh.shape)}); text comes beside it where it is encoded"
    )


def _time(prepared: "Prepared", found: list[Work], attention: str) -> Iterator[str]:
    """Seconds, from measured speed."""
    network, devices = prepared.trainer.net.config, prepared.mesh.size
    if network.dtype != "bfloat16":
        yield "time     not estimated: float32 was not measured"
        return
    kernel = attention if attention in TFLOPS else "cudnn"
    count = len(prepared.source.found)
    seconds = sum(counted.tflop for counted in found) * count / devices / TFLOPS[kernel]
    yield (
        f"time     {duration(seconds)} of denoising at {TFLOPS[kernel]} TFLOP/s a device (measured "
        f"on {plan_measured.DEVICE} with {kernel}), for {count} set{'s' * (count > 1)} of weights"
    )
    decodes = [counted.decode for counted in found if counted.decode is not None]
    if decodes:
        of = "" if isinstance(build.codec(prepared.source.values), WanVAE) else NOT_MEASURED
        yield f"time     {duration(sum(decodes) * count / devices)} of decoding{of}"
    if any(job.request.settings.cache_threshold for job in prepared.jobs):
        yield "time     less with the step cache, by what the samples let it save"
