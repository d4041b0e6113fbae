"""Labels of flows: sources, tables, packet labels, DPI, joins, measured quantities; no splits and no storage."""
