"""Measures speed and memory: `python -m cosmos_jax.bench CASE --help`."""
