"""A study: image sets x protocols x students x seeds, stated in one TOML file. Here it becomes cells, a plan and jobs.

    studies/rd3-main-table.toml -> load -> Study -> cells -> plan (what is there, what is missing, what it costs) -> jobs

A cell is one student: one train_student.py command with one seed, whose Run is where that command by hand would put it. So a
study takes up what is there already, and what it trains serves every other command.

    name = "my-study"                            # the file's name
    title = "Two sets under two recipes"
    benchmarks = ["digits"]
    seeds = [0, 1, 2]
    unified = "rd3-v1"                           # "after" of the table before/after

    [own]                                        # "before": the protocol that each method came with
    dm = "hard-label-v1"

    [[images]]                                   # one table per method
    method = "dm"
    source = "sets/dm-ipc{ipc}"                  # as --distilled takes it; paths are relative to the study file
    ipc = [1, 10]
    make = "synthesize dm --ipc {ipc}"           # runs where the folder is missing; or optional = true: then left out, and said

    [[images]]
    method = "random"
    source = "random:ipc={ipc},seed={draw}"
    ipc = [1, 10]
    draws = [0, 1, 2]                            # pooled in tables

    [[grid]]                                     # every combination; what is not stated: all of the study's
    protocols = ["rd3-v1", "hard-label-v1"]
    students = ["convnet3"]                      # not stated: the benchmark's

    [[ablation]]                                 # one knob at a time around a protocol
    protocol = "rd3-v1"
    methods = ["dm"]
    ipc = [10]
    [ablation.knobs]
    "training.batch_size" = [10, 25]

    [teachers.digits]                            # optional, as --teacher takes them; a protocol labels with as many as it wants
    default = ["default"]
"""

import contextlib
import itertools
import json
import math
import os
import shlex
import statistics
import sys
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import torch
from accelerate.commands.config.config_args import load_config_from_file

from rd3_utils import launch
from rd3_utils.data import catalogue, selections, soft_labels, tables
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import initialisation
from rd3_utils.learning import students as networks
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.protocol import Protocol, Recipe
from rd3_utils.protocols.strict import build, read_toml
from rd3_utils.scoring import arms, measure
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.jobs import Job

PROJECT = Path(__file__).parents[2]
QUICK = 2e8  # bytes of pixels up to which a dry run reads an image set to learn its fingerprint
VIEWS_SEED = 0
NEAR = 9  # kept Runs that tell what a student costs: few follow the load of a machine, all forget what starting up takes
FOLDER = (".", "/", "~")  # how a source begins that is a folder whether it is there or not
# glibc's malloc(3): keep freed memory, where each step would return its large buffers to the kernel and ask again; the bits
# are the same. Measured: python -m bench.memory. MALLOC_MMAP_THRESHOLD_ would not do: mallopt(3) limits it to 32 MiB.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30)}


