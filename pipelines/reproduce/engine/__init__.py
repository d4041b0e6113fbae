"""Experiments, repeated splits, repeated fits, claims and the result page that all papers share."""
