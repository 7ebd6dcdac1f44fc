import io

import pytest

from wav2vec2.cli import progress
from wav2vec2.cli.progress import format_duration, format_progress


@pytest.mark.parametrize(
    "seconds, text",
    [(-1, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (725, "12:05"), (12000, "3:20:00")],
)
def test_duration(seconds, text):
    assert format_duration(seconds) == text


def test_time_left_counts_only_what_this_process_did():
    assert format_progress(350, 2000, 40.3) == "350/2000 (18 %, 3:10 left)"
    assert format_progress(1500, 2000, 50, initial=1000) == "1500/2000 (75 %, 0:50 left)"
    assert format_progress(1000, 2000, 50, initial=1000) == "1000/2000 (50 %)"
    assert format_progress(0, 0, 0) == "0/0 (100 %)"


def test_a_line_now_and_then_where_there_is_no_terminal(monkeypatch):
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    file = io.StringIO()
    with progress.Progress(4, "import", file=file) as bar:
        for _ in range(4):
            bar.advance()
    lines = file.getvalue().splitlines()
    assert 1 <= len(lines) < 4 and lines[0].startswith("import, files: ")


def test_nothing_is_printed_when_not_enabled(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    file = io.StringIO()
    with progress.Progress(2, "import", enabled=False, file=file) as bar:
        bar.advance(2)
    assert file.getvalue() == ""
    monkeypatch.setattr(progress.sys, "stderr", file)
    assert list(progress.progress("ab", 2, "import")) == ["a", "b"]
    assert "import, files: " in file.getvalue()
