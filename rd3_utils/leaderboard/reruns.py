"""Several Runs of one origin that say they are one student: which of them is ranked.

A Run has no date, and one that a file system or a repo gives it says when it was copied. What tells a later training is the
software that it states: nothing older, something newer. Runs of the same software must have the same scores, for training gives
the same bits again; if they have not, one of them is not what it says, and nothing tells which.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict

from rd3_utils import limits
from rd3_utils.scoring.runs import Run


def newest(runs: Sequence[Run], paths: Sequence[str]) -> tuple[int | None, dict[int, str]]:
    """(which of `runs` is ranked, or None where they contradict one another; {which: why not} of the others).

    Of copies of one file the first is ranked, and nothing is said of the others.
    """
    copies = {same_result(run): i for i, run in reversed(list(enumerate(runs)))}
    distinct = sorted(copies.values())
    latest = [
        i for i in distinct[: limits.MOST_RERUNS] if not any(is_later(runs[k], runs[i]) for k in distinct[: limits.MOST_RERUNS])
    ]
    if len(distinct) > limits.MOST_RERUNS or len({(runs[i].top1, runs[i].top5) for i in latest}) > 1:
        values = ", ".join(f"{run.top1:.4f}" for run in runs[:5])
        reason = f"one of {len(runs)} Runs that say they are one and the same, top-1 {values}"
        return None, dict.fromkeys(range(len(runs)), reason)
    chosen = latest[0]
    why = {True: "with the same score", False: "of later software"}
    return chosen, {
        i: f"the same student as {paths[chosen]}, {why[i in latest]}, which is ranked" for i in distinct if i != chosen
    }


def same_result(run: Run) -> str:
    """Two Runs with an equal one are copies of each other: they differ in nothing but where they lie."""
    return json.dumps(asdict(run), sort_keys=True)


def is_later(run: Run, other: Run) -> bool:
    """Whether `run` states the same software as `other`, nothing of it older and something newer."""
    mine, theirs = run.environment.versions, other.environment.versions
    pairs = [(release(mine[name]), release(theirs[name])) for name in mine if name in theirs]
    return mine.keys() == theirs.keys() and all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def release(version: str) -> tuple[int, ...]:
    """The numbers of a release: 2.11.0+cu126 is (2, 11, 0)."""
    return tuple(int(digits) for digits in re.findall("[0-9]{1,9}", version.partition("+")[0]))
