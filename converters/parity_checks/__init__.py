"""Comparisons with files of reference numbers; `converters.parity` runs them."""
