"""A window of steps in jax's profiler: `run_train.py --profile=START:STEPS`."""

import re
from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"


class Window:
    """Traces steps START to START + STEPS - 1 into WORKDIR/profile; process 0 traces its devices.

    A context manager: leaving it ends a trace that is under way.

    Args:
        text: "START:STEPS".
        workdir: the run's folder.
        done: steps that the run has behind it.
        steps: of the whole run.

    Raises:
        ValueError: the text is not of that form, or names steps that this start does not take.
    """

    def __init__(self, text: str, workdir: Path, done: int, steps: int):
        named = re.fullmatch(r"(\d+):(\d+)", text)
        if not named:
            raise ValueError(f"--profile={text}: write START:STEPS, as in 20:3")
        self._first, count = int(named[1]), int(named[2])
        self._last = self._first + count - 1
        if not done < self._first <= self._last <= steps:
            raise ValueError(
                f"--profile={text} means steps {self._first} to {self._last}; this start takes "
                f"steps {done + 1} to {steps}"
            )
        self._folder, self._tracing = workdir / FOLDER, False

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *unused: Any) -> None:
        self._stop()

    def turn(self, step: int) -> None:
        """Begins or ends the trace; called before each step, when the one before is done."""
        if step == self._first and jax.process_index() == 0:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        elif step > self._last:
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            print(f"profile  steps {self._first} to {self._last}: {self._folder}", flush=True)
