"""SHA-256 checksums of files."""

import hashlib
from pathlib import Path

from wav2vec2.cli.errors import UserError


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; UserError if it cannot be read."""
    hashed = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):  # hashlib.file_digest needs Python 3.11
                hashed.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None
    return hashed.hexdigest()
