"""Readers of corpora as they lie on disk: each yields rows of audio, transcript and speaker."""
