"""Pieces of an HTML page: escaped text, tables, and bars that need no script."""

import html
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

UNITS = {
    "seconds": ("Durations", "s"),
    "level_dbfs": ("Level", "dBFS"),
    "peak_dbfs": ("Peak", "dBFS"),
    "silence_share": ("Silence", "%"),
    "bandwidth_hz": ("Bandwidth", "Hz"),
    "words_per_second": ("Words per second", ""),
}
"""Histogram -> its title and unit."""


class Html(str):
    """Text that is HTML already."""


def escape(value: Any) -> str:
    """Text as HTML shows it."""
    text = str(value).encode("utf-8", "replace").decode()  # JSON may hold lone surrogates
    return html.escape(text)


def with_flags(text: str) -> Html:
    """Text whose flags, such as `--max_seconds`, stay on one line."""
    return Html(re.sub(r"--\w+", r'<span class="flag">\g<0></span>', escape(text)))


def counted(count: int, noun: str) -> str:
    """`1 text`, `2,000 texts`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Collection[int]) -> str:
    """A table; cells that are not `Html` are escaped, and those of `numeric` columns at right."""

    def cell(tag: str, column: int, value: Any) -> str:
        attributes = ' class="number"' if column in numeric else ' dir="auto"'
        content = value if isinstance(value, Html) else escape(value)
        return f"<{tag}{attributes}>{content}</{tag}>"

    head = "".join(cell("th", column, title) for column, title in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(cell("td", column, value) for column, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def bars(name: str, counts: Mapping[str, int]) -> str:
    """A histogram as bars with labels and counts; empty bars at both ends are dropped."""
    title, unit = UNITS[name]
    edges = [float(key.removeprefix("from ")) for key in counts]
    values = list(counts.values())
    filled = [index for index, value in enumerate(values) if value]
    if not filled:
        return ""
    most = max(values)
    lines = []
    for index in range(filled[0], filled[-1] + 1):
        label = range_text(name, edges, index)
        share = f"{100 * values[index] / most:.1f}%"
        bar = f'<span class="bar" style="width:{share}"></span>' if values[index] else ""
        lines.append(
            f'<tr><th scope="row">{escape(label)}</th><td>{bar}</td>'
            f'<td class="number">{values[index]:,}</td></tr>'
        )
    caption = f'{escape(title)} <span class="unit">{escape(unit)}</span>'
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<table class="bars"><tbody>{"".join(lines)}</tbody></table></figure>'
    )


def range_text(name: str, edges: Sequence[float], index: int) -> str:
    """From which value to which a bar counts."""
    scale = 100 if name == "silence_share" else 1
    low = f"{scale * edges[index]:g}"
    if index + 1 < len(edges):
        high = f"{scale * edges[index + 1]:g}"
        first = name.endswith("_dbfs") and index == 0
        return f"below {high}" if first else f"{low} to {high}"
    last = {
        "peak_dbfs": "full scale",
        "bandwidth_hz": "8000, full band",
        "silence_share": f"{low} to 100",
    }
    return last.get(name, f"{low} or more")


def number(value: float) -> str:
    """A number with thousands and at most three decimals."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}".rstrip("0").rstrip(".")


def shown(character: str) -> str:
    """A character as a person can see it."""
    if character == " ":
        return "space"
    return f"◌{character}" if unicodedata.combining(character) else character
