"""NumPy, numba and Arrow helpers, hashes, digests and mergeable sketches; nothing that knows packets or flows."""
