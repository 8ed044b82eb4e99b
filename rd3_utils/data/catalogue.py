"""The catalogue: public distilled sets by benchmark, method and images per class (catalogue.toml)."""

import re
from dataclasses import dataclass
from pathlib import Path

from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.strict import build, read_toml

CATALOGUE = Path(__file__).with_name("catalogue.toml")


@dataclass(frozen=True)
class Publisher:
    """Sets that one publisher made in the same way; `repo` has the places {method} and {ipc}."""

    benchmark: str
    repo: str
    ipc: tuple[int, ...]
    made_by: str
    licence: str
    methods: dict  # method -> what it is


def publishers() -> list[Publisher]:
    """All Publishers of the catalogue."""
    return [build(Publisher, row, f"{CATALOGUE.name} [[publisher]]") for row in read_toml(CATALOGUE)["publisher"]]


def repo(source: str, benchmark: Benchmark) -> str | None:
    """The Hub repo that METHOD:ipc=K means on a benchmark, or None if `source` does not read so.

    UserError where the catalogue has no such method or number of images per class for the benchmark.
    """
    match = re.fullmatch(r"([a-z0-9_-]+):ipc=(\d+)", source)
    if not match:
        return None
    method, ipc = match[1], int(match[2])
    mine = [p for p in publishers() if p.benchmark == benchmark.name]
    if not mine:
        return None
    known = {name: p for p in mine for name in p.methods}
    if method not in known:
        raise unknown(f"method of {benchmark.name} in the catalogue", method, known)
    if ipc not in known[method].ipc:
        raise UserError(
            f"the catalogue has {method} of {benchmark.name} at {', '.join(map(str, known[method].ipc))} images per class, "
            f"not at {ipc}; give OWNER/REPO or a path for another set."
        )
    return known[method].repo.format(method=method, ipc=ipc)
