"""Command lines: flags that fail in one line, and errors of the user told apart from ours.

Exit status 0: done. 1: a fault of the program (with a traceback). 2: bad input, found before work
starts. 3: the run was stopped by its own numbers (NaN loss). Set COSMOS_JAX_TRACEBACK=1 to see
where an error of kind 2 came from.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app, flags

BAD_INPUT = 2
STOPPED = 3


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
    """`app.run`'s flags parser: errors are one line, and name the nearest valid config key."""
    try:
        rest = flags.FLAGS(list(argv))
    except (
        AttributeError,
        KeyError,
    ) as error:  # raised by ml_collections for a key it does not know
        words = str(error).replace("\\n", ". ").translate(str.maketrans("", "", "\\'\""))
        fail(f"unknown config key {words}")
    except (flags.Error, OSError, ValueError) as error:
        fail(" ".join(str(error).split()))
    except SystemExit:  # --help has printed its text
        sys.exit(0)
    return rest


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


def run(main: Callable[[Any], Any]) -> None:
    """`absl.app.run` with this module's way with errors."""
    app.run(main, flags_parser=parse_flags)
