"""The pages of the leaderboard, through Jinja with every text escaped: tables, plots, provenance, protocols."""

from collections import Counter
from typing import Any

from markupsafe import Markup

from rd3_utils.leaderboard import claims, pareto
from rd3_utils.leaderboard import entries as entry_files
from rd3_utils.leaderboard.entries import Entry, Found, Group
from rd3_utils.leaderboard.related import Related
from rd3_utils.leaderboard.rendering import csp, jinja_environment, script, style
from rd3_utils.leaderboard.reproduce import reproduce
from rd3_utils.leaderboard.rows import (
    file_of,
    ipc_text,
    is_learned,
    notices,
    plain_rule,
    plain_values,
    point,
    provenance,
    row_id,
    same_images,
    series_of,
    short_hash,
    slug,
)
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.knobs import SECTIONS, stated
from rd3_utils.protocols.protocol import Protocol
from rd3_utils.scoring import estimates
from rd3_utils.scoring import report as reports
from rd3_utils.scoring import runs as run_files
from rd3_utils.verification import vetting

ROWS = 50  # of a table on a benchmark's page
PAGE_ROWS = 200  # of all tables on it
PAGE_TABLES = 60  # on it; further ones are links
FULL_ROWS = 100  # of a table on its own page
TABLES = 200  # of a benchmark that have a page of their own
RUNS = 60  # of an entry that are listed
PLOTS = 8  # protocols and students whose cost is drawn, per page
PLOTTED = 200  # entries in one plot
APART = 500  # files named on not-ranked.html


