import random

import numpy as np
import pytest

from tests.unit.utils.reporting.logs import line, parameters
from utils.reporting.log import LONGEST_LINE, Curve, read_log
from wav2vec2.cli.errors import UserError


def read(tmp_path, content):
    path = tmp_path / "nvlog.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_log(path)


def points(curve):
    return dict(zip(curve.update.tolist(), curve.mean.tolist()))


def test_later_lines_count_and_validations_have_their_update(tmp_path):
    text = parameters(seed=1) + line([0], val_loss=7.0)
    text += line([1, 5, 10], 5.0, train_loss=6.0) + line([1, 10, 10], 10.0, train_loss=5.0)
    text += line([1], 11.0, val_loss=5.5) + line([2, 5, 10], 15.0, train_loss=9.0)
    text += parameters(seed=1, new=True)  # started again
    text += line([1, 10, 10], 3.0, train_loss=4.0) + line([2, 5, 10], 8.0, train_loss=None)
    text += line([2, 6, 10], 9.0, train_loss=3.0, note="text", flag=True)
    text += line([2], 9.5, val_loss=2.0) + line([], 10.0, val_loss=2.0)  # stopped in mid-epoch
    run = read(tmp_path, text)
    assert points(run.curves["train_loss"]) == {5: 6.0, 10: 4.0, 15: 9.0, 16: 3.0}
    assert points(run.curves["val_loss"]) == {0: 7.0, 10: 5.5, 16: 2.0}
    assert set(run.curves) == {"train_loss", "val_loss"}
    assert run.parameters == {"seed": 1, "new": True} and run.summary == {"val_loss": 2.0}
    assert (run.jobs, run.seconds) == (2, 25.0)
    assert run.notes == [
        "2 updates were logged more than once, by a run that was started again; the later line "
        "counts"
    ]


def test_training_time_never_falls(tmp_path):
    """It is that of all jobs, also where a resumed one repeats updates."""
    text = parameters(seed=1) + line([0], 1.0, val_loss=7.0)
    for update in (10, 20, 30):
        text += line([1, update, 100], float(update), train_loss=1.0)
    text += line([1], 31.0, val_loss=6.0)
    text += parameters(seed=1)  # resumed from update 20
    for update, seconds in ((30, 4.0), (40, 14.0)):
        text += line([1, update, 100], seconds, train_loss=1.0)
    run = read(tmp_path, text)
    assert points(run.curves["train_loss"]).keys() == {10, 20, 30, 40}
    at = run.seconds_at(np.array([0, 10, 20, 30, 35, 40]))
    assert at.tolist() == [1.0, 10.0, 20.0, 35.0, 40.0, 45.0]
    assert run.seconds == 45.0
    mixed = text + line([1, 15, 100], 13.0, train_loss=1.0)  # another process, late
    assert (np.diff(read(tmp_path, mixed).seconds_at(np.arange(41))) >= 0).all()
    assert read(tmp_path, line([1, 1, 9], train_loss=1.0)).seconds_at(np.array([1])) is None
    # Epochs whose length is known later, and without any training.
    run = read(tmp_path, line([3], 5.0, val_loss=1.0) + line([4, 2, 10], 9.0, train_loss=2.0))
    assert run.seconds_at(np.array([30, 32])).tolist() == [5.0, 9.0]
    run = read(tmp_path, line([1], 5.0, val_loss=1.0) + line([2], 9.0, val_loss=2.0))
    assert run.seconds_at(np.array([1, 2])).tolist() == [5.0, 9.0]


def test_a_validation_before_the_first_training_line(tmp_path):
    run = read(tmp_path, line([3], val_loss=1.0) + line([4, 2, 10], train_loss=2.0))
    assert points(run.curves["val_loss"]) == {30: 1.0}


