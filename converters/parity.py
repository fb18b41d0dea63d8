"""Compares this program with files of numbers that the reference implementation gave.

    python -m converters.parity FILE.npz ... [--dtype=bfloat16] [--attention=cudnn] [--root=FOLDER]

The way to check a new machine, precision or attention backend. Each file says how its network (or
solver, schedule, data set) was made; ours is made in the same way, gets the file's weights and
inputs, and every number is compared: one row each, with its error and the largest error that is
good. What a file holds is told by its arrays, never by its name.

Limits: float32 outputs and activations 2e-4, gradients 1e-3 of the tensor's largest entry and their
norms 1e-3, solvers 1e-4. --dtype=bfloat16 runs networks, autoencoder and text encoder in bfloat16
and allows an rms error of 5e-2 of the tensor's rms (gradients: 1e-1). Files of bfloat16 numbers
(nets_bf16.npz) need the float32 files of their networks beside them; there the rms error may be 1.6
times the reference's own distance from its float32 numbers.

Exit status: 0 all is well; 1 a number is off; 2 a file cannot be compared (and no number is off).
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import flags

from cosmos_jax import cli

DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Networks compute in it.")
ATTENTION = flags.DEFINE_enum(
    "attention", "xla", ["xla", "cudnn", "cudnn_by_head", "fa3"], "Of the network."
)
ROOT = flags.DEFINE_string(
    "root", None, "Folder of data sets, or one data set. Default: that of the .npz file."
)


def main(argv: list[str]) -> None:
    """Compares every file, then ends the program with its status."""
    files = [Path(arg) for arg in argv[1:]]
    if not files:
        cli.fail("name the files: python -m converters.parity FILE.npz ...")
    import jax

    from converters.parity_checks.golden import Options

    if ROOT.value and not Path(ROOT.value).is_dir():
        cli.fail(f"--root={ROOT.value} is no folder")
    if ATTENTION.value != "xla" and jax.default_backend() != "gpu":
        cli.fail(f"--attention={ATTENTION.value} needs an NVIDIA GPU, and jax finds none")
    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        # GPUs would round float32 products to TF32, far beyond the limits.
        jax.config.update("jax_default_matmul_precision", "highest")
    options = Options(DTYPE.value, ATTENTION.value, Path(ROOT.value) if ROOT.value else None)
    width = max(len(file.name) for file in files)
    print(f"{'file':{width}}  {'max error':>9} {'rms error':>9}  {'tolerance':13} verdict  what")
    results = [check_file(file, options, width) for file in files]
    rows, off = sum(r[0] for r in results), sum(r[1] for r in results)
    errors = [error for *_, error in results if error]
    print(f"{rows} rows of {len(files)} files: {off} FAIL, {len(errors)} files with errors")
    if errors:
        cli.fail("\n".join(errors), status=1 if off else cli.BAD_INPUT)
    sys.exit(bool(off))


def check_file(path: Path, options: Any, width: int) -> tuple[int, int, str]:
    """Prints a file's rows; returns how many there are, how many FAIL, and what went wrong."""
    from converters.parity_checks.golden import Golden
    from converters.parity_checks.kinds import find_check

    count, off, error = 0, 0, ""
    try:
        golden = Golden.load(path)
        for row in find_check(golden)(golden, options):
            count, off = count + 1, off + (not row.ok)
            limit, verdict = f"{row.measure} {row.limit:.2e}", "ok" if row.ok else "FAIL"
            numbers = f"{row.max_error:9.2e} {row.rms_error:9.2e}  {limit:13}"
            print(f"{path.name:{width}}  {numbers} {verdict:7}  {row.what}", flush=True)
        if names := golden.not_compared():
            print(f"{path.name:{width}}  not compared: {'; '.join(names)}", flush=True)
    except Exception as fault:  # whatever is wrong with one file, the others are compared
        if not isinstance(fault, ValueError | OSError | KeyError):
            traceback.print_exc()
        why = f"its description lacks {fault}" if isinstance(fault, KeyError) else str(fault)
        error = why if str(path) in why else f"{path}: {why}"
        print(f"{path.name:{width}}  error: {why.splitlines()[0]}", flush=True)
    return count, off, error


if __name__ == "__main__":
    cli.run(main)
