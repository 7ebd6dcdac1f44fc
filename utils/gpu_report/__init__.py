"""One command that fills the GPU tables, step by step, in whatever time a GPU is lent for."""
