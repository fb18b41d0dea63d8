"""What a run would take, before anything is paid for: `run_train.py --config=... --plan`.

Nothing is trained, downloaded or placed on a device: the step is traced for shapes on a mesh of the
asked size, with plain attention in place of the GPU's kernels. `--plan=compile` compiles it on this
machine's devices too, and prints what the compiler says of memory. docs/plan.md.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from cosmos_jax import (
    build,
    encode,
    flops,
    flops_codecs,
    flops_vae,
    plan_measured,
    plan_memory,
    plan_search,
    plan_sources,
    plan_system,
    preview,
)
from cosmos_jax.models.cv8x8x8 import CV8x8x8
from cosmos_jax.models.wan_vae import WanVAE
from cosmos_jax.plan_sources import Data
from cosmos_jax.plan_system import System

COMPILE = "compile"
STEP, IN_ALL = "the step", "in all, on each device"
UNSET = 0.75  # of a GPU's memory is what jax takes, if XLA_PYTHON_CLIENT_MEM_FRACTION is unset


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a step is expected to be.

    Attributes:
        tflops: model TFLOP/s of a device.
        source: where that is from.
        encode_tflops: the same of the video codec.
    """

    tflops: float
    source: str
    encode_tflops: float


def main(
    config: Any,
    how: str,
    devices: int | None = None,
    memory_gib: float | None = None,
    tflops: float | None = None,
) -> None:
    """Prints the plan of a config.

    Args:
        config: the experiment.
        how: "compile" also compiles the step, on this machine's devices.
        devices: how many to plan for; None: as `plan_system.system` says.
        memory_gib: of a device; None: an H200's.
        tflops: model TFLOP/s of a device; None: as measured.

    Raises:
        ValueError: whatever is wrong with the config, its data or its weights.
    """
    plan_sources.stay_offline()
    values = build.check_config(config)
    if how == COMPILE:
        if devices is not None:
            raise ValueError("--plan=compile takes this machine's devices; drop --plan_devices")
        devices = jax.device_count()
    else:
        jax.config.update("jax_platforms", "cpu")  # a GPU may be another's, and is not needed
    planned, data = plan(values, devices)
    limit = plan_measured.DEVICE_GIB if memory_gib is None else memory_gib
    for line in report(planned, data, limit, tflops):
        print(line, flush=True)
    if how == COMPILE:
        for line in compiled(planned, data.views[-1]):
            print(line, flush=True)


def plan(values: Mapping[str, Any], devices: int | None) -> tuple[System, Data]:
    """The step of a config and its data, checked; see `main`."""
    planned = plan_system.system(values, devices)
    if planned.loop.preview.clips:
        preview.check(planned.loop.preview, planned.trainer)
        preview.settings(values, planned.loop.preview)
    data = plan_sources.data(planned)
    if data.cached is not None:
        planned = plan_system.system(values, devices, data.cached)
    return planned, data


def report(
    planned: System, data: Data, limit_gib: float, tflops: float | None = None
) -> Iterator[str]:
    """The lines of a plan.

    Args:
        planned: the step.
        data: its clips.
        limit_gib: memory of a device.
        tflops: as in `main`.
    """
    yield f"data     {data.about}"
    yield f"text     {data.text}"
    for line in plan_sources.weights(planned, data.cached is not None):
        yield f"weights  {line}"
    for views in sorted({data.views[0], data.views[-1]}):
        planned.check(views)
    most, shape = data.views[-1], dict(planned.mesh.shape)
    counts = " or ".join(f"{planned.sizes.tokens(v):,}" for v in data.views)
    yield f"mesh     {shape}: {_many(planned.mesh.size, 'device')}; attention {planned.kernel}"
    yield (
        f"sample   latents {(most, *planned.sizes.latents)} (v t h w c), {counts} tokens; "
        f"{_many(planned.loop.batch, 'sample')} a step"
    )
    yield from _work(planned, data.views, tflops)
    table = memory_table(planned, most)
    for name, gib in table.items():
        if (shown := _shown(gib, table[IN_ALL])) is not None:
            yield f"memory   {name:24}{shown:>10} GiB"
    yield from _verdict(planned, most, table[IN_ALL], limit_gib, data.cached)


def _shown(gib: float, of: float) -> str | None:
    """A number beside a larger one; None: it is nothing beside it."""
    return None if gib < 1e-4 * of else f"{gib:.2f}" if of > 1 else f"{gib:.3g}"


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def memory_table(planned: System, views: int) -> dict[str, float]:
    """GiB of each component, of the step, of what is beside it, of all, and of host memory."""
    memory = planned.memory(views)
    beside = planned.beside(memory)
    rows = {
        **memory.device(),
        STEP: memory.total,
        **beside,
        IN_ALL: memory.total + sum(beside.values()),
        "in host memory, saved": memory.host_saved,
        "in host memory, state": memory.host_state,
    }
    return {name: nbytes / plan_memory.GIB for name, nbytes in rows.items()}