def test_broken_lines_are_counted_and_complete_ones_kept(tmp_path):
    whole = line([1, 1, 9], train_loss=1.0).rstrip("\n")
    text = 'DLLL {"type": "LOG", "st' + whole + "\n"  # cut off by another process' line
    text += whole.replace("1, 1, 9", "1, 2, 9") + line([1, 3, 9], train_loss=3.0)
    text += "another program's line\n[1, 2]\n\n" + line([1, -2, 9], train_loss=3.0)
    text += line([1, 4, 9], train_loss=1e400) + "DLLL " + "[" * 100_000 + "\n"
    text += line([10**12, 1, 10**12], train_loss=1.0) + line("EVAL", train_loss=1.0)
    run = read(
        tmp_path, text.encode() + b"\xff\xfe\0\n" + b"x" * (2 * LONGEST_LINE) + b'\nDLLL {"ty'
    )
    assert points(run.curves["train_loss"]) == {1: 1.0, 2: 1.0, 3: 3.0}
    assert run.notes == ["lines cut off or no log records, skipped: 10"]


def test_two_processes_in_one_file_are_noticed(tmp_path):
    text = parameters(seed=1) + parameters(seed=1)
    for update in range(1, 10):
        text += line([1, update, 9], train_loss=1.0) + line([1, update, 9], train_loss=2.0)
    run = read(tmp_path, text)
    assert points(run.curves["train_loss"]) == dict.fromkeys(range(1, 10), 2.0)
    assert "9 updates were logged more than once, in mixed order, as if several" in run.notes[0]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "nvlog.json: is empty"),
        (b"hello\nworld\n", "none of its 2 lines is a log line"),
        (bytes(range(256)) * 50, "is a log line"),
        (b'{"type": "LOG", "step": [1, 2], "data": {"a": 1}}\n', "none of its 1 lines"),
    ],
)
def test_nothing_to_report_is_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_log(tmp_path)


def test_random_damage_never_raises(tmp_path):
    generator = random.Random(1)
    text = parameters(seed=1) + "".join(line([1, n, 99], n, train_loss=1.0) for n in range(1, 99))
    for _ in range(60):
        damaged = bytearray((text + line([1], val_loss=1.0)).encode())
        for _ in range(30):
            damaged[generator.randrange(len(damaged))] = generator.choice(b'\n"{}[],:0e\xffDL')
        read(tmp_path, bytes(damaged[: generator.randrange(2_000, len(damaged))]))


def test_thinning_keeps_extremes_and_means():
    generator = np.random.default_rng(0)
    updates = np.sort(generator.choice(500_000, 40_000, replace=False))
    values = generator.standard_normal(40_000)
    values[12_345], values[20_001] = 50.0, -50.0
    order = generator.permutation(40_000)
    again = generator.choice(order, 5_000)  # logged again; the last line of an update counts
    order = np.concatenate([order, again])
    logged = values[order]
    logged[np.isin(order, again)] += 1.0
    logged[-5_000:] -= 1.0
    curve = Curve.of(updates[order].astype(np.uint32), logged.astype(np.float32), points=100)
    values = values.astype(np.float32)

    # The slow way.
    spans = {}
    width = updates[-1] - updates[0] + 1
    for update, value in zip(updates.tolist(), values.tolist()):
        spans.setdefault((update - updates[0]) * 100 // width, []).append((update, value))
    assert curve.thinned and curve.lines == 40_000 and len(curve.update) == len(spans) <= 100
    for n, span in enumerate(spans.values()):
        inside = [value for _, value in span]
        assert curve.update[n] == span[-1][0]
        assert (curve.low[n], curve.high[n]) == pytest.approx((min(inside), max(inside)), abs=1e-6)
        assert curve.mean[n] == pytest.approx(sum(inside) / len(inside), abs=1e-5)
    assert (curve.high.max(), curve.low.min()) == (50.0, -50.0)
    few = Curve.of(np.array([3, 1, 3], np.uint32), np.array([1, 2, 5], np.float32))
    assert points(few) == {1: 2.0, 3: 5.0} and not few.thinned and few.median == 3.5
