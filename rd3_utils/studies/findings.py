"""What a study found: every number of its report, from its cells' Runs. Accuracies and shares are fractions.

A "place" is a benchmark, a number of images per class and a student: within one, methods and protocols are compared.
"""

import contextlib
import statistics
from collections.abc import Iterable
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rd3_utils.data import embedded, provenance, soft_labels
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.scoring import measure
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.runs import Run
from rd3_utils.studies import ranking
from rd3_utils.studies.commands import teacher_names
from rd3_utils.studies.planning import Placed, fact_key
from rd3_utils.studies.study import Study, grid_cells, variants

Place = tuple[str, int | None, str]  # benchmark, ipc, student
Key = tuple[str, int | None, str, str, str]  # and method, protocol with its changes


def findings(study: Study, placed: list[Placed], facts: dict[str, dict], left_out: dict[str, list[str]] | None = None) -> dict:
    """The report of a study as plain data; `placed` are its cells with the Runs that are there, `facts` of their images.

    `left_out` {method: [SOURCE]} are optional sets that are not there.

    "cells": one entry per place, method and protocol: the summary of its Runs (seeds and draws pooled), bytes and seconds.
    "before_after", "spread", "decomposition", "protocols", "students", "ablation", "recognised": see the functions of those
    names.
    """
    asked = set(grid_cells(study))
    main = {key_of(one) for one in placed if one.cell in asked}  # not only for an ablation
    groups: dict[Key, list[Placed]] = {}
    for one in placed:
        groups.setdefault(key_of(one), []).append(one)
    for key, mine in groups.items():
        check_pooled(key, [one.run for one in mine if one.run])
    entries = [finding(key, mine, facts, in_grid=key in main) for key, mine in groups.items()]
    known = [e for e in entries if e["n"]]
    cells = {key: cell_of([one.run for one in mine if one.run]) for key, mine in groups.items()}
    cells = {key: cell for key, cell in cells.items() if cell.values}
    grid = {key: cell for key, cell in cells.items() if key in main}
    return {
        "study": study.name,
        "title": study.title,
        "unified": study.unified,
        "precision": sorted({one.run.environment.precision for one in placed if one.run}),
        "cells_planned": len(placed),
        "cells_there": sum(one.run is not None for one in placed),
        "cells": known,
        "before_after": before_after(study, grid),
        "spread": spreads(grid),
        "decomposition": decompositions(grid),
        "protocols": tau_protocols(grid),
        "students": tau_students(grid),
        "ablation": ablations(study, cells),
        "recognised": recognised_rows(placed, facts),
        "notes": notes(placed, left_out),
    }


def key_of(one: Placed) -> Key:
    """(benchmark, ipc, student, method, protocol with its changes) of a Placed."""
    cell = one.cell
    return cell.benchmark, cell.ipc, cell.student, cell.method, cell.variant


def check_pooled(key: Key, runs: list[Run]) -> None:
    """UserError unless the Runs of a cell of the tables measured the same: their mean is one number."""
    same = measure.odd_one(runs) if runs else measure.Verdict()
    if not same:
        raise UserError(
            f"{', '.join(str(part) for part in key if part is not None)}: its Runs did not measure the same, they differ in "
            f"{same}; remove the files that do not belong here, or give another --out."
        )


def finding(key: Key, mine: list[Placed], facts: dict[str, dict], in_grid: bool) -> dict:
    """One line of "cells"."""
    runs = [one.run for one in mine if one.run]
    named = dict(zip(("benchmark", "ipc", "student", "method", "protocol"), key))
    if not runs:
        return {**named, "n": 0}
    of_images = [facts.get(fact_key(one.cell), {}) for one in mine if one.run]
    sizes: list[Any] = [f.get("bytes") for f in of_images]
    seconds: list[Any] = [f.get("seconds") for f in of_images]
    kinds = {f.get("bytes_are") for f in of_images}
    pixels = [run.images.images * 3 * run.recipe["image_size"] ** 2 for run in runs]
    whole = all(size is not None for size in sizes)
    return {
        **named,
        "grid": in_grid,
        "digest": runs[0].protocol.digest,
        **run_files.summary(runs),
        "missing": sum(one.run is None for one in mine),
        "image_bytes": statistics.fmean(sizes if whole else pixels),
        "image_bytes_are": kinds.pop() if whole and len(kinds) == 1 else "pixels",
        "label_bytes": statistics.fmean(run.labels.bytes for run in runs),
        "synthesis_seconds": statistics.fmean(seconds) if all(s is not None for s in seconds) else None,
        "training_seconds": statistics.fmean(run.seconds for run in runs),
        "devices": sorted({run.environment.devices for run in runs}),
    }


