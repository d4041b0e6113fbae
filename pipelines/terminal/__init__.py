"""Terminal output and start-up: progress display, metrics table, quick imports; no work.

Three files, because longer tables belong to their commands.
"""
