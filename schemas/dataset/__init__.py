"""Models of files that describe a finished dataset: card, views, statistics, TensorFlow metadata; no rows."""
