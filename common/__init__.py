"""The training engine, independent of the model."""
