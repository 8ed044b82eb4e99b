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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rd3_utils import bounded
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.learning import students
from rd3_utils.scoring import results, runs, shapes
from rd3_utils.scoring.runs import Run

MOST_FILES = 20_000  # looked at in one SOURCE


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
    runs: tuple[RunFile, ...]
    head: RunFile | None = None  # pushed repo: run.json, whose network the repo holds


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


def gathered_evidence(source: Source) -> Evidence:
    """The Evidence of `source`; UserError where there is nothing that claims anything."""
    if source.kind == "repo":
        raise UserError("OWNER/REPO is not verified yet.")  # TODO of this step: repository.py
    if source.kind != "path":
        return Evidence(source, "image set", images=source)
    return of_path(source, Path(source.name))


def of_path(source: Source, path: Path) -> Evidence:
    """The Evidence of a local file or folder."""
    if path.is_file() and path.suffix == ".json":
        return Evidence(source, "Run", path.parent, runs=(run_file(path, path.name),))
    if (path / "index.json").is_file():
        return Evidence(source, "label store", path, labels=path)
    if (path / "run.json").is_file():
        return of_pushed(source, path)
    if students.is_saved(path) and path.with_suffix(".json").is_file():
        return Evidence(source, "student", path.parent, runs=(run_file(path.with_suffix(".json"), f"{path.name}.json"),))
    run_files = tuple(run_file(file, file.relative_to(path).as_posix()) for file in run_paths(path))
    if not run_files:
        return Evidence(source, "image set", path, images=source)
    cards = tuple(cards_of(path, run_files))
    kind = "card" if len(cards) == 1 and cards[0].folder == path else "results folder"
    return Evidence(source, kind, path, runs=run_files, cards=cards)


def of_pushed(source: Source, path: Path, commit: str | None = None) -> Evidence:
    """The Evidence of a pushed repo or a copy of one, in the folder `path`."""
    network = path if students.is_saved(path) else None
    head = run_file(path / "run.json", "run.json", network)
    others = tuple(run_file(file, file.relative_to(path).as_posix()) for file in run_paths(path / "runs"))
    card = CardFiles("README.md", path, others, head)
    return Evidence(source, "pushed repo", path, commit, runs=(head, *others), cards=(card,))


def run_paths(folder: Path) -> Iterator[Path]:
    """The Run files below `folder`, in order; links are not followed."""
    count = 0
    for top, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        count += len(names) + len(folders)
        if count > MOST_FILES:
            raise UserError(f"{folder} holds more than {MOST_FILES} files and folders; give one folder of results in it.")
        yield from (
            Path(top) / name for name in sorted(names) if results.is_run_file(name) and not (Path(top) / name).is_symlink()
        )


def run_file(path: Path, name: str, network: Path | None = None) -> RunFile:
    """The RunFile at `path`."""
    kept = results.student_folder(path)
    network = network or (kept if students.is_saved(kept) else None)
    try:
        return RunFile(name, path, runs.of(bounded.parse(bounded.contents(path))), network=network)
    except shapes.Refused as refused:
        return RunFile(name, path, None, str(refused), network)


def cards_of(root: Path, files: tuple[RunFile, ...]) -> Iterator[CardFiles]:
    """The cards above Runs, each with those that it may speak of."""
    folders = dict.fromkeys(results.card_folder(one.path) for one in files)
    for folder in folders:
        if (folder / "README.md").is_file():
            mine = tuple(one for one in files if results.card_folder(one.path) == folder)
            yield CardFiles((folder / "README.md").relative_to(root).as_posix(), folder, mine)
