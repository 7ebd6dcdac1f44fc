"""The plan of a fine-tuning on somebody's own corpus: updates, learning rate, batches, memory."""
