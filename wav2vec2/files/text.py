"""Reading of text files and of JSON.  Lines end with a line feed, as `wc -l` counts them."""

import json
import os
import reprlib
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError
from wav2vec2.files import gate
from wav2vec2.files.folders import require_no_pipe

_MOST_JSON = 4 << 20
"""Characters of a JSON file; parsed, each may take 25 times its size in memory."""

_DEEPEST_JSON = 50
"""Objects and lists inside each other."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def shown(value: Any) -> str:
    """A value from a file as an error message shows it: on one line, and cut if it is long."""
    return " ".join(_SHORT.repr(value).split())


def read_text(path: str | Path, *, name: str = "", fix: str = "", errors: str = "strict") -> str:
    """The content of a UTF-8 file, without a byte order mark; its line ends stay as they are.

    `errors`: as of `open`; `surrogateescape` for lists of file names, which may be any bytes.
    UserError if it cannot be read: `name` (default: the path), the reason, and `fix`.
    """
    try:
        require_no_pipe(path)
        return Path(path).read_bytes().decode("utf-8-sig", errors)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        message = f"{name or path}: cannot be read ({reason})"
        raise UserError(f"{message}; {fix}" if fix else message) from None


def read_lines(
    path: str | Path, *, name: str = "", fix: str = "", errors: str = "strict"
) -> list[str]:
    """The lines of a UTF-8 file; errors as of `read_text`."""
    return split_lines(read_text(path, name=name, fix=fix, errors=errors))


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

    Refuses an object that lists a name twice, of which json would take the last, and what is longer
    or deeper than any description of a model.
    """
    if os.path.exists(path) and gate.regular_file(path) > 4 * _MOST_JSON:
        raise UserError(
            f"{path}: not JSON (longer than {_MOST_JSON:,} characters), or damaged; {fix}"
        )
    return parse_json(read_text(path, fix=fix), path, fix)


def parse_json(text: str, source: str | Path, fix: str) -> Any:
    """The JSON value of `text`, read from `source`; errors and limits as of `read_json`."""
    try:
        if len(text) > _MOST_JSON:
            raise ValueError(f"longer than {_MOST_JSON:,} characters")
        value = json.loads(text, object_pairs_hook=_object_of_unique_names)
        _check_depth(value)
        return value
    except RecursionError:
        error: Any = "nested too deeply"
    except ValueError as found:
        error = found
    raise UserError(f"{source}: not JSON ({error}), or damaged; {fix}")


def _check_depth(value: Any) -> None:
    """ValueError if lists and objects of `value` are nested too deeply to be walked."""
    level = [value]
    for _ in range(_DEEPEST_JSON):
        containers = [item for item in level if isinstance(item, list | dict)]
        level = [
            inner
            for item in containers
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def _object_of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise ValueError(f"it lists {shown(twice)} twice")
    return found
