"""A dataset directory to batches of tensors: specs, balancing, few labels, profiles; no Keras."""
