"""The flags that several commands have, each defined by the commands that read it."""

from typing import Any

from absl import flags
from ml_collections import config_flags

from cosmos_jax import cli

flags.disclaim_key_flags()  # they are their commands', in --help


def config() -> Any:
    """The experiment."""
    return config_flags.DEFINE_config_file("config", None, "An experiment: experiments/NAME.py.")


def root_of_config() -> Any:
    """In place of `config.data.root`."""
    return flags.DEFINE_string("root", None, "Folder of clips; default: config.data.root.")


def values(config: Any, root: Any) -> dict[str, Any]:
    """The config of these two flags, as plain values.

    Raises:
        ValueError: see `build.check_config`.
    """
    from cosmos_jax import build

    given = build.check_config(cli.read_config(config))
    if root.value:
        given["data"]["root"] = root.value
    return given


def overwrite_videos() -> Any:
    """For commands that make control videos."""
    return flags.DEFINE_bool(
        "overwrite",
        False,
        "Replace videos of the target that have other settings or another maker.",
    )


def workers() -> Any:
    """For commands that make control videos."""
    return flags.DEFINE_integer(
        "workers", None, "Videos made at a time (default: one a core, at most 16).", lower_bound=1
    )
