"""Experiments of Rezaei and Liu: data, grid, tables, claims; their network is in `trainers/models`."""
