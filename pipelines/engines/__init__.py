"""Beam runners: embedded and remote engines, worker pool, worker check; no pipelines."""
