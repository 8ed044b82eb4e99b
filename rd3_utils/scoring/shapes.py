"""Values of files that somebody else wrote (bounded.py reads those): they are what they must be, or Refused says which is not.

No text that comes from such a file is ever used as a path, a pattern or code. Needs no torch.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any, get_args, get_type_hints

from rd3_utils import limits
from rd3_utils.bounded import Refused, shown


def is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= limits.LONGEST_TEXT and value.isprintable()


def is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", value) is not None


def is_hex(digits: int) -> Callable[[Any], bool]:
    pattern = re.compile(rf"[0-9a-f]{{{digits}}}")
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limits.WHOLE


def is_count(value: Any) -> bool:
    return is_whole(value) and value > 0


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_fraction(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def is_seconds(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1e10


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_table(value: Any) -> bool:
    return isinstance(value, dict)


def is_texts(value: Any) -> bool:
    return is_table(value) and len(value) <= 40 and all(is_text(name) and is_text(version) for name, version in value.items())


def or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


def stated(check: Callable[[Any], bool], wanted: str, since: int = 1, **more: Any) -> Any:
    """A field of a dataclass that a file states: `check(value)` holds, `wanted` says what it wants.

    With a `default`, files of an older schema than `since` may lack the key.
    """
    return dataclasses.field(metadata={"check": check, "wanted": wanted, "since": since}, **more)


def part(since: int = 1, **more: Any) -> Any:
    """A field that is a dataclass of its own, or a tuple of them."""
    return dataclasses.field(metadata={"since": since}, **more)


def read(cls: type, table: Any, schema: int, where: str = "the file") -> Any:
    """The dataclass `cls` that `table` states, every field checked as `stated` says; Refused names the first that is not.

    Further keys are let be and not read.
    """
    if not is_table(table):
        raise Refused(f"{where} is {shown(table)}, wanted a table")
    hints, values = cached_hints(cls), {}
    for field in dataclasses.fields(cls):
        name = field.name if where == "the file" else f"{where}.{field.name}"
        absent = "check" not in field.metadata and field.default is None and table.get(field.name) is None
        if field.name not in table or absent:
            if field.default is dataclasses.MISSING or schema >= field.metadata["since"] > 1:
                raise Refused(f"{where} lacks {field.name}")
            continue
        value, inner = table[field.name], inner_of(hints[field.name])
        if "check" in field.metadata:
            if not field.metadata["check"](value):
                raise Refused(f"{name} is {shown(value)}, wanted {field.metadata['wanted']}")
            values[field.name] = value
        elif isinstance(inner, tuple):
            values[field.name] = several(inner[0], value, schema, name)
        else:
            values[field.name] = read(inner, value, schema, name)
    return cls(**values)


@cache
def cached_hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def inner_of(hint: Any) -> Any:
    """The dataclass of a field's type: X of `X` and `X | None`, (X,) of `tuple[X, ...]`."""
    inside = [one for one in get_args(hint) if dataclasses.is_dataclass(one)]
    return hint if not inside else (inside[0],) if getattr(hint, "__origin__", None) is tuple else inside[0]


def several(cls: type, value: Any, schema: int, name: str, most: int = 100) -> tuple:
    if not isinstance(value, list) or len(value) > most:
        raise Refused(f"{name} is {shown(value)}, wanted a list of at most {most}")
    return tuple(read(cls, one, schema, f"one of {name}") for one in value)
