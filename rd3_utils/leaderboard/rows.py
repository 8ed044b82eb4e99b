"""What a row of the leaderboard says of its Runs: names, notices, points of a plot, provenance."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from rd3_utils.leaderboard import claims, pareto
from rd3_utils.leaderboard.entries import Entry, Group, Origin
from rd3_utils.scoring import report as reports


def short_hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def slug(group: Group) -> str:
    """The file name of a table: of vetted names only."""
    ipc = "full" if group.full else f"ipc{group.ipc}"
    text = f"{group.benchmark}-{ipc}-{group.protocol[:40]}-{group.student[:40]}-{group.labels}-{group.precision}"
    return f"{text}-{short_hash(group.digest, group.protocol, group.student)}"


def row_id(entry: Entry) -> str:
    """The anchor of an entry's row."""
    first = entry.runs[0]
    return "e" + short_hash(
        slug(entry.group),
        entry.arm,
        entry.fingerprints,
        entry.origin.name,
        entry.origin.commit,
        entry.teachers,
        first.views_seed,
        first.views,
    )


def signed(fraction: float | None, digits: int = 1) -> str:
    """A difference of fractions in points, with its sign; a true minus."""
    return "-" if fraction is None else f"{100 * fraction:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def plain_values(table: dict) -> dict:
    return json.loads(json.dumps(table))


def plain_rule(rule: dict) -> dict:
    return {"when": plain_values(rule["when"]), "set": plain_values(rule["set"]), "source": rule.get("source", "")}


def ipc_text(group: Group) -> str:
    """How filters and headings call a table's number of images."""
    return "all real images" if group.full else f"{group.ipc} per class"


def file_of(path: str, origin: Origin) -> str | None:
    """Where people see the file of a Run on the Hub."""
    if not origin.url.startswith(("https://", "http://")):
        return None
    return f"{origin.url.replace(f'/tree/{origin.commit}', f'/blob/{origin.commit}')}/{quote(path, safe='/@')}"


def is_learned(entry: Entry) -> bool:
    return entry.runs[0].labels.kind == "learned"


def same_images(entry: Entry) -> tuple:
    """What entries of the same images share."""
    images = entry.name if entry.is_random else entry.fingerprints
    return entry.group.benchmark, entry.side, images, entry.origin


def notices(entries: list[Entry]) -> list[str]:
    """What a reader must know before comparing the rows of a table."""
    lines: list[str] = []
    group = entries[0].group
    if group.custom:
        lines.append(f"Not a released protocol ({group.label}): do not compare with others.")
    if len({entry.teachers for entry in entries}) > 1:
        lines.append("The soft labels of these rows come from different teachers: part of a difference may be theirs.")
    if any(entry.monitored for entry in entries):
        lines.append("Rows marked \N{EYE} watched the test split during training; their scores are still the last epoch's.")
    if any(entry.runs[0].views_seed != entries[0].runs[0].views_seed for entry in entries):
        lines.append("The views of these rows were drawn from different seeds.")
    return lines


def point(entry: Entry, x: float) -> pareto.Point:
    """The pareto.Point of an entry."""
    method, _ = claims.method_of(entry)
    name = "random" if entry.is_random else claims.title(method) if method else entry.name
    s, place = entry.summary, f"{entry.group.ipc} per class"
    std = f" \N{PLUS-MINUS SIGN} {reports.percent(s['std'])}" if s["std"] is not None else ""
    text = f"{entry.name}, {place}: {reports.percent(s['mean'])}{std} %, x = {x:.3g}"
    label = f"{name if len(name) < 20 else name[:18] + chr(0x2026)} {entry.group.ipc}"
    return pareto.Point(x, s["mean"], s["std"], label, text, f"#{row_id(entry)}", series_of(entry))


def series_of(entry: Entry) -> str:
    """Entries with an equal one have one colour in the plots of a page."""
    return claims.method_of(entry)[0] or entry.name


def provenance(entry: Entry) -> list[tuple[str, str]]:
    """[(what, value)] of images, labels, teachers and machines of an entry's Runs, each once."""
    runs, first = entry.runs, entry.runs[0]

    def listed(values: Iterable) -> str:
        distinct = list(dict.fromkeys("-" if value is None else str(value) for value in values))
        return ", ".join(distinct[:6]) + (f" and {len(distinct) - 6} more" if len(distinct) > 6 else "")

    labels, network, machines = first.labels, first.network, [run.environment for run in runs]
    assert network is not None  # every Run that was read states one, or has that of its time
    rows = [
        ("Images", f"{listed(run.images.name for run in runs)}; {first.images.images} in all"),
        ("Source of the images", listed(run.images.source for run in runs)),
        ("Commit of the images", listed(run.images.commit for run in runs)),
        ("Fingerprint of the images", listed(run.images.fingerprint for run in runs)),
        ("Test images", f"{first.images_scored}, {first.test.source} @ {first.test.commit or '-'}"),
        ("Fingerprint of the test images", first.test.fingerprint),
        ("Network", f"{first.student}, initialisation {network.initialisation}"),
        ("Labels", {"hard": "classes", "learned": "learned, of the images themselves"}.get(labels.kind, "of teachers")),
    ]
    if labels.teachers_id:
        stored = f"{listed(run.labels.bytes for run in runs)} bytes as {labels.label_dtype}"
        rows.append(("Label store", f"{stored}, views {labels.views_digest} of seed {first.views_seed}"))
    for teacher in first.teachers:
        top1 = f", top-1 {reports.percent(teacher.top1)} %" if teacher.top1 is not None else ""
        where = f"{teacher.source} @ {teacher.commit or '-'}"
        rows.append(("Teacher", f"{teacher.architecture}{top1}; {where}; SHA-256 {teacher.sha256}"))
    rows += [
        ("Optimizer steps", listed(run.recipe["steps"] for run in runs)),
        ("Seconds per student", f"{sum(run.seconds for run in runs) / len(runs):.1f}"),
        ("Devices", listed(f"{m.devices}, {m.precision}, {m.threads} threads per process" for m in machines)),
        ("Code", listed(m.git for m in machines)),
    ]
    names = list(dict.fromkeys(name for m in machines for name in m.versions))
    rows.append(("Versions", "; ".join(f"{name} {listed(m.versions.get(name) for m in machines)}" for name in names)))
    return rows
