import io

import pytest

from common.training import console as module
from common.training.console import LONGEST_LINE, Console

METRICS = {"loss": 6.8123, "accuracy": 0.25, "audio_s/s": 152.34, "memory": 2150.0, "lr": 1e-4}
LABELS = {"loss": "loss", "accuracy": "accuracy"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_one_short_line_per_interval_without_a_terminal(clock):
    output = io.StringIO()
    with Console(LABELS, 2000, 300, file=output) as console:
        clock[0] = 10.0
        console.advance(349)
        console.advance(350)  # 50 updates of this job took 10 s
        console.interval(METRICS)
        console.validation(2, {"loss": 5.0, "accuracy": 0.5, "code_perplexity": 9.0})
        clock[0] = 400.0
        console.advance(2000)
        console.finish(METRICS)
    assert output.getvalue().splitlines() == [
        "update 350/2000 (18 %, 5:30 left): loss 6.8123, accuracy 0.2500, audio 152.3 s/s, "
        "memory 2.1 GiB",
        "validation after update 350, epoch 2: loss 5.0000, accuracy 0.5000",
        "finished: update 2000/2000 after 6:40; loss 6.8123, accuracy 0.2500, audio 152.3 s/s, "
        "memory 2.1 GiB",
    ]


def test_a_metric_of_validations_alone_stands_in_the_lines_after_it():
    output = io.StringIO()
    with Console({"loss": "loss", "wer": "WER"}, 10, file=output) as console:
        console.validation(1, {"loss": 5.0, "wer": 12.5}, {"loss": 4.0, "wer": 11.5})
        console.advance(5)
        console.interval(METRICS)
        console.finish(METRICS)
    validation, interval, end = output.getvalue().splitlines()
    assert validation.endswith("; average of weights: loss 4.0000, WER 11.50 %")
    assert "loss 6.8123, validation WER 12.50 %, audio" in interval
    assert end.startswith("this job is finished: update 5/10 after 0:00; loss")


def test_no_line_is_longer_than_the_limit(clock):
    output = io.StringIO()
    large = {"loss": 123456.7, "accuracy": 0.5, "audio_s/s": 123456.7, "memory": 1e6}
    with Console({**LABELS, "x": "x" * 99}, 400_000, file=output) as console:
        clock[0] = 1e6
        console.advance(1)
        console.interval({**large, "x": 1})
        console.validation(1000, large, large)
        console.finish(large)
    assert max(map(len, output.getvalue().splitlines())) == LONGEST_LINE


def test_a_progress_line_in_a_terminal(clock):
    output = Terminal()
    with Console(LABELS, 100, 90, file=output) as console:
        clock[0] = 10.0
        console.advance(95)
        console.interval(METRICS)
        console.validation(2, {"loss": 5.0, "accuracy": 0.5})
        shown = output.getvalue()
    assert "update 95/100 (95 %, 0:10 left): loss 6.8123, accuracy 0.2500" in shown
    assert "validation after update 95, epoch 2: loss 5.0000, accuracy 0.5000\n" in shown


@pytest.mark.parametrize("file", [io.StringIO, Terminal])
def test_other_processes_show_nothing(file):
    output = file()
    with Console(LABELS, 10, enabled=False, file=output) as console:
        console.advance(1)
        console.interval(METRICS)
        console.validation(1, METRICS)
        console.finish(METRICS)
    assert output.getvalue() == ""


def test_a_finished_run_has_nothing_to_do():
    output = io.StringIO()
    with Console(LABELS, 10, 10, file=output) as console:
        console.finish({})
    assert output.getvalue() == "nothing to do: all 10 updates are done\n"
