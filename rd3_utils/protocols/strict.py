"""Read a TOML table into a frozen dataclass, strictly: missing, unknown and mistyped fields are named."""

import dataclasses
import math
import sys
import types
import typing
from typing import TYPE_CHECKING, Any, TypeVar

from rd3_utils.bounded import shown
from rd3_utils.errors import UserError, unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LARGEST_FLOAT = int(sys.float_info.max)
T = TypeVar("T", bound="DataclassInstance")


def build(cls: type[T], table: Any, where: str) -> T:
    """`cls(**table)` with every field present, none unknown, each of its declared type.

    `where` names the table in messages, such as "rd3-v1 [training]". An int is accepted where a float is declared;
    a list becomes a tuple.
    """
    if not isinstance(table, dict):
        raise UserError(f"{where} is {type(table).__name__}, wanted a table.")
    declared = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for name in table:
        if name not in names:
            raise UserError(f"{where}: {unknown('field', name, names)}")
    none = dataclasses.MISSING
    required = [f.name for f in dataclasses.fields(cls) if f.default is none and f.default_factory is none]
    missing = [name for name in required if name not in table]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}; state every field.")
    return cls(**{name: coerce(declared[name], value, f"{where} {name}") for name, value in table.items()})


def coerce(declared: Any, value: Any, where: str) -> Any:
    """`value` as the declared type, or a UserError that names the place, the value and the type wanted."""
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return coerce(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            if arguments[-1] is Ellipsis:
                return tuple(coerce(arguments[0], v, where) for v in value)
            if len(value) == len(arguments):
                return tuple(coerce(a, v, where) for a, v in zip(arguments, value))
        wanted = "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} values"
        raise UserError(f"{where} is {shown(value)}, wanted {wanted}.")
    if declared is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < LARGEST_FLOAT else math.inf if value > 0 else -math.inf
    if declared in (int, float, str, bool) and type(value) is not declared:
        raise UserError(f"{where} is {shown(value)} ({type(value).__name__}), wanted {declared.__name__}.")
    if declared is dict and not isinstance(value, dict):
        raise UserError(f"{where} is {shown(value)}, wanted a table.")
    return value
