import pytest

from common.training.schedule import ScheduleOptions, polynomial, three_stage
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
