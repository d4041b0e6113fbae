"""Feed of a trainer: dataset directory to batches of tensors, with row specs, balancing and profiles; no Keras."""
