"""Data contracts: errors, logarithm and optional extras that every room needs; formats go into a folder below.

Imports pyarrow, pydantic and the standard library only, so that any half of Flowloom can read a dataset's contract.
Fewer than four files, because nothing else is needed by all folders.
"""
