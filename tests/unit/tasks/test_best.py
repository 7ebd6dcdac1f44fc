"""Which validation of a fine-tuning counts as the best."""

import math

import pytest

from tasks.finetuning import FinetuningTask
from tasks.pretraining import PretrainingTask


def best_of(validations, task=FinetuningTask):
    """The number of the validation that is chosen of (WER, UER, loss) in this order."""
    ranks = [task.rank(None, dict(zip(("wer", "uer", "loss"), v))) for v in validations]
    return ranks.index(min(ranks))


def test_while_no_word_is_right_units_decide():
    """A WER a little lower does not outweigh many more wrong units."""
    assert best_of([(99.2, 88.8, 60.0), (100.0, 75.0, 70.0), (99.9, 80.0, 50.0)]) == 1
    assert best_of([(100.0, 100.0, 60.0), (100.0, 100.0, 40.0), (100.0, 100.0, 50.0)]) == 1


def test_words_decide_as_soon_as_some_are_right():
    assert best_of([(91.0, 20.0, 10.0), (90.0, 60.0, 40.0), (95.0, 10.0, 5.0)]) == 1
    assert best_of([(50.0, 20.0, 10.0), (40.0, 30.0, 40.0), (45.0, 10.0, 5.0)]) == 1


def test_of_equal_ones_the_first_stays():
    assert best_of([(50.0, 20.0, 10.0), (50.0, 10.0, 4.0)]) == 0
    assert best_of([(95.0, 20.0, 10.0), (92.0, 20.0, 10.0)]) == 0


def test_the_change_between_the_regimes_has_no_gap():
    just_above = math.nextafter(90.0, 91.0)
    assert best_of([(just_above, 0.0, 0.0), (90.0, 99.0, 99.0)]) == 1


def test_a_result_without_the_rest_is_the_worst_of_its_regime():
    """What runs stored that know their best WER only."""
    rank = FinetuningTask.rank
    old, words = rank(None, {"wer": 95.0}), rank(None, {"wer": 20.0})
    assert rank(None, {"wer": 99.0, "uer": 98.0, "loss": 9.0}) < old
    assert words < rank(None, {"wer": 21.0, "uer": 5.0, "loss": 1.0})


@pytest.mark.parametrize("losses, best", [((3.0, 2.0, 2.5), 1), ((2.0, 2.0), 0)])
def test_pretraining_is_chosen_by_its_loss(losses, best):
    assert best_of([(0, 0, loss) for loss in losses], PretrainingTask) == best
