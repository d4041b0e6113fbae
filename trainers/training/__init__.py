"""Training loop, paradigms, loss weighting, latecomers and checkpoints."""
