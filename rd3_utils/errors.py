"""What a person at the keyboard is told when something they gave is wrong."""

import difflib
import errno
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

T = TypeVar("T")

REFUSALS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)  # what the system says of a path that a person gave


class UserError(Exception):
    """One clear line: what was found, what was wanted, what to do. The scripts print it and exit with code 2."""


class TagTaken(UserError):
    """The tag that a push is to set is elsewhere already."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that a mistyped `name` most likely means, or None."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The UserError for a name that is not in a table: the nearest known name first, then all of them."""
    known, name = sorted(known), shortened(" ".join(str(name).split()))
    near = nearest(name.lower(), known)
    suggestion = f"did you mean '{near}'? " if near else ""
    return UserError(f"unknown {kind} '{name}': {suggestion}Known: {', '.join(known)}.")


def shortened(text: str, most: int = 120) -> str:
    """`text` of at most `most` characters, its end replaced by dots where there is more."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def refused(error: UserError | OSError) -> UserError:
    """A UserError as it is; what the system says of a file that may not be looked at, or has a name that cannot be one.

    Other errors are raised.
    """
    if isinstance(error, UserError):
        return error
    if error.filename is None or error.errno not in REFUSALS:
        raise error
    return UserError(f"'{shortened(str(error.filename))}': {str(error.strerror).lower()}; give another file or folder.")


def run(main: Callable[[T], object], options: T) -> None:
    """`main(options)`; a UserError ends the process with one line on stderr and exit code 2."""
    try:
        main(options)
    except (UserError, OSError) as error:
        stop(refused(error))


def stop(error: UserError) -> NoReturn:
    """Print a UserError as one line on stderr and end the process with exit code 2."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(error))  # what a file states may be anything
    print(f"error: {shortened(line, 4000)}", file=sys.stderr, flush=True)
    sys.exit(2)
