"""The `flowloom` command line: options, messages and exit codes; no work of its own.

One file, because every command is a few lines of options over a job beside this folder.
"""
