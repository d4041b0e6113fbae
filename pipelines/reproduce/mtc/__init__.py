"""Experiments of MTC (Transformer and 1D-CNN): data, grid, tables, claims; its network is in `trainers/models`."""
