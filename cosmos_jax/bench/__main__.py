"""`python -m cosmos_jax.bench CASE --flag=value ...`: each case is a module of this package.

    step       whole training steps          attention  the attention kernels alone
    sample     the network's forward pass    loader     clips from disk, without a GPU
    vae        encoding and decoding         loop       what the training loop adds on the host
    report     Markdown tables of files of lines

A case prints one JSON line for everything that it times. A module has `main(argv)` and defines its
own flags; only the one that is named is imported.
"""

import importlib
import sys

from absl import flags

from cosmos_jax import cli

CASES = ("step", "sample", "vae", "attention", "loader", "loop", "report")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in CASES:
        cli.fail(f"name one case: {', '.join(CASES)}")
    case = importlib.import_module(f"cosmos_jax.bench.{sys.argv.pop(1)}")
    __doc__ = str(case.__doc__)  # --help prints it, and the key flags
    for module in (case.__name__, "cosmos_jax.bench.settings"):
        if module in sys.modules:
            flags.adopt_module_key_flags(sys.modules[module])
    cli.run(case.main)
