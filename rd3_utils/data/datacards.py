"""The front matter of a dataset card: read as a stranger's, and changed so that what its owner wrote stays.

The Hub library's own card classes take front matter for keyword arguments and write all of it anew: comments, keys that are
no texts and tags that are one text do not survive that. Its rule for where front matter ends is used here.
"""

import re
from dataclasses import dataclass
from typing import Any

from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

from rd3_utils.bounded import Refused, plain_yaml

BOM = "\ufeff"


@dataclass(frozen=True)
class DataCard:
    """A card taken apart: the YAML `block` of its front matter, "" without one, what it says as a `table`, and its `text`."""

    block: str
    table: dict[Any, Any]
    text: str


def front_matter(card: str) -> DataCard:
    """The DataCard in the text of a README.md; Refused for front matter that is no YAML.

    What stands between two rules at the top and is no table is text: a card may begin with a rule.
    """
    card = card.removeprefix(BOM)
    match = REGEX_YAML_BLOCK.match(card)
    said = plain_yaml(match[2]) if match else None
    if match is None or not (said is None or isinstance(said, dict)):
        return DataCard("", {}, card)
    return DataCard(match[2].strip("\r\n"), said or {}, card[match.end() :])


def with_entries(before: DataCard, entries: dict[str, Any]) -> str:
    """The YAML of a card's front matter with `entries` in place of what it said of these keys; all other lines stay.

    Where the lines of a key cannot be told from others, as in tables in braces, all is written anew, and means the same.
    """
    changed = {key: value for key, value in entries.items() if before.table.get(key) != value}
    wanted = {**before.table, **changed}
    lines = before.block.splitlines()
    for key, value in reversed(changed.items()):
        put(lines, key, before.table.get(key), value)
    block = "\n".join(lines)
    try:
        if plain_yaml(block) == wanted:
            return block
    except Refused:
        pass
    return yaml_dump(wanted, sort_keys=False).rstrip("\n")


def put(lines: list[str], key: str, old: Any, value: Any) -> None:
    """Change the `lines` of YAML so that a top-level `key` says `value`: behind a list that it continues, else in its place.

    A new key comes first: the last one may be a text whose end is the end of all.
    """
    start = next((i for i, line in enumerate(lines) if re.match(rf"(['\"]?){re.escape(key)}\1\s*:(\s|$)", line)), None)
    if start is None:
        lines[0:0] = yaml_dump({key: value}).splitlines()
        return
    end = start + 1
    while end < len(lines) and re.match(r"\s+\S|-(\s|$)", lines[end]):
        end += 1
    dash = next(filter(None, (re.match(r"(\s*)-(\s|$)", line) for line in lines[start + 1 : end])), None)
    if dash and isinstance(old, list) and value[: len(old)] == old:
        lines[end:end] = [f"{dash[1]}{line}" for line in yaml_dump(value[len(old) :]).splitlines()]
    else:
        lines[start:end] = yaml_dump({key: value}).splitlines()
