"""Training machinery that has never heard of wav2vec 2.0."""
