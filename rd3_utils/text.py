"""Text for people: Markdown from data, and nothing invisible."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any


def table(rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table of `rows`, the first being the header: every cell escaped, rows that repeat once."""
    lines: list[Sequence[str]] = list(dict.fromkeys(tuple(escape(show(value)) for value in row) for row in rows))
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """`text` on one line, so that no character of it means anything to Markdown or HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda special: "\\" + special[0], text)


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in `text`."""
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text}\n{fence}"


def printable(text: str, mark: str = "?") -> str:
    """`text` with `mark` for every character that a terminal or page does not show as itself."""
    return "".join(character if character.isprintable() else mark for character in text)


def listed(values: Iterable[Any], separator: str = ", ") -> str:
    """Distinct values in order of appearance, as text."""
    return separator.join(dict.fromkeys(map(show, values)))


def show(value: Any) -> str:
    """A value of a recipe or a Run as text: as JSON writes it, but texts and lists bare, and a dash for nothing."""
    if isinstance(value, list):
        return ", ".join(map(show, value)) or "none"
    return value if isinstance(value, str) else "-" if value is None else json.dumps(value)
