"""Export of a run, and scoring by a run or an export; no training."""
