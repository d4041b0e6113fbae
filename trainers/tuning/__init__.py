"""Search for the smallest model (MULTA, algorithm 1).

Two files, as the folder has one algorithm, and one command that trains its trials.
"""
