"""Several processes, on one host or many, as one run (`many_hosts` is loaded for them).

    srun python run_train.py ... --cluster=slurm
    mpirun -np 4 python run_train.py ... --cluster=ompi
    python run_train.py ... --cluster=k8s                    # in an indexed Job's pods
    python run_train.py ... --coordinator=10.0.0.1:1234 --num_processes=4 --process_id=0

Every process is started with the same command (by hand: with its own --process_id), sees its own
GPUs, reads its own rows of the batch and ends when another one dies.
"""

import contextlib
import importlib
import os
import signal
from collections.abc import Mapping
from typing import Any

from absl import flags

CLUSTER = flags.DEFINE_enum(
    "cluster", None, ["slurm", "ompi", "k8s"], "Who started the processes of this run."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no --cluster tells it."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator.", lower_bound=0)

TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # set in each task by its launcher


def _many() -> Any:
    return importlib.import_module("cosmos_jax.many_hosts")


def joined() -> contextlib.AbstractContextManager[None]:
    """The body runs as one of the processes that the flags name, or alone where they name none.

    Raises:
        ValueError: see `many_hosts.joined`; or several tasks were started without any flag, each of
            which would run alone, into the same folder.
    """
    by_hand = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if CLUSTER.value or any(value is not None for value in by_hand):
        return _many().joined(CLUSTER.value, *by_hand)
    for name in TASKS:
        if int(os.environ.get(name, 1)) > 1:
            raise ValueError(
                f"{name}={os.environ[name]}: several tasks were started, and each would train "
                "alone; add --cluster=slurm (or ompi, k8s), or start one task"
            )
    return contextlib.nullcontext()


def spread(speed: Mapping[str, float]) -> dict[str, float]:
    """What processes differ in (`many_hosts.spread`), which all of them call; nothing of one."""
    import jax

    return _many().spread(speed) if jax.process_count() > 1 else {}


class Stop:
    """Listens for SIGTERM, by which a scheduler takes a machine back, from now on.

    Where several processes run, jax listens, and all of them hear of it at the same step.
    """

    def __init__(self) -> None:
        import jax

        self._together, self._asked = jax.process_count() > 1, False
        if not self._together:
            signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *unused: object) -> None:
        self._asked = True

    def asked(self, step: int) -> bool:
        """Whether to stop after this step; every process asks at every step."""
        return _many().asked_to_stop(step) if self._together else self._asked