class Board:
    """All entries and what pages say of them."""

    def __init__(self, gathered: Found) -> None:
        self.gathered = gathered
        self.tables = entry_files.tables(gathered.entries)
        self.related = Related(gathered.entries)
        self.benchmarks = list(dict.fromkeys(group.benchmark for group in self.tables))
        self.paged = {group for name in self.benchmarks for group in self.foremost(name, TABLES)}
        count = Counter(entry.group.benchmark for entry in gathered.entries)
        self.benchmarks.sort(key=lambda name: (-count[name], name))
        used = {group.digest for group in self.paged}
        self.protocols = {d: p for d, p in sorted(gathered.protocols.items(), key=lambda x: (x[1].name, x[0])) if d in used}
        self.rows: dict[Entry, dict] = {}  # as far as they are needed
        self.ranks: dict[Group, dict[Entry, str]] = {}
        self.origins = sorted({entry.origin for entry in gathered.entries})
        self.same_images = run_files.grouped(gathered.entries, same_images)

    def foremost(self, name: str | None, most: int) -> list[Group]:
        """At most `most` tables of a benchmark in their order: those with Runs from folders, then those of more origins."""
        mine = [group for group in self.tables if group.benchmark == name]

        def weight(group: Group) -> tuple[bool, int]:
            origins = {entry.origin for entry in self.tables[group]}
            return any(origin.kind == "folder" for origin in origins), len(origins)

        chosen = set(sorted(mine, key=weight, reverse=True)[:most]) if len(mine) > most else set(mine)
        return [group for group in mine if group in chosen]

    def render(self, template: str, depth: int, script: str = "", **values: Any) -> bytes:
        """A page as bytes; `depth` folders below the site."""
        links = [
            (vetting.bench_of(name).title, "index.html" if i == 0 else f"{name}.html", name)
            for i, name in enumerate(self.benchmarks)
        ]
        text = (
            jinja_environment()
            .get_template(template)
            .render(
                up="../" * depth,
                benchmarks=links,
                apart=len(self.gathered.apart) + self.gathered.left_out,
                csp=Markup(csp(script, style())),
                style=Markup(style()),
                script=Markup(script),
                slug=slug,
                row_id=row_id,
                file_of=file_of,
                all_origins=self.origins,
                paged=self.paged,
                **values,
            )
        )
        return text.encode()

    def benchmark_page(self, name: str | None) -> bytes:
        """The page of a benchmark, or of an empty board."""
        mine = {group: rows for group, rows in self.tables.items() if group.benchmark == name}
        shown, most = {group: mine[group] for group in self.foremost(name, PAGE_TABLES)}, ROWS
        while most > 1 and sum(min(len(rows), most) for rows in shown.values()) > PAGE_ROWS:
            most //= 2
        tables = [self.table(group, rows, most) for group, rows in shown.items()]
        rows = [row for table in tables for row in table["rows"]]
        columns = {
            "claimed": any(row["claims"] for row in rows),
            "scored": any("lrs" in row["scores"] or "ars" in row["scores"] for row in rows),
            "timed": any(row["seconds"] for row in rows),
        }
        choices = {
            "ipc": list(dict.fromkeys(ipc_text(g) for g in sorted(mine, key=lambda g: (g.full, g.ipc)))),
            "protocol": list(dict.fromkeys(g.label for g in mine)),
            "student": sorted({g.student for g in mine}),
            "labels": sorted({g.labels for g in mine}),
            "precision": sorted({g.precision for g in mine}),
        }
        counts = {
            "tables": len(mine),
            "entries": sum(map(len, mine.values())),
            "runs": sum(len(e.runs) for rows in mine.values() for e in rows),
        }
        return self.render(
            "benchmark.html",
            0,
            script(),
            here=name,
            benchmark=vetting.bench_of(name) if name else None,
            tables=tables,
            choices=choices,
            counts=counts,
            columns=columns,
            links=[group for group in mine if group in self.paged and group not in shown],
            unpaged=len(mine) - sum(group in self.paged for group in mine),
            plots=self.plots(mine),
            notes=self.gathered.notes,
            ipc_text=ipc_text,
        )

    def table(self, group: Group, entries: list[Entry], most: int) -> dict:
        """What the template needs of one table: `most` rows, and folders' rows and random images, which none may crowd out."""
        rest = entries[most:]
        kept = [entry for entry in rest if entry.origin.kind == "folder"][:most]
        kept += [entry for entry in rest if entry.is_random and entry not in kept][:1]
        shown = entries[:most] + sorted(kept, key=lambda entry: -entry.summary["mean"])
        rows = [self.row(entry) for entry in shown]
        marks = [row[key] for row in rows for key in ("low", "high", "random") if row[key] is not None]
        middle, span = (max(marks) + min(marks)) / 2, max(max(marks) - min(marks), 0.01)
        for row in rows:
            row["at"] = {
                key: row[key] if row[key] is None else 60 + 112 * (row[key] - middle) / span
                for key in ("low", "mean", "high", "random")
            }
        return {
            "group": group,
            "rows": rows,
            "left_out": len(entries) - len(shown),
            "count": len(entries),
            "notices": notices(entries),
        }

    def row(self, entry: Entry) -> dict:
        """What the template needs of one row; made once."""
        if entry not in self.rows:
            self.rows[entry] = self.made_row(entry)
        return self.rows[entry]

    def rank(self, entry: Entry) -> str:
        if entry.group not in self.ranks:
            self.ranks[entry.group] = entry_files.ranks(self.tables[entry.group])
        return self.ranks[entry.group][entry]

    def made_row(self, entry: Entry) -> dict:
        scores, arms = self.related.scores(entry) if entry.side == "distilled" else ({}, {})
        kind = entry.group.labels
        random = (
            None
            if entry.is_random
            else self.related.of(entry, f"random-{kind}")
            or (self.related.of(entry, "random-hard") if kind == "soft" and is_learned(entry) else None)
        )
        method, why = claims.method_of(entry)
        claimed = claims.claims_of(entry, method) if method else []
        summary, std = entry.summary, entry.summary["std"] or 0
        others = [
            other
            for other in self.same_images.get(same_images(entry), ())
            if other.group.label != entry.group.label
            and (other.group.ipc, other.group.student, other.group.precision)
            == (entry.group.ipc, entry.group.student, entry.group.precision)
            and other.group.labels == other.runs[0].protocol.main_labels
        ]
        return {
            "entry": entry,
            "rank": self.rank(entry),
            "interval": reports.interval_text(estimates.of_arm(entry.runs)),
            "method": claims.title(method) if method else None,
            "why": why,
            **{key: summary[key] for key in ("mean", "std", "n", "seeds", "draws")},
            "low": summary["mean"] - std,
            "high": summary["mean"] + std,
            "random": random.summary["mean"] if random else None,
            "random_entry": random,
            "gain": summary["mean"] - random.summary["mean"] if random and entry.side == "distilled" else None,
            "scores": scores,
            "named": reports.named_scores(scores),
            "cited": next((estimate["cited"] for estimate in scores.values() if estimate["cited"]), None),
            "arms": list(arms.items()) if scores else [],
            "borrowed": [(arm, other) for arm, other in arms.items() if scores and other.origin != entry.origin],
            "claims": claimed,
            "elsewhere": claims.elsewhere(entry, method)[:6] if method else [],
            "claim": claimed[0] if claimed else None,
            "others": others[:8],
            "bytes": entry.image_bytes + entry.label_bytes,
            "seconds": entry.seconds,
            "commands": reproduce(entry),
        }

    def plots(self, tables: dict[Group, list[Entry]]) -> list[tuple[Group, Markup, Markup | None]]:
        """[(Group, svg of bytes, svg of seconds or None)] of a benchmark: one per protocol, labels, student and precision."""
        plots: list[tuple[Group, Markup, Markup | None]] = []
        series = list(dict.fromkeys(series_of(entry) for entries in tables.values() for entry in entries))
        for main, groups in run_files.grouped(tables, lambda group: group.main).items():
            mine = [entry for group in groups for entry in tables[group] if not group.full]
            if len(mine) < 2 or len(plots) == PLOTS:
                continue
            mine = sorted(mine, key=lambda entry: -entry.summary["mean"])[:PLOTTED]
            mark = short_hash(main.protocol, main.digest, main.labels, main.student, main.precision)
            spoken = f"of {main.student} under {main.label}, {main.labels} labels"
            drawn = pareto.figure(
                [point(e, (e.image_bytes + e.label_bytes) / 1e6) for e in mine],
                series,
                "images and labels, MB",
                f"Top-1 against bytes of images and labels, {spoken}",
                f"b{mark}",
            )
            timed = [point(e, e.seconds) for e in mine if e.seconds is not None]
            later = None
            if any(p.x > 0 for p in timed):
                name, of_time = (
                    f"Top-1 against seconds of synthesis, {spoken}",
                    "synthesis of the images, seconds (0: real images)",
                )
                later = Markup(pareto.figure(timed, series, of_time, name, f"t{mark}"))
            plots.append((main, Markup(drawn), later))
        return plots

    def table_page(self, group: Group, entries: list[Entry]) -> bytes:
        """Every row of a table in full."""
        rows = [self.row(entry) for entry in entries[:FULL_ROWS]]
        return self.render(
            "table.html",
            1,
            here=group.benchmark,
            group=group,
            rows=rows,
            left_out=len(entries) - len(rows),
            notices=notices(entries),
            provenance=provenance,
            RUNS=RUNS,
            ipc_text=ipc_text,
            benchmark=vetting.bench_of(group.benchmark),
        )

    def protocol_page(self, protocol: Protocol) -> bytes:
        """Every knob of a protocol."""
        known = protocols.load(protocol.name) if protocol.name in protocols.names() else protocol
        sections = {name: plain_values(stated(getattr(protocol, name))) for name in SECTIONS}
        values = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
        rows = [(key, value, known.sources.get(key, "its file is not part of the Run")) for key, value in values.items()]
        used = [group for group in self.tables if group.digest == protocol.digest and group in self.paged]
        return self.render(
            "protocol.html",
            1,
            here="protocols",
            protocol=protocol,
            known=known,
            knobs=rows,
            used=used,
            released=protocol.name in protocols.names() and not protocol.overrides,
            changes=plain_values(dict(protocol.overrides)),
            rules=[plain_rule(rule) for rule in known.rules],
            arms=plain_values(protocol.arms),
            ipc_text=ipc_text,
        )

    def protocols_page(self) -> bytes:
        """All protocols that tables have."""
        count = Counter(group.digest for group in self.tables)
        rows = [
            (p, protocols.load(p.name).title if p.name in protocols.names() else "not a released protocol", count[d])
            for d, p in self.protocols.items()
        ]
        return self.render("protocols.html", 1, here="protocols", rows=rows)

    def apart_page(self) -> bytes:
        """What is not ranked."""
        by_origin = run_files.grouped(self.gathered.apart[:APART], lambda one: one.origin)
        rest = len(self.gathered.apart) + self.gathered.left_out - min(len(self.gathered.apart), APART)
        return self.render("apart.html", 0, here="apart", origins=by_origin, rest=rest, notes=self.gathered.notes)

    def as_data(self, entry: Entry) -> dict:
        """An entry as plain data: accuracies as fractions, texts as they are."""
        group, first, row = entry.group, entry.runs[0], self.rows.get(entry)
        return {
            "benchmark": group.benchmark,
            "ipc": None if group.full else group.ipc,
            "protocol": {"name": group.protocol, "digest": group.digest, "custom": group.custom},
            "student": group.student,
            "precision": group.precision,
            "arm": entry.arm,
            "images": {"name": entry.name, "source": first.images.source, "fingerprints": entry.fingerprints},
            "method": claims.method_of(entry)[0],
            **entry.summary,
            "rescored": entry.rescored,
            "rank": self.rank(entry),
            "scores": row["scores"] if row else None,
            "of_others": {arm: other.origin.name for arm, other in row["borrowed"]} if row else None,
            "bytes": {"images": entry.image_bytes, "labels": entry.label_bytes},
            "synthesis_seconds": entry.seconds,
            "test_watched": entry.monitored,
            "teachers": entry.teachers,
            "origin": {"kind": entry.origin.kind, "name": entry.origin.name, "commit": entry.origin.commit or None},
        }