def cell_of(runs: list[Run]) -> ranking.TableCell:
    """The TableCell of the top-1 of `runs`."""
    return ranking.TableCell([run.top1 for run in runs], [run.images.identity for run in runs])


def places_of(cells: dict[Key, ranking.TableCell]) -> dict[Place, dict[tuple[str, str], ranking.TableCell]]:
    """{(benchmark, ipc, student): {(method, protocol): Cell}} of {key: Cell}."""
    places: dict[Place, dict[tuple[str, str], ranking.TableCell]] = {}
    for (benchmark, ipc, student, method, protocol), one in cells.items():
        places.setdefault((benchmark, ipc, student), {})[method, protocol] = one
    return places


def named_place(place: Place) -> dict:
    return dict(zip(("benchmark", "ipc", "student"), place))


def before_after(study: Study, grid: dict[Key, ranking.TableCell]) -> list[dict]:
    """Per place: each method under its own protocol and under the unified one, the change, and the spread of both.

    Spreads are over the methods that have both numbers, so that they compare the same methods.
    """
    tables = []
    for place, cells in places_of(grid).items():
        means = {key: one.mean for key, one in cells.items()}
        rows, unified = [], study.unified
        for method, own in study.own.items():
            before, after = (variant_of(means, method, name) for name in (own, study.unified))
            if before and after:
                unified, change = after, means[method, after] - means[method, before]
                rows.append({"method": method, "own": before, "before": means[method, before], "after": means[method, after],
                             "change": change})  # fmt: skip
        if rows:
            spread = {when: ranking.spread({row["method"]: row[when] for row in rows}) for when in ("before", "after")}
            tables.append({**named_place(place), "unified": unified, "rows": rows, "spread": spread})
    return tables


def variant_of(means: dict[tuple[str, str], float], method: str, protocol: str) -> str | None:
    """The protocol as the study's grids ran it on a method: unchanged if they did, else with its changes; None without."""
    mine = [variant for name, variant in means if name == method and variant.partition(",")[0] == protocol]
    return protocol if protocol in mine else next(iter(mine), None)


def spreads(grid: dict[Key, ranking.TableCell]) -> list[dict]:
    """Per place and protocol: the spread of the methods' means, best and worst."""
    entries: list[dict] = []
    for place, cells in places_of(grid).items():
        for protocol in dict.fromkeys(protocol for _, protocol in cells):
            spread = ranking.spread({m: one.mean for (m, p), one in cells.items() if p == protocol})
            entries += [{**named_place(place), "protocol": protocol, **spread}] if spread else []
    return entries


def decompositions(grid: dict[Key, ranking.TableCell]) -> list[dict]:
    """Per place: ranking.decomposition over methods and protocols, where there are at least 2 x 2."""
    results = [(place, ranking.decomposition(cells)) for place, cells in places_of(grid).items()]
    return [{**named_place(place), **result} for place, result in results if result]


def tau_protocols(grid: dict[Key, ranking.TableCell]) -> list[dict]:
    """Per place and pair of protocols: ranking.agreement of the methods' order, for pairs that share at least 3 methods."""
    entries: list[dict] = []
    for place, cells in places_of(grid).items():
        for pair in combinations(dict.fromkeys(protocol for _, protocol in cells), 2):
            result = ranking.agreement(cells, *pair)
            entries += [{**named_place(place), "pair": list(pair), **result}] if len(result["methods"]) > 2 else []
    return entries


def tau_students(grid: dict[Key, ranking.TableCell]) -> list[dict]:
    """Per benchmark, ipc and protocol, and pair of students: ranking.agreement of the methods' order (at least 3)."""
    groups: dict[tuple[str, int | None, str], dict[tuple[str, str], ranking.TableCell]] = {}
    entries: list[dict] = []
    for (benchmark, ipc, student, method, protocol), one in grid.items():
        groups.setdefault((benchmark, ipc, protocol), {})[method, student] = one
    for (benchmark, ipc, protocol), cells in groups.items():
        for pair in combinations(dict.fromkeys(student for _, student in cells), 2):
            result = ranking.agreement(cells, *pair)
            where = {"benchmark": benchmark, "ipc": ipc, "protocol": protocol, "pair": list(pair)}
            entries += [{**where, **result}] if len(result["methods"]) > 2 else []
    return entries


