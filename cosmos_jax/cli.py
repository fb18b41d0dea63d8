"""Command lines: flags that fail in one line, and errors of the user told apart from ours.

Exit status 0: done. 1: a fault of the program (with a traceback). 2: bad input, found before work
starts. 3: the run was stopped by its own numbers (NaN loss). 4: the run was told to stop (SIGTERM),
has saved, and goes on by the same command. Set COSMOS_JAX_TRACEBACK=1 to see where an error of kind
2 came from.
"""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

MOVED = {"log.project": "job.project"}  # settings of earlier versions, without "config."
BAD_INPUT = 2
STOPPED = 3
PREEMPTED = 4
EXACT_KERNELS = "--xla_gpu_deterministic_ops=true"  # what run_train.py --deterministic tells XLA


def fail(error: object, status: int = BAD_INPUT) -> NoReturn:
    """Prints one line and ends the program with `status`."""
    if os.environ.get("COSMOS_JAX_TRACEBACK") == "1":
        traceback.print_exc()
    print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr, flush=True)
    sys.exit(status)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ValueError or OSError of the body into one line and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        fail(error)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """`app.run`'s flags parser: errors are one line, and name the nearest valid config key.

    `--config.KEY=None` takes the value away from a key of any type, which ml_collections cannot.
    """
    none = [arg for arg in argv if re.fullmatch(r"--config\.[\w.]+=None", arg)]
    try:
        rest = flags.FLAGS([arg for arg in argv if arg not in none])
        for arg in none:
            _set_none(flags.FLAGS["config"].value, arg.removeprefix("--config.").split("=")[0])
    except (AttributeError, KeyError, TypeError) as error:  # from ml_collections: an unknown key
        fail(_unknown_key(argv, str(error)))
    except (flags.Error, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        # ml_collections puts a traceback before what an experiment's file says.
        fail(re.sub(r"Error whilst parsing config file: .*\w+Error: ", "", text))
    except SystemExit:  # --help has printed its text
        sys.exit(0)
    return rest


def _set_none(config: Any, path: str) -> None:
    *sections, key = path.split(".")
    for name in sections:
        config = config[name]
    with config.ignore_type():
        config[key] = None


def _unknown_key(argv: Sequence[str], error: str) -> str:
    """What to say of ml_collections' error, whose first word is the key."""
    key, near = re.findall(r"\w+", error)[0], re.search(r'Did you mean "(\w+)"', error)
    flag = next((arg for arg in argv if key in re.split(r"[.=]", arg)), key).split("=")[0]
    hint = f"did you mean {near[1]}?" if near else "the experiment's file does not list it"
    if moved := MOVED.get(flag.removeprefix("--config.")):
        hint = f"it is --config.{moved} now"
    return f"unknown config key {flag}; {hint}"


def define_switch(name: str, about: str, *choices: str) -> Any:
    """Defines a flag that is "true" where it stands bare, else one of `choices`, or "false"."""
    flags.disclaim_key_flags()  # it is the caller's, in --help
    how: list[Any] = [flags.EnumParser(["true", "false", *choices]), flags.ArgumentSerializer()]
    return flags.DEFINE_flag(flags.Flag(how[0], how[1], name, "false", about, boolean=True))


def no_arguments(argv: Sequence[str]) -> None:
    """Fails where words are left that are not flags."""
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}: flags begin with --")


def needed(flag: Any) -> str:
    """The text of a flag that must be given."""
    if not flag.value:
        fail(f"--{flag.name} is missing: {flags.FLAGS[flag.name].help}")
    return flag.value


def read_config(flag: Any) -> Any:
    """The ConfigDict of a config-file flag; a file that does not load is a one-line error."""
    if flag.value is None:
        fail("--config=experiments/NAME.py is missing")
    try:
        flag.value.to_dict()
    except OSError as error:
        fail(f"--config: {' '.join(str(error).split())}")
    return flag.value


def job_folder(flag: Any, config: Any) -> Path:
    """Where a run goes: what its flag says, or $COSMOS_JAX_OUTPUT_ROOT / project / group / name.

    Raises:
        ValueError: no flag, and a part of `config.job` is missing or no name of a folder.
    """
    if flag.value:
        return Path(flag.value)
    parts = {key: config.job[key] for key in ("project", "group", "name")}
    for key, part in parts.items():
        if not part or part in (".", "..") or "/" in part:
            raise ValueError(
                f"config.job.{key}={part!r} is no name of a folder; set it, or give --{flag.name}"
            )
    root = os.environ.get("COSMOS_JAX_OUTPUT_ROOT") or "runs"
    return Path(root, *parts.values())


def run(main: Callable[[Any], Any]) -> None:
    """`absl.app.run` with this module's way with errors."""
    logging.set_verbosity(logging.WARNING)  # jax tells which backends it did not find
    app.run(main, flags_parser=parse_flags)
