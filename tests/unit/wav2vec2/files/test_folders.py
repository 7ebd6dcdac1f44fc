"""Files below folders, some of which are links."""

import os
from pathlib import Path

import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.files.folders import files_below, require_no_pipe
from wav2vec2.files.text import read_lines
from wav2vec2.interop.checkpoints import read_checkpoint
from wav2vec2.text.subwords import SubwordModel
from wav2vec2.text.vocabulary import Vocabulary


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder, **options):
    found = files_below(folder, lambda name: name.endswith(".wav"), **options)
    return [str(path.relative_to(folder)) for path in found]


def test_links_to_folders_are_followed(tmp_path):
    root = tmp_path / "root"
    touch(root / "a/1.wav", root / "a/1.txt", tmp_path / "b/2.wav", tmp_path / "c/d/3.wav")
    (root / "b").symlink_to(tmp_path / "b")
    (root / "a/c").symlink_to("../../c")
    (root / "4.wav").symlink_to(tmp_path / "b/2.wav")  # a link to a file is a file
    assert names(root) == ["4.wav", "a/1.wav", "a/c/d/3.wav", "b/2.wav"]
    (tmp_path / "link").symlink_to(root)
    assert len(names(tmp_path / "link")) == 4


def test_loops_end_and_no_file_comes_twice(tmp_path, caplog):
    root = tmp_path / "root"
    touch(root / "z/1.wav", tmp_path / "other/2.wav", tmp_path / "outside.wav")
    for link, target in [
        ("here", root),
        ("z/up", tmp_path),
        ("a", root / "z"),  # before the folder itself, whose own path counts
        ("o1", tmp_path / "other"),
        ("o2", tmp_path / "other"),
    ]:
        (root / link).symlink_to(target)
    (tmp_path / "other/back").symlink_to(root / "z")
    (root / "self").symlink_to(root / "self")
    (root / "gone").symlink_to(tmp_path / "nothing")
    assert names(root) == ["o1/2.wav", "z/1.wav"]
    lines = caplog.text
    for link in ("here", "z/up", "a", "o2", "o1/back"):
        assert f"{root / link}: skipped, links to " in lines
    for link in ("self", "gone"):
        assert f"{root / link}: skipped, a broken link" in lines


def test_skipped_folders_are_not_entered(tmp_path):
    touch(tmp_path / "a/1.wav", tmp_path / ".b/2.wav")
    assert names(tmp_path, skipped=lambda path: path.name == ".b") == ["a/1.wav"]


@pytest.mark.parametrize(
    "read",
    [
        read_checkpoint,
        Vocabulary.from_file,
        read_lines,
        lambda path: SubwordModel.from_file(Path(path)),
        require_no_pipe,
    ],
)
def test_pipes_and_devices_are_refused_at_once(tmp_path, read):
    """Nothing writes to the pipe, and one of the devices never ends."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero", "/dev/null"):
        with pytest.raises(UserError, match=f"{path}: .*a pipe or a device"):
            read(path)


def test_the_pipe_of_another_program_is_text():
    reading, writing = os.pipe()
    os.write(writing, b"a.wav\nb.wav\n")
    os.close(writing)
    assert read_lines(f"/dev/fd/{reading}") == ["a.wav", "b.wav"]
    os.close(reading)
