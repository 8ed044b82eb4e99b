"""Runs and image sets from folders and from Hub repos, for the leaderboard."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from rd3_utils import hub, limits, units
from rd3_utils.data import sources
from rd3_utils.errors import UserError
from rd3_utils.leaderboard import entries as entry_files
from rd3_utils.scoring import shapes
from rd3_utils.verification import vetting


def gather(
    folders: Iterable[Path | str],
    tag: str | None = None,
    repos: Iterable[str] = (),
    mark: Callable[[entry_files.Gathering], None] = lambda gathering: None,
) -> entry_files.Found:
    """The leaderboard.entries.Found of `folders`, of all model repos with `tag` and of `repos` (OWNER/REPO[@REVISION]).

    A repo that was named and cannot be read is a UserError; one that carries the tag is kept apart.
    """
    named = [(source.name, source.revision) for source in map(sources.repository, repos)]
    tagged, more = hub.models_tagged(tag, limits.MOST_REPOS) if tag else ([], False)
    known, read, room = {repo for repo, _ in named}, [], limits.MOST_RUNS
    for repo, revision in [*named, *((repo, None) for repo in tagged if repo not in known)]:
        origin, files = of_repo(repo, revision, repo in known, room)
        room -= len(files)
        read.append((origin, files))
    gathered = entry_files.gathered_entries(folders, read, mark)
    gathered = with_methods(gathered) if read else gathered
    if more:
        note = f"More than {limits.MOST_REPOS} repos have the tag {tag}; the others were not read."
        gathered = dataclasses.replace(gathered, notes=(*gathered.notes, note))
    return gathered


def of_repo(
    repo: str, revision: str | None, named: bool, most: int
) -> tuple[entry_files.Origin, list[tuple[str, Path | shapes.Refused]]]:
    """(Origin, files) of at most `most` Runs in a model repo of the Hub, at the commit that `revision` has now."""
    try:
        commit = hub.commit(repo, revision, "model")
        origin = entry_files.Origin("hub", repo, commit, hub.page(repo, commit))
        sizes = hub.sizes(repo, commit)
        wanted = [path for path in sizes if re.fullmatch(r"runs/(?:[\w@.,+= -]+/)*seed\d+\.json", path) and ".." not in path]
        most = max(0, min(most, limits.MOST_RUNS_OF_ONE))
        wanted, rest = sorted(wanted)[:most], len(wanted) - most
        small = [path for path in wanted if sizes[path] <= limits.MOST_JSON_BYTES]
        files = dict(zip(small, hub.copies(repo, commit, small)))
        large = {path: shapes.Refused(f"{units.size(sizes[path])}, a Run has less") for path in wanted if path not in files}
        more = {"runs": shapes.Refused(f"{rest} further Runs are not read")} if rest > 0 else {}
        none = {} if wanted or more else {"": shapes.Refused("no Runs in it")}
        return origin, [*files.items(), *large.items(), *more.items(), *none.items()]
    except UserError as error:
        if named:
            raise
        return entry_files.Origin("hub", repo), [("", shapes.Refused(str(error)))]


def with_methods(gathered: entry_files.Found) -> entry_files.Found:
    """`gathered` with what distilled.json says of images that lie in dataset repos, at the commits that the Runs name."""
    lacking: dict[tuple[str, str], list[entry_files.Entry]] = {}
    for entry in gathered.entries:
        images = entry.runs[0].images
        if images.origin.repo and images.commit and not entry.about:
            lacking.setdefault((images.origin.repo, images.commit), []).append(entry)
    known = {}
    for repo, commit in list(lacking)[: limits.MOST_DATASETS]:
        try:
            sizes = hub.sizes(repo, commit, "dataset")
            wanted = sorted(path for path in sizes if re.fullmatch(r"(?:[\w.-]+/)?distilled\.json", path))
            wanted = [path for path in wanted[: limits.MOST_SETS] if sizes[path] <= limits.MOST_JSON_BYTES and ".." not in path]
            files = hub.copies(repo, commit, wanted, "dataset")
        except UserError:
            continue  # the repo is private or gone: the method stays unknown
        for file in files:
            with contextlib.suppress(shapes.Refused):  # says nothing that can be used
                about = vetting.made_by(file.read_bytes())
                known[about.fingerprint] = about
    entries = []
    for entry in gathered.entries:
        stated = known.get(entry.fingerprints[0]) if len(entry.fingerprints) == 1 else None
        entries.append(dataclasses.replace(entry, about=entry.about or stated))
    return dataclasses.replace(gathered, entries=tuple(entries))
