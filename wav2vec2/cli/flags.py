"""Typed command-line flags from frozen dataclasses, with one-line errors.

Each field of a dataclass becomes a flag of the same name; the docstring under it is its help.
"""

import argparse
import ast
import difflib
import inspect
import json
import math
import numbers
import os
import reprlib
import sys
import textwrap
import types
import typing
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from wav2vec2.cli.errors import UserError, one_line
from wav2vec2.cli.help import HelpFormatter, PrintVersion, examples_of, metavar
from wav2vec2.cli.synonyms import BOOLS, our_flags

Config = TypeVar("Config")


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but an error is one line, exit code 2, and names the nearest known flag."""

    def __init__(
        self,
        prog: str,
        description: str = "",
        *,
        examples: Sequence[str] = (),
        version: bool = False,
        **options: Any,
    ):
        """`description`: a module's docstring, of which the first line and the commands are shown.

        `examples`: more commands to show.  `version`: accept --version.
        """
        options = {"allow_abbrev": False, "formatter_class": HelpFormatter, **options}
        first = description.partition("\n")[0].partition(": `python")[0]
        super().__init__(prog, description=first[:1].upper() + first[1:], **options)
        if shown := [*examples_of(description), *examples]:
            lines = ["examples:", *(f"  {command}" for command in shown)]
            self.epilog = "\n".join([*lines, *([self.epilog] if self.epilog else [])])
        self._unknown: list[str] = []
        self._config: tuple[str, set[str]] = "", set()
        if version:
            text = "print the versions of this package and of torch"
            self.add_argument("--version", action=PrintVersion, help=text)

    def accept_config(self, command: str, ignored: Collection[str] = ()) -> None:
        """Accept `--config FILE`: a JSON object of this command's flags.

        It may name its "command", which then must be this one, and have the keys `ignored`.
        """
        self._config = command, {"command", *ignored}
        text = "JSON file of flags, such as a run's config.json; flags given here win"
        self.add_argument("--config", metavar="FILE", help=text)

    def _take_config(self, path: str) -> None:
        """Make the values of a file the flags' defaults.  UserError names the file and the key."""
        command, ignored = self._config
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--config {path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise UserError(f"--config {path}: not a JSON file ({one_line(error)})") from None
        if not isinstance(content, dict):
            raise UserError(f"--config {path}: must be a JSON object, {{flag: value, ...}}")
        if content.get("command", command) != command:
            raise UserError(
                f"--config {path}: command: written by {content['command']}, not by {command}"
            )
        actions = {a.dest: a for a in self._actions if hasattr(a, "kind")}
        for name, value in content.items():
            if name in ignored:
                continue
            if name in actions:
                action = actions[name]
                action.default = _argument(f"--config {path}", name, action.kind, value)
                action.required = False
            else:
                near = difflib.get_close_matches(name, actions, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise UserError(f"--config {path}: unknown key {name}{hint}")

    def error(self, message: str) -> NoReturn:
        """As argparse's, but an unknown flag is named before a required one that is missing."""
        if "arguments are required" in message and self._unknown:
            self._report_unknown(self._unknown[0])
        self._fail(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def _fail(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")

    def _report_unknown(self, text: str) -> NoReturn:
        """The error for an unknown flag names the known one it resembles."""
        flag = text.split("=")[0]
        known = [name for name in self._option_string_actions if name not in ("-h", "--help")]
        near = difflib.get_close_matches(flag, known, n=1, cutoff=0.6)
        kind = "unknown flag" if flag.startswith("-") else "unexpected argument"
        if near:
            self._fail(f"{kind} {flag} (did you mean {near[0]}?)")
        self.error(f"{kind} {flag}")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse's, but accepts other spellings of a flag, and a boolean flag takes only the
        words of `parse_bool` as its value: `--cpu a.wav` means `--cpu true a.wav`."""
        given = list(sys.argv[1:] if args is None else args)
        words = self._in_our_words(given)
        if self._config[0]:
            for word, following in zip(words, [*words[1:], "--"]):
                if word.startswith("--config="):
                    self._take_config(word.partition("=")[2])
                elif word == "--config" and not following.startswith("--"):
                    self._take_config(following)
        return super().parse_known_args(words, namespace)

    def _in_our_words(self, given: Sequence[str]) -> list[str]:
        """The arguments with the flags' own names, and a value after each boolean flag."""
        flags = {_underscored(name): name for name in self._option_string_actions}
        ours: list[str] = []
        self._unknown = []
        rest = list(given)
        while rest:
            text = rest.pop(0)
            if text == "--":
                return [*ours, text, *rest]
            if not text.startswith("--"):
                ours.append(text)
                continue
            written, equals, value = text.partition("=")
            following = value if equals else rest[0] if rest else None
            if following is not None and following.startswith("--"):
                following = None
            name = _underscored(written)
            replaced, with_value = [flags[name]] if name in flags else [], False
            if not replaced:
                try:
                    replaced, with_value = our_flags(name, following, flags)
                except ValueError as error:
                    self._fail(str(error))
            if not replaced:
                self._unknown.append(text)
                ours.append(text)
            elif with_value:
                ours += replaced
                del rest[: not equals]
            elif equals:
                ours += [*replaced[:-1], f"{replaced[-1]}={value}"]
            else:
                ours += replaced
                action = self._option_string_actions.get(replaced[-1])
                if action is not None and action.type is parse_bool:
                    ours += [] if (following or "").lower() in BOOLS else ["true"]
        return ours

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse's, but the error for an unknown flag names the known one it resembles."""
        if "_ARGCOMPLETE" in os.environ:  # the shell completes a command line
            with suppress(ImportError):
                import argcomplete

                argcomplete.autocomplete(self)
        namespace, extras = self.parse_known_args(args, namespace)
        if extras:
            getattr(namespace, "subparser", self)._report_unknown(extras[0])
        return namespace


def check_command_first(
    prog: str, given: Sequence[str], commands: Sequence[str], example: str
) -> None:
    """UserError for a flag before the command; `example`: a whole command line."""
    if given and given[0].startswith("-") and given[0] not in ("-h", "--help", "--version"):
        named = f"{', '.join(commands[:-1])} or {commands[-1]}"
        raise UserError(
            f"{prog}: {given[0].partition('=')[0]}: a command comes first: {named}; for example "
            f"`{example}`"
        )


def _underscored(flag: str) -> str:
    """`--output-dir` -> `output_dir`."""
    return flag.removeprefix("--").replace("-", "_")


def parse_bool(text: str) -> bool:
    """The value of `true` or `false`, or of yes, no, on, off, 1 or 0, in any case of letters."""
    try:
        return BOOLS[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}") from None


def field_help(cls: type) -> dict[str, str]:
    """Field name -> the docstring below the field in the class' source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    texts = {}
    for declared, text in zip(body, body[1:]):
        match declared, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(docstring))),
            ):
                texts[name] = " ".join(docstring.split())
    return texts


def parse_float(text: str) -> float:
    """A finite number."""
    with suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")


def parse_int(text: str) -> int:
    """A whole number."""
    with suppress(ValueError):
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")


_PARSERS = {float: parse_float, int: parse_int}


def _without_none(kind: Any) -> Any:
    """X of the type `X | None`, and any other type as it is."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (k for k in typing.get_args(kind) if k is not type(None))
    return kind


def _argument_options(name: str, kind: Any) -> dict[str, Any]:
    """argparse's keywords for the field `name` of type `kind`."""
    kind = _without_none(kind)
    if kind is bool:
        return {"type": parse_bool, "metavar": "true|false"}
    if typing.get_origin(kind) is Literal:
        return {"choices": typing.get_args(kind)}
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        count = "*" if items[-1] is Ellipsis else len(items)
        return {**_argument_options(name, items[0]), "nargs": count}
    return {"type": _PARSERS.get(kind, kind), "metavar": metavar(name, kind)}


def add_flags(
    parser: argparse.ArgumentParser,
    cls: type,
    defaults: dict[str, Any] | None = None,
    without: Collection[str] = (),
) -> None:
    """Add one flag per field of the dataclass `cls`, under the class' docstring as heading.

    `defaults` overrides the fields' own.  A field without a default becomes a required flag.
    Fields named in `without` get no flag and keep their default.
    """
    defaults = defaults or {}
    heading = (cls.__doc__ or cls.__name__).strip().splitlines()[0].split(".")[0]
    group = parser.add_argument_group(heading)
    hints = typing.get_type_hints(cls)
    texts = field_help(cls)
    for item in fields(cls):
        if item.name in without:
            continue
        default = defaults.get(item.name, item.default)
        required = default is MISSING
        action = group.add_argument(
            f"--{item.name}",
            default=None if required else default,
            required=required,
            help=texts.get(item.name, "").replace("%", "%%"),
            **_argument_options(item.name, hints[item.name]),
        )
        action.kind = hints[item.name]  # type: ignore[attr-defined]


def from_flags(cls: type[Config], namespace: argparse.Namespace) -> Config:
    """Build the dataclass from parsed flags; a ValueError of its validation becomes a UserError."""
    given = vars(namespace)
    values = {f.name: given[f.name] for f in fields(cls) if f.name in given}  # type: ignore[arg-type]
    try:
        return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None


def require_at_least(options: Any, **least: float) -> None:
    """UserError, naming the flag, for a field of `options` that is below its number in `least`."""
    for name, minimum in least.items():
        value = getattr(options, name)
        if value < minimum:
            raise UserError(f"--{name} {value}: must be at least {minimum}")


def from_arguments(cls: type[Config], caller: str, arguments: dict[str, Any]) -> Config:
    """Build the dataclass from arguments of Python code.

    UserError, naming `caller` and the argument, for a value of another type than the field's.
    """
    hints = typing.get_type_hints(cls)
    return cls(**{name: _argument(caller, name, hints[name], v) for name, v in arguments.items()})


def _argument(caller: str, name: str, kind: Any, value: Any) -> Any:
    """`value` as the field's type; numbers may be of any library, files text or a path."""
    if value is None and kind is not _without_none(kind):
        return None
    kind = _without_none(kind)
    number = not isinstance(value, bool)  # Python counts these among the numbers
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if isinstance(value, str) and value in choices:
            return value
        wanted = f"choose from {', '.join(choices)}"
    elif typing.get_origin(kind) is tuple:
        first, *more = typing.get_args(kind)
        wanted = "must be a list" if Ellipsis in more else f"must be a list of {len(more) + 1}"
        if isinstance(value, list | tuple) and (Ellipsis in more or len(value) == len(more) + 1):
            return tuple(_argument(caller, name, first, item) for item in value)
    elif kind is bool:
        if isinstance(value, bool):
            return value
        wanted = "must be true or false"
    elif kind is int:
        if isinstance(value, numbers.Integral) and number:
            return int(value)
        wanted = "must be a whole number"
    elif kind is float:
        if isinstance(value, numbers.Real) and number and math.isfinite(value):
            return float(value)
        wanted = "must be a finite number"
    else:
        assert kind is str, f"{name}: no argument of type {kind} is checked"
        if isinstance(value, (str, os.PathLike)):
            return os.fsdecode(value)
        wanted = "must be text or a path"
    raise UserError(f"{caller}: {name} {one_line(reprlib.repr(value))}: {wanted}")


def parse_dataclasses(
    parser: argparse.ArgumentParser, classes: Sequence[type], argv: Sequence[str] | None = None
) -> list[Any]:
    """Parse `argv` into one instance of each class, in order."""
    for cls in classes:
        add_flags(parser, cls)
    namespace = parser.parse_args(argv)
    return [from_flags(cls, namespace) for cls in classes]


def parse_options(cls: type[Config], command: str, document: str) -> Config:
    """The flags of a command that has one dataclass of them; `document`: its module's docstring."""
    return parse_dataclasses(ArgumentParser(command, document), [cls])[0]
