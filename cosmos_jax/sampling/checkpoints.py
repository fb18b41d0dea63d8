"""Where the weights to sample with come from, and the config that goes with them."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cosmos_jax import build, build_weights, checkpoints, optim, run_weights, workdir
from cosmos_jax.data import layouts
from cosmos_jax.data.layouts import Cameras
from cosmos_jax.train import Trainer
from cosmos_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One set of weights.

    Attributes:
        label: for folders and pages.
        where: a checkpoint of a run, or what `converters.weights` opens.
        ours: whether it is a checkpoint of a run.
    """

    label: str
    where: str
    ours: bool

    def weights(self, which: str | None) -> str:
        """ "ema" or "regular": what is asked for, or else the average where there is one.

        Raises:
            ValueError: an average that was not kept.
        """
        if not self.ours:
            return which or "as they are"
        averaged = (Path(self.where) / "ema").is_dir()
        if which == "ema" and not averaged:
            raise ValueError(f"--weights=ema: {self.where} keeps no average; drop the flag")
        return which or ("ema" if averaged else "regular")

    def quick(self, trainer: Trainer, which: str | None) -> str:
        """A hash that changes where the weights do, without reading them.

        Of a run's checkpoint: `of_files`. Of others: of the ends of every array
        (`converters.weights.fingerprint`).

        Raises:
            ValueError: they cannot be read, or are another network's.
        """
        if self.ours:
            return of_files(Path(self.where))
        opened = build_weights.open_weights(self.where, "dit", trainer.net.config)
        held = (opened.tensors or opened.sets)[opened.choose(which)]  # as stored: quick to read
        return build.load("converters.weights:fingerprint", "weights")(held)

    def load(self, trainer: Trainer, sizes: build.Sizes, which: str | None) -> dict[str, Params]:
        """The network's variables in the compute dtype.

        Raises:
            ValueError: they cannot be read, or are another network's.
        """
        if self.ours:
            ema = self.weights(which) == "ema"
            return run_weights.load_variables(Path(self.where), trainer, sizes.state, ema)
        wanted = {
            "params": jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, trainer.dtype, sharding=leaf.sharding
                ),
                optim.merge(sizes.state.params, sizes.state.frozen),
            ),
            "constants": sizes.state.constants,
        }
        return build_weights.place(self.where, "dit", trainer.net.config, wanted, which)


@dataclasses.dataclass(frozen=True)
class Source:
    """A model: its config, the views that it knows, and its weights.

    Attributes:
        values: the config, plain.
        cameras: views with their ids.
        found: the weights to sample with, one after another.
        folder: the run's, or None.
    """

    values: dict[str, Any]
    cameras: Cameras
    found: tuple[Checkpoint, ...]
    folder: Path | None


def of_files(folder: Path) -> str:
    """A hash of a checkpoint's frozen arrays' digest and of its files' names, sizes and times."""
    lines = [checkpoints.read_record(folder).frozen]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found = path.stat()
        lines.append(f"{path.relative_to(folder)} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def is_run(path: Path) -> bool:
    """Whether a path is a workdir of run_train.py, or a checkpoint in one."""
    return (path / workdir.CONFIG_FILE).is_file() or (path / "record").is_dir()


def open_run(path: Path, several: str | None) -> Source:
    """A run's checkpoints.

    Args:
        path: a workdir, or one checkpoint in it.
        several: "all", or step numbers with commas; None: the newest, or the one named.

    Raises:
        ValueError: no checkpoint, a step that is not there, or a config that cannot be read.
    """
    newest = checkpoints.locate(path)
    run = newest.parent.parent
    if several is not None and newest.resolve() == path.resolve():
        raise ValueError(f"--checkpoints={several}: give the run, --checkpoint={run}, beside it")
    steps = checkpoints.complete_steps(newest.parent)
    if several is None:
        chosen = [int(newest.name)]
    elif several == "all":
        chosen = list(steps)
    else:
        chosen = [_step(word, steps, run) for word in several.split(",")]
    values, cameras = workdir.read_config(run)
    found = tuple(
        Checkpoint(f"step_{step:06d}", str(newest.parent / str(step)), True) for step in chosen
    )
    return Source(values, cameras, found, run)


def _step(word: str, steps: Sequence[int], run: Path) -> int:
    if not word.strip().isdecimal() or int(word) not in steps:
        raise ValueError(f"--checkpoints: {run} has no step {word!r}; it has {list(steps)}")
    return int(word)


def open_files(sources: Sequence[str], config: Mapping[str, Any]) -> Source:
    """Published or exported weights, which need a config to say what model they are of.

    Raises:
        ValueError: a config that is not whole or does not name its cameras, or no such file.
    """
    values = build.check_config(config)
    values["adapter"] = {**values["adapter"], "rank": 0}  # they are merged, where there were any
    named = values["data"]["cameras"]
    if named == "all":
        if build.network(values).config.view_rows:
            raise ValueError(
                "config.data.cameras must name the model's cameras, where the weights are no run's"
            )
        cameras: Cameras = (("", 0),)
    else:
        words = named.split(",") if isinstance(named, str) else list(dict(named))
        cameras = layouts.choose_cameras(words, named, Path("config.data.cameras"))
    for source in sources:
        if not source.startswith("hf://") and not Path(source).exists():
            raise ValueError(f"{source}: no such weights (of --checkpoint, --checkpoints)")
    stems = [Path(source).name.split(".")[0] or source for source in sources]
    if len(set(stems)) < len(stems):
        stems = [f"{stem}_{i}" for i, stem in enumerate(stems)]
    found = tuple(
        Checkpoint(stem, source, False) for stem, source in zip(stems, sources, strict=True)
    )
    return Source(values, cameras, found, None)
