"""Entries of a leaderboard: Runs from folders and from Hub repos, each vetted, compared with the others, then summarised.

    files -> vetting.vetted -> Runs -> one identity, one Run -> one test split -> entries -> tables

An Entry is what one row shows: one arm of one image set (random draws pooled) under one protocol, from one origin, by one
student in one precision. What is not ranked is kept apart with the reason. Memory is bounded: a Run is summarised as soon
as it is vetted, and there are limits on files, Runs and bytes.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rd3_utils import bounded, files, limits
from rd3_utils.errors import UserError
from rd3_utils.leaderboard import reruns, tolerance
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.protocol import TEACHER_PROTOCOL, Protocol
from rd3_utils.scoring import measure, results, significance
from rd3_utils.scoring import report as reports
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.runs import Run
from rd3_utils.scoring.shapes import Refused
from rd3_utils.text import printable
from rd3_utils.verification import as_trained, vetting

MOST_RANKED = 30  # entries of a table that are compared for ties
ABOUT_FILE = re.compile(r"distilled\.json|[\w.-]+-ipc\d+\.json")


@dataclass(frozen=True, order=True)
class Origin:
    """Where Runs were found: a folder of the person who builds the board, or a repo of the Hub at a commit."""

    kind: str  # folder | hub
    name: str  # of the folder, or OWNER/REPO
    commit: str = ""  # hub: 40 hex digits
    url: str = ""  # hub: of the repo at this commit


@dataclass(frozen=True)
class Apart:
    """A file that is not ranked, and why."""

    origin: Origin
    path: str
    reason: str


@dataclass(frozen=True)
class Group:
    """What one table compares: entries that differ in nothing but their images."""

    benchmark: str
    ipc: int
    protocol: str
    digest: str
    label: str  # as outputs name it
    custom: bool  # not a released protocol
    labels: str  # soft | hard | plain
    student: str
    precision: str
    full: bool  # students of all real images
    views: str = "shared"  # shared | each: whether every student had views of its own

    @property
    def main(self) -> "Group":
        """What tables of one protocol, student and benchmark share, whatever the IPC."""
        return replace(self, ipc=0)


@dataclass(frozen=True, eq=False)
class Entry:
    """One row: the Runs of one arm of one image set from one origin."""

    group: Group
    origin: Origin
    arm: str
    name: str  # of the image set; of random draws without the draw
    runs: tuple[Run, ...] = field(repr=False)  # vetted Runs
    paths: tuple[str, ...] = field(repr=False)  # where each lies in its origin
    summary: dict = field(repr=False)  # of runs.summary
    about: vetting.Made | None = None  # what a distilled.json says of these images
    also: tuple[Origin, ...] = ()  # other Origins that hold copies of its Runs
    rescored: int | None = None  # of how many Runs the weights score what they state; None: not asked

    @property
    def files(self) -> list[tuple[Run, str]]:
        """[(Run, its path)]."""
        return list(zip(self.runs, self.paths))

    @property
    def side(self) -> str:
        return self.arm.partition("-")[0]

    @property
    def is_random(self) -> bool:
        return self.runs[0].draw is not None

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(sorted({run.images.fingerprint for run in self.runs}))

    @cached_property
    def teachers(self) -> tuple[str, ...]:
        """SHA-256 of the teachers' weights."""
        return self.runs[0].teacher_weights

    @property
    def views_seed(self) -> int | None:
        """The seed of the views that all students share, else None: every student has its own."""
        return self.runs[0].views_seed if self.group.views == "shared" else None

    @property
    def monitored(self) -> bool:
        return any(run.monitored_test for run in self.runs)

    @property
    def image_bytes(self) -> int:
        """Of the images as 8-bit pixels: 3 x size^2 each."""
        return self.runs[0].images.images * 3 * vetting.bench_of(self.group.benchmark).image.size ** 2

    @property
    def label_bytes(self) -> int:
        """Of the label store that one student reads, views included; 0 for classes."""
        return max(run.labels.bytes for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Of the images' synthesis: 0 for real ones, None where nothing says it."""
        if self.is_random or self.side == "full":
            return 0.0
        return self.about.seconds if self.about else None


@dataclass(frozen=True)
class Found:
    """All that a board shows."""

    entries: tuple[Entry, ...]
    apart: tuple[Apart, ...]
    protocols: dict[str, Protocol]  # by digest
    notes: tuple[str, ...]  # what was not read, in words
    left_out: int = 0  # files kept apart beyond limits.MOST_APART


@dataclass(frozen=True, eq=False)
class Listed:
    """A vetted Run and where it was found."""

    run: Run
    origin: Origin
    path: str
    where: Path | None = None  # its local copy
    rescored: bool | None = None  # whether its weights score what it states: False where that cannot be said; None: not asked
    also: list[Origin] = field(default_factory=list)  # other Origins that hold a copy


class Gathering:
    """What has been read so far."""

    def __init__(self) -> None:
        self.runs: list[Listed] = []
        self.apart: list[Apart] = []
        self.notes: list[str] = []
        self.about: dict[str, vetting.Made] = {}
        self.protocols: dict[str, Protocol] = {}
        self.more = 0

    def only(self, origins: Collection[Origin]) -> "Gathering":
        """The same without the Runs of other origins than `origins`; what was refused stays."""
        some = Gathering()
        some.runs = [replace(one, also=[]) for one in self.runs if one.origin in origins]
        some.apart, some.notes, some.about, some.protocols = [*self.apart], self.notes, self.about, self.protocols
        some.more = self.more
        return some

    def refuse(self, origin: Origin, path: str, reason: str) -> None:
        """Keep a file apart."""
        if len(self.apart) < limits.MOST_APART:
            self.apart.append(Apart(origin, path_shown(path), reason))
        else:
            self.more += 1

    def add(self, origin: Origin, files: Iterable[tuple[str, Path | Refused]]) -> None:
        """Read `files` of `origin`: (relative path, Path, or Refused where it is not to be read), in order."""
        taken = 0
        for path, where in files:
            name = path.rpartition("/")[2]
            is_run = results.is_run_file(name)
            if is_run and (taken >= limits.MOST_RUNS_OF_ONE or len(self.runs) >= limits.MOST_RUNS):
                self.notes.append(f"{origin.name}: only its first {taken} Run files were read, the others are left out.")
                return
            taken += is_run
            try:
                if isinstance(where, Refused):
                    raise where
                data = bounded.contents(where)
                if is_run:
                    run, protocol = vetting.vetted(data)
                    if run.labels.kind == "imported":
                        raise Refused("its labels are imported: another tool drew their views, not its protocol")
                    self.protocols.setdefault(run.protocol.digest, protocol)
                    self.runs.append(Listed(run, origin, path, where))
                else:
                    about = vetting.made_by(data)
                    self.about.setdefault(about.fingerprint, about)
            except Refused as refused:
                if is_run or isinstance(where, Refused) or name == "distilled.json":
                    self.refuse(origin, path, str(refused))
            except Exception as error:  # one file cannot stop the board
                self.refuse(origin, path, f"malformed ({type(error).__name__})")


def path_shown(text: str) -> str:
    """A path for people: nothing invisible, not endless."""
    text = printable(text, "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= 300 else f"{text[:150]}...{text[-147:]}"


def local_files(folder: Path | str) -> Iterator[tuple[str, Path | Refused]]:
    """(relative path, Path or Refused) of files below `folder` that may be Runs or say how images were made, in order.

    Links below it are not followed: a file is in the folder or it is not.
    """
    for where in files.walked(folder, limits.MOST_LOOKED_AT, "give the folder of results in it"):
        if results.is_run_file(where.name) or ABOUT_FILE.fullmatch(where.name):
            link = Refused("a link, which is not followed") if where.is_symlink() else where
            yield where.relative_to(folder).as_posix(), link


def gathered_entries(
    folders: Iterable[Path | str],
    repos: Iterable[tuple[Origin, Iterable[tuple[str, Path | Refused]]]] = (),
    mark: Callable[["Gathering"], None] = lambda gathering: None,
) -> Found:
    """The Found of `folders` (paths) and of `repos`, (Origin, files) with files as Gathering.add wants them.

    `mark` may look at what was read before anything is made of it (rescore.Rescorer.mark).

    UserError for a folder that is not there or two of one name. Folders are whom the reader trusts: where origins disagree
    about what must be the same everywhere, the folders' side is ranked.
    """
    gathering = Gathering()
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"--results {folder}: no such folder; give one that train_student.py or a study wrote.")
        gathering.add(Origin("folder", Path(folder).name or Path(folder).resolve().name), local_files(folder))
    for origin, read in repos:
        gathering.add(origin, read)
    mark(gathering)
    origins = sorted({one.origin for one in gathering.runs})  # folders first
    gathered, failing = tolerance.tolerant(origins, lambda some: settled(gathering.only(some)))
    return without(gathered, failing)


def without(gathered: Found, failing: dict[Origin, str]) -> Found:
    """`gathered` without the origins `failing` {origin: why}, which are named as not ranked."""
    named = tuple(Apart(origin, "", reason) for origin, reason in failing.items())
    entries = tuple(entry for entry in gathered.entries if entry.origin not in failing)
    return replace(gathered, entries=entries, apart=(*named, *gathered.apart))


def settled(gathering: Gathering) -> Found:
    """The Found of all that a Gathering has read: Runs are compared with one another, then summarised."""
    kept = without_copies(gathering)
    kept = of_one_kind(gathering, kept, "test images", tested_on, lambda run: run.test.fingerprint)
    kept = of_one_kind(gathering, kept, "train split", lambda run: run.images.train and run.benchmark, split_of)
    kept = of_one_kind(gathering, kept, "real images", drawn_from, lambda run: run.images.fingerprint)
    ordered = sorted(summarised_entry(gathering, kept), key=rank_order)
    return Found(tuple(ordered), tuple(gathering.apart), gathering.protocols, tuple(gathering.notes), gathering.more)


def tested_on(run: Run) -> tuple[str, int]:
    """What says which test images a Run was scored on: the benchmark's, resized as its recipe says."""
    return run.benchmark, run.recipe["training"].get("test_resize", 0)


def split_of(run: Run) -> str:
    assert run.images.train is not None  # nobody asks of a Run that does not state it
    return run.images.train.fingerprint


def drawn_from(run: Run) -> tuple[str, str] | None:
    """What says which real images a Run had, or None of others: equal words must mean equal images."""
    return (run.benchmark, run.images.source) if run.images.origin.is_selection else None


def run_identity(run: Run) -> tuple[str, str, int]:
    """What makes a Run another one within its origin: what it measured, its images and its seed."""
    return measure.kind(run), run.images.fingerprint, run.seed


def without_copies(gathering: Gathering) -> list[Listed]:
    """The Listed without copies, and of several Runs of one student from one origin the one that reruns.newest chooses."""
    kept: list[Listed] = []
    holders: dict[tuple, Listed] = {}
    for (same, origin), mine in run_files.grouped(gathering.runs, lambda one: (run_identity(one.run), one.origin)).items():
        for alike in pooled(gathering, mine):
            chosen, others = reruns.newest([one.run for one in alike], [path_shown(one.path) for one in alike])
            for i, reason in others.items():
                gathering.refuse(origin, alike[i].path, reason)
            if chosen is None:
                continue
            one = alike[chosen]
            first = holders.setdefault((same, reruns.same_result(one.run)), one)
            if first is one:
                kept.append(first)
            else:
                first.also.append(origin)
    return kept


def of_one_kind(
    gathering: Gathering, listed: list[Listed], kind: str, key: Callable[[Run], Any], fingerprint: Callable[[Run], str]
) -> list[Listed]:
    """Those of `listed` whose Runs agree on the fingerprint of what `key` says must be the same; others are kept apart.

    What comes with the project decides, as the Runs of its teachers state it; else folders, else the side of more origins, else
    that of more Runs: a repo cannot outvote others by sheer number.
    """
    carried = [run for run in map(as_trained.carried_run, {one.run.benchmark for one in listed}) if run]
    known = {key(run): fingerprint(run) for run in carried if key(run) is not None}
    votes: dict[Any, dict[str, Counter]] = {}
    for one in listed:
        if key(one.run) is not None:
            origins = votes.setdefault(key(one.run), {}).setdefault(fingerprint(one.run), Counter())
            origins[one.origin] += 1
    chosen = {}
    for name, sides in votes.items():
        weight = {f: (any(o.kind == "folder" for o in c), len(c), c.total(), f) for f, c in sides.items()}
        chosen[name] = known.get(name) or max(weight, key=weight.__getitem__)
    kept = []
    for one in listed:
        name = key(one.run)
        if name is None or fingerprint(one.run) == chosen[name]:
            kept.append(one)
        else:
            whose = f"{name[0]} has" if name in known else "the Runs that are ranked"
            reason = f"other {kind} ({fingerprint(one.run)[:8]}) than {whose} ({chosen[name][:8]})"
            gathering.refuse(one.origin, one.path, reason)
    return kept


def row_group(run: Run) -> Group:
    """The Group of a Run."""
    protocol, custom, full = run.protocol, vetting.is_custom(run), run.images.origin.is_full
    changes = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(protocol.overrides.items()))
    label = protocol.name
    if custom:
        label = f"custom, based on {label} ({changes})" if changes else f"custom, called {label}"
    return Group(
        run.benchmark,
        0 if full else run.ipc,
        protocol.name,
        protocol.digest,
        label,
        custom,
        run.labels_of_arm,
        run.student,
        run.environment.precision,
        full,
        run.views,
    )


