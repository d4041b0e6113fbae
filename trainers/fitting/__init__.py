"""Fits by a recipe of models that have no epochs: trees and linear models.

The folder has one step, which reads recipes, feeds and metrics as `trainers/training` does for networks.
"""
