"""What a command tells its user beside its results."""

import os
import sys


def notice(text: str) -> None:
    """Tell the user something, once for all processes, on standard error."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