def _verdict(
    planned: System, views: int, gib: float, limit: float, cached: tuple[int, int] | None
) -> Iterator[str]:
    """Whether it fits and, if not, what would."""
    if gib <= limit:
        narrow = "narrowly: the figure may be 15 % off" if gib > limit / 1.15 else "yes"
        yield f"fits     {narrow}; {gib:.1f} of {limit:g} GiB"
        if gib > UNSET * limit:
            yield "fits     with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95; unset, it is 0.75 of a GPU"
        return
    yield f"fits     no: {gib:.1f} of {limit:g} GiB; what would fit:"
    found = plan_search.search(planned, views, limit, cached)
    for setting in found:
        yield f"         {setting.gib:6.1f} GiB  {setting.flags}"
    if not found:
        yield "         nothing of mesh, remat, offload_optimizer, accumulate, size or devices"


def _work(planned: System, counts: tuple[int, ...], tflops: float | None) -> Iterator[str]:
    """Model FLOPs, seconds and hours."""
    batch, devices, steps = planned.loop.batch, planned.mesh.size, planned.loop.steps
    speed = expected_speed(planned, counts[-1], tflops)
    model = statistics.mean(planned.sizes.flops(v) for v in counts) * batch / 1e12
    again = statistics.mean(_recomputed(planned, v) for v in counts) * batch / 1e12
    coded = statistics.mean(_encoded(planned, v) for v in counts) * batch / 1e12
    network = (model + again) / devices / speed.tflops
    encoding = coded / devices / speed.encode_tflops
    yield f"work     {model:,.5g} TFLOP of the model a step, {coded:,.5g} of the video encoder"
    yield (
        f"time     {network:.3g} s a step at {speed.tflops:g} TFLOP/s a device ({speed.source}), "
        f"and {encoding:.3g} s of video encoding{_encoder(planned)}"
    )
    yield (
        f"time     {steps * (network + encoding) / 3600:,.3g} hours for {steps:,} steps, without "
        "compilation, validation, samples and checkpoints"
    )


def expected_speed(planned: System, views: int, tflops: float | None) -> Speed:
    """The stated speed, or that of the closest step that was measured."""
    network, shape = planned.sizes.network, planned.mesh.shape
    only = plan_memory.control_only(planned.sizes.state)
    tokens, share = planned.sizes.tokens(views), shape["context"]
    row = plan_measured.closest(only, planned.kernel, tokens, share, network.width)
    clip, seconds = plan_measured.ENCODE
    encode_tflops = flops_vae.encode(WanVAE(), clip).forward / seconds / 1e12
    if tflops is not None:
        return Speed(tflops, "as stated", encode_tflops * tflops / row.tflops)
    kind = "the control branch" if row.trainable == plan_measured.CONTROL else "all"
    source = (
        f"measured on {plan_measured.DEVICE}: {kind} trained, {row.clip[2]:,} tokens on "
        f"{row.cards}, {row.attention}"
    )
    if network.dtype != "bfloat16":
        source += "; this one is float32, and slower"
    return Speed(float(row.tflops), source, encode_tflops)


def _recomputed(planned: System, views: int) -> int | float:
    """FLOPs of a sample that no measured row has: remat="full" runs attention once more."""
    if planned.sizes.network.remat != "full":
        return 0
    shape = (views, *planned.sizes.latents[:3])
    trunk, control = flops.dit(planned.sizes.network, shape, planned.sizes.text[0])
    return trunk.attention + control.attention


def _encoder(planned: System) -> str:
    """What is to be said of the codec's speed."""
    if isinstance(build.codec(planned.values), CV8x8x8):
        return " at the speed of the Wan2.1 VAE (this tokenizer's was not measured)"
    return ""


def _encoded(planned: System, views: int) -> int | float:
    """FLOPs of encoding a sample's videos and control; a stand-in for a codec takes none."""
    codec, data = build.codec(planned.values), planned.values["data"]
    videos = views * (2 if planned.sizes.network.control_blocks else 1)
    return videos * flops_codecs.encode(codec, (data["num_frames"], *data["size"])).forward


def compiled(planned: System, views: int) -> Iterator[str]:
    """What the compiler says that the step takes on this machine's devices, which are planned for.

    Raises:
        ValueError: the step cannot run here.
    """
    mesh = build.mesh(planned.values)
    with jax.set_mesh(mesh):
        trainer = build.trainer(planned.values)
        sizes = build.sizes(planned.values, mesh, trainer)
        sizes = dataclasses.replace(sizes, text=planned.sizes.text)
        batch = encode.placed(sizes.batch(planned.loop.batch, views), mesh)
        found = trainer.jit_step().lower(sizes.state, batch).compile().memory_analysis()
    on_device = {
        "arguments": found.argument_size_in_bytes,
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }
    kind = jax.devices()[0].device_kind
    for name, nbytes in on_device.items():
        yield f"compiler {name:24}{nbytes / plan_memory.GIB:10.4g} GiB"
    total = sum(on_device.values()) / plan_memory.GIB
    yield f"compiler {'the step':24}{total:10.4g} GiB on each {kind}"
    host = found.host_argument_size_in_bytes + found.host_temp_size_in_bytes
    yield f"compiler {'host':24}{host / plan_memory.GIB:10.4g} GiB"
