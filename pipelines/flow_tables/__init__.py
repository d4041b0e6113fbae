"""Captures to tables of flows or packets, and comparisons of flow definitions, without labels and without Beam."""
