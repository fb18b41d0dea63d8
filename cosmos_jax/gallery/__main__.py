"""Makes one page of an output folder of run_sample.py: videos in sync, controls over them, metrics.

    python -m cosmos_jax.gallery OUT [--output=FILE]

The page opens in any browser without a server or a network. Videos are not copied into it: it links
to those in the folder, so move the two together. Numbers of `python -m cosmos_jax.evaluate` are
shown where OUT/metrics.json has them.
"""

from pathlib import Path

from absl import flags

from cosmos_jax import cli

OUTPUT = flags.DEFINE_string("output", None, "The page; default: OUT/gallery.html.")


def main(argv: list[str]) -> None:
    """Checks the arguments, then writes."""
    if len(argv) != 2:
        cli.fail("name one folder: python -m cosmos_jax.gallery OUT")
    from cosmos_jax.gallery import page

    with cli.user_errors():
        print(page.write_gallery(Path(argv[1]), Path(OUTPUT.value) if OUTPUT.value else None))


if __name__ == "__main__":
    cli.run(main)
