"""Evaluation of runs: predictions, metrics, baselines, cost, and the report."""
