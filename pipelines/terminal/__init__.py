"""Terminal output: progress display, metrics table, start message; no work.

Three files, because everything longer is a page or a table of its command.
"""
