"""Train, validation and test: assignment, and what leaks across it; no labelling and no storage."""
