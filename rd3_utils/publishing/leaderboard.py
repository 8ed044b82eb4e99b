"""A leaderboard as a static site: one page per benchmark, protocols and provenance one click away, nothing from elsewhere.

    index.html, BENCHMARK.html   tables per IPC, protocol, student, labels and precision; sorted and filtered in the browser
    tables/TABLE.html            every row of a table in full: Runs, images, labels, teachers, environment, commands
    protocols/NAME-DIGEST.html   every knob with its source
    not-ranked.html              what failed a check, and why
    data/entries-000.json        all entries, as data

Files open from a disk as from a server. Names are hostile until proven otherwise: every text goes through Jinja's
autoescape, scripts and styles run by their hash alone, and no name is used as a path. The same Runs give the same bytes.
"""

import base64
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
from collections import Counter
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from rd3_utils import hub, units
from rd3_utils.errors import UserError
from rd3_utils.learning import synthesis
from rd3_utils.protocols import protocol as protocols
from rd3_utils.publishing import claims, pareto, terminal
from rd3_utils.publishing.markdown import show
from rd3_utils.scoring import bootstrap, estimates, shapes, vetting
from rd3_utils.scoring import entries as entry_files
from rd3_utils.scoring import report as reports
from rd3_utils.scoring import runs as run_files

TEMPLATES = Path(__file__).with_name("site")
ROWS = 50  # of a table on a benchmark's page
PAGE_ROWS = 200  # of all tables on it
PAGE_TABLES = 60  # on it; further ones are links
FULL_ROWS = 100  # of a table on its own page
TABLES = 200  # of a benchmark that have a page of their own
RUNS = 60  # of an entry that are listed
PLOTS = 8  # protocols and students whose cost is drawn, per page
PLOTTED = 200  # entries in one plot
APART = 500  # files named on not-ranked.html
JSON_ENTRIES = 1000  # in one file of data/
REPOS = 500  # of a tag that are read
DATASETS, SETS = 100, 50  # dataset repos that are asked how their images were made, and sets in one
BUNDLE = re.compile(r"export\{([^{}]*)\};?\s*")
MARK = "rd3-leaderboard"  # tag of a Space that is ours to replace


def gather(folders, tag=None, repos=()):
    """The scoring.entries.Found of `folders`, of all model repos with `tag` and of `repos` (OWNER/REPO[@REVISION]).

    A repo that was named and cannot be read is a UserError; one that carries the tag is kept apart.
    """
    named = [hub.parse(repo)[:2] for repo in repos]
    tagged, more = hub.models_tagged(tag, REPOS) if tag else ([], False)
    known, sources, room = {repo for repo, _ in named}, [], entry_files.MOST_RUNS
    for repo, revision in [*named, *((repo, None) for repo in tagged if repo not in known)]:
        origin, files = of_repo(repo, revision, repo in known, room)
        room -= len(files)
        sources.append((origin, files))
    found = entry_files.gather(folders, sources)
    found = with_methods(found) if sources else found
    if more:
        note = f"More than {REPOS} repos have the tag {tag}; the others were not read."
        found = dataclasses.replace(found, notes=(*found.notes, note))
    return found


def of_repo(repo, revision, named, most):
    """(Origin, files) of at most `most` Runs in a model repo of the Hub, at the commit that `revision` has now."""
    try:
        commit = hub.commit(repo, revision, "model")
        origin = entry_files.Origin("hub", repo, commit, hub.page(repo, commit))
        sizes = hub.sizes(repo, commit)
        wanted = [path for path in sizes if re.fullmatch(r"runs/(?:[\w@.,+= -]+/)*seed\d+\.json", path) and ".." not in path]
        most = max(0, min(most, entry_files.MOST_FILES))
        wanted, rest = sorted(wanted)[:most], len(wanted) - most
        small = [path for path in wanted if sizes[path] <= shapes.MOST_BYTES]
        files = dict(zip(small, hub.copies(repo, commit, small)))
        large = {path: shapes.Refused(f"{units.size(sizes[path])}, a Run has less") for path in wanted if path not in files}
        more = {"runs": shapes.Refused(f"{rest} further Runs are not read")} if rest > 0 else {}
        none = {} if wanted or more else {"": shapes.Refused("no Runs in it")}
        return origin, [*files.items(), *large.items(), *more.items(), *none.items()]
    except UserError as error:
        if named:
            raise
        return entry_files.Origin("hub", repo), [("", shapes.Refused(str(error)))]


