"""Experiments of MULTA: data, grid, tables, claims, costs; its network is in `trainers/models`."""
