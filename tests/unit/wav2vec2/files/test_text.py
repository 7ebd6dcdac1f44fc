"""Text and JSON are read, or one line says which file cannot be read and how to fix it."""

import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.files.output import require_space, write_json
from wav2vec2.files.text import read_json, read_lines, split_lines


def test_json_is_read_as_it_was_written(tmp_path):
    content = {"a": [1, 2.5, None], "Ä": "ö"}
    write_json(tmp_path / "plain.json", content)
    write_json(tmp_path / "wide.json", content, indent=1, ascii=False)
    assert read_json(tmp_path / "plain.json", "") == content
    assert read_json(tmp_path / "wide.json", "") == content
    assert '\n "Ä": "ö"' in (tmp_path / "wide.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"\xff", "cannot be read (not UTF-8 text)"),
        (b"{", "not JSON ("),
        (b'{"a": 1, "a": 2}', "not JSON (it lists 'a' twice)"),
        (b"[" * 100_000, "not JSON ("),
    ],
)
def test_what_is_no_json(tmp_path, content, reason):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path, "write it again")
    assert str(error.value).startswith(f"{path}: {reason}")
    assert str(error.value).endswith("; write it again")


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert read_lines(tmp_path / "x") == ["a", "b"]


INSIDE_A_LINE = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"]
"""What `str.splitlines` takes for the end of a line, and `wc -l` does not."""


@pytest.mark.parametrize("character", INSIDE_A_LINE, ids=ascii)
def test_only_a_line_feed_ends_a_line(tmp_path, character):
    (tmp_path / "x").write_bytes(f"a{character}b\nc {character} d\r\ne".encode())
    assert read_lines(tmp_path / "x") == [f"a{character}b", f"c {character} d", "e"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [("", []), ("\n", [""]), ("\r\n", [""]), ("a", ["a"]), ("a\n\nb\n", ["a", "", "b"])],
)
def test_the_last_line_may_lack_its_end(text, lines):
    assert split_lines(text) == lines


def test_free_space(tmp_path):
    require_space("--output_dir", tmp_path, 1)
    with pytest.raises(UserError, match=r"--output_dir .* GiB are needed, .* GiB are free"):
        require_space("--output_dir", tmp_path, 2**60)