def with_methods(found):
    """`found` with what distilled.json says of images that lie in dataset repos, at the commits that the Runs name."""
    lacking = {}
    for entry in found.entries:
        images = entry.runs[0].images
        match = re.fullmatch(rf"({hub.REPO_ID.pattern})(?:@.*)?(?::.*)?", images.source)
        if match and images.commit and not entry.about and not entry.is_random:
            lacking.setdefault((match[1], images.commit), []).append(entry)
    known = {}
    for repo, commit in list(lacking)[:DATASETS]:
        try:
            sizes = hub.sizes(repo, commit, "dataset")
            wanted = sorted(path for path in sizes if re.fullmatch(r"(?:[\w.-]+/)?distilled\.json", path))
            wanted = [path for path in wanted[:SETS] if sizes[path] <= shapes.MOST_BYTES and ".." not in path]
            files = hub.copies(repo, commit, wanted, "dataset")
        except UserError:
            continue  # the repo is private or gone: the method stays unknown
        for file in files:
            with contextlib.suppress(shapes.Refused):  # says nothing that can be used
                about = vetting.made(file.read_bytes())
                known[about.fingerprint] = about
    entries = []
    for entry in found.entries:
        about = known.get(entry.fingerprints[0]) if len(entry.fingerprints) == 1 else None
        entries.append(dataclasses.replace(entry, about=entry.about or about))
    return dataclasses.replace(found, entries=tuple(entries))


def build(found, out):
    """Write the site of `found` into the folder `out`, which is made or, where it holds a site, replaced; {path: bytes} of it.

    UserError where `out` holds something else.
    """
    check_new(out)
    out, files = Path(out), assembled(found)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path, data in files.items():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_bytes(data)
    if out.exists():
        shutil.rmtree(out)
    os.replace(partial, out)
    return files


def check_new(out):
    """UserError where `out` exists and is neither empty nor a site of ours, all of whose files may be replaced."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "data" / "site.json").is_file())):
        raise UserError(f"--out {out} exists and is no leaderboard of ours; give a new folder, nothing is overwritten.")


def assembled(found):
    """{path: bytes} of the site."""
    board = Board(found)
    files = {}
    for i, name in enumerate(board.benchmarks or [None]):
        page = board.benchmark_page(name)
        files["index.html" if i == 0 else f"{name}.html"] = page
    for group in board.paged:
        mine = board.tables[group]
        files[f"tables/{slug(group)}.html"] = board.table_page(group, mine)
    for digest, protocol in board.protocols.items():
        files[f"protocols/{protocol.name}-{digest}.html"] = board.protocol_page(protocol)
    files["protocols/index.html"] = board.protocols_page()
    files["not-ranked.html"] = board.apart_page()
    rows = [board.as_data(entry) for entry in found.entries]
    parts = [rows[i : i + JSON_ENTRIES] for i in range(0, len(rows), JSON_ENTRIES)]
    for i, part in enumerate(parts):
        files[f"data/entries-{i:03}.json"] = encoded(part)
    about = {"schema": 1, "entries": len(rows), "files": [f"entries-{i:03}.json" for i in range(len(parts))]}
    files["data/site.json"] = encoded(about)
    files["README.md"] = (TEMPLATES / "space.md").read_bytes()
    return files


def encoded(value):
    """JSON bytes that stay data wherever they are pasted: no <, > or & in them."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"{text}\n".encode()


def publish(target, files):
    """Make the static Space `target` hold `files` and nothing else, in one commit; a hub.Pushed."""

    def build(commit, there):
        stale = {path: None for path in there if path != ".gitattributes" and path not in files}
        return {**files, **stale}

    return hub.push(target, build, "Leaderboard")


def check_space(target):
    """UserError unless this login may push to `target` and it is a Space of ours, a fresh one, or none yet."""
    about = hub.may_push(target)
    fresh = {".gitattributes", "README.md", "index.html", "style.css"}  # what the Hub puts into a new static Space
    strange = [f.rfilename for f in about.siblings if f.rfilename not in fresh] if about else []
    if strange and MARK not in (about.tags or []):
        raise UserError(
            f"{target.repo} holds something else already ({strange[0]}, and no tag {MARK} on its card); give the name of a new "
            "Space."
        )


