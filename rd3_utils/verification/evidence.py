"""Evidence: what SOURCE is, and which of its files claim something. Nothing but names is believed here.

results folder   Runs at <benchmark>/.../seedK.json, cards above them, networks beside them
card             a folder with README.md and the Runs below it
student          the folder of one network, with its Run beside it (seedK.json)
Run              one seedK.json
pushed repo      README.md, run.json, runs/..., the network of run.json; on the Hub, or a copy of one
label store      a folder with index.json and shards
image set        any set that training reads
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rd3_utils import bounded, files, limits
from rd3_utils.data import images, sources
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.learning import students
from rd3_utils.scoring import results, runs, shapes
from rd3_utils.scoring.results import Results
from rd3_utils.scoring.runs import Run
from rd3_utils.text import printable

LISTED = 20  # files that are not read, by name
WEIGHTS = "model.safetensors"
READ_FILE = re.compile(  # of a pushed repo, but for the weights
    r"README\.md|report\.json|run\.json|config\.json|\.eval_results/[\w.-]+\.yaml|runs/(?:[\w@.,+= -]+/)*seed\d{1,19}\.json"
)
OWN = "README.md", "report.json", "config.json", WEIGHTS  # wherever they lie in a folder of results
OF_A_FOLDER = *OWN, "index.json", "distilled.json"  # a SOURCE that is one of these stands for its folder


@dataclass(frozen=True, eq=False)
class RunFile:
    """A Run file: its name for people, what it states or why it states nothing, and where its network lies if it is kept."""

    name: str
    path: Path
    run: Run | None
    refused: str = ""
    network: Path | None = None


@dataclass(frozen=True, eq=False)
class CardFiles:
    """A folder with a card, and the Runs that it speaks of."""

    name: str
    folder: Path
    runs: tuple[RunFile, ...]  # on its images
    head: RunFile | None = None  # pushed repo: run.json, whose network the repo holds
    pool: tuple[Run, ...] = ()  # all Runs that it may speak of, or compare with
    root: Path | None = None  # the folder of results
    repo: str | None = None  # OWNER/REPO, where it is known


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one SOURCE holds that claims something."""

    source: Source
    kind: str
    root: Path | None = None  # a local folder, or the copy of a repo
    commit: str | None = None  # of the Hub
    runs: tuple[RunFile, ...] = ()
    cards: tuple[CardFiles, ...] = ()
    labels: Path | str | None = None  # a label store
    images: Source | None = None  # an image set
    not_read: tuple[str, ...] = ()
    fetched: tuple[Path, ...] = ()  # from the Hub


def gathered_evidence(source: Source) -> Evidence:
    """The Evidence of `source`; UserError where there is nothing that claims anything."""
    if source.kind != "path":
        if source.kind == "name":
            images.place_of(source)  # UserError where there is none
        return Evidence(source, "image set", images=source)
    path = Path(source.name)
    if path.name in OF_A_FOLDER and path.is_file():
        source, path = replace(source, name=str(path.parent)), path.parent
    return of_path(source, path)


def of_path(source: Source, path: Path) -> Evidence:
    """The Evidence of a local file or folder; UserError where there is none."""
    if not sources.exists(path):
        raise UserError(f"there is no {path}; give a file or folder, or OWNER/REPO.")
    if path.is_file() and path.suffix == ".json":
        return Evidence(source, "Run", path.parent, runs=(named_run(path),))
    if (path / "index.json").is_file():
        return Evidence(source, "label store", path, labels=path)
    if (path / "run.json").is_file():
        return of_pushed(source, path)
    network_run = Path(f"{os.path.abspath(path)}.json")  # also of "."
    if students.is_saved(path) and network_run.is_file():
        return Evidence(source, "student", network_run.parent, runs=(run_file(network_run, network_run.name),))
    run_files = tuple(run_file(file, file.relative_to(path).as_posix()) for file in run_paths(path))
    if not run_files:
        return Evidence(source, "image set", path, images=source)
    cards = tuple(cards_of(path, run_files))
    kind = "card" if len(cards) == 1 and cards[0].folder == path.absolute() else "results folder"
    return Evidence(source, kind, path, runs=run_files, cards=cards, not_read=not_read(path))


