"""Gets a data set ready.

    python -m cosmos_jax.prepare check --root=DIR      what is wrong with it, and how to mend it
    python -m cosmos_jax.prepare prompts --root=DIR    one prompt for every clip
    python -m cosmos_jax.prepare edges --root=DIR      edge control videos
    python -m cosmos_jax.prepare blur --root=DIR       blurred control videos
    python -m cosmos_jax.prepare text --config=FILE    captions as the text encoder's numbers
    python -m cosmos_jax.prepare latents --config=FILE clips as the video codec's numbers
    python -m cosmos_jax.prepare waymo --source=DIR    clips of the Waymo Open Dataset

Each command answers to --help, is safe to repeat, and goes on where it was stopped.
"""

import importlib
import sys

from absl import flags

from cosmos_jax import cli

# Each is a module of this package with its own flags and `main(argv)`; one of them is imported.
COMMANDS = ("check", "prompts", "edges", "blur", "text", "latents", "waymo")

if __name__ == "__main__":
    if sys.argv[1:] in ([], ["--help"]):
        print(__doc__)
        sys.exit(0 if sys.argv[1:] else cli.BAD_INPUT)
    if sys.argv[1] not in COMMANDS:
        cli.fail(f"{sys.argv[1]!r} is no command: name one of {', '.join(COMMANDS)}")
    command = importlib.import_module(f"cosmos_jax.prepare.{sys.argv.pop(1)}")
    __doc__ = str(command.__doc__)  # what --help prints, with the flags of the command
    flags.adopt_module_key_flags(command)
    cli.run(command.main)