def short_hash(*parts):
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def slug(group):
    """The file name of a table: of vetted names only."""
    ipc = "full" if group.full else f"ipc{group.ipc}"
    text = f"{group.benchmark}-{ipc}-{group.protocol[:40]}-{group.student[:40]}-{group.labels}-{group.precision}"
    return f"{text}-{short_hash(group.digest, group.protocol, group.student)}"


def row_id(entry):
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


def csp(script, style):
    """The Content-Security-Policy of a page: nothing but its own script and style, known by their hashes."""
    allowed = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (script, style)]
    script_src = allowed[0] if script else "'none'"
    return (
        f"default-src 'none'; script-src {script_src}; style-src {allowed[1]}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


@lru_cache
def environment():
    """The Jinja environment of the templates: everything is escaped."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"percent": reports.percent, "size": units.size, "duration": units.duration}
    found.filters |= {"show": show, "signed": signed}
    found.globals["interval_method"] = bootstrap.METHOD
    return found


@lru_cache
def style():
    return (TEMPLATES / "style.css").read_text("utf-8")


@lru_cache
def script():
    """The board's script: DataTables, as the package itables carries it for pages without a network, then ours."""
    package = importlib.util.find_spec("itables")
    bundle = Path(package.submodule_search_locations[0], "html", "dt_bundle.js").read_text("utf-8")
    exported = BUNDLE.search(bundle)
    names = dict(reversed(pair.split(" as ")) for pair in exported[1].split(",")) if exported else {}
    ours = (TEMPLATES / "board.js").read_text("utf-8")
    if "default" not in names or "</script" in (bundle + ours).lower():
        raise UserError("this version of itables carries DataTables in another form; install the one in requirements.txt.")
    text = BUNDLE.sub(lambda _: f"globalThis.DataTable={names['default']};\n", bundle, count=1)
    return f"{text}\n{ours}"


def signed(fraction, digits=1):
    """A difference of fractions in points, with its sign; a true minus."""
    return "-" if fraction is None else f"{100 * fraction:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


class Board:
    """All entries and what pages say of them."""

    def __init__(self, found):
        self.found = found
        self.tables = entry_files.tables(found.entries)
        self.related = entry_files.Related(found.entries)
        self.benchmarks = list(dict.fromkeys(group.benchmark for group in self.tables))
        self.paged = {group for name in self.benchmarks for group in self.foremost(name, TABLES)}
        count = Counter(entry.group.benchmark for entry in found.entries)
        self.benchmarks.sort(key=lambda name: (-count[name], name))
        used = {group.digest for group in self.paged}
        self.protocols = {d: p for d, p in sorted(found.protocols.items(), key=lambda x: (x[1].name, x[0])) if d in used}
        self.rows, self.ranks = {}, {}  # as far as they are needed
        self.origins = sorted({entry.origin for entry in found.entries})
        self.same_images = run_files.grouped(found.entries, same_images)

    def foremost(self, name, most):
        """At most `most` tables of a benchmark in their order: those with Runs from folders, then those of more origins."""
        mine = [group for group in self.tables if group.benchmark == name]

        def weight(group):
            origins = {entry.origin for entry in self.tables[group]}
            return any(origin.kind == "folder" for origin in origins), len(origins)

        chosen = set(sorted(mine, key=weight, reverse=True)[:most]) if len(mine) > most else set(mine)
        return [group for group in mine if group in chosen]

    def render(self, template, depth, script="", **values):
        """A page as bytes; `depth` folders below the site."""
        links = [
            (vetting.bench_of(name).title, "index.html" if i == 0 else f"{name}.html", name)
            for i, name in enumerate(self.benchmarks)
        ]
        text = (
            environment()
            .get_template(template)
            .render(
                up="../" * depth,
                benchmarks=links,
                apart=len(self.found.apart) + self.found.left_out,
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

    def benchmark_page(self, name):
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
            notes=self.found.notes,
            ipc_text=ipc_text,
        )

    def table(self, group, entries, most):
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

    def row(self, entry):
        """What the template needs of one row; made once."""
        if entry not in self.rows:
            self.rows[entry] = self.made_row(entry)
        return self.rows[entry]

    def rank(self, entry):
        if entry.group not in self.ranks:
            self.ranks[entry.group] = entry_files.ranks(self.tables[entry.group])
        return self.ranks[entry.group][entry]

    def made_row(self, entry):
        scores, arms = self.related.scores(entry) if entry.side == "distilled" else ({}, {})
        kind = entry.group.labels
        random = (
            None
            if entry.is_random
            else self.related.of(entry, f"random-{kind}")
            or (self.related.of(entry, "random-hard") if kind == "soft" and is_learned(entry) else None)
        )
        method, why = claims.method_of(entry)
        claimed = claims.of(entry, method) if method else []
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
            "interval": reports.interval(estimates.of_arm(entry.runs)),
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
            "cited": next((of["cited"] for of in scores.values() if of["cited"]), None),
            "arms": list(arms.items()) if scores else [],
            "claims": claimed,
            "elsewhere": claims.elsewhere(entry, method)[:6] if method else [],
            "claim": claimed[0] if claimed else None,
            "others": others[:8],
            "bytes": entry.image_bytes + entry.label_bytes,
            "seconds": entry.seconds,
            "commands": reproduce(entry),
        }

    def plots(self, tables):
        """[(Group, svg of bytes, svg of seconds or None)] of a benchmark: one per protocol, labels, student and precision."""
        found, series = [], list(dict.fromkeys(series_of(entry) for entries in tables.values() for entry in entries))
        for main, groups in run_files.grouped(tables, lambda group: group.main).items():
            mine = [entry for group in groups for entry in tables[group] if not group.full]
            if len(mine) < 2 or len(found) == PLOTS:
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
            found.append((main, Markup(drawn), later))
        return found

    def table_page(self, group, entries):
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

    def protocol_page(self, protocol):
        """Every knob of a protocol."""
        known = protocols.load(protocol.name) if protocol.name in protocols.names() else protocol
        stated = {name: plain(protocols.stated(getattr(protocol, name))) for name in protocols.SECTIONS}
        values = {f"{name}.{key}": value for name, section in stated.items() for key, value in section.items()}
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
            changes=plain(dict(protocol.overrides)),
            rules=[plain_rule(rule) for rule in known.rules],
            arms=plain(protocol.arms),
            ipc_text=ipc_text,
        )

    def protocols_page(self):
        """All protocols that tables have."""
        count = Counter(group.digest for group in self.tables)
        rows = [
            (p, protocols.load(p.name).title if p.name in protocols.names() else "not a released protocol", count[d])
            for d, p in self.protocols.items()
        ]
        return self.render("protocols.html", 1, here="protocols", rows=rows)

    def apart_page(self):
        """What is not ranked."""
        by_origin = run_files.grouped(self.found.apart[:APART], lambda one: one.origin)
        rest = len(self.found.apart) + self.found.left_out - min(len(self.found.apart), APART)
        return self.render("apart.html", 0, here="apart", origins=by_origin, rest=rest, notes=self.found.notes)

    def as_data(self, entry):
        """An entry as plain data: accuracies as fractions, texts as they are."""
        group, first = entry.group, entry.runs[0]
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
            "rank": self.rank(entry),
            "scores": self.rows[entry]["scores"] if entry in self.rows else None,
            "bytes": {"images": entry.image_bytes, "labels": entry.label_bytes},
            "synthesis_seconds": entry.seconds,
            "test_watched": entry.monitored,
            "teachers": entry.teachers,
            "origin": {"kind": entry.origin.kind, "name": entry.origin.name, "commit": entry.origin.commit or None},
        }


