"""Scoring of rows: inputs, score shards, score card, skew; models come in through a protocol."""
