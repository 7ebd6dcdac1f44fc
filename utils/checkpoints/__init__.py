"""Commands on checkpoints: convert, release, export an average, tune a decoder."""