def ablations(study: Study, cells: dict[Key, ranking.TableCell]) -> list[dict]:
    """Per place, method and [[ablation]]: base and variants with mean, std, n; a variant's change and its standard error.

    See `error_of`.
    """
    entries = []
    for part in study.ablation:
        changes = [(", ".join((protocol, *knobs)), changed) for protocol, knobs, changed in variants(part)]
        for where in dict.fromkeys(key[:4] for key in cells):
            benchmark, ipc, _, method = where
            asked = (benchmark, part.benchmarks), (ipc, part.ipc), (method, part.methods)
            if any(chosen and value not in chosen for value, chosen in asked):
                continue
            mine = {changed: cells[*where, variant] for variant, changed in changes if (*where, variant) in cells}
            if "base" not in mine or len(mine) < 2:
                continue
            base, rows = mine["base"], []
            for changed, cell in mine.items():
                row = {"what": changed, "mean": cell.mean, "std": run_files.spread(cell.values), "n": len(cell.values)}
                change = None if changed == "base" else cell.mean - base.mean
                rows.append({**row, "change": change, "error": None if change is None else error_of(cell, base)})
            place = dict(zip(("benchmark", "ipc", "student", "method"), where))
            entries.append({**place, "protocol": part.protocol, "rows": rows})
    return entries


def recognised_rows(placed: list[Placed], facts: dict[str, dict]) -> list[dict]:
    """Per benchmark, ipc, method and teachers: the share of the images, mean over draws, that they put into their own class."""
    sets: dict[tuple[str, int | None, str, str], dict[str, float]] = {}
    for one in placed:
        for teachers, share in facts.get(fact_key(one.cell), {}).get("recognised", {}).items():
            key = one.cell.benchmark, one.cell.ipc, one.cell.method, teachers
            sets.setdefault(key, {})[fact_key(one.cell)] = share
    names = "benchmark", "ipc", "method", "teachers"
    return [
        {**dict(zip(names, key)), "sets": len(shares), "recognised": statistics.fmean(shares.values())}
        for key, shares in sets.items()
    ]


def error_of(cell: ranking.TableCell, other: ranking.TableCell) -> float | None:
    """Standard error of the difference of two Cells' means; None where one has a single unit.

    sqrt(s1^2 / n1 + s2^2 / n2) (Welch, Biometrika 1947), of the n means of draws where a cell has several; if both have the
    same draws, that of the draws' differences, which their luck is not in.
    """
    if min(len(cell.units), len(other.units)) < 2:
        return None
    if cell.names and cell.names == other.names:
        return float(np.linalg.norm(cell.influence - other.influence))
    return float(np.sqrt(sum((one.influence**2).sum() for one in (cell, other))))


def notes(placed: list[Placed], left_out: dict[str, list[str]] | None) -> list[str]:
    """What a reader must know before comparing these numbers."""
    lines, runs = [], [one.run for one in placed if one.run]
    if left_out:
        named = (f"{method} ({', '.join(Path(source).name for source in sources)})" for method, sources in left_out.items())
        lines.append(f"Left out, for these images are not there: {'; '.join(named)}.")
    if len(runs) < len(placed):
        lines.append(f"{len(placed) - len(runs)} of {len(placed)} cells are missing.")
    teachers: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for one in placed:
        if one.run and one.run.teachers:
            key = one.cell.benchmark, one.cell.protocol
            teachers.setdefault(key, set()).add(one.run.teacher_weights)
    for (benchmark, protocol), kinds in teachers.items():
        if len(kinds) > 1:
            lines.append(f"Soft labels of {protocol} on {benchmark} come from {len(kinds)} different teachers or ensembles.")
    lines += other_teachers(placed) + unequal_draws(placed)
    devices = {run.environment.devices for run in runs}
    if len(devices) > 1:
        lines.append(f"Runs come from different machines: {', '.join(sorted(devices))}.")
    if any(run.monitored_test for run in runs):
        lines.append("The test split was watched during some trainings; scores are still the last epoch's.")
    if len({run.views_seed for run in runs}) > 1:
        lines.append("Views were drawn from different seeds.")
    return lines


def unequal_draws(placed: list[Placed]) -> list[str]:
    """[a note per set whose protocols were not all tried on the same draws]."""
    drawn: dict[tuple, dict[str, set[int]]] = {}  # {(benchmark, ipc, student, method): {protocol: draws}}
    for one in placed:
        if one.run and one.cell.draw is not None:
            *where, protocol = key_of(one)
            drawn.setdefault(tuple(where), {}).setdefault(protocol, set()).add(one.cell.draw)
    return [
        f"{method} on {benchmark} at ipc {ipc}, {student}, has not the same draws under every protocol: luck of draws is then "
        "in the differences between them, and in no interval."
        for (benchmark, ipc, student, method), draws in drawn.items()
        if len(set(map(frozenset, draws.values()))) > 1
    ]