def pooled(gathering: Gathering, mine: list[Listed]) -> Iterator[list[Listed]]:
    """The Listed of one origin and measure.kind in groups that measured the same: what older Runs do not state may tell apart.

    In the time of as many comparisons as there are values of that; beyond limits.MOST_KINDS of them, Runs are kept apart.
    """
    kinds = list(run_files.grouped(mine, lambda one: measure.unstated(one.run)).values())
    for one in (one for same in kinds[limits.MOST_KINDS :] for one in same):
        gathering.refuse(
            one.origin, one.path, f"of more than {limits.MOST_KINDS} kinds of labels or learning rates for one row"
        )
    for alike in measure.alike(kinds[: limits.MOST_KINDS], run_of=lambda same: same[0].run):
        yield [one for same in alike for one in same]


def summarised_entry(gathering: Gathering, listed: list[Listed]) -> Iterator[Entry]:
    """An Entry for every origin and group of Runs that measured the same (measure.same_measure), each draw and seed once."""
    for (origin, _), mine in run_files.grouped(listed, lambda one: (one.origin, measure.kind(one.run))).items():
        for alike in pooled(gathering, mine):
            once = {(one.run.draw, one.run.seed): one for one in reversed(alike)}
            same = sorted(once.values(), key=lambda one: (one.run.draw or 0, one.run.seed))
            for one in alike:  # brought together by an older Run, which does not state what tells them apart
                if once[one.run.draw, one.run.seed] is not one:
                    gathering.refuse(origin, one.path, f"another Run of seed {one.run.seed} of these images is ranked")
            runs = tuple(one.run for one in same)
            group, first = row_group(runs[0]), runs[0].images
            name = "random real images" if runs[0].draw is not None else first.name
            name = "all real images" if group.full else name
            also = sorted({other for one in same for other in one.also})
            known = None if runs[0].draw is not None else gathering.about.get(first.fingerprint)
            paths = tuple(one.path for one in same)
            asked = [one.rescored for one in same if one.rescored is not None]
            entry = Entry(group, origin, runs[0].arm, name, runs, paths, run_files.summary(runs), known, tuple(also))
            yield replace(entry, rescored=sum(asked)) if asked else entry