def of_pushed(source: Source, path: Path, commit: str | None = None, kept: tuple[str, ...] | None = None) -> Evidence:
    """The Evidence of a pushed repo or a copy of one, in the folder `path`; its Runs are `kept`, else those below runs/."""
    network = path if students.is_saved(path) else None
    head = run_file(path / "run.json", "run.json", network)
    below = run_paths(path / "runs") if kept is None else (path / name for name in kept)
    others = tuple(run_file(file, file.relative_to(path).as_posix()) for file in below)
    pool = tuple(one.run for one in others if one.run)
    card = CardFiles("README.md", path, others, head, pool, path / "runs", source.repo)
    has_card = (path / "README.md").is_file() or (path / "report.json").is_file()
    kind = "pushed repo" if others else "student"
    return Evidence(source, kind, path, commit, runs=(head, *others), cards=(card,) if has_card else (),
                    not_read=not_read(path) if commit is None else ())  # fmt: skip


def named_run(path: Path) -> RunFile:
    """The RunFile at `path`; UserError for a file that is no Run and does not have the name of one."""
    one = run_file(path, path.name)
    if one.run is None and path.name != "run.json" and not results.is_run_file(path.name):
        raise UserError(f"{path} is no Run ({one.refused}); give a seedK.json, or a folder.")
    return one


def run_paths(folder: Path) -> Iterator[Path]:
    """The Run files below `folder`, in order; links are not followed."""
    for path in files.walked(folder, limits.MOST_VERIFIED, "give one folder of results in it"):
        if results.is_run_file(path.name) and not path.is_symlink():
            yield path


def run_file(path: Path, name: str, network: Path | None = None) -> RunFile:
    """The RunFile at `path`."""
    kept = results.student_folder(path)
    network = network or (kept if students.is_saved(kept) else None)
    try:
        return RunFile(name, path, runs.of(bounded.parse(bounded.contents(path))), network=network)
    except shapes.Refused as refused:
        return RunFile(name, path, None, str(refused), network)


def cards_of(path: Path, files: tuple[RunFile, ...]) -> Iterator[CardFiles]:
    """The cards above Runs, each with those that it may speak of: all in its folder of results, whatever part SOURCE is."""
    pools: dict[Path, tuple[Run, ...]] = {}
    by_folder: dict[Path, list[RunFile]] = {}
    for one in files:
        by_folder.setdefault(results.card_folder(one.path.absolute()), []).append(one)
    for folder, mine in by_folder.items():
        if not any((folder / name).is_file() for name in ("README.md", "report.json")):
            continue
        root = results.root_of(folder)
        if root not in pools:
            read = tuple(one.run for one in files if one.run and one.path.absolute().is_relative_to(root))
            inside = path.absolute() == root or root.is_relative_to(path.absolute())
            pools[root] = read if inside else (*read, *runs_beside(root, mine, files))
        name = (folder / "README.md").relative_to(path.absolute()).as_posix() if folder.is_relative_to(path.absolute()) else ""
        yield CardFiles(name or "../README.md", folder, tuple(mine), pool=pools[root], root=root)


def runs_beside(root: Path, mine: list[RunFile], files: tuple[RunFile, ...]) -> Iterator[Run]:
    """The Runs under `root` that are not among `files`: of the random images of a card, that lie beside it."""
    there = {one.path.absolute() for one in files}
    for benchmark in {one.run.benchmark for one in mine if one.run}:
        yield from (run for file, run in Results(root).runs_of(benchmark)[0] if file not in there)


def unread(names: Iterable[str], read: Iterable[str] = ()) -> tuple[str, ...]:
    """Those of `names` that are not `read`: alone by their name, several of one folder by that; the first LISTED."""
    by_folder: dict[str, list[str]] = {}
    for name in sorted(set(names) - set(read) - {".gitattributes"}):
        by_folder.setdefault(name.rpartition("/")[0], []).append(name)
    lines = []
    for folder, inside in by_folder.items():
        lines += inside if len(inside) == 1 or not folder else [f"{folder}/ ({len(inside)} files)"]
    more = [f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return tuple([printable(line)[:100] for line in lines[:LISTED]] + more)


def not_read(path: Path) -> tuple[str, ...]:
    """The files below a local folder that are none of those which are checked here."""
    names: list[str] = []
    for top, folders, inside in os.walk(path, followlinks=False):
        folders[:] = sorted(name for name in folders if name != ".git")
        names += [(Path(top) / name).relative_to(path).as_posix() for name in inside]
        if len(names) > limits.MOST_VERIFIED:
            break
    return unread(name for name in names if not READ_FILE.fullmatch(name) and Path(name).name not in OWN and
                  not results.is_run_file(Path(name).name))  # fmt: skip
