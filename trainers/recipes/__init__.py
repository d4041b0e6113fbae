"""Recipes, the models and row specs they name, and the run directory; no training."""
