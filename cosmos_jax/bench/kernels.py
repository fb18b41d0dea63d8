"""Time by kind of GPU kernel, from a trace of `jax.profiler`."""

import collections
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

ATTENTION = r"flash|fmha|sdpa|attention|dot_do_o|convert_dq"
BACKWARD = r"bwd|bprop|backward|dot_do_o|convert_?dq"
CLASSES = (
    # The first whose pattern is found in the lower-case name; names that none fits are "other".
    ("attention backward", rf"(?=.*({ATTENTION}))(?=.*({BACKWARD}))"),
    ("attention forward", ATTENTION),
    ("collectives", r"nccl|all_?reduce|all_?gather|all_?to_?all|reduce_?scatter|collective"),
    ("convolutions", r"conv(?!ert)|implicit|fprop|dgrad|wgrad"),
    ("products", r"gemm|nvjet|cutlass|cublas|xmma|gemv|split_?k"),
    ("copies", r"memcpy|memset|copy"),
)
OTHER = "fusions and others"
TOP, LETTERS = 15, 100


def kernel_class(name: str) -> str:
    """The class of a kernel, by its name."""
    fits = (kind for kind, pattern in CLASSES if re.search(pattern, name.lower()))
    return next(fits, OTHER)


def table(events: Iterable[tuple[str, float]], devices: int = 1) -> dict[str, Any]:
    """Seconds on each device by class of kernel, and of the kernels that take longest.

    Kernels that run side by side all count, so the total may exceed the time that passed.

    Args:
        events: name and seconds of every kernel that ran.
        devices: on how many devices; the result is their mean.
    """
    classes = dict.fromkeys([*(kind for kind, _ in CLASSES), OTHER], 0.0)
    names: dict[str, float] = collections.defaultdict(float)
    calls: dict[str, int] = collections.Counter()
    for name, seconds in events:
        classes[kernel_class(name)] += seconds / devices
        names[name] += seconds / devices
        calls[name] += 1
    longest = sorted(names, key=lambda name: -names[name])[:TOP]
    return {
        "seconds_by_class": {kind: round(seconds, 6) for kind, seconds in classes.items()},
        "kernel_seconds": round(sum(classes.values()), 6),
        "top": [
            {
                "kernel": name[:LETTERS],
                "class": kernel_class(name),
                "calls": calls[name] // devices,
                "seconds": round(names[name], 6),
            }
            for name in longest
        ],
    }


def read(data: ProfileData) -> dict[str, Any]:
    """The table of a trace, and the seconds between its first kernel and its last.

    Raises:
        ValueError: there is no GPU in it.
    """
    planes = [plane for plane in data.planes if plane.name.startswith("/device:GPU")]
    found = [
        [event for line in plane.lines if line.name.startswith("Stream") for event in line.events]
        for plane in planes
    ]
    found = [events for events in found if events]
    if not found:
        raise ValueError("the trace holds no GPU kernels")
    spans = [max(e.start_ns + e.duration_ns for e in g) - min(e.start_ns for e in g) for g in found]
    pairs = [(event.name, event.duration_ns / 1e9) for events in found for event in events]
    return {"span_seconds": round(max(spans) / 1e9, 6), **table(pairs, len(found))}


def profile(run: Callable[[], Any], folder: Path) -> dict[str, Any]:
    """Traces one run into a folder and reads the trace."""
    return read(ProfileData.from_file(str(trace(run, folder))))


def trace(run: Callable[[], Any], folder: Path) -> Path:
    """Traces one run; the file of the trace."""
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(run())
    return max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
