"""The search for the smallest model (MULTA, algorithm 1); no training loop of its own.

Three files, because the search, its command and its page are all there is.
"""
