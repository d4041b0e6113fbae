"""Jobs of a user, composed from transforms and trainers: one file for each; the command line over them is in `cli`."""
