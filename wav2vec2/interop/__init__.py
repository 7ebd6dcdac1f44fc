"""Reads, writes and converts checkpoints of this repository and others, and exports graphs."""
