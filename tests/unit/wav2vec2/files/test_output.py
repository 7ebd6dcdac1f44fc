"""Output files are written whole or not at all."""

import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.files.output import atomic_path, write_chunks, write_lines


@pytest.mark.parametrize("error", [ValueError, UserError, KeyboardInterrupt])
def test_an_error_inside_leaves_the_old_file_alone(tmp_path, error):
    (tmp_path / "f").write_text("old")
    with pytest.raises(error), atomic_path(tmp_path / "f") as temporary:
        temporary.write_text("new")
        raise error
    assert (tmp_path / "f").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_the_temporary_file_becomes_the_file(tmp_path):
    with atomic_path(tmp_path / "new" / "f") as temporary:
        temporary.write_text("content")
        assert not (tmp_path / "new" / "f").exists()
    assert [path.read_text() for path in (tmp_path / "new").iterdir()] == ["content"]


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/s\.tsv: cannot be written"):
        write_lines(tmp_path / "file" / "s.tsv", ["/data"])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_lines(tmp_path / "f", ["old"])

    def broken():
        yield "new"
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_lines(tmp_path / "f", broken())
    assert (tmp_path / "f").read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_any_content_is_written_whole(tmp_path):
    write_chunks(tmp_path / "new" / "f", [b"\x00\r", b"\n"])
    assert (tmp_path / "new" / "f").read_bytes() == b"\x00\r\n"
