"""Inspection of finished datasets: verification and statistics; nothing that changes a dataset."""
