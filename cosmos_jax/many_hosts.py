"""Several processes as one run, through `jax.distributed`."""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as dead


def _join(
    cluster: str | None, coordinator: str | None, count: int | None, number: int | None
) -> None:
    by_hand = (coordinator, count, number)
    if cluster and any(value is not None for value in by_hand):
        raise ValueError(f"--cluster={cluster} finds the other processes by itself")
    if not cluster and None in by_hand:
        raise ValueError("--coordinator, --num_processes and --process_id go together")
    if number is not None and count is not None and number >= count:
        raise ValueError(f"--process_id={number} must lie in 0..{count - 1}")
    # What it logs of a launcher that is not there, the error says.
    logging.getLogger("jax._src.clusters.cluster").setLevel(logging.CRITICAL)
    try:
        jax.distributed.initialize(
            *by_hand,
            cluster_detection_method=cluster,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError, KeyError) as error:  # KeyError: no variable of a launcher
        raise ValueError(f"the other processes of this run cannot be joined: {error}") from error


def joined(
    cluster: str | None, coordinator: str | None, count: int | None, number: int | None
) -> contextlib.AbstractContextManager[None]:
    """Joins a run, before anything else of jax; the body is what this process does in it.

    A process that fails leaves at once, without waiting for the others to finish as a good one
    does: they notice its silence, and end too.

    Args:
        cluster: "slurm", "ompi" or "k8s", which tells the rest; or None.
        coordinator: HOST:PORT of process 0.
        count: number of processes.
        number: of this process.

    Raises:
        ValueError: arguments that do not belong together, or a run that cannot be joined.
    """
    _join(cluster, coordinator, count, number)
    return _leaving_at_once()


@contextlib.contextmanager
def _leaving_at_once() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        status = error.code if isinstance(error, SystemExit) else 1
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def asked_to_stop(step: int) -> bool:
    """Whether a SIGTERM came to any process; all answer alike at the same step."""
    return multihost_utils.reached_preemption_sync_point(step)


def spread(speed: Mapping[str, float]) -> dict[str, float]:
    """How unlike the processes' last steps were, of each one's own `metrics.speed`.

    `hosts/step_spread` and `hosts/data_wait_spread` are (largest - smallest) / mean step time, of
    the time of a step and of the wait for data in it. Processes wait for each other in every step:
    one that is slow shows in the second, not in the first. `hosts/longest_data_wait` is its number.
    """
    step = speed["seconds_per_step"]
    own = np.array([step, step * speed["data_wait_fraction"]], np.float32)
    steps, waits = multihost_utils.process_allgather(own).T
    return {
        "hosts/step_spread": float(np.ptp(steps) / steps.mean()),
        "hosts/data_wait_spread": float(np.ptp(waits) / steps.mean()),
        "hosts/longest_data_wait": int(waits.argmax()),
    }


def wait(name: str) -> None:
    """Waits until every process is here."""
    multihost.sync_global_processes(name)
