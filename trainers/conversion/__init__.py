"""Conversions of a trained model: pruned, fused, grown, LiteRT, plain weights; no files of a run."""
