"""Reading of text files that people wrote."""

from pathlib import Path

from wav2vec2.cli.errors import UserError


def read_lines(path: str | Path, *, name: str = "", fix: str = "") -> list[str]:
    """The lines of a UTF-8 file, with or without a byte order mark.

    UserError if it cannot be read: `name` (default: the path), the reason, and `fix`.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        message = f"{name or path}: cannot be read ({reason})"
        raise UserError(f"{message}; {fix}" if fix else message) from None