def plain(table):
    return json.loads(json.dumps(table))


def plain_rule(rule):
    return {"when": plain(rule["when"]), "set": plain(rule["set"]), "source": rule.get("source", "")}


def ipc_text(group):
    """How filters and headings call a table's number of images."""
    return "all real images" if group.full else f"{group.ipc} per class"


def file_of(path, origin):
    """Where people see the file of a Run on the Hub."""
    if not origin.url.startswith(("https://", "http://")):
        return None
    return f"{origin.url.replace(f'/tree/{origin.commit}', f'/blob/{origin.commit}')}/{quote(path, safe='/@')}"


def is_learned(entry):
    return entry.runs[0].labels.kind == "learned"


def same_images(entry):
    """What entries of the same images share."""
    images = entry.name if entry.is_random else entry.fingerprints
    return entry.group.benchmark, entry.side, images, entry.origin


def notices(entries):
    """What a reader must know before comparing the rows of a table."""
    found, group = [], entries[0].group
    if group.custom:
        found.append(f"Not a released protocol ({group.label}): do not compare with others.")
    if len({entry.teachers for entry in entries}) > 1:
        found.append("The soft labels of these rows come from different teachers: part of a difference may be theirs.")
    if any(entry.monitored for entry in entries):
        found.append("Rows marked \N{EYE} watched the test split during training; their scores are still the last epoch's.")
    if any(entry.runs[0].views_seed != entries[0].runs[0].views_seed for entry in entries):
        found.append("The views of these rows were drawn from different seeds.")
    return found


