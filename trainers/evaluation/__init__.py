"""Predictions, metrics, baselines, intervals, cost and the run report; nothing that changes a model."""
