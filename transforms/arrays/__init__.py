"""NumPy, numba and Arrow helpers, hashes, digests and mergeable sketches; no packets and no flows."""
