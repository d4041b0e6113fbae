"""Exports of runs, and scoring with a run or an export; no training."""
