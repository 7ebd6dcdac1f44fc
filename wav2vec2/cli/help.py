"""What `--help` and `--version` print."""

import argparse
import importlib.metadata
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

import wav2vec2

METAVARS = {
    "alpha": "NUMBER",
    "checkpoint": "FILE",
    "compare": "DIR",
    "dictionary": "FILE",
    "dir": "DIR",
    "evaluation": "DIR",
    "file": "FILE",
    "filelist": "FILE",
    "from": "FILE",
    "hourglass_config": "LAYERS",
    "labels": "EXTENSION",
    "lexicon": "FILE",
    "lm": "FILE",
    "minutes": "MINUTES",
    "model": "FILE",
    "output": "FILE",
    "seconds": "SECONDS",
    "subset": "NAME",
    "subsets": "NAME",
    "table": "FILE",
    "url": "URL",
}
"""A flag's name, or its last word -> what its value is."""


def metavar(name: str, kind: type) -> str:
    """What the help calls the value of the flag `name`, which has the type `kind`."""
    found = METAVARS.get(name) or METAVARS.get(name.rpartition("_")[2])
    if found in ("SECONDS", "MINUTES") or (found and kind is str):
        return found
    return {int: "N", float: "NUMBER"}.get(kind, "TEXT")


def examples_of(document: str) -> list[str]:
    """The commands that a module's docstring shows."""
    joined = document.replace("\\\n", " ")
    found = re.findall(r"^ {4}(python .*)$|`(python [^`]*)`", joined, re.MULTILINE)
    return [" ".join("".join(command).split()) for command in found]


class HelpFormatter(argparse.HelpFormatter):
    """Flags in one column, explanations in another, defaults behind them if there are any."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=100)

    def add_argument(self, action: argparse.Action) -> None:
        """As argparse's, but long names of subcommands widen the first column, too."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            longest = self._current_indent + 4 + max(map(len, action.choices))
            self._action_max_length = max(self._action_max_length, longest)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, list | tuple):
            default = " ".join(map(str, default))
        if default in (None, argparse.SUPPRESS, "") or not action.option_strings:
            return text
        shown = str(default).replace("%", "%%")
        return f"{text} (default: {shown})"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wraps paragraphs; indented lines stay as they are."""
        lines = text.split("\n")
        return "\n".join(
            line if line.startswith(" ") else textwrap.fill(line, width) for line in lines
        )


class PrintVersion(argparse.Action):
    """Prints the versions of this package and of torch, which is not imported for it."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *parsed: Any) -> NoReturn:
        try:
            torch = f"torch {importlib.metadata.version('torch')}"
        except importlib.metadata.PackageNotFoundError:
            torch = "torch not installed"
        print(f"wav2vec2 {wav2vec2.__version__}, {torch}")
        parser.exit()
