"""Using a checkpoint: recogniser, transcription, evaluation, alignment, features, latency."""
