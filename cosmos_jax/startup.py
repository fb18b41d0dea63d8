"""What shortens the time to the first step: programs are kept, and compile beside other work."""

import functools
import importlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cosmos_jax import encode
from cosmos_jax.train import Metrics, Trainer
from cosmos_jax.types import Batch, TrainState


def keep_programs() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second start does not compile.

    Only on accelerators: programs of CPUs are tied to the machine's very model. The folder is
    $XDG_CACHE_HOME/cosmos_jax (~/.cache/cosmos_jax); $JAX_COMPILATION_CACHE_DIR names another, and
    JAX_ENABLE_COMPILATION_CACHE=false switches it off.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None and jax.default_backend() != "cpu":
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "cosmos_jax" / "programs"))


class Programs:
    """The step, compiled beside other work for every number of views that batches have.

    Args:
        trainer: whose step.
        sizes: of the network, `build.Sizes`.
        batch: number of samples.
        mesh: where they lie.
    """

    def __init__(self, trainer: Trainer, sizes: Any, batch: int, mesh: Mesh):
        step = trainer.jit_step()

        @functools.cache
        def lower(views: int) -> Any:
            return step.lower(sizes.state, encode.placed(sizes.batch(batch, views), mesh))

        self._lower = lower
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._programs: dict[int, Future[Any]] = {}

    def check(self, views: int) -> None:
        """Traces the step; raises what is wrong with its shapes."""
        self._lower(views)

    def compile(self, views: int) -> Any:
        """Starts to compile the step, once; `result()` of what comes back waits for it."""
        if views not in self._programs:
            self._programs[views] = self._pool.submit(self._lower(views).compile)
        return self._programs[views]

    def wait(self, views: int) -> None:
        """Waits for a program, in every process: they go on together."""
        self.compile(views).result()
        if jax.process_count() > 1:
            importlib.import_module("cosmos_jax.many_hosts").wait("compiled")

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step."""
        return self.compile(batch.latents.shape[1]).result()(state, batch)
