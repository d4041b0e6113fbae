"""Rows to scores: inputs, score shards, score card, skew; no models, which are given as a protocol."""
