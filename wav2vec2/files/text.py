"""Reading of text files and of JSON."""

import json
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError
from wav2vec2.files.folders import require_no_pipe


def read_text(path: str | Path, *, name: str = "", fix: str = "", errors: str = "strict") -> str:
    """The content of a UTF-8 file, without a byte order mark.

    `errors`: as of `open`; `surrogateescape` for lists of file names, which may be any bytes.
    UserError if it cannot be read: `name` (default: the path), the reason, and `fix`.
    """
    try:
        require_no_pipe(path)
        return Path(path).read_text(encoding="utf-8-sig", errors=errors)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        message = f"{name or path}: cannot be read ({reason})"
        raise UserError(f"{message}; {fix}" if fix else message) from None


def read_lines(
    path: str | Path, *, name: str = "", fix: str = "", errors: str = "strict"
) -> list[str]:
    """The lines of a UTF-8 file; errors as of `read_text`."""
    return read_text(path, name=name, fix=fix, errors=errors).splitlines()


def read_json(path: str | Path, fix: str) -> Any:
    """The JSON value in a file; UserError, which ends with `fix`, if there is none.

    Refuses an object that lists a name twice, of which json would take the last.
    """
    text = read_text(path, fix=fix)
    try:
        return json.loads(text, object_pairs_hook=_object_of_unique_names)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); {fix}") from None


def _object_of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it lists {twice!r} twice")
    return found
