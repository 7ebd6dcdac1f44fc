"""Greedy search."""

import torch

from wav2vec2.decoding.greedy import GreedyDecoder, Hypothesis, collapse
from wav2vec2.text.vocabulary import Vocabulary


def test_greedy_search_merges_repeats_and_removes_blanks():
    assert collapse(torch.tensor([0, 3, 3, 0, 3, 4, 4])) == [3, 3, 4]
    assert collapse(torch.tensor([1, 1, 2, 0])) == [1, 2]
    assert collapse(torch.tensor([], dtype=torch.long)) == []
    vocabulary = Vocabulary(["|", "A"])
    logits = torch.nn.functional.one_hot(torch.tensor([5, 5, 0, 5, 4]), len(vocabulary)).float()
    found = GreedyDecoder(vocabulary)(logits)
    assert found == Hypothesis(["A", "A", "|"], "AA")
    assert (found.path, found.ends) == ([5, 5, 0, 5, 4], None)
    assert GreedyDecoder(vocabulary)(logits[:0]) == Hypothesis([], "")
