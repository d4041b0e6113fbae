"""The `flowloom` command line: options, messages and exit codes; the work itself is in the folders beside this one."""
