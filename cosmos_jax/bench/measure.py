"""How things are measured: warm-up, median, a ceiling to compare with, memory, versions."""

import dataclasses
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cosmos_jax import metrics
from cosmos_jax.bench import kernels, setup

Line = dict[str, Any]

WARM_UP = 2
CUDNN = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")  # the packages that hold it
MEMORY = ("argument", "output", "alias", "temp", "host_argument", "host_output", "host_temp")
"""Kinds of memory that the compiler counts, on each device and (host_...) beside it."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function, and how long tracing and compiling it took."""

    call: Callable[..., Any]
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """FLOP/s of one device in a product of two n x n matrices."""

    n: int
    flops: float


@dataclasses.dataclass(frozen=True)
class Meter:
    """Times the runs of one case.

    Attributes:
        repeats: timed runs; their median counts.
        profile: folder for a trace of one more run, or None.
        ceiling: what model FLOP/s are compared with.
    """

    repeats: int
    profile: Path | None
    ceiling: Ceiling

    def lines(
        self,
        about: Line,
        run: Callable[[], Any],
        program: Program,
        flops: float | None,
        before: Mapping[str, float] | None = None,
    ) -> Iterator[Line]:
        """The line of one thing that is timed and, with `profile`, that of its trace.

        Args:
            about: what it is; `case` and what tells it from others of the case.
            run: does it once; what it returns is waited for.
            program: what `run` calls.
            flops: model FLOPs of a run on each device; None: not counted.
            before: see `peak_memory`.
        """
        warm, seconds = repeat(run, self.repeats)
        yield {
            **about,
            **figures(warm, seconds, flops, self.ceiling),
            **peak_memory(before),
            "program_gib": program_memory(program.call),
            "compile_seconds": round(program.compile_seconds, 1),
            **machine(),
        }
        if self.profile is not None:
            yield {"case": "profile", "of": about, **kernels.profile(run, self.profile)}


def meter(repeats: int, profile: Path | None) -> Meter:
    """A meter, with the ceiling of this machine.

    Raises:
        ValueError: a profile is wanted where there is no GPU.
    """
    if profile is not None and jax.default_backend() != "gpu":
        raise ValueError(f"--profile={profile}: time by kernel is read from a GPU's trace only")
    return Meter(repeats, profile, measure_ceiling())


def measure_ceiling() -> Ceiling:
    """Times a large product of bfloat16 matrices (a small one on CPUs).

    Every device of the mesh does the whole product, beside the others as in training. Twenty are
    queued for each reading, so that launching costs nothing; they run in order.
    """
    n, queued = 8192 if jax.default_backend() == "gpu" else 256, 20
    x, y = (setup.normal(seed, (n, n), "bfloat16") for seed in range(2))
    product = jax.jit(jnp.matmul)

    def run() -> jax.Array:
        for _ in range(queued):
            result = product(x, y)
        return result

    _, seconds = repeat(run, 10)
    return Ceiling(n, queued * 2 * n**3 / statistics.median(seconds))


def compiled(function: Any, *arguments: Any) -> Program:
    """Compiles a jitted function for these arguments."""
    began = time.perf_counter()
    call = function.lower(*arguments).compile()
    return Program(call, time.perf_counter() - began)


def repeat(
    run: Callable[[], Any], repeats: int, warm_up: int = WARM_UP
) -> tuple[list[float], list[float]]:
    """Seconds of the runs of the warm-up, and of those after it."""
    seconds = []
    for _ in range(warm_up + repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return seconds[:warm_up], seconds[warm_up:]


def figures(
    warm_up: list[float], seconds: list[float], flops: float | None, ceiling: Ceiling
) -> Line:
    """Seconds and, where FLOPs were counted, speed and its share of the ceiling."""
    median = statistics.median(seconds)
    line: Line = {
        "seconds": round(median, 6),
        "seconds_all": [round(s, 6) for s in seconds],
        "warm_up_seconds": [round(s, 6) for s in warm_up],
    }
    if flops is not None:
        line["model_tflops"] = round(flops / median / 1e12, 6)
        line["share_of_ceiling"] = round(flops / median / ceiling.flops, 4)
    line["ceiling_tflops"] = round(ceiling.flops / 1e12, 6)
    line["ceiling_size"] = ceiling.n
    return line


def peak_memory(before: Mapping[str, float] | None = None) -> dict[str, float]:
    """Peak memory of the process so far (`metrics.memory`).

    The counter cannot be set back. Where a process times several things, `before` says where it
    stood when this one began; a peak that did not rise since is another's, and is left out.
    """
    now = metrics.memory()
    if before is not None:
        now = {name: peak for name, peak in now.items() if peak > before[name]}
    return {name: round(peak, 3) for name, peak in now.items()}


def program_memory(program: Any) -> dict[str, float]:
    """What the compiler says that a program takes on a device, in GiB, by kind."""
    stats = program.memory_analysis()
    return {kind: round(getattr(stats, f"{kind}_size_in_bytes") / 2**30, 6) for kind in MEMORY}


def machine() -> Line:
    """The devices, and the versions of what runs on them."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    versions["python"] = platform.python_version()
    for package in CUDNN:
        try:
            versions["cudnn"] = importlib.metadata.version(package)
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "compilation_cache": bool(jax.config.values["jax_compilation_cache_dir"]),
        "versions": versions,
    }
