"""Training data: token-budget batches and the datasets that crop, pad and draw."""