def point(entry, x):
    """The pareto.Point of an entry."""
    method, _ = claims.method_of(entry)
    name = "random" if entry.is_random else claims.title(method) if method else entry.name
    s, place = entry.summary, f"{entry.group.ipc} per class"
    std = f" \N{PLUS-MINUS SIGN} {reports.percent(s['std'])}" if s["std"] is not None else ""
    text = f"{entry.name}, {place}: {reports.percent(s['mean'])}{std} %, x = {x:.3g}"
    label = f"{name if len(name) < 20 else name[:18] + chr(0x2026)} {entry.group.ipc}"
    return pareto.Point(x, s["mean"], s["std"], label, text, f"#{row_id(entry)}", series_of(entry))


def series_of(entry):
    """Entries with an equal one have one colour in the plots of a page."""
    return claims.method_of(entry)[0] or entry.name


DEFAULTS = {  # of the options of train_student.py that say what is measured
    "benchmark": "digits",
    "protocol": "rd3-v1",
    "distilled": None,
    "teacher": None,
    "views_seed": 0,
    "set": [],
    "student": None,
    "arms": None,
    "seeds": "0",
    "draws": 3,
    "draw": None,
    "data_dir": None,
    "monitor_test": False,
    "runs_only": False,
}


def reproduce(entry):
    """Command lines that make the Runs of an entry again, and the images where a method of this project made them."""
    group, first, bench = entry.group, entry.runs[0], vetting.bench_of(entry.group.benchmark)
    source, commit = first.images.source, first.images.commit
    match = re.fullmatch(rf"({hub.REPO_ID.pattern})(?:@[\w./-]+)?(:[\w./@-]+)?", source) if commit else None
    own_data = first.test.commit is None and "/" in bench.data.repo
    options = SimpleNamespace(
        defaults=DEFAULTS,
        benchmark=bench.name,
        protocol=group.protocol if group.protocol in protocols.names() else f"{group.protocol}.toml",
        distilled=f"{match[1]}@{commit}{match[2] or ''}" if match else source,
        set=[f"{key}={json.dumps(value)}" for key, value in sorted(first.protocol.overrides.items())],
        data_dir="DIR" if own_data else None,
    )
    lines = terminal.commands(list(entry.runs), options, bench)
    if entry.about and entry.about.method in synthesis.METHODS and not match:
        words = [
            "python",
            "-m",
            "rd3_utils",
            "synthesize",
            entry.about.method,
            "--benchmark",
            bench.name,
            "--ipc",
            str(entry.about.ipc),
            "--out",
            source,
            *(["--data-dir", "DIR"] if own_data else []),
        ]
        lines.insert(0, shlex.join(words))
    return lines


def provenance(entry):
    """[(what, value)] of images, labels, teachers and machines of an entry's Runs, each once."""
    runs, first = entry.runs, entry.runs[0]

    def listed(values):
        distinct = list(dict.fromkeys("-" if value is None else str(value) for value in values))
        return ", ".join(distinct[:6]) + (f" and {len(distinct) - 6} more" if len(distinct) > 6 else "")

    labels, machines = first.labels, [run.environment for run in runs]
    rows = [
        ("Images", f"{listed(run.images.name for run in runs)}; {first.images.images} in all"),
        ("Source of the images", listed(run.images.source for run in runs)),
        ("Commit of the images", listed(run.images.commit for run in runs)),
        ("Fingerprint of the images", listed(run.images.fingerprint for run in runs)),
        ("Test images", f"{first.images_scored}, {first.test.source} @ {first.test.commit or '-'}"),
        ("Fingerprint of the test images", first.test.fingerprint),
        ("Network", f"{first.student}, initialisation {first.network.initialisation}"),
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
