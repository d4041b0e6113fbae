"""Scheduled retraining: continuity, registry and page; no training loop."""
