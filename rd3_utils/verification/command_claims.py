"""The commands under Reproduce on a card: what they say of the measurement is what its Runs say; where they run is free."""

import json
import shlex
from collections.abc import Iterator

from rd3_utils.verification.checks import Check, confirmed, contradicted, unchecked

SCRIPT = "train_student.py"
SAID = ("benchmark", "arms", "seeds", "student", "draws", "draw", "monitor-test", "views-seed", "full-hard", "mixed_precision")


def of_commands(place: str, stated: list[str], made: list[str]) -> Iterator[Check]:
    """The Checks of the command lines `stated`, where the Runs would make `made`."""
    claim, how = "commands that make it again", "read as options; compared with its Runs"
    if len(stated) != len(made):
        yield unchecked(place, claim, f"{len(stated)} lines, its Runs make {len(made)}: another version's, or edited")
        return
    for theirs, ours in zip(stated, made):
        one, other = options_of(theirs), options_of(ours)
        if one is None or other is None:
            yield unchecked(place, claim, "cannot be read as words of a shell")
            return
        for key in (*SAID, "protocol", "set"):
            if key == "protocol" and one.get(key, "").endswith(".toml"):
                continue  # a file that is elsewhere; the digest is what counts
            if one.get(key, "") != other.get(key, ""):
                values = (f"--{key} {table[key]}" if key in table else f"no --{key}" for table in (one, other))
                yield contradicted(place, f"{claim}: {next(values)[:100]}", how, next(values)[:100])
                return
    yield confirmed(place, claim, how, value=f"{len(made)}" if len(made) > 1 else "")


def options_of(line: str) -> dict[str, str] | None:
    """{option: value} of a command line; "set" in one spelling, knobs in order."""
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    options: dict[str, str] = {}
    knobs = []
    for word, following in zip(words, [*words[1:], ""]):
        if not word.startswith("--"):
            continue
        key, tied, value = word[2:].partition("=")
        value = value if tied else "yes" if following.startswith("--") else following
        if key == "set":
            knobs.append(knob(value))
        else:
            options[key] = value
    return options | ({"set": " ".join(sorted(knobs))} if knobs else {})


def knob(text: str) -> str:
    """KEY=VALUE with numbers and lists in one spelling."""
    key, _, value = text.partition("=")
    try:
        return f"{key}={json.dumps(json.loads(value, parse_int=float))}"
    except ValueError:
        return f"{key}={value}"
