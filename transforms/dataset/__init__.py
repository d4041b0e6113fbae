"""Datasets from labelled rows: duplicates, layouts, shards, card; no reading of finished datasets."""
