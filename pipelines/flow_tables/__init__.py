"""Captures to tables of flows or packets, without labels and without Beam: what `flowloom flows` and `fl.read_*` do."""
