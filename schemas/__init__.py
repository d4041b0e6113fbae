"""Data contracts: errors, logarithm and optional extras that all packages need; formats go into the folders below.

Imports pyarrow, pydantic and the standard library only, so that both the Beam and the TensorFlow half can read a
dataset. Fewer than four files, because the other packages need nothing else in common.
"""
