"""Recipes, builders of their models and row specs, and the run directory; no training."""
