"""Standard output that cannot take what a command prints."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wav2vec2.cli.errors import run_command

ROOT = Path(__file__).resolve().parents[4]


def end_of(main, monkeypatch, capsys, **streams):
    """Exit code and errors of a command whose standard output is another."""
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("flush", [True, False])
def test_a_full_disk(monkeypatch, capsys, flush):
    def main():
        for number in range(5 if flush else 5000):
            print(number, flush=flush)

    with open("/dev/full", "w") as full:
        code, errors = end_of(main, monkeypatch, capsys, stdout=full)
    assert code == 2
    assert errors == (
        "error: standard output: cannot be written (No space left on device); make space, or send "
        "it elsewhere\n"
    )


def test_a_full_disk_under_standard_error(monkeypatch, capsys):
    with open("/dev/full", "w", buffering=1) as full:
        main = lambda: print("note", file=sys.stderr)  # noqa: E731
        code, errors = end_of(main, monkeypatch, capsys, stderr=full)
    assert (code, errors) == (2, "")


@pytest.mark.parametrize(
    ("encoding", "text"), [("latin-1", "при"), ("ascii", "é"), ("cp1252", "日本")]
)
def test_an_encoding_that_lacks_a_letter(monkeypatch, capsys, encoding, text):
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    code, errors = end_of(lambda: print(f"a {text}"), monkeypatch, capsys, stdout=written)
    assert code == 2 and errors.count("\n") == 1
    assert errors.startswith("error: standard output: its encoding ")
    assert f"lacks {text[0]!a}; set PYTHONIOENCODING=utf-8" in errors


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_name_of_any_bytes_is_printed_as_it_is(monkeypatch, capsys, encoding):
    content = io.BytesIO()
    written = io.TextIOWrapper(content, encoding=encoding)
    name = os.fsdecode(b"m\xfcde.wav")
    code, errors = end_of(lambda: print(name), monkeypatch, capsys, stdout=written)
    assert (code, errors, content.getvalue()) == (0, "", b"m\xfcde.wav\n")


@pytest.mark.parametrize(
    "arguments", [["inference.py", "--help"], ["-m", "utils.data.make_filelists", "--help"]]
)
def test_help_into_a_full_disk(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: standard output: cannot be written")


@pytest.mark.parametrize("lines", [1, 50_000])
def test_a_reader_that_has_ended(lines):
    """Such as `| head`: the exit code of SIGPIPE, and not a word."""
    main = f"lambda: [print(n, flush=n == 0) for n in range({lines})] and None"
    code = f"from wav2vec2.cli.errors import run_command; input(); run_command({main})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
def test_another_broken_pipe_is_not_taken_for_the_reader(error):
    """Such as that to a process that has died: it must not end in silence."""

    def main():
        raise error

    with pytest.raises(error):
        run_command(main)
