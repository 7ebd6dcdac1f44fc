from dataclasses import asdict, replace

import pytest

from common.training.schedule import (
    Extension,
    ScheduleOptions,
    polynomial,
    resume_schedule,
    three_stage,
)
from wav2vec2.cli.errors import UserError


def test_polynomial():
    rates = [polynomial(k, peak=1.0, warmup=4, total=12) for k in range(1, 14)]
    assert rates[:5] == [0.25, 0.25, 0.5, 0.75, 1.0]
    assert rates[5] == pytest.approx(1 - 1 / 8)
    assert rates[11] == pytest.approx(1 - 7 / 8)
    assert rates[12] == 0.0
    assert polynomial(9, peak=1.0, warmup=4, total=12, power=2.0) == pytest.approx(0.25)


def test_no_update_of_the_warm_up_has_a_rate_of_zero():
    """The first update has peak / warm-up, as in NVIDIA's recipe; without warm-up, the peak."""
    for warmup in (1, 2, 32_000):
        assert polynomial(1, peak=5e-4, warmup=warmup, total=400_000) == 5e-4 / warmup
        assert polynomial(2, peak=5e-4, warmup=warmup, total=400_000) == 5e-4 / warmup
    assert polynomial(1, peak=5e-4, warmup=0, total=10) == 5e-4


def test_three_stage():
    rates = [three_stage(k, peak=1.0, warmup=4, hold=3, decay=5) for k in range(1, 15)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[2] == pytest.approx(0.01 + 0.99 * 2 / 4)
    assert rates[4:8] == [1.0] * 4
    assert rates[8] == pytest.approx(0.05 ** (1 / 5))
    assert rates[12] == rates[13] == pytest.approx(0.05)


def test_options_give_the_recipes_schedules():
    base = ScheduleOptions().function()
    assert base(32_001) == 5e-4 and base(1) == 5e-4 / 32_000
    finetune = ScheduleOptions(
        learning_rate=3e-5,
        schedule="three_stage",
        max_update=80_000,
        warmup_updates=8_000,
        hold_updates=32_000,
    ).function()
    assert finetune(20_000) == 3e-5
    assert finetune(80_001) == pytest.approx(0.05 * 3e-5)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"max_update": 0}, "--max_update 0"),
        ({"max_update": 10, "warmup_updates": 11}, "--warmup_updates 11"),
        ({"learning_rate": -1.0}, "--learning_rate"),
        ({"warmup_updates": -1}, "--warmup_updates"),
    ],
)
def test_impossible_schedules(values, flag):
    with pytest.raises(UserError, match=flag):
        ScheduleOptions(**values)


THREE_STAGE = ScheduleOptions(
    learning_rate=1.0, schedule="three_stage", max_update=20, warmup_updates=4, hold_updates=6
)
POLYNOMIAL = ScheduleOptions(learning_rate=1.0, max_update=20, warmup_updates=4)


def extended(options, total, done, recipe=None):
    """What resuming gives, and the recipe that the run saves."""
    given = replace(options, max_update=total, warmup_updates=1, hold_updates=0)
    resumed = resume_schedule(given, True, recipe or asdict(options), done)
    saved = asdict(resumed.options)
    return resumed, saved | ({"extended": [*resumed.extension]} if resumed.extension else {})


@pytest.mark.parametrize("options", [THREE_STAGE, POLYNOMIAL])
@pytest.mark.parametrize("done", [1, 3, 4])
def test_extended_before_the_decay(options, done):
    """The same as planned so from the start; warm-up and hold are the run's, not the flags'."""
    resumed, _ = extended(options, 50, done)
    assert resumed.options == replace(options, max_update=50) and resumed.extension is None
    assert "from 20 to 50 updates" in resumed.note and "rises" not in resumed.note


@pytest.mark.parametrize("options", [THREE_STAGE, POLYNOMIAL])
@pytest.mark.parametrize("done", [14, 20])
def test_extended_in_the_decay_or_at_its_end(options, done):
    """The written rule: from the last rate with the slope of the warm-up to the longer schedule."""
    resumed, _ = extended(options, 50, done)
    rate, last = resumed.options.function(resumed.extension), options.function()(done)
    planned = replace(options, max_update=50).function()
    for update in range(done + 1, 51):
        assert rate(update) == min(planned(update), last + (update - done) / 4)
    assert rate(done + 1) - last < 0.2501 and rate(done + 4) == planned(done + 4)
    assert f"from {last:.3g} with the slope" in resumed.note


def test_an_extended_run_resumes_and_is_extended_again():
    first, saved = extended(THREE_STAGE, 50, 20)
    again = resume_schedule(first.options, False, saved, 21)
    assert (again.options, again.extension, again.note) == (first.options, first.extension, "")
    same, _ = extended(THREE_STAGE, 50, 21, saved)  # started again with the same flags
    assert (same.options, same.extension, same.note) == (first.options, first.extension, "")
    second, _ = extended(THREE_STAGE, 80, 21, saved)
    assert second.extension == Extension(21, first.options.function(first.extension)(21))


def test_extended_without_warm_up():
    resumed, _ = extended(replace(POLYNOMIAL, warmup_updates=0), 40, 20)
    assert resumed.options.function(resumed.extension)(21) == pytest.approx(0.5)


@pytest.mark.parametrize(("total", "done"), [(10, 20), (10, 5), (19, 19)])
def test_extension_to_fewer_updates(total, done):
    with pytest.raises(UserError, match=f"--max_update {total}: .* 20 updates and has done {done}"):
        extended(replace(THREE_STAGE, warmup_updates=1, hold_updates=1), total, done)
