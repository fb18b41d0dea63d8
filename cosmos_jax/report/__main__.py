"""Makes one page of a run: curves, config, and the sampled videos by step.

    python -m cosmos_jax.report --workdir=runs/demo [--output=FILE]

The page opens in any browser without a server or a network. Videos are not copied into it: it links
to those in the workdir, so move the two together.
"""

from pathlib import Path

from absl import flags

from cosmos_jax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of run_train.py.")
OUTPUT = flags.DEFINE_string("output", None, "The page; default: WORKDIR/report.html.")


def main(argv: list[str]) -> None:
    """Checks the flags, then writes."""
    cli.no_arguments(argv)
    workdir = Path(cli.needed(WORKDIR))
    from cosmos_jax.report import page

    with cli.user_errors():
        print(page.write_report(workdir, Path(OUTPUT.value) if OUTPUT.value else None))


if __name__ == "__main__":
    cli.run(main)
