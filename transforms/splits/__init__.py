"""Splits into train, validation and test: assignment, and leakage between them; no labelling and no storage."""
