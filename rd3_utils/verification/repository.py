"""OWNER/REPO on the Hub: the commit that a name points to, and of its files those that we write; nothing else is fetched.

A repo with a run.json is a pushed student, a dataset repo holds label stores, an image set, or both.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rd3_utils import hub, limits, units
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.verification.checks import Check, confirmed, contradicted
from rd3_utils.verification.evidence import READ_FILE, WEIGHTS, Evidence, of_pushed, unread


def gathered_repository(source: Source) -> Evidence:
    """The Evidence of a repo; UserError where there is none, or nothing in it that claims anything."""
    student = student_repository(source)
    return student or dataset_repository(source)


def student_repository(source: Source) -> Evidence | None:
    """The Evidence of a model repo with a run.json, or None where there is no model repo of this name."""
    try:
        commit = hub.commit(source.name, source.revision, "model")
        sizes = hub.sizes(source.name, commit)
    except UserError as error:
        if "no model repo" in str(error):
            return None
        raise
    if "run.json" not in sizes:
        raise UserError(f"{source.name}@{commit[:8]} has no run.json: it is no student that was pushed from here.")
    wanted = [path for path in sorted(sizes) if READ_FILE.fullmatch(path) and ".." not in path.split("/")]
    wanted = [path for path in wanted if sizes[path] <= limits.MOST_JSON_BYTES][: limits.MOST_FETCHED]
    if sizes.get(WEIGHTS, limits.MOST_NETWORK_BYTES + 1) <= limits.MOST_NETWORK_BYTES:
        wanted.append(WEIGHTS)
    if "run.json" not in wanted:
        raise UserError(f"run.json of {source.name}@{commit[:8]} has {units.size(sizes['run.json'])}, a Run has less.")
    copies = dict(zip(wanted, hub.copies(source.name, commit, wanted)))
    kept = tuple(path for path in wanted if path.startswith("runs/"))
    evident = of_pushed(source, copies["run.json"].parent, commit, kept)
    return replace(evident, fetched=tuple(copies.values()), not_read=unread(sizes, wanted))


def dataset_repository(source: Source) -> Evidence:
    """The Evidence of a dataset repo: a label store of it, or the image set in it."""
    commit = hub.commit(source.name, source.revision)
    at_commit = replace(source, revision=commit)
    sizes = hub.sizes(source.name, commit, "dataset")
    config = f"{source.config}/" if source.config else ""
    stores = [path for path in sizes if Path(path).name == "index.json" and path.startswith(config)]
    images = any(path.endswith((".parquet", ".arrow")) or "/train/" in path for path in sizes if path.startswith(config))
    if not stores and not images:
        raise UserError(f"{source.name}@{commit[:8]} holds neither label stores nor an image set.")
    read = [path for path in sizes if Path(path).suffix in (".parquet", ".safetensors") or path in stores]
    kind = "label store" if stores and not images else "image set with labels" if stores else "image set"
    labels = at_commit.text if stores else None
    return Evidence(source, kind, None, commit, labels=labels, images=at_commit if images else None,
                    not_read=unread(sizes, read))  # fmt: skip


def of_files(evident: Evidence) -> Iterator[Check]:
    """The Check that what was fetched is what the commit names: every file has the hash that the Hub states for it."""
    if not evident.fetched or not evident.commit:
        return
    revision = evident.source.revision or "the default branch"
    claim = f"{evident.source.name}: {revision} is commit {evident.commit[:12]}"
    damaged = next((path for path in evident.fetched if hub.damaged(path)), None)
    how = f"asked of the Hub; {len(evident.fetched)} files hashed"
    if damaged:
        yield contradicted(damaged.name, claim, how, "other bytes than the commit names")
    else:
        yield confirmed("repo", claim, how)
