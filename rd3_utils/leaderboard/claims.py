"""What somebody published for a method (claims.toml), to stand beside what was measured."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rd3_utils.bounded import read_toml
from rd3_utils.data import catalogue
from rd3_utils.leaderboard.entries import Entry
from rd3_utils.protocols.strict import build

CLAIMS_FILE = Path(__file__).with_name("claims.toml")


@dataclass(frozen=True)
class Claim:
    """Published top-1 of one method for one benchmark and student: {"IPC": (mean, or mean and std)} in fractions."""

    method: str
    benchmark: str
    student: str
    protocol: str  # the released one that follows the recipe of the number, or ""
    labels: str  # soft | hard
    source: str
    top1: dict


@lru_cache
def claims_table() -> tuple[dict[str, str], tuple[Claim, ...]]:
    """({method: its name for people}, (all Claims, `source` in words))."""
    read = read_toml(CLAIMS_FILE)
    rows = [{**row, "source": read["sources"][row["source"]]} for row in read["claim"]]
    return read["methods"], tuple(build(Claim, row, f"{CLAIMS_FILE.name} [[claim]]") for row in rows)


@lru_cache
def repos() -> dict[tuple[str, int, str | None], str]:
    """{(benchmark, IPC, repo): method} of the catalogue."""
    return {
        (publisher.benchmark, ipc, publisher.repo.format(method=method, ipc=ipc)): method
        for publisher in catalogue.publishers()
        for method in publisher.methods
        for ipc in publisher.ipc
    }


def method_of(entry: Entry) -> tuple[str, str] | tuple[None, None]:
    """(method, what says so) of a leaderboard.entries.Entry; (None, None) where nothing does: a likeness is no reason.

    In order: the selection, what distilled.json says of these very images, a repo of the catalogue, a name that is exactly
    METHOD-ipcK or BENCHMARK-METHOD-ipcK.
    """
    images, group = entry.runs[0].images, entry.group
    if group.full:
        return None, None
    if entry.is_random:
        return "random", "the selection"
    if entry.about:
        return entry.about.method, "distilled.json of these images"
    published = group.benchmark, group.ipc, images.origin.repo
    if published in repos():
        return repos()[published], "the catalogue"
    named = re.fullmatch(rf"(?:{re.escape(group.benchmark)}-)?([a-z0-9-]+)-ipc{group.ipc}", images.name)
    return (named[1], "the set's name") if named and named[1] in claims_table()[0] else (None, None)


def title(method: str) -> str:
    """A method's name for people."""
    return claims_table()[0].get(method, method)


def claims_of(entry: Entry, method: str) -> list[tuple[Claim, float, float | None]]:
    """[(Claim, mean, std or None)] for the method, benchmark, IPC and student of `entry`, the nearest recipe first.

    Nearest: made under the protocol of `entry`, then with its kind of labels. For random images the labels must be the same.
    """
    group = entry.group
    claims: list[tuple[Claim, float, float | None]] = []
    for claim in claims_table()[1]:
        same = (claim.method, claim.benchmark, claim.student) == (method, group.benchmark, group.student)
        if not same or str(group.ipc) not in claim.top1 or (method == "random" and claim.labels != group.labels):
            continue
        mean, *std = claim.top1[str(group.ipc)]
        claims.append((claim, mean, std[0] if std else None))
    return sorted(claims, key=lambda one: (not comparable(entry, one[0]), one[0].labels != group.labels))


def comparable(entry: Entry, claim: Claim) -> bool:
    """Whether a number was made under the released protocol of `entry` as it is, with its kind of labels: may be subtracted."""
    return (claim.protocol, claim.labels) == (entry.group.protocol, entry.group.labels) and not entry.group.custom


def elsewhere(entry: Entry, method: str) -> list[tuple[Claim, float, float | None]]:
    """[(Claim, mean, std or None)] like `claims_of`, of other students than that of `entry`."""
    group = entry.group
    claims: list[tuple[Claim, float, float | None]] = []
    for claim in claims_table()[1]:
        same = (claim.method, claim.benchmark) == (method, group.benchmark) and claim.student != group.student
        if same and str(group.ipc) in claim.top1 and (method != "random" or claim.labels == group.labels):
            mean, *std = claim.top1[str(group.ipc)]
            claims.append((claim, mean, std[0] if std else None))
    return claims
