"""Files that somebody else wrote, read as hostile input: regular ones of bounded size, JSON and TOML without surprises."""

import json
import math
import os
import re
import stat
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rd3_utils import limits, units
from rd3_utils.errors import UserError

LONG_KEY = re.compile(rf"(?<![\w\"'.-])(?:[\w\"'-]++\s*+\.\s*+){{{limits.LONGEST_KEY}}}")
TOO_DEEP = "nested too deeply"


class Refused(Exception):
    """Why a file is not what it must be, in one line without what only its author needs."""


def shown(value: Any) -> str:
    """A value for a message: one short line, no character of it invisible."""
    text = repr(value) if not is_endless(value) else f"a number of more than {limits.LONGEST_SHOWN} digits"
    return text if len(text) <= limits.LONGEST_SHOWN else f"{text[: limits.LONGEST_SHOWN - 3]}..."


def is_endless(value: Any) -> bool:
    """Whether a whole number is too long to be written out."""
    return isinstance(value, int) and abs(value) >= 10**limits.LONGEST_SHOWN


def contents(where: Path, most: int = limits.MOST_JSON_BYTES, kind: str = "a Run") -> bytes:
    """The bytes of a regular file of at most `most`; Refused for anything else, which is not waited for."""
    try:
        about = os.stat(where)
        if not stat.S_ISREG(about.st_mode):
            raise Refused("no regular file")
        if about.st_size > most:
            raise Refused(f"{units.size(about.st_size)}, {kind} has at most {units.size(most)}")
        with open(where, "rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in its name
        raise Refused("no name of a file") from None


def parse(data: bytes, most: int = limits.MOST_JSON_BYTES, kind: str = "a Run") -> Any:
    """The JSON value in `data`; Refused for what is not plain JSON of finite numbers with each key once, or too large."""
    if len(data) > most:
        raise Refused(f"more than {units.size(most)}, {kind} has less")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=each_once, parse_constant=no_number, parse_float=finite, parse_int=whole
        )
    except RecursionError:
        raise Refused(f"not {kind}: {TOO_DEEP}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused(f"not JSON: {str(error)[:80]}") from None
    level = [value]
    for _ in range(limits.DEEPEST):
        tables = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        level = [inner for table in tables for inner in table]
    if level:  # what copies and compares it would go as deep
        raise Refused(f"not {kind}: {TOO_DEEP}")
    return value


def read_json(where: Path, most: int = limits.MOST_JSON_BYTES, kind: str = "a file of this project") -> Any:
    """The JSON value in the file `where`, as `contents` and `parse` read it."""
    return parse(contents(where, most, kind), most, kind)


def read_toml(where: Path) -> dict:
    """The TOML file at `where` as a dict; UserError if it is missing, too large or not TOML."""
    try:
        return toml(contents(where, limits.MOST_TOML_BYTES, "a protocol, benchmark or study").decode("utf-8"))
    except Refused as refused:
        raise UserError(f"cannot read {where}: {str(refused).removeprefix('cannot be read: ')}.") from refused
    except ValueError as error:
        raise UserError(f"{where} is not valid TOML: {str(error)[:200]}.") from error


def toml(text: str) -> dict:
    """The table that TOML `text` states; ValueError for what is none, with numbers and nesting that nobody means."""
    if LONG_KEY.search(text):
        raise ValueError(f"a key of more than {limits.LONGEST_KEY} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def each_once(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object as a dict; Refused where a key repeats."""
    table = dict(pairs)
    if len(table) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise Refused(f"key {shown(key)} is there more than once")
    return table


def no_number(text: str) -> NoReturn:
    """Refused: NaN or Infinity."""
    raise Refused(f"{text} is no number of JSON")


def finite(text: str) -> float:
    """The float that `text` is; Refused where it is too large for one."""
    value = float(text)
    if not math.isfinite(value):
        raise Refused(f"{text[:40]} is no finite number")
    return value


def whole(text: str) -> int:
    """The int that `text` is; Refused from limits.WHOLE on."""
    if len(text) > 20 or abs(int(text)) >= limits.WHOLE:
        raise Refused(f"{text[:20]}... is too large a number")
    return int(text)


class NoAliases(yaml.SafeLoader):
    """YAML without aliases, which can make a small text a huge table."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; Refused for an alias."""
        if self.check_event(yaml.events.AliasEvent):
            raise Refused("YAML with aliases")
        return super().compose_node(parent, index)


def plain_yaml(text: str) -> Any:
    """The value of a YAML text; Refused for what is none, or no plain data."""
    if len(text) > limits.MOST_YAML:
        raise Refused(f"{len(text)} characters of YAML, at most {limits.MOST_YAML} are read")
    try:
        return yaml.load(text, Loader=NoAliases)
    except RecursionError:
        raise Refused("YAML nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise Refused(f"no YAML: {' '.join(str(error).split())[:80]}") from None
