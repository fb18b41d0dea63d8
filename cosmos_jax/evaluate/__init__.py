"""Metrics of generated video: `python -m cosmos_jax.evaluate`, or by the modules of this package.

`pictures`, `edges`, `sampson`, `drift`, `nearest` and `frechet` take arrays; `measure` makes all
metrics of a sample, `summary` those of checkpoints, `run` reads folders. Definitions and how to
read the numbers: docs/evaluation.md.
"""
