"""Scheduled retraining: state, continuity, lock, registry and page; no training loop."""
