"""A Verification as a person reads it: one table, and a last line that counts."""

import shutil
import textwrap

from rd3_utils import units
from rd3_utils.text import printable
from rd3_utils.verification.checks import Check, Verification, grouped_alike

MARKS = {"confirmed": "confirmed", "not checkable": "not checkable here", "contradicted": "CONTRADICTED"}
AN = dict.fromkeys("aeio", "an")
WIDEST, PIPED, NARROWEST = 140, 120, 60  # characters of a line


def text(verification: Verification) -> str:
    """The table of a Verification."""
    rows = [("claim", "how it was checked", "outcome")]
    rows += [row(check, count) for check, count in grouped_alike(verification.checks)]
    lines = [f"{verification.source}: {AN.get(verification.kind[0], 'a')} {verification.kind}", "", *laid_out(rows)]
    if verification.not_read:
        names = f"Not read: {', '.join(verification.not_read)}"
        lines += ["", *textwrap.wrap(names, line_width(), break_on_hyphens=False)]
    return "\n".join(map(printable, [*lines, "", last_line(verification)]))


def row(check: Check, count: int) -> tuple[str, str, str]:
    """(claim, how, outcome) of `count` equal Checks."""
    place = check.place if count == 1 else f"{count} files"
    value = f": {check.value}" if check.value and count == 1 else ""
    outcome = MARKS[check.outcome] + (f": {check.why}" if check.why else "")
    return f"{place}: {check.claim}{value}", check.how, outcome


def line_width() -> int:
    """Characters that a line may have here."""
    return min(WIDEST, max(NARROWEST, shutil.get_terminal_size((PIPED, 40)).columns))


def laid_out(rows: list[tuple[str, str, str]]) -> list[str]:
    """Three columns that fit the terminal; PIPED wide where there is none."""
    width = line_width() - 4
    widths = [width * 2 // 5, width // 4, width - width * 2 // 5 - width // 4]
    lines = []
    for cells in rows:
        wrapped = [textwrap.wrap(cell, size) or [""] for cell, size in zip(cells, widths)]
        for i in range(max(map(len, wrapped))):
            parts = [(part[i] if i < len(part) else "").ljust(size) for part, size in zip(wrapped, widths)]
            lines.append("  ".join(parts).rstrip())
    return lines


def last_line(verification: Verification) -> str:
    """How many claims came to what, the unchecked ones last, and in how many seconds."""
    counts = f"{verification.count('confirmed')} confirmed, {verification.count('contradicted')} contradicted"
    counts += f", {verification.count('not checkable')} unchecked"
    return f"{len(verification.checks)} claims: {counts}. {units.duration(verification.seconds)}."
