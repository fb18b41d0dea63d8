"""Several processes, on one host or many, as one run.

    srun python run_train.py ... --cluster=slurm
    mpirun -np 4 python run_train.py ... --cluster=ompi
    python run_train.py ... --cluster=k8s                    # in an indexed Job's pods
    python run_train.py ... --coordinator=10.0.0.1:1234 --num_processes=4 --process_id=0

Every process is started with the same command (by hand: with its own --process_id), sees its own
GPUs, reads its own rows of the batch and ends when another one dies.
"""

import os

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
HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as dead


def join() -> None:
    """Joins the run that the flags name, before anything else of jax; nothing without them.

    Raises:
        ValueError: flags that do not belong together, several tasks without any (each would run
            alone, into the same folder), or a run that cannot be joined.
    """
    by_hand = address, count, number = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if CLUSTER.value and any(value is not None for value in by_hand):
        raise ValueError(f"--cluster={CLUSTER.value} finds the other processes by itself")
    if any(value is not None for value in by_hand) and None in by_hand:
        raise ValueError("--coordinator, --num_processes and --process_id go together")
    if number is not None and count is not None and number >= count:
        raise ValueError(f"--process_id={number} must lie in 0..{count - 1}")
    if not CLUSTER.value and address is None:
        for name in TASKS:
            if int(os.environ.get(name, 1)) > 1:
                raise ValueError(
                    f"{name}={os.environ[name]}: several tasks were started, and each would train "
                    "alone; add --cluster=slurm (or ompi, k8s), or start one task"
                )
        return
    import jax

    try:
        jax.distributed.initialize(
            *by_hand,
            cluster_detection_method=CLUSTER.value,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the other processes of this run cannot be joined: {error}") from error
