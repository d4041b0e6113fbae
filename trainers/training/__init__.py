"""The training loop and what changes a step: paradigms, weighting, latecomers, checkpoints; no search."""
