"""Vocabulary, sub-words, error rates and the clean-up of transcripts."""
