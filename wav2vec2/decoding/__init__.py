"""From frame-wise scores to text and times: greedy and beam search, lexicon, alignment, windows."""
