"""Check: one claim of an output, how it was looked at, and what came of it; Verification: all of one SOURCE.

confirmed      recomputed here, and the same
not checkable  nothing here can recompute it; `why` says what would make it so
contradicted   recomputed here, and another value: both are said
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["confirmed", "not checkable", "contradicted"]
CONTRADICTED, NO_SCORE = 1, 3  # exit codes; 0: nothing is contradicted and a score was recomputed


@dataclass(frozen=True)
class Check:
    """One row of the table. `place` is the file that claims it, relative to SOURCE; `score` marks a score computed anew."""

    place: str
    claim: str  # what is claimed, with the value as it is stated
    how: str  # how it was looked at
    outcome: Outcome
    why: str = ""  # contradicted: the value found; not checkable: why, and what would make it so; confirmed: a remark
    score: bool = False  # whether a student's score was recomputed
    value: str = ""  # what differs between files that claim alike; shown where a row stands for one file


def confirmed(place: str, claim: str, how: str, remark: str = "", *, score: bool = False, value: str = "") -> Check:
    """A Check of what was recomputed and is as claimed."""
    return Check(place, claim, how, "confirmed", remark, score, value)


def unchecked(place: str, claim: str, why: str, how: str = "-", value: str = "") -> Check:
    """A Check of what cannot be recomputed here; `why` ends with what would make it so."""
    return Check(place, claim, how, "not checkable", why, value=value)


def contradicted(place: str, claim: str, how: str, recomputed: str, *, score: bool = False) -> Check:
    """A Check of what was recomputed and is not as claimed; `recomputed` says the other value."""
    return Check(place, claim, how, "contradicted", recomputed, score)


@dataclass(frozen=True)
class Verification:
    """All Checks of one SOURCE, and the files in it that were listed and not read."""

    source: str  # as it was given, with the commit where it is on the Hub
    kind: str  # what it was taken for, in words
    checks: tuple[Check, ...]
    not_read: tuple[str, ...]
    seconds: float

    def count(self, outcome: Outcome) -> int:
        """How many claims have this outcome."""
        return sum(check.outcome == outcome for check in self.checks)

    def exit_code(self, strict: bool = False) -> int:
        """0, NO_SCORE or CONTRADICTED; `strict`: one claim that cannot be checked counts as no score."""
        if self.count("contradicted"):
            return CONTRADICTED
        scored = any(check.score and check.outcome == "confirmed" for check in self.checks)
        return 0 if scored and not (strict and self.count("not checkable")) else NO_SCORE

    def as_json(self) -> str:
        """For machines."""
        counts = {outcome: self.count(outcome) for outcome in ("confirmed", "not checkable", "contradicted")}
        return json.dumps({"schema": 1, "counts": counts, **asdict(self)}, indent=1, allow_nan=False)


def grouped_alike(checks: Iterable[Check]) -> list[tuple[Check, int]]:
    """[(Check, how many say the same of other files)] in order: what is confirmed alike takes one row for people."""
    rows: dict[tuple, list[Check]] = {}
    for check in checks:
        own = check.place if check.outcome == "contradicted" else ""
        rows.setdefault((own, check.claim, check.how, check.outcome, check.why), []).append(check)
    return [(same[0], len(same)) for same in rows.values()]
