"""docs/limits.md from the lines of rd3_utils/limits.py: python docs/render_limits.py"""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
from rd3_utils.text import table  # noqa: E402

INTRO = """# Limits

What is refused before memory, time or a fetch is spent on it. A file that states more is one line of error and exit code 2; on
a board it stands under what is not ranked. This page is made of `rd3_utils/limits.py` by `python docs/render_limits.py`.
"""
LINE = re.compile(r"(?P<name>[A-Z_]+) = (?P<value>\S+)  # (?P<text>.+)")


def page() -> str:
    """The page as Markdown: one table for each part of the module."""
    _, *sections = re.split(r"^# (.+)$", (PROJECT / "rd3_utils/limits.py").read_text(), flags=re.MULTILINE)
    parts = [INTRO.rstrip()]
    for title, lines in zip(sections[::2], sections[1::2]):
        rows = [match.group("name", "value", "text") for match in LINE.finditer(lines)]
        parts += [f"## {title.capitalize()}", table([["limit", "at most", "of what, and why"], *rows])]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (PROJECT / "docs/limits.md").write_text(page())
