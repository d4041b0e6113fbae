"""Kitsune (Mirsky et al. 2018) as a baseline of MULTA; AfterImage's features are in `transforms/packets`.

Two files: KitNET, and its measurement on a dataset.
"""
