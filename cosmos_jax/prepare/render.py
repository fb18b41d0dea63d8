"""Control videos from RGB videos: every frame through a filter, every file on its own.

An output tells in its own comment which filter made it of which source, so a command that was
stopped goes on where it was, and outputs of other settings or of other sources are told apart.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cosmos_jax.data import layouts, video
from cosmos_jax.data.video import FileError, VideoInfo
from cosmos_jax.prepare import streams
from cosmos_jax.progress import Progress

CRF = 4
"""Quality of control videos: the black and white of one-pixel edges comes back within 10 of 255."""

Filter = Callable[[np.ndarray], np.ndarray]
"""RGB frame to RGB frame of the same size; crosses to worker processes."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One file: RGB `source`, control `output`, and the comment of an output that is right."""

    source: VideoInfo
    output: Path
    comment: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be made, how many outputs were found finished, and sources that are no videos."""

    jobs: tuple[Job, ...]
    finished: int
    broken: tuple[FileError, ...]


def plan(root: Path, target: str, settings: str, overwrite: bool, workers: int) -> Plan:
    """Compares the RGB videos of every camera with the outputs that there are.

    Args:
        target: name of the control folder.
        settings: of the filter, in words; another makes another video.
        overwrite: make outputs of other settings anew.

    Raises:
        ValueError: no videos; a target that is no control folder's name; outputs that this command
            did not make with these settings, unless `overwrite`.
    """
    if not root.is_dir():
        raise ValueError(f"--root={root} is not a folder")
    if not target.startswith("control_input_") or "/" in target:
        raise ValueError(f"--target={target} must be a name that begins with control_input_")
    cameras = layouts.find_cameras(root, "all")
    folders = [root / "videos" / camera for camera, _ in cameras]
    paths = sorted(p for folder in folders for p in folder.glob("[!.]*.mp4"))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        looked = list(pool.map(_probe, paths))
    jobs, others, finished = [], [], 0
    for info in looked:
        if isinstance(info, FileError):
            continue
        output = root / target / Path(info.path).relative_to(root / "videos")
        comment = f"{settings}, of {os.path.getsize(info.path)} bytes"
        state = _state(output, settings)
        if state == comment and _same_timing(info, output):
            finished += 1
            continue
        if state is not None and not state.startswith(f"{settings}, of "):
            others.append((output, state))
        jobs.append(Job(info, output, comment))
    if others and not overwrite:
        output, state = others[0]
        made = f"made with other settings ({state})" if state else "not made by this command"
        raise ValueError(
            f"{root / target} holds {len(others)} videos that would be written over; {output} was "
            f"{made}. Name another --target=control_input_NAME, or --overwrite to replace them"
        )
    broken = tuple(info for info in looked if isinstance(info, FileError))
    return Plan(tuple(jobs), finished, broken)


def _probe(path: Path) -> VideoInfo | FileError:
    try:
        return video.probe(path)
    except FileError as error:
        return error


def _state(output: Path, settings: str) -> str | None:
    """The comment of an output; None where there is none, or a damaged one, which is made anew."""
    if not output.exists():
        return None
    try:
        return streams.comment_of(str(output))
    except FileError:
        return None


def _same_timing(source: VideoInfo, output: Path) -> bool:
    made = _probe(output)
    return (
        isinstance(made, VideoInfo)
        and (made.frames, made.size) == (source.frames, source.size)
        and abs(made.fps / source.fps - 1) < 5e-4
    )


def _make(job: Job, transform: Filter) -> None:
    source, frames = job.source, map(transform, streams.read(job.source))
    try:
        streams.write(job.output, frames, source.size, source.fps, source.frames, CRF, job.comment)
    except ValueError as error:  # of the filter, which does not know the file
        raise (
            error if isinstance(error, FileError) else FileError(source.path, str(error))
        ) from None


def cores() -> int:
    """Workers that a command takes unless told: one for each core, 16 at most."""
    return min(16, os.cpu_count() or 1)


def _executor(workers: int) -> concurrent.futures.Executor:
    if workers == 1:
        return concurrent.futures.ThreadPoolExecutor(1)
    # Each process has one core; the variable is read by the new processes' numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, spawn, _follow)


def _follow() -> None:
    """In a worker: leaves Ctrl-C to the command, and ends when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = multiprocessing.parent_process()
    assert command is not None

    def leave() -> None:
        command.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _finish(
    pool: concurrent.futures.Executor, jobs: Sequence[Job], transform: Filter, at_once: int
) -> Iterator[tuple[Job, FileError | None]]:
    """Works on `at_once` jobs at a time; yields each as it ends, with what was wrong with it."""
    left, running = iter(jobs), {}
    while True:
        for job in left:
            running[pool.submit(_make, job, transform)] = job
            if len(running) == at_once:
                break
        if not running:
            return
        done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            error = future.exception()
            if error is not None and not isinstance(error, FileError):
                pool.shutdown(wait=False, cancel_futures=True)
                raise error
            yield running.pop(future), error


def make(jobs: Sequence[Job], transform: Filter, workers: int, what: str) -> list[FileError]:
    """Makes the outputs on `workers` cores; returns what was wrong with the files that failed.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """
    progress = Progress(what, sum(job.source.frames for job in jobs), "frames")
    failed = []
    with _executor(workers) as pool:
        try:
            for job, error in _finish(pool, jobs, transform, workers + 1):
                if error is not None:
                    failed.append(error)
                progress.add(job.source.frames)
        except KeyboardInterrupt:  # leaving the pool would wait for its jobs, and for idle workers
            for process in multiprocessing.active_children():
                process.kill()
            raise
    return failed


def run(
    root: Path, target: str, settings: str, transform: Filter, overwrite: bool, workers: int
) -> str:
    """Plans, makes, and says what was done; see `plan` and `make` for arguments and errors.

    Raises:
        ValueError: some videos could not be made; each has been printed.
    """
    todo = plan(root, target, settings, overwrite, workers)
    (root / target).mkdir(exist_ok=True)
    failed = make(todo.jobs, transform, workers, target) if todo.jobs else []
    done = f"{len(todo.jobs) - len(failed)} videos made, {todo.finished} were there already"
    for error in (wrong := [*todo.broken, *failed]):
        print(error, flush=True)
    if wrong:
        raise ValueError(
            f"{root / target}: {done}, {len(wrong)} could not be made (listed above); mend the "
            f"files with: python -m cosmos_jax.prepare check --root={root} --fix"
        )
    return f"{root / target}: {done}"