@dataclass(frozen=True)
class Images:
    """The image sets of one method: `source` and `make` may hold {ipc}, {draw} and {benchmark}.

    Sets that are `optional` are folders that somebody may have: one that is not there is left out, where others are an error.
    """

    method: str
    source: str
    ipc: tuple[int, ...] = ()  # (): one set, in every combination, such as `full`
    draws: tuple[int, ...] = ()
    make: str = ""
    optional: bool = False
    benchmarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Combinations to train: () means all that the study has, for students the benchmark's own."""

    protocols: tuple[str, ...]
    set: tuple[str, ...] = ()  # knobs as --set takes them
    methods: tuple[str, ...] = ()
    ipc: tuple[int, ...] = ()
    students: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    benchmarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ablation:
    """One knob at a time around `protocol`, which is trained as well; whole protocols can be variants, too."""

    protocol: str
    knobs: dict = field(default_factory=dict)  # knob -> list of values
    protocols: tuple[str, ...] = ()
    set: tuple[str, ...] = ()  # knobs that every variant has besides its own
    methods: tuple[str, ...] = ()
    ipc: tuple[int, ...] = ()
    students: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    benchmarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What a study file says; `folder` is where it lies."""

    name: str
    title: str
    benchmarks: tuple[str, ...]
    seeds: tuple[int, ...]
    images: tuple
    folder: Path
    description: str = ""
    grid: tuple = ()
    ablation: tuple = ()
    unified: str = ""
    own: dict = field(default_factory=dict)  # method -> protocol
    teachers: dict = field(default_factory=dict)  # benchmark -> {protocol or "default": [SOURCE]}


@dataclass(frozen=True)
class Cell:
    """One student to train, by name: nothing is read yet. `protocol` is as the study names it, `set` its changed knobs."""

    benchmark: str
    method: str
    ipc: int | None
    draw: int | None
    source: str  # as --distilled takes it; a path as the study file has it
    make: str
    protocol: str
    set: tuple
    student: str
    seed: int
    optional: bool = False

    @property
    def variant(self):
        """The protocol as tables name it."""
        return ", ".join((self.protocol, *self.set))

    @property
    def images_name(self):
        """The image set as lines of progress name it."""
        parts = (
            [self.method] + ([f"ipc {self.ipc}"] if self.ipc else []) + ([f"draw {self.draw}"] if self.draw is not None else [])
        )
        return " ".join(parts)

    @property
    def name(self):
        """The cell as lines of progress name it."""
        return f"{self.benchmark} {self.images_name}, {self.variant}, {self.student}, seed {self.seed}"


def load(path):
    """The Study in the TOML file `path`; UserError names what is missing, unknown or of a wrong type."""
    path = Path(path)
    table, where = read_toml(path), f"study {path.name}"
    for section, cls in {"images": Images, "grid": Grid, "ablation": Ablation}.items():
        rows = table.get(section, [])
        if not isinstance(rows, list):
            raise UserError(f"{where} [{section}] is one table, wanted [[{section}]], a list of them.")
        table[section] = tuple(build(cls, row, f"{where} [[{section}]] {i + 1}") for i, row in enumerate(rows))
    if "folder" in table:
        raise UserError(f"{where}: 'folder' is no field of a study.")
    study = build(Study, {**table, "folder": path.resolve().parent}, where)
    if study.name != path.stem:
        raise UserError(f"{path} names itself '{study.name}', wanted '{path.stem}': the name is the file's.")
    if not study.images or not (study.grid or study.ablation) or not study.benchmarks or not study.seeds:
        raise UserError(f"{where} has nothing to train; it needs benchmarks, seeds, [[images]] and [[grid]] or [[ablation]].")
    methods, ipcs = [images.method for images in study.images], {ipc for images in study.images for ipc in images.ipc}
    for images in study.images:
        sources = [
            resolved(images.source, where, ipc, draw, "B") for ipc in images.ipc or (0,) for draw in images.draws or (0,)
        ]
        if len(set(sources)) < len(sources):
            raise UserError(
                f"{where}: '{images.source}' of {images.method} is one set for several ipc or draws; write {{ipc}}, {{draw}}."
            )
        if images.optional and (images.make or not images.source.startswith(FOLDER)):
            raise UserError(
                f"{where}: '{images.source}' of {images.method} is optional: that is for folders (./, ../, /, ~) and without "
                "a make."
            )
    for name, of in study.teachers.items():
        if not isinstance(of, dict) or not all(isinstance(v, list) and all(isinstance(s, str) for s in v) for v in of.values()):
            raise UserError(
                f"{where} [teachers.{name}] wants default = [SOURCE, ...], or a protocol's name instead of default."
            )
    parts = [*study.grid, *study.ablation]
    checks = [("method", name, methods) for part in parts for name in part.methods]
    checks += [("method of [own]", name, methods) for name in study.own]
    checks += [("benchmark", name, study.benchmarks) for part in [*parts, *study.images] for name in part.benchmarks]
    checks += [("benchmark of [teachers]", name, study.benchmarks) for name in study.teachers]
    recipes = {name for part in study.grid for name in part.protocols}
    recipes |= {name for part in study.ablation for name in (part.protocol, *part.protocols)}
    recipes |= set(protocols.names())  # of these, a table of the study has nothing to say, which is no mistake
    checks += [("protocol of [own]", name, recipes) for name in study.own.values()]
    checks += [("unified protocol", study.unified, recipes)] if study.unified else []
    checks += [
        (f"protocol of [teachers.{at}]", name, ["default", *recipes]) for at, of in study.teachers.items() for name in of
    ]
    checks += [("ipc", ipc, ipcs) for part in parts for ipc in part.ipc]
    for kind, name, known in checks:
        if name not in known:
            raise UserError(f"{where}: {unknown(kind, name, map(str, known))}")
    for part in study.ablation:
        for knob, values in part.knobs.items():
            if not isinstance(values, list):
                raise UserError(f"{where} [ablation.knobs] {knob} is {values!r}, wanted a list of values.")
    return study


def resolved(text, where, ipc, draw, benchmark):
    """`text` with {ipc}, {draw} and {benchmark} filled in."""
    try:
        return text.format(ipc=ipc, draw=draw, benchmark=benchmark)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{where}: '{text}' may hold {{ipc}}, {{draw}} and {{benchmark}} only ({error}).") from error


def cells(study):
    """All Cells of a study, each once, in the order of the file; neighbours share images, then the protocol."""
    found = grid_cells(study)
    for part in study.ablation:
        for protocol, changes, _ in variants(part):
            found += combined(study, part, protocol, changes)
    order = {method: i for i, method in enumerate(dict.fromkeys(images.method for images in study.images))}
    variant = {key: i for i, key in enumerate(dict.fromkeys((cell.protocol, cell.set) for cell in found))}
    student = {name: i for i, name in enumerate(dict.fromkeys(cell.student for cell in found))}

    def place(cell):
        draw = -1 if cell.draw is None else cell.draw
        of_training = variant[cell.protocol, cell.set], student[cell.student], cell.seed
        return cell.benchmark, cell.ipc or 0, order[cell.method], draw, *of_training

    return sorted(dict.fromkeys(found), key=place)


def grid_cells(study):
    """The Cells that a [[grid]] asks for, whether an ablation does as well."""
    return [cell for part in study.grid for name in part.protocols for cell in combined(study, part, name, part.set)]


def variants(part):
    """[(protocol, changed knobs, what changed)] of an Ablation, the base first."""
    found = [(part.protocol, (), "base")]
    for knob, values in part.knobs.items():
        for value in values:
            change = f"{knob}={value if isinstance(value, str) else json.dumps(value)}"
            found.append((part.protocol, (*part.set, change), ", ".join((*part.set, change))))
    return found + [(name, part.set, ", ".join((name, *part.set))) for name in part.protocols]


def combined(study, part, protocol, changes):
    """The Cells of one protocol for the sets, students and seeds of a Grid or an Ablation."""
    for images in study.images:
        for benchmark in study.benchmarks:
            if benchmark not in (images.benchmarks or study.benchmarks) or benchmark not in (
                part.benchmarks or study.benchmarks
            ):
                continue
            if images.method not in (part.methods or [images.method]):
                continue
            bench = benchmarks.load(benchmark)
            chosen = [networks.architecture(name, bench) for name in part.students or [bench.defaults.student]]
            sets = itertools.product(images.ipc or (None,), images.draws or (None,))
            for (ipc, draw), student, seed in itertools.product(sets, chosen, part.seeds or study.seeds):
                if ipc is not None and part.ipc and ipc not in part.ipc:
                    continue
                texts = [resolved(text, study.name, ipc, draw, benchmark) for text in (images.source, images.make)]
                # a student of all the data always follows teacher-v1
                recipe = (arms.TEACHER_PROTOCOL, ()) if texts[0] == "full" else (protocol, tuple(changes))
                yield Cell(benchmark, images.method, ipc, draw, *texts, *recipe, student, seed, images.optional)


@dataclass(frozen=True)
class Known:
    """What the plan knows of an image set; `identity` is None where it was not read: it is not there yet, or far away."""

    identity: str | None
    ipc: int
    images: int  # N
    stated: dict | None = None  # as ImageSet.describe


@dataclass(frozen=True, eq=False)
class Placed:
    """A Cell with its protocol and recipe resolved: where its Run lies, and the Run if it is there."""

    cell: Cell
    source: str  # as the command gets it
    folder: Path | None  # of a local set
    known: Known
    protocol: Protocol
    recipe: Recipe
    arm: str
    teachers: tuple
    path: Path | None  # of the Run; None where the images are not known yet
    run: dict | None

    @property
    def labels_key(self):
        """Cells with the same one read the same label store; None where no store is read. See arms.Cell.labels_key."""
        labels, images = self.recipe.labels, self.known.identity or self.source
        if labels.kind not in ("soft", "static"):
            return None
        bn = getattr(labels, "teacher_bn", "eval")
        return self.cell.benchmark, images, self.recipe.views_digest, labels.kind, labels.ensemble, bn, self.teachers

    @property
    def work(self):
        """Images that the student sees in all: optimizer steps x batch, but for smaller last batches."""
        return self.recipe.training.epochs * self.recipe.images


class Plan:
    """The Cells of a study against what lies under `out`.

    `data_dirs` {benchmark: --data-dir}; `precision` and `device` (its kind) of the launch. `asked` are all Cells; those of
    optional sets that are neither there nor trained on are not among `cells`, and `left_out` {method: [SOURCE]} names those
    sets.
    """

    def __init__(self, study, out, data_dirs=None, precision="fp32", soft_labels="soft_labels", device="cpu"):
        self.study, self.out, self.data_dirs, self.precision = study, Path(out), data_dirs or {}, precision
        self.soft_labels, self.device = soft_labels, device
        self.protocol, self.train = cache(self.read_protocol), cache(self.read_train)
        self.known, self.splits = {}, {}  # {(benchmark, test_resize): the first kept Run}: the others had its test split
        self.facts = {}  # of the last report: what it says of image sets that may be gone
        self.asked = cells(study)
        self.cells = [cell for cell in self.asked if not self.lacks(cell)]
        kept, self.left_out = {cell.source for cell in self.cells}, {}
        for method, source in sorted({(cell.method, self.located(cell)[0]) for cell in self.asked if cell.source not in kept}):
            self.left_out.setdefault(method, []).append(source)
        if self.left_out and not self.cells:
            [first, *_] = next(iter(self.left_out.values()))
            raise UserError(f"study {study.name}: its optional image sets are all missing; put one into {first}.")

    def lacks(self, cell):
        """Whether the optional images of a cell are not there, and no Run of it."""
        return cell.optional and not is_made(self.located(cell)[1]) and self.placed(cell, False).run is None

    @property
    def folder(self):
        """Where report, logs and notes of the study lie."""
        return self.out / "study" / self.study.name

    @cached_property
    def runs(self):
        """{benchmark: [(path, Run)]}: every Run under `out`."""
        found = {}
        for name in self.study.benchmarks:
            found[name], left_out = run_files.found_under(self.out, name)
            for line in left_out:
                print(f"left out: {line}", file=sys.stderr)
        return found

    def read_protocol(self, name, changes):
        """The Protocol that the study calls `name`, with `changes`; a .toml file is relative to the study's."""
        path = self.study.folder / name
        return protocols.load(str(path) if name.endswith(".toml") else name).override(changes)

    def place(self, fetch, chosen=None):
        """[Placed] of `chosen` cells (all by default).

        With `fetch`, image sets are read wherever they are, as running needs it; without, those that would need the Hub or
        much time are planned by name.
        """
        self.__dict__.pop("runs", None)
        return [self.placed(cell, fetch) for cell in (self.cells if chosen is None else chosen)]

    def placed(self, cell, fetch):
        bench = benchmarks.load(cell.benchmark)
        source, folder = self.located(cell)
        known = self.look(cell, source, folder, bench, fetch)
        protocol = self.protocol(cell.protocol, cell.set)
        side = source.partition(":")[0] if selections.is_selection(source) and folder is None else "distilled"
        kind = "hard" if protocol.labels.kind == "hard" else "soft"
        if protocol.labels.kind == "learned" and side != "distilled":
            raise UserError(
                f"study {self.study.name}: {cell.variant} trains on labels that come with a set, and {cell.method}, real "
                "images, has none; state the methods of that grid."
            )
        recipe = protocol.resolve(bench, cell.student, known.ipc, known.images, kind)
        arm = f"{side}-{kind}"
        wanted = {"student": cell.student, "initialisation of the network": initialisation.version(cell.student),
                  "protocol": protocol.name, "protocol digest": protocol.digest, "arm": arm, "kind of views": "shared",
                  "views seed": VIEWS_SEED, "seed": cell.seed}  # fmt: skip
        path = run = None
        if known.identity is None:
            named = self.named(cell, source, folder, bench, wanted)
            if named and folder is not None and is_made(folder):
                known = self.look(cell, source, folder, bench, True)  # the files themselves say which set it is
            else:
                run = self.whose(cell, folder, named)
        if known.identity:
            names = cell.benchmark, protocol.name, protocol.digest, known.identity, cell.student, arm, cell.seed
            path = run_files.path(self.out, *names, self.precision)
            run = run_files.kept(path)
        if run is not None:
            run = self.checked(run, path, {**wanted, "precision": self.precision}, known)
        teachers = self.teachers(cell, recipe)
        return Placed(cell, source, folder, known, protocol, recipe, arm, teachers, path, run)

    def checked(self, run, path, wanted, known):
        """The Run of a cell at `path`; UserError where it measured something else than the cell, or other Runs of the study."""
        run = measure.with_split(run, known.stated or {})
        different = self.misfit(run, wanted)
        if different is None and known.identity not in (None, run.images.identity):
            different = measure.Verdict("image set", run.images.identity, known.identity)
        splits = self.splits.setdefault((run.benchmark, resize_of(run)), run)
        if different is None and splits.test.fingerprint != run.test.fingerprint:
            different = measure.Verdict("test split", run.test.fingerprint, splits.test.fingerprint)
        if different is not None:
            raise UserError(
                f"study {self.study.name}: {path or 'a Run of ' + run.images.name} has another {different.what}: "
                f"{measure.short(different.a)}, wanted {measure.short(different.b)}; give another --out, or remove that file."
            )
        return run

    def check_test_split(self, name):
        """UserError where kept Runs of a benchmark were scored on another test split than the one at hand, before more are."""
        kept = next((run for (benchmark, _), run in self.splits.items() if benchmark == name), None)
        if kept is None:
            return
        test = image_sets.test_split(benchmarks.load(name), self.data_dirs.get(name), resize=resize_of(kept))
        if test.fingerprint != kept.test.fingerprint:
            raise UserError(
                f"study {self.study.name}: Runs in {self.out} were scored on the test split {kept.test.fingerprint[:8]} of "
                f"{name}, the one at hand is {test.fingerprint[:8]}; give the --data-dir of those, or another --out."
            )

    def located(self, cell):
        """(SOURCE as a command in this folder takes it, the set's Path or None)."""
        path = self.study.folder / Path(cell.source).expanduser()
        if not (cell.make or cell.source.startswith(FOLDER) or path.exists()):
            return cell.source, None
        path = Path(os.path.normpath(path))
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path), path

    def look(self, cell, source, folder, bench, fetch):
        """What is Known of a set; it is read where that is quick and needs no network, or where `fetch` asks for it."""
        key = cell.benchmark, source
        if key in self.known and (self.known[key].identity or not fetch):
            return self.known[key]
        count = (cell.ipc or 0) * len(bench.classes) or bench.data.train_images or len(bench.classes)
        by_name = Known(None, cell.ipc or max(1, count // len(bench.classes)), count)
        if folder is not None:
            here = is_made(folder)
        elif selections.is_selection(source):
            here = bench.name in self.data_dirs or bench.data.repo.startswith("sklearn:")
        else:
            embedded = source if "/" not in source else ""
            here = bool(embedded) and embedded in image_sets.embedded_sets()
        quick = here and count * 3 * bench.image.size**2 < QUICK
        if fetch and folder is not None and not here:
            raise UserError(f"no images in {source}; put them there, or give the study's [[images]] of {cell.method} a `make`.")
        if not (quick or fetch):
            self.known[key] = by_name
            return by_name

        try:
            images = selections.image_set(source, bench, lambda: self.train(cell.benchmark))
        except UserError:
            if fetch:
                raise
            return by_name  # what is wrong with it is said when its cells are to be trained
        self.known[key] = Known(images.identity, images.nominal_ipc, len(images), images.describe())
        return self.known[key]

    def read_train(self, name):
        """The Table of a benchmark's train split."""
        return tables.real(benchmarks.load(name), "train", self.data_dirs.get(name))

    def named(self, cell, source, folder, bench, wanted):
        """The Runs that may be of a cell whose images were not read: by the name of the set's folder, or by its source."""
        source = (catalogue.repo(source, bench) or source) if folder is None else source
        found = []
        for _, run in self.runs[cell.benchmark]:
            named = run.images.name == stem(folder) if folder else run.images.source == source
            if named and run.environment.precision == self.precision and self.misfit(run, wanted) is None:
                found.append(run)
        return found

    def whose(self, cell, folder, found):
        """The one of the `named` Runs that had the images of a cell, or None: never by a name that two sets share.

        Of a folder that is gone, or a repo that moved, the last report says what lay there.
        """
        stated = self.facts.get(fact_key(cell), {}).get("images")
        if stated is not None:
            return next((run for run in found if run.images.identity == stated), None)
        others = {self.located(other)[1] for other in self.asked} - {None} if folder else set()
        namesakes = [other for other in others if stem(other) == stem(folder)]
        if len(namesakes) > 1 or len({run.images.fingerprint for run in found}) != 1:
            return None  # nothing tells whose Run it is
        return found[0]

    def misfit(self, run, wanted):
        """In what a Run differs from what is `wanted` of a cell, {of measure.FACTS or "seed": value}; None if it fits."""
        for what, value in wanted.items():
            mine = run.seed if what == "seed" else measure.FACTS[what](run)
            if mine != value:
                return measure.Verdict(what, mine, value)
        return None

    def teachers(self, cell, recipe):
        """What `--teacher` gets for a cell; UserError where the study names fewer than its protocol labels with."""
        if recipe.labels.kind not in ("soft", "static"):
            return ()
        stated = self.study.teachers.get(cell.benchmark, {})
        given = stated.get(cell.protocol) or stated.get("default") or ["default"]
        if len(given) < recipe.labels.teachers:
            raise UserError(
                f"study {self.study.name}: {cell.variant} labels {cell.benchmark} with {recipe.labels.teachers} teachers, "
                f"[teachers.{cell.benchmark}] names {len(given)}; name them there, under {cell.protocol} or default."
            )
        return tuple(given[: recipe.labels.teachers])

    def seconds(self, placed):
        """About how long a cell trains, or None: by the median seconds per image of the NEAR kept Runs of nearest work.

        Of its benchmark, student, precision and kind of device; a Run as near as the last of them counts, too.
        """
        rates = []
        for _, run in self.runs[placed.cell.benchmark]:
            where, here = run.environment, f" x {self.device} ("  # of launch.environment
            if (run.student, where.precision) == (placed.cell.student, self.precision) and here in where.devices:
                work = run.recipe["training"]["epochs"] * run.recipe["images"]
                rates.append((abs(math.log(work / placed.work)), run.seconds / work))
        if not rates:
            return None
        furthest = sorted(rates)[:NEAR][-1][0]
        return statistics.median(rate for distance, rate in rates if distance <= furthest) * placed.work


def resize_of(run):
    """How the test images of a Run were resized; see Training.test_resize."""
    return run.recipe["training"].get("test_resize", 0)


def stem(folder):
    """How an image set in a folder or file is called."""
    return folder.name.split(".")[0]


def fact_key(cell):
    """How images.json names the image set of a cell."""
    return f"{cell.benchmark} {cell.source}"


def is_made(folder):
    """Whether there is an image set in `folder`, or a file: not nothing, and no empty folder."""
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def share(found, index, count):
    """The part number `index` (from 0) of `count` of a list: whole neighbourhoods, which share images and labels."""
    return found[index * len(found) // count : (index + 1) * len(found) // count]


def read_config(path):
    """An accelerate config file as accelerate reads it; UserError where it is none, or no cell could run under it."""
    try:
        config = load_config_from_file(str(path))
    except Exception as error:  # of a library, and of many kinds
        raise UserError(f"--config {path} is no config file of accelerate: {str(error).splitlines()[0]}") from error
    launch.check_config(config, f"--config {path}")
    return config


def device_of(config):
    """The kind of device that an accelerate config runs on here: cpu, cuda, ..."""
    here = None if config.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return here.type if here else "cpu"


def precision_of(config):
    """The precision that runs under an accelerate config: fp32, bf16 or fp16, which a CPU does not have."""
    mixed = str(config.mixed_precision)
    if mixed == "fp16" and device_of(config) == "cpu":
        return "fp32"
    return mixed if mixed in ("bf16", "fp16") else "fp32"


def places(workers, config):
    """[variables of each place where a cell can run]: a share of the cores each, and of the GPUs where there are any.

    More workers than GPUs share them: small students leave most of one idle. UserError where several workers would each start
    several processes. OMP_NUM_THREADS that is set already stays, and so do glibc's variables.
    """
    processes = config.num_processes or 1
    if workers > 1 and processes > 1:
        raise UserError(f"--workers {workers} with {processes} processes each; give a --config of one process, or one worker.")
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // (workers * processes)))
    if config.use_cpu or not torch.cuda.is_available():
        stated = any(name.startswith(("MALLOC_MMAP", "MALLOC_TRIM", "GLIBC_TUNABLES")) for name in os.environ)
        memory = {} if stated else KEEP_MEMORY
        return [{"OMP_NUM_THREADS": threads, **memory}] * workers
    gpus = visible(torch.cuda.device_count())
    return [
        {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], "OMP_NUM_THREADS": threads} if workers > 1 else {} for i in range(workers)
    ]


def visible(count):
    """Names of the GPUs that this process may use."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    return stated.split(",") if stated else [str(i) for i in range(count)]


def cores():
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_jobs(plan, placed):
    """A Job for each image set that `placed` cells need and the study can make: {folder: Job}."""
    jobs = {}
    for one in placed:
        cell, folder = one.cell, one.folder
        if folder is None or folder in jobs or is_made(folder) or one.run is not None or not cell.make:
            continue
        command = [
            sys.executable,
            "-m",
            "rd3_utils",
            *shlex.split(cell.make),
            "--benchmark",
            cell.benchmark,
            "--out",
            one.source,
        ]
        command += data_dir(plan, cell.benchmark)
        claim = folder.with_name(f"{folder.name}.claim")
        log = plan.folder / "logs" / f"make-{cell.benchmark}-{folder.name}.log"
        jobs[folder] = Job(
            f"{cell.benchmark} {cell.images_name}, making it", command, lambda at=folder: is_made(at), claim, log
        )
    return jobs


def train_jobs(plan, placed, config, everything=None):
    """(Jobs, {Job: Placed}) for the cells of `placed` that have no Run: label stores first, each before the cells that need it.

    A store gets as many epochs as any cell of `everything` reads from it, so that nobody makes it twice.
    """
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    longest = {}
    for one in everything or placed:
        if one.labels_key:
            other = longest.setdefault(one.labels_key, one)
            longest[one.labels_key] = max(one, other, key=lambda p: p.recipe.label_epochs)
    jobs, of, labels, planned = [], {}, {}, set()
    for one in placed:
        if one.run is not None or one.path in planned:
            continue
        planned.add(one.path)
        after, key = [], one.labels_key
        if key in labels:
            after = [labels[key]]
        elif key and one.recipe.labels.kind == "soft":
            needed = longest[key]
            if not has_store(plan, one, needed.recipe.label_epochs):
                labels[key] = label_job(plan, needed, launch, one.known.identity)
                jobs.append(labels[key])
                after = [labels[key]]
        job = train_job(plan, one, launch, after)
        if key and one.recipe.labels.kind == "static" and key not in labels:
            labels[key] = job  # the first cell makes the labels for the others
        jobs.append(job)
        of[job] = one
    return jobs, of


def train_job(plan, one, launch, after):
    """The Job that trains one cell."""
    command = [*launch, str(PROJECT / "train_student.py"), *what(plan, one), "--arms", one.arm, "--seeds", str(one.cell.seed)]
    command += ["--draw", drawn(one.source)] if one.arm.startswith("random-") else []
    command += ["--soft-labels", plan.soft_labels, "--out", str(plan.out), "--runs-only"]
    log = plan.folder / "logs" / f"{'-'.join((*one.path.relative_to(plan.out).parts[:-1], one.path.stem))}.log"
    return Job(one.cell.name, command, one.path.is_file, one.path.with_suffix(".claim"), log, after)


def label_job(plan, one, launch, identity):
    """The Job that makes the label store of one cell."""
    command = [*launch, str(PROJECT / "generate_soft_labels.py"), *what(plan, one), "--out", plan.soft_labels]
    name = f"{one.recipe.views_digest}-{protocols.digest([*one.labels_key])}"
    log = plan.folder / "logs" / f"labels-{one.cell.benchmark}-{identity}-{name}.log"
    epochs, claim = one.recipe.label_epochs, Path(plan.soft_labels) / identity / f"{name}.claim"
    text = f"{one.cell.benchmark} {one.cell.images_name}, soft labels of {epochs} epochs for {one.cell.variant}"
    return Job(text, command, lambda: has_store(plan, one, epochs), claim, log)


def what(plan, one):
    """The options that both scripts take."""
    cell = one.cell
    name = str(plan.study.folder / cell.protocol) if cell.protocol.endswith(".toml") else one.protocol.name
    words = ["--benchmark", cell.benchmark, "--protocol", name, "--distilled", one.source, "--student", cell.student]
    words += [word for change in cell.set for word in ("--set", change)]
    words += [word for teacher in one.teachers for word in ("--teacher", teacher)]
    return words + data_dir(plan, cell.benchmark)


def data_dir(plan, benchmark):
    """The option of a command for one benchmark."""
    return ["--data-dir", str(plan.data_dirs[benchmark])] if benchmark in plan.data_dirs else []


def drawn(source):
    """The seed of a selection of random images, as text."""
    return str(selections.parsed(source)[1]["seed"])


def has_store(plan, one, epochs):
    """Whether a finished store with `epochs` epochs labels the views of a cell with its teachers, as far as names tell."""
    wanted = teacher_names(one)
    for folder in soft_labels.candidates(plan.soft_labels, one.known, one.recipe, VIEWS_SEED):
        with contextlib.suppress(UserError):  # said by the command that is to use it
            index = soft_labels.read_index(folder)
            if index["epochs"] >= epochs and [teacher["source"] for teacher in index["teachers"]] == wanted:
                return True
    return False


def teacher_names(one):
    """How stores and Runs name the teachers of a Placed, as far as the study's text tells."""
    return [recorded(teacher, one.cell.benchmark) for teacher in one.teachers]


def recorded(teacher, benchmark):
    """How a store names the teacher that `--teacher` calls so; see teachers.load and Teacher.describe."""
    teacher = benchmarks.load(benchmark).defaults.teacher if teacher == "default" else teacher
    kind, colon, rest = teacher.partition(":")
    if (kind, colon) == ("local-dir", ":") or (not colon and Path(teacher).is_dir()):
        return f"local-dir:{tables.without_machine(rest or teacher)}"
    return teacher
