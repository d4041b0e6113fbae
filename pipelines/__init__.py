"""Jobs of a user, composed from transforms and trainers, one module each; `cli` has the command line."""
