"""Log lines of a command, and of a program that uses the library."""

import logging
import subprocess
import sys

import pytest

from wav2vec2.cli.errors import run_command

LINES = [
    ("wav2vec2.kernels", logging.INFO, "our information"),
    ("common.training", logging.DEBUG, "our details"),
    ("tasks", logging.WARNING, "our warning"),
    ("onnxscript", logging.INFO, "their information"),
]


def log_lines() -> None:
    for name, level, text in LINES:
        logging.getLogger(name).log(level, text)


def test_a_command_shows_log_lines_of_our_packages(capsys):
    with pytest.raises(SystemExit):
        run_command(log_lines)
    assert capsys.readouterr() == ("", "our information\nour warning\n")
    log_lines()
    assert capsys.readouterr() == ("", ""), "only while a command runs"
    assert logging.getLogger("wav2vec2").level == logging.NOTSET


def test_other_processes_than_the_first_are_silent(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        run_command(log_lines)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("configure", "expected"),
    [
        ("", "our warning\n"),
        ("logging.basicConfig(format='%(name)s')", "tasks\n"),
        ("logging.basicConfig(level='ERROR')", ""),
    ],
    ids=["Python's default", "its format", "its level"],
)
def test_a_programs_own_logging_decides(configure, expected):
    script = f"import logging\n{configure}\nimport wav2vec2.inference.transcriber\n"
    script += f"for name, level, text in {LINES}:\n    logging.getLogger(name).log(level, text)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, expected)
