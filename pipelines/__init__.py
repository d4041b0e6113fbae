"""The user's jobs, composed from transforms and trainers, and the `flowloom` command line over them."""
