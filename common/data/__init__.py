"""Training data: token-budget batches, datasets that crop, pad and draw, and packed stores."""
