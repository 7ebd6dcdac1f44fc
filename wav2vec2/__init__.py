"""The wav2vec 2.0 model, as the paper (arXiv 2006.11477) describes it."""
