"""One page about a run: `python -m cosmos_jax.report --workdir=runs/demo`, or `write_report`.

Nothing here loads jax, and the page needs neither a server nor a network.
"""

from cosmos_jax.report.page import write_report

__all__ = ["write_report"]
