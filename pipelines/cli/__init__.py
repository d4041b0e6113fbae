"""The `flowloom` command line: options, messages and exit codes; no work of its own."""
