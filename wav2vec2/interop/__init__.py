"""Checkpoints: ours and other people's, and the models in them."""
