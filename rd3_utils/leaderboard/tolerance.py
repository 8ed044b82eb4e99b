"""One origin cannot stop the board: where its Runs make anything fail, it is set apart as a whole, and the rest goes on."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

O = TypeVar("O", bound=Hashable)
T = TypeVar("T")


def tolerant(origins: Iterable[O], make: Callable[[frozenset[O]], T]) -> tuple[T, dict[O, str]]:
    """(`make(origins)`, {}); where that raises, (what it makes of the others, {origin that is left out: why}).

    Left out are those with which it raises alone; if it still does, the last of `origins`, one after the other. What it raises
    without any is raised: no origin is to blame.
    """
    everybody = list(dict.fromkeys(origins))
    try:
        return make(frozenset(everybody)), {}
    except Exception:  # whatever the file of a stranger can bring about
        make(frozenset())
    apart: dict[O, str] = {}
    for origin in everybody:
        try:
            make(frozenset([origin]))
        except Exception as error:
            apart[origin] = f"its Runs pass each check and cannot be shown ({type(error).__name__})"
    while True:
        rest = [origin for origin in everybody if origin not in apart]
        try:
            return make(frozenset(rest)), apart
        except Exception as error:
            apart[rest[-1]] = f"its Runs pass each check and cannot be shown beside those of others ({type(error).__name__})"
