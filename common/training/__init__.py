"""The training engine: update step, trainer, checkpoints, precision, optimizer and health."""
