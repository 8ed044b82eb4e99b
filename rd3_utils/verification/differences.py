"""What differs between what a file states and what is made again: of plain data key by key, of text line by line.

Only numbers contradict. Other words may be those of another version or its owner's, and are told apart: two texts that are the
same but for tokens with digits say another number; other ones are worded otherwise.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from rd3_utils import errors
from rd3_utils.bounded import shown
from rd3_utils.scoring.shapes import is_number
from rd3_utils.text import printable

NUMBER = re.compile(  # tokens with a digit, each looked at once from where it begins, and the dash of an empty cell
    r"(?<![^\s|,()])[^\s|,()]*\d[^\s|,()]*|(?<=\| )-(?= \|)"
)
EQUAL = 1e-9  # relative, of numbers: sums may be taken in another order


@dataclass(frozen=True)
class Difference:
    """One place `at` which stated and made are not the same, and in what: a number, words, or one of them has nothing there."""

    at: str
    kind: Literal["number", "words", "not stated", "only stated"]
    stated: str
    made: str


def masked(text: str) -> str:
    """`text` with every number taken out."""
    return NUMBER.sub("#", text)


def in_data(stated: Any, made: Any, at: str = "") -> Iterator[Difference]:
    """The Differences of plain data, in the order of what was made."""
    if isinstance(stated, dict) and isinstance(made, dict):
        for key in [*made, *(key for key in stated if key not in made)]:
            where = f"{at}.{key}" if at else str(key)
            if key not in stated:
                yield Difference(where, "not stated", "", shown(made[key]))
            elif key not in made:
                yield Difference(where, "only stated", shown(stated[key]), "")
            else:
                yield from in_data(stated[key], made[key], where)
    elif isinstance(stated, list) and isinstance(made, list):
        for i, (one, other) in enumerate(zip(stated, made)):
            yield from in_data(one, other, f"{at}[{i}]")
        if len(stated) > len(made):
            yield Difference(f"{at}[{len(made)}]", "only stated", shown(stated[len(made)]), "")
        elif len(made) > len(stated):
            yield Difference(f"{at}[{len(stated)}]", "not stated", "", shown(made[len(stated)]))
    elif is_number(stated) and is_number(made):
        if not math.isclose(stated, made, rel_tol=EQUAL, abs_tol=1e-12):
            yield Difference(at, "number", shown(stated), shown(made))
    elif type(stated) is not type(made) or stated != made:
        words = isinstance(stated, str) and isinstance(made, str) and masked(stated) != masked(made)
        yield Difference(at, "words" if words else "number", shown(stated), shown(made))


def in_lines(stated: Sequence[str], made: Sequence[str]) -> Iterator[Difference]:
    """The Differences of lines of text; what stands between equal lines is paired where it differs in nothing but numbers."""
    for tag, i, i_end, j, j_end in SequenceMatcher(None, made, stated, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        ours, theirs = made[i:i_end], stated[j:j_end]
        pairs = SequenceMatcher(None, [*map(masked, ours)], [*map(masked, theirs)], autojunk=False).get_opcodes()
        for inner, a, a_end, b, b_end in pairs:
            if inner == "equal":
                yield from (Difference("", "number", *told_apart(x, y)) for x, y in zip(theirs[b:b_end], ours[a:a_end]))
            else:
                yield from (Difference("", "not stated", "", shortened(line)) for line in ours[a:a_end])
                yield from (Difference("", "only stated", shortened(line), "") for line in theirs[b:b_end])


def told_apart(one: str, other: str, around: int = 30, most: int = 110) -> tuple[str, str]:
    """Both lines, cut to what stands around the first character in which they differ."""
    first = next((i for i, (x, y) in enumerate(zip(one, other)) if x != y), min(len(one), len(other)))
    start = max(0, first - around) if max(len(one), len(other)) > most else 0
    return shortened(one[start:], most), shortened(other[start:], most)


def shortened(line: str, most: int = 110) -> str:
    """A line of at most `most` characters, none of them invisible."""
    return errors.shortened(printable(line), most)
