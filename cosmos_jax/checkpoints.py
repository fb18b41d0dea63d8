"""Checkpoints of a run: written in the background, whole or not at all, read onto any mesh.

    checkpoints/
      latest_checkpoint.txt         the step of the last complete checkpoint, for people and scripts
      100/  params  ema  opt_state  record      one step; each item is read without the others
      frozen/<digest>/  frozen  constants       arrays that no step changes: written once for a run

A step is written under a temporary name and renamed when complete, so a folder whose name is a
number is a complete checkpoint, whenever the process was killed. Its record (JSON) holds what is
not an array, and the digest of the frozen arrays that belong to it: to move a checkpoint, copy the
step and `frozen`.

This stands on Orbax's `AsyncCheckpointer` and not on its `CheckpointManager`, for two reasons (seen
in Orbax 0.12.8): the manager deletes an old step in place, so that a kill leaves half a step under
a number, and its completion callback runs before the rename.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cosmos_jax.types import TrainState

LATEST = "latest_checkpoint.txt"
FROZEN = "frozen"
TRASH = "trash"
TMP = ".orbax-checkpoint-tmp"
MOVING = ("params", "ema", "opt_state")
"""The fields of a `TrainState` that every checkpoint holds; `step` is in the record."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint holds beside arrays. Every value is JSON.

    Attributes:
        step: finished steps.
        samples: samples consumed by those steps; the data restart at this global sample index.
        data: the data pipeline's own state, to check the restart against.
        model: description of the model; see `Checkpoints`.
        frozen: digest of the frozen parameters and the constants; "" where there are none.
        metrics: those of the validation of this step, if there was one.
    """

    step: int
    samples: int
    data: Any
    model: dict[str, Any]
    frozen: str
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


class SaveError(ValueError):
    """A checkpoint could not be written. Those before it are intact."""


class Checkpoints:
    """Writes and reads the checkpoints of one run. A context manager: leaving it waits for a save.

    Made and called by every process alike; the file system is one that all of them share.

    Args:
        directory: the run's `checkpoints` folder; made where it is missing.
        model: a description of the model as JSON, saved with each checkpoint. `restore` refuses a
            checkpoint with another, which catches a change that no shape shows.
        keep_last: how many of the newest checkpoints stay; at least 1.
        keep_every: checkpoints whose step is a multiple of this stay too; None keeps no others.
        best: name of a metric; the checkpoint with the lowest stays too. None keeps none for that.
        defaults: parts of `model` that a checkpoint of an earlier version may lack, as it meant
            them.

    Raises:
        ValueError: `keep_last` or `keep_every` below 1.
        OSError: the directory cannot be made.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        model: Mapping[str, Any],
        keep_last: int,
        keep_every: int | None = None,
        best: str | None = None,
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ):
        if keep_last < 1 or (keep_every is not None and keep_every < 1):
            raise ValueError(
                f"checkpoints: keep_last={keep_last} and keep_every={keep_every} are at least 1 "
                "(keep_every may be None)"
            )
        logging.getLogger("absl").addFilter(not_orbax)
        self._directory = pathlib.Path(directory).absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._model = json.loads(json.dumps(model))
        self._defaults = json.loads(json.dumps(dict(defaults)))
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._best = best
        self._digest: str | None = None
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: concurrent.futures.Future | None = None
        if jax.process_index() == 0:
            _sweep(self._directory)
            self._name_latest()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return max(complete_steps(self._directory), default=None)

    def save(self, state: TrainState, samples: int, data: Any) -> None:
        """Starts to save `state`, and returns when the arrays are copied from the devices.

        The caller may then donate them. A save still under way is waited for first. A step that is
        already complete is not written again.

        Args:
            state: the state after `state.step` steps.
            samples: see `Record`.
            data: see `Record`.

        Raises:
            SaveError: this save, or the one before it, failed.
        """
        self.wait()
        step = int(state.step)
        if step in complete_steps(self._directory):
            return
        try:
            still = self._save_frozen(state)
            record = Record(step, samples, data, self._model, still)
            items = {name: getattr(state, name) for name in MOVING}
            self._checkpointer.save(
                self._directory / str(step),
                args=ocp.args.Composite(
                    record=ocp.args.JsonSave(dataclasses.asdict(record)), **_standard_save(items)
                ),
            )
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = self._worker.submit(self._commit, step)

    def score(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step's validation to its record, where that step was saved."""
        self._saving = self._worker.submit(self._note, self._saving, step, dict(metrics))

    def check(self) -> None:
        """Raises the error of a save that failed meanwhile; returns at once. For every step."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the save under way, and raises its `SaveError` if it failed."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """Waits for the save under way and ends the background thread."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            self._checkpointer.close()
            if jax.process_index() == 0:  # threads of a failed save may have written on until here
                _sweep(self._directory)

    def restore(self, abstract: TrainState) -> tuple[TrainState, Record]:
        """Reads the newest checkpoint onto the devices, bit for bit as it was saved.

        Args:
            abstract: the state to make, of `jax.ShapeDtypeStruct` with shardings (or arrays, whose
                values are not used). The mesh need not be the one that saved.

        Raises:
            ValueError: there is no complete checkpoint; or it is of another model (the message
                names the first parameter that differs, with both shapes; nothing was read); or its
                frozen arrays are missing or damaged.
        """
        path = locate(self._directory)
        record = read_record(path)
        still_path = frozen_path(path, record)
        moving = {name: getattr(abstract, name) for name in MOVING}
        still = {"frozen": abstract.frozen, "constants": abstract.constants}
        check_arrays(path, path, moving)
        check_arrays(path, still_path, still)
        later = {k: {**unsaid, **record.model[k]} for k, unsaid in self._defaults.items()}
        told = leaves({"model": {**record.model, **later}})
        _check_same(path, told, leaves({"model": self._model}))
        moving = read_items(path, moving)
        still = read_items(still_path, still)
        self._digest = digest(still)
        if self._digest != record.frozen:
            raise ValueError(
                f"{still_path} is damaged: the digest of its arrays is {self._digest or 'empty'}; "
                "copy the folder again from where it came, or start from another checkpoint"
            )
        done = np.asarray(record.step, np.int32)
        step = jax.make_array_from_callback((), abstract.step.sharding, lambda _: done)
        return TrainState(step=step, **moving, **still), record

    def _save_frozen(self, state: TrainState) -> str:
        """Writes the arrays that no step changes, unless they are there; returns their digest."""
        still = {"frozen": state.frozen, "constants": state.constants}
        if self._digest is None:
            self._digest = digest(still)
        path = self._directory / FROZEN / self._digest
        if self._digest and not path.exists():
            self._checkpointer.save(path, args=ocp.args.Composite(**_standard_save(still)))
            self._checkpointer.wait_until_finished()
        return self._digest

    def _commit(self, step: int) -> None:
        """In the background thread: waits for the rename, names the step, retires old ones."""
        try:
            self._checkpointer.wait_until_finished()
            if jax.process_index() == 0:
                self._name_latest()
                steps = complete_steps(self._directory)
                keep = {best_step(self._directory, self._best)}
                for old in {*retired(steps, self._keep_last, self._keep_every)} - keep:
                    _discard(self._directory / str(old), self._directory / TRASH)
        except Exception as error:
            raise self._failed(step, error) from error

    def _note(self, before: Any, step: int, metrics: dict[str, float]) -> None:
        """In the background thread, which has made the save `before` complete, or failed to."""
        if before is not None:
            before.result()
        path = self._directory / str(step) / "record" / "metadata"
        if jax.process_index() == 0 and path.exists():
            try:
                held = json.loads(path.read_text("utf-8"))
                draft = path.with_suffix(".draft")
                draft.write_text(json.dumps({**held, "metrics": metrics}), "utf-8")
                draft.replace(path)
            except OSError as error:
                raise self._failed(step, error) from error

    def _name_latest(self) -> None:
        latest = self.latest_step()
        if latest is not None:
            draft = self._directory / f"{LATEST}.draft"
            draft.write_text(f"{latest}\n")
            draft.replace(self._directory / LATEST)

    def _failed(self, step: int, error: Exception) -> SaveError:
        """Clears what the failed save left, and words its error."""
        free = shutil.disk_usage(self._directory).free / 2**30
        if jax.process_index() == 0:
            _sweep(self._directory)
        latest = self.latest_step()
        kept = "there is no earlier one" if latest is None else f"that of step {latest} is complete"
        return SaveError(
            f"the checkpoint of step {step} could not be written to {self._directory} "
            f"({free:.2f} GiB were free): {_reason(error)}; {kept}. Make room, or keep fewer "
            "checkpoints, and start the same command again"
        )


def retired(steps: Sequence[int], keep_last: int, keep_every: int | None) -> list[int]:
    """The steps to delete: all but the newest `keep_last` and the multiples of `keep_every`."""
    old = sorted(steps)[:-keep_last]
    return [step for step in old if keep_every is None or step % keep_every]


def best_step(directory: pathlib.Path, metric: str | None) -> int | None:
    """The complete step with the lowest `metric` (of equals the first); None where none has it."""
    if metric is None:
        return None
    records = [read_record(directory / str(step)) for step in complete_steps(directory)]
    scored = [r for r in records if metric in r.metrics and np.isfinite(r.metrics[metric])]
    return min(scored, key=lambda record: record.metrics[metric]).step if scored else None


def complete_steps(directory: str | os.PathLike) -> list[int]:
    """The steps whose checkpoints are complete, in order. A folder that is not there has none."""
    found = pathlib.Path(directory).glob("*")
    return sorted(int(path.name) for path in found if path.name.isdecimal() and path.is_dir())


def locate(path: str | os.PathLike) -> pathlib.Path:
    """The checkpoint that `path` means: itself, or the newest of a checkpoints or work folder.

    Raises:
        ValueError: there is none.
    """
    path = pathlib.Path(path).absolute()
    if path.name.isdecimal() and (path / "record").is_dir():
        return path
    for directory in (path / "checkpoints", path):
        if steps := complete_steps(directory):
            return directory / str(steps[-1])
    raise ValueError(
        f"{path} holds no complete checkpoint; give a work folder of run_train.py, its checkpoints "
        "folder, or one checkpoint such as runs/demo/checkpoints/100"
    )


def read_record(path: str | os.PathLike) -> Record:
    """The record of one checkpoint folder, without reading arrays.

    Raises:
        ValueError: the folder is not a checkpoint of ours.
    """
    path = pathlib.Path(path).absolute()
    if not (path / "record").is_dir():
        raise ValueError(f"{path} is not a complete checkpoint: it has no record")
    logging.getLogger("absl").addFilter(not_orbax)
    return Record(**ocp.JsonCheckpointHandler().restore(path / "record"))


def digest(tree: Any) -> str:
    """A hash of the names, shapes, dtypes and bits of arrays, the same on any mesh; "" for none.

    Each array is summed on its devices with a weight for each position, in integers modulo 2^32,
    where the order of a sum does not matter.
    """
    if not jax.tree.leaves(tree):
        return ""
    sums = jax.jit(lambda t: jax.tree.map(_sum_of_bits, t))(tree)
    held = leaves(tree)
    lines = [f"{k} {held[k].shape} {held[k].dtype} {int(s)}" for k, s in leaves(sums).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _sum_of_bits(x: jax.Array) -> jax.Array:
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
    for axis in range(x.ndim):
        place = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        bits = (bits ^ (place + jnp.uint32(axis + 1))) * jnp.uint32(0x9E3779B1)
        bits = bits ^ (bits >> 15)
    return jnp.sum(bits, dtype=jnp.uint32)


def leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path, as "blocks/q/kernel"; fields, keys and positions are all written alike."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def _standard_save(items: Mapping[str, Any]) -> dict[str, Any]:
    """Orbax arguments for the items that hold arrays: it refuses an empty one."""
    return {k: ocp.args.StandardSave(v) for k, v in items.items() if jax.tree.leaves(v)}


def read_items(folder: pathlib.Path, items: Mapping[str, Any]) -> dict[str, Any]:
    """Reads items of a folder onto the shardings of `items`; one without arrays is itself."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(items))
    args = {k: ocp.args.StandardRestore(v) for k, v in abstract.items() if jax.tree.leaves(v)}
    if not args:
        return dict(items)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        held = reader.restore(folder, args=ocp.args.Composite(**args))
    return {k: held[k] if k in args else v for k, v in items.items()}


def metadata(folder: pathlib.Path, item: str) -> Any:
    """Shapes and dtypes of an item, without reading it; an item that is not there has none."""
    if not (folder / item).is_dir():
        return {}
    return ocp.StandardCheckpointHandler().metadata(folder / item).tree


def check_arrays(
    path: pathlib.Path, folder: pathlib.Path, items: Mapping[str, Any], dtypes: bool = True
) -> None:
    """Compares the shapes of stored items with those wanted, before any array is read."""

    def describe(leaf: Any) -> str:
        return f"{jnp.dtype(leaf.dtype)}{list(leaf.shape)}" if dtypes else f"{list(leaf.shape)}"

    for item, wanted in items.items():
        trees = ({item: metadata(folder, item)}, {item: wanted})
        there, here = ({k: describe(v) for k, v in leaves(t).items()} for t in trees)
        _check_same(path, there, here)


def _check_same(path: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the first entry in which a checkpoint and this run differ."""
    for name in dict.fromkeys([*here, *there]):
        told = [f"{d[name]}" if name in d else "absent" for d in (there, here)]
        if told[0] != told[1]:
            raise ValueError(
                f"{path} is a checkpoint of another model: {name} is {told[0]} there and {told[1]} "
                "in this run; use the config of the run that saved it, or another --workdir"
            )


def frozen_path(path: pathlib.Path, record: Record) -> pathlib.Path:
    """The folder of the frozen arrays that belong to a step (of no items, where it has none)."""
    folder = path.parent / FROZEN / record.frozen
    if record.frozen and not folder.is_dir():
        raise ValueError(
            f"{path} needs the frozen parameters of {folder}, which is not there; copy the folder "
            f"{FROZEN} beside the step"
        )
    return folder


def _reason(error: Exception) -> str:
    """The operating system's words for an error, dug out of tensorstore's where it is inside."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return " ".join(str(error).split()) or type(error).__name__


def _discard(path: pathlib.Path, trash: pathlib.Path) -> None:
    """Deletes a folder so that a kill in between leaves nothing under its name."""
    trash.mkdir(exist_ok=True)
    path.rename(trash / path.name)
    shutil.rmtree(trash, ignore_errors=True)


def _sweep(directory: pathlib.Path) -> None:
    """Deletes what a killed or failed process left: unfinished steps, half-deleted ones."""
    unfinished = [*directory.glob(f"*{TMP}*"), *directory.glob(f"{FROZEN}/*{TMP}*")]
    for path in [*unfinished, directory / TRASH]:
        shutil.rmtree(path, ignore_errors=True)


def not_orbax(record: logging.LogRecord) -> bool:
    """Drops what Orbax logs through absl: a page for every save; its errors are raised anyway."""
    return "orbax" not in record.pathname