def rank_order(entry: Entry) -> tuple:
    """Tables as people read them: ours first, few images first; in a table the best first."""
    g = entry.group
    released = (g.custom, g.protocol == TEACHER_PROTOCOL, g.protocol != "rd3-v1", g.protocol, g.digest)
    labels = reports.order_of(f"distilled-{g.labels}")
    place = (benchmarks.names().index(g.benchmark), *released, g.student, g.precision != "fp32", g.precision, g.full, g.ipc)
    return (*place, labels, -entry.summary["mean"], entry.name, entry.origin, entry.fingerprints)


def ranks(entries: list[Entry]) -> dict[Entry, str]:
    """{Entry: "1", or "1-3" where nothing tells rows apart} of one table, `entries` the best first.

    The best MOST_RANKED are compared (significance.ties); what is below them says so.
    """
    compared, rest = entries[:MOST_RANKED], entries[MOST_RANKED:]
    groups, _ = significance.ties([significance.sample(entry.runs) for entry in compared])
    places = {entry: f"> {MOST_RANKED}" for entry in rest}
    first = 1
    for group in groups:
        last = first + len(group) - 1
        places |= {compared[k]: str(first) if first == last else f"{first}-{last}" for k in group}
        first = last + 1
    return places


def tables(entries: Iterable[Entry]) -> dict[Group, list[Entry]]:
    """{Group: [its entries, the best first]} in the order of `entries`."""
    return run_files.grouped(entries, lambda entry: entry.group)
