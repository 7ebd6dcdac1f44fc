"""A checkpoint as a folder to hand on: what inference needs, readable without this repository.

`model.safetensors`, `config.json`, of a recogniser `dictionary.txt` and perhaps
`sentencepiece.model`, their checksums as `sha256sum -c SHA256SUMS` reads them, and the model card
README.md, which has none because people write into it.
"""

from pathlib import Path
from typing import Any

import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.files.checksum import sha256
from wav2vec2.interop.huggingface_files import (
    new_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

FORMAT = 1
"""Raised when the layout changes so that older versions could not read it."""

_MARK = "wav2vec2_release"
_CONFIG, _WEIGHTS, _SUMS = "config.json", "model.safetensors", "SHA256SUMS"
_DICTIONARY, _SUBWORDS = "dictionary.txt", "sentencepiece.model"
_DESCRIBED = ("kind", "architecture", "labels", "spelling", "update")


def is_release(path: Path) -> bool:
    """Whether `path` is a folder that `write` wrote: its config.json says so."""
    try:
        return _MARK in read_json(path / _CONFIG)
    except UserError:
        return False


def write_release(content: dict[str, Any], folder: Path, card: str) -> None:
    """Write a native checkpoint's content as a folder, whole or not at all.

    `card`: the text of README.md.  UserError if `folder` holds something or cannot be written.
    """
    described = {name: content[name] for name in _DESCRIBED if name in content}
    with new_folder(folder) as temporary:
        write_tensors(temporary / _WEIGHTS, content["model"])
        write_json(temporary / _CONFIG, {_MARK: FORMAT, **described})
        if "dictionary" in content:
            (temporary / _DICTIONARY).write_text(content["dictionary"], encoding="utf-8")
        if "sentencepiece" in content:
            (temporary / _SUBWORDS).write_bytes(content["sentencepiece"].numpy().tobytes())
        sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(temporary.iterdir())]
        (temporary / _SUMS).write_text("".join(sums), encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")


def read_release(folder: Path) -> dict[str, Any]:
    """A folder's content as a native checkpoint's, verified by its checksums; UserError says what
    is missing or damaged."""
    sums = _sums(folder)
    for name, expected in sums.items():
        if sha256(folder / name) != expected:
            raise UserError(f"{folder / name}: damaged (its checksum fails); fetch it again")
    config = read_json(folder / _CONFIG)
    if config[_MARK] != FORMAT:
        raise UserError(
            f"{folder}: of release format {config[_MARK]}, this version reads {FORMAT}; update the "
            "repository"
        )
    content = {name: config[name] for name in _DESCRIBED if name in config}
    if _DICTIONARY in sums:
        content["dictionary"] = (folder / _DICTIONARY).read_text(encoding="utf-8")
    if _SUBWORDS in sums:
        model = bytearray((folder / _SUBWORDS).read_bytes())
        content["sentencepiece"] = torch.frombuffer(model, dtype=torch.uint8)
    return {**content, "model": read_tensors(folder)}


def _sums(folder: Path) -> dict[str, str]:
    """Name of each file -> its checksum.  Names outside the layout are refused, not opened."""
    path = folder / _SUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason}); fetch it again") from None
    sums = {name: sum_ for sum_, _, name in (line.partition("  ") for line in lines)}
    if not {_WEIGHTS, _CONFIG} <= sums.keys() <= {_WEIGHTS, _CONFIG, _DICTIONARY, _SUBWORDS}:
        raise UserError(f"{path}: does not list the files of a released model; fetch it again")
    return sums
