"""A trained model to another form of itself: pruned, fused, grown, LiteRT, plain weights; no files of a run."""