def other_teachers(placed: list[Placed]) -> list[str]:
    """[a note per benchmark and protocol whose Runs learned from other teachers than the study names].

    A file's teacher may have had another name: those that a Run of the stated name has by SHA-256 are the same.
    """
    sha256 = {t.source: t.sha256 for one in placed if one.run for t in one.run.teachers}
    counts: dict[tuple[str, str, str, str], int] = {}
    for one in placed:
        if one.run and one.teachers:
            wanted, had = teacher_names(one), one.run.teachers
            if [t.source for t in had] != wanted and [sha256.get(name) for name in wanted] != [t.sha256 for t in had]:
                key = one.cell.benchmark, one.cell.protocol, ", ".join(t.source for t in had), ", ".join(wanted)
                counts[key] = counts.get(key, 0) + 1
    return [
        f"{n} Runs of {protocol} on {benchmark} learned from {had}; the study names {wanted}. Give another --out for its own."
        for (benchmark, protocol, had, wanted), n in counts.items()
    ]


def image_facts(placed: list[Placed], known: dict[str, dict], stores: Path | str = "soft_labels") -> dict[str, dict]:
    """{fact_key: {"bytes", "bytes_are", "seconds", "images", "recognised"}} of the image sets; `known` where one is gone.

    bytes_are "files": size of the image files of a local set; "pixels": 3 x 8 bits per pixel, for sets without files of
    their own here. seconds: what distilled.json beside the set says its synthesis took; 0 for real images as they are.
    recognised: {teachers: share of the images that they put into their own class}, of the Runs and of the label stores in the
    folder `stores`, as long as the images are the same; a set that nobody labelled has none. Of other teachers than those of
    the Runs, where there are any, nothing is said.
    """
    facts, stated = {key: dict(table) for key, table in known.items()}, cache(partial(recognised_in_stores, Path(stores)))
    measured, taught = cache(facts_of_files), {called(weights_of(one.run)) for one in placed if one.run and one.run.teachers}
    for one in placed:
        key, folder = fact_key(one.cell), one.folder
        if folder is None and (embedded.EMBEDDED / one.source.name).is_dir():
            folder = embedded.EMBEDDED / one.source.name
        if folder is not None and folder.exists():
            facts[key] = facts.get(key, {}) | measured(folder)
        elif key not in facts:
            size = one.known.images * 3 * benchmarks.load(one.cell.benchmark).image.size ** 2
            real = one.arm.startswith(("random-", "full-"))
            facts[key] = {"bytes": size, "bytes_are": "pixels", "seconds": 0.0 if real else None}
        identity = one.run.images.identity if one.run else one.known.identity
        before, recognised_of = facts[key].pop("recognised", {}), facts[key].pop("images", identity)
        before = {} if identity and recognised_of != identity else before  # others lay there before
        in_run = {}
        if one.run and one.run.teachers and one.run.labels.recognised is not None:
            in_run = {called(weights_of(one.run)): one.run.labels.recognised}
        in_stores = stated(identity) if identity else {}
        shares = {name: share for name, share in (before | in_run | in_stores).items() if name in taught or not taught}
        if shares:
            facts[key] |= {"images": identity or recognised_of, "recognised": shares}
    return facts


def facts_of_files(folder: Path) -> dict:
    """{"bytes", "bytes_are", "seconds"} of the set in a folder or file; see image_facts."""
    files = [folder] if folder.is_file() else [p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_FILES]
    about = folder / "distilled.json"
    seconds = provenance.read(about, str(about)).get("seconds") if about.is_file() else None
    return {"bytes": sum(p.stat().st_size for p in files), "bytes_are": "files", "seconds": seconds}


def recognised_in_stores(stores: Path, identity: str) -> dict[str, float]:
    """{teachers: "recognised"} that the label stores of a set in the folder `stores` state."""
    shares = {}
    for path in sorted((stores / identity).glob("*/index.json")):
        with contextlib.suppress(UserError):  # a damaged store is the affair of those who read its labels
            index = soft_labels.read_index(path.parent)
            with contextlib.suppress(TypeError, KeyError):
                weights = [(t["architecture"], t["sha256"]) for t in index["teachers"]]
                shares[called(weights)] = soft_labels.recognised(index)["recognised"]
    return shares


def weights_of(run: Run) -> list[tuple[str, str]]:
    return [(teacher.architecture, teacher.sha256) for teacher in run.teachers]


def called(teachers: Iterable[tuple[str, str]]) -> str:
    """How teachers (architecture, SHA-256 of the weights) are told apart here."""
    return ", ".join(sorted(f"{architecture} {sha256[:8]}" for architecture, sha256 in teachers))


IMAGE_FILES = {".parquet", ".png", ".jpg", ".jpeg", ".webp", ".bmp"}
