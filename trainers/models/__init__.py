"""Keras networks for several tasks; no recipes, no datasets, no training."""
