import math

import pytest
import torch

from common.training.meter import COUNTS, Meter, Sums


def metrics(*norms, others=()):
    meter, other = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    sums = Sums()
    sums.add(dict.fromkeys(COUNTS, 1.0))
    for target, values in ((meter, norms), (other, others)):
        for norm in values:
            target.count(sums, norm)
    meter.merge(other)
    return meter.metrics(lambda totals: {"targets": totals.targets})


def test_the_norm_of_the_gradient_is_a_mean_over_finite_ones():
    found = metrics(1.0, math.inf, 2.0, math.nan, others=[6.0])
    assert found["grad_norm"] == pytest.approx(3.0) and found["targets"] == 5
    assert math.isnan(metrics(math.inf)["grad_norm"])
