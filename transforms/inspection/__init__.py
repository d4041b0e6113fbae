"""Finished datasets read back: verification and statistics; nothing that changes a dataset."""
