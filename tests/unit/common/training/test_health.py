import pytest
import torch

from common.training import health
from common.training.health import CHECK_EVERY, MAX_NON_FINITE, PATIENCE, Health
from common.training.meter import Sums
from wav2vec2.cli.errors import HealthError


def one(value):
    sums = Sums()
    sums.add({"value": value, "targets": 1, "tokens": 1, "frames": 1, "audio_seconds": 1.0})
    return sums


def watch(values, collapse_reason):
    """Updates until the watch gives up, and what it said; None if it never does."""
    watched = Health(collapse_reason, torch.device("cpu"))
    for number, value in enumerate(values, start=1):
        try:
            watched.applied(one(value))
        except HealthError as error:
            return number, str(error)
    return None


def test_gives_up_after_several_looks_in_a_row():
    def collapse_reason(totals):
        return "flat" if totals.sums["value"] == 0 else None

    healthy, ill = [1.0] * CHECK_EVERY, [0.0] * CHECK_EVERY
    assert watch(healthy * 5, collapse_reason) is None
    assert watch((ill * (PATIENCE - 1) + healthy) * 3, collapse_reason) is None
    number, said = watch(healthy + ill * 9, collapse_reason)
    assert number == (1 + PATIENCE) * CHECK_EVERY and number - CHECK_EVERY <= 500
    assert said == "flat (seen for 300 updates)"


def test_each_look_sees_its_own_updates():
    seen = []
    watch(range(2 * CHECK_EVERY), lambda totals: seen.append(totals.sums["value"]))
    assert seen == [sum(range(CHECK_EVERY)), sum(range(CHECK_EVERY, 2 * CHECK_EVERY))]


def test_gradients_that_are_not_finite(capsys):
    watched = Health(lambda totals: None, torch.device("cpu"))
    for number in range(MAX_NON_FINITE - 1):
        watched.not_finite(number, ["a"])
    watched.applied(one(1))
    for number in range(MAX_NON_FINITE - 1):
        watched.not_finite(number, [f"u{n}" for n in range(30)])
    with pytest.raises(HealthError, match="10 updates in a row .* utterances last"):
        watched.not_finite(99, ["last"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 * (MAX_NON_FINITE - 1) + 1
    assert lines[0].startswith("warning: update 0: gradient is not finite")
    assert lines[-2].endswith("u19, ...")


def test_waiting_for_data(capsys):
    health.warn_data_wait(3, 9.0, 4)
    assert capsys.readouterr().err == ""
    health.warn_data_wait(3, 40.0, 4)
    assert "epoch 3: 40 % of the time" in capsys.readouterr().err
