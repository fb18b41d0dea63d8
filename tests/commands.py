"""Runs the two commands as processes, with a model and a data set so small that seconds suffice.

A process is forked from one that has imported jax and the rest already (`fresh=True`: starts from
nothing, as a user's does), and all of them share a cache of compiled programs. It stays behind in
the folder for temporary files, which conftest.py makes and removes.
"""

import ast
import functools
import json
import multiprocessing
import os
import pathlib
import re
import resource
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp

from cosmos_jax import checkpoints, sharding

REPOSITORY = pathlib.Path(__file__).parents[1]
CACHE = tempfile.mkdtemp(prefix="compiled-", dir=os.environ["TMPDIR"])

TINY = {
    "steps": 4,
    "model.width": 32,
    "model.blocks": 2,
    "model.heads": 2,
    "model.mlp_width": 64,
    "model.modulation_rank": 8,
    "model.text_width": 16,
    "model.text_features": 16,
    "model.control_blocks": "(0,)",
    "model.hint_widths": "(32,)",
    "text.tokens": 4,
    "text.width": 16,
    "process.num_conditional_latents": "(0.5,0.5)",
    "scene.episodes": 3,
    "scene.frames": 8,
    "scene.size": "(32,48)",
    "scene.cameras": 2,
    "scene.supersample": 1,
    "data.size": "(32,48)",
    "data.num_frames": 5,
    "data.batch_size": 4,
    "data.num_threads": 2,
    "validation.clips": 4,
    "validation.noises": 1,
    "validation.every": 2,
    "validation.per_frame": True,
    "checkpoint.every": 2,
    "preview.clips": 1,
    "preview.weights": "('regular','ema')",
    "preview.conditional_frames": "(0,1)",
    "preview.control_weights": "(0.0,1.0)",
    "preview.num_steps": 4,
    "sample.num_steps": 2,
    "log.every": 1,
}
"""Changes of experiments/demo.py."""


def demo(**changes):
    """Arguments of run_train.py for the tiny demo; in keys, `__` stands for the dot."""
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return ["--config=experiments/demo.py", *(f"--config.{k}={v}" for k, v in values.items())]


def changed(values, given):
    """Plain values of a config, with the changes of `TINY` or others like them by dotted key."""
    for path, value in given.items():
        *sections, last = path.split(".")
        place = values
        for name in sections:
            place = place[name]
        is_list = isinstance(value, str) and value.startswith("(")
        place[last] = ast.literal_eval(value) if is_list else value
    return values


class Command:
    """A started command. Its output is complete when `wait` has returned its exit status."""

    def __init__(self, script, *arguments, devices=1, fresh=False, largest_file=None, paths=()):
        self._folder = pathlib.Path(tempfile.mkdtemp(dir=CACHE))
        environment = _environment(devices)
        argv = [script, *map(str, arguments)]
        if fresh:
            with open(self._folder / "out", "w") as out, open(self._folder / "err", "w") as err:
                self._process = subprocess.Popen(
                    [sys.executable, *argv],
                    cwd=REPOSITORY,
                    env=os.environ | environment,
                    stdout=out,
                    stderr=err,
                )
            self.wait = self._process.wait
        else:
            self._process = _forks().Process(
                target=_main, args=(argv, environment, self._folder, largest_file, paths)
            )
            self._process.start()

    def wait(self):
        """The exit status."""
        self._process.join()
        return self._process.exitcode

    @property
    def running(self):
        """Whether a forked process has not ended."""
        return self._process.is_alive()

    def terminate(self):
        """SIGTERM."""
        self._process.terminate()

    def kill(self):
        """SIGKILL, then waits for the end."""
        self._process.kill()
        self.wait()

    @property
    def out(self):
        return _read(self._folder / "out")

    @property
    def err(self):
        return _read(self._folder / "err")


def run(script, *arguments, **options):
    """Runs a command to its end, which must be a good one."""
    command = Command(script, *arguments, **options)
    status = command.wait()
    assert status == 0, f"exit status {status}\n{command.out}\n{command.err}"
    return command


def error_of(script, *arguments, **options):
    """What a command says that must refuse its input: exit status 2, and that on stderr alone."""
    command = Command(script, *arguments, **options)
    status = command.wait()
    assert status == 2, f"exit status {status}\n{command.out}\n{command.err}"
    head = f"{pathlib.Path(script).name}: error: "
    assert command.err.startswith(head), command.err
    return command.err.removeprefix(head).removesuffix("\n")


@functools.cache
def trained():
    """The workdir of a finished run of the tiny demo. Tests may read it; they change a copy."""
    workdir = pathlib.Path(CACHE) / "trained"
    run("run_train.py", *demo(), f"--workdir={workdir}", fresh=True)
    return workdir


def metrics(workdir):
    """{step: {name: number}} of a run."""
    rows = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["step"], {}).update(row)
    return rows


def losses(workdir):
    """The loss of every step, each of which must stand once."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [(row["step"], row["loss"]) for row in lines if "loss" in row]
    assert len(dict(found)) == len(found), found
    return dict(found)


def arrays(workdir, step):
    """Every array of one checkpoint, by item and path."""
    folder = workdir / "checkpoints" / str(step)
    found = {}
    for item in checkpoints.MOVING:
        with ocp.PyTreeCheckpointer() as reader:
            shapes = reader.metadata(folder / item).item_metadata.tree
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            held = reader.restore(folder / item, restore_args=how)
        pairs, _ = jax.tree_util.tree_flatten_with_path(held)
        found |= {f"{item}/{sharding.path_name(path)}": leaf for path, leaf in pairs}
    assert len(found) > 50
    return found


def _environment(devices):
    return {
        "XLA_FLAGS": re.sub(r"(?<=device_count=)\d+", str(devices), os.environ["XLA_FLAGS"]),
        "JAX_COMPILATION_CACHE_DIR": CACHE,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XDG_CACHE_HOME": CACHE,
    }


@functools.cache
def _forks():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["av", "flax.linen", "grain", "optax", "orbax.checkpoint"])
    with mock.patch.dict(os.environ, _environment(1)):
        forkserver.ensure_running()
    return context


def _main(argv, environment, folder, largest_file, paths):
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    if largest_file:  # beyond it, writing fails as on a full disk
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))
    os.environ |= environment
    os.chdir(REPOSITORY)
    sys.argv, sys.path[:0] = argv, map(str, paths)  # as with PYTHONPATH
    runpy.run_path(argv[0], run_name="__main__")


def _read(path):
    return path.read_text() if path.exists() else ""
