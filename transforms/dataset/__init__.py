"""Labelled rows to a dataset: duplicates, layouts, shards, card; no reading of finished datasets."""
