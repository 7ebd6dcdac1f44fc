"""Output folders that an earlier run of a command may have filled."""

import json
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError


def was_made_with(settings: dict[str, Any], output_dir: Path, record: str, what: str) -> bool:
    """Whether `output_dir` holds `what`, made with `settings`, as its JSON file `record` says.

    False if it is empty or missing; UserError if it holds anything else.
    """
    try:
        found = json.loads((output_dir / record).read_text(encoding="utf-8"))
        found = found.get("settings", found)
        if not settings.keys() & found.keys():
            raise ValueError
        differing = [f"{k} {found.get(k)}" for k in settings if found.get(k) != settings[k]]
    except (OSError, ValueError, AttributeError):
        if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
            raise UserError(
                f"--output_dir {output_dir}: exists and holds no {what}; choose another folder or "
                "remove it"
            ) from None
        return False
    if differing:
        raise UserError(
            f"--output_dir {output_dir}: holds another {what}, made with other settings "
            f"({', '.join(differing)}); choose another folder or remove it"
        )
    return True
