"""Readers of published datasets, one file for each format; no captures."""
