"""Reading of text files and of JSON.  Lines end with a line feed, as `wc -l` counts them."""

import json
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError


def read_text(path: str | Path, *, name: str = "", fix: str = "") -> str:
    """The content of a UTF-8 file, without a byte order mark; its line ends stay as they are.

    UserError if it cannot be read: `name` (default: the path), the reason, and `fix`.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        message = f"{name or path}: cannot be read ({reason})"
        raise UserError(f"{message}; {fix}" if fix else message) from None


def read_lines(path: str | Path, *, name: str = "", fix: str = "") -> list[str]:
    """The lines of a UTF-8 file; errors as of `read_text`."""
    return split_lines(read_text(path, name=name, fix=fix))


def split_lines(text: str) -> list[str]:
    r"""The lines of a text: each ends with `\n` or `\r\n`, the last one may lack its end.

    Unlike `str.splitlines`, which also ends a line at a form feed, U+0085, U+2028 and others: these
    occur inside a transcript, and a line too many would shift all that follow.
    """
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    return [line.removesuffix("\r") for line in lines]


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
