"""Commands that get a data set ready: `python -m cosmos_jax.prepare COMMAND --help`."""
