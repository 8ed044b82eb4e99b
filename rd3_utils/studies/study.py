"""A study: image sets x protocols x students x seeds, stated in one TOML file, becomes cells, planned in planning.py.

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

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rd3_utils import limits
from rd3_utils.bounded import read_toml, shown
from rd3_utils.data import embedded, sources
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import students as networks
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.strict import build

PROJECT = embedded.PACKAGE.parent


@dataclass(frozen=True)
class StudyImages:
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
    images: tuple[StudyImages, ...]
    folder: Path
    description: str = ""
    grid: tuple[Grid, ...] = ()
    ablation: tuple[Ablation, ...] = ()
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
    set: tuple[str, ...]
    student: str
    seed: int
    optional: bool = False

    @property
    def variant(self) -> str:
        """The protocol as tables name it."""
        return ", ".join((self.protocol, *self.set))

    @property
    def images_name(self) -> str:
        """The image set as lines of progress name it."""
        parts = (
            [self.method] + ([f"ipc {self.ipc}"] if self.ipc else []) + ([f"draw {self.draw}"] if self.draw is not None else [])
        )
        return " ".join(parts)

    @property
    def name(self) -> str:
        """The cell as lines of progress name it."""
        return f"{self.benchmark} {self.images_name}, {self.variant}, {self.student}, seed {self.seed}"


def load(path: Path | str) -> Study:
    """The Study in the TOML file `path`; UserError names what is missing, unknown or of a wrong type."""
    path = Path(path)
    table, where = read_toml(path), f"study {path.name}"
    for section, cls in {"images": StudyImages, "grid": Grid, "ablation": Ablation}.items():
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
    check_count(study, where)
    check_images(study, where)
    check_teachers(study, where)
    for kind, name, known in stated_names(study):
        if name not in known:
            raise UserError(f"{where}: {unknown(kind, name, map(str, known))}")
    for part in study.ablation:
        for knob, values in part.knobs.items():
            if not isinstance(values, list):
                raise UserError(f"{where} [ablation.knobs] {knob} is {shown(values)}, wanted a list of values.")
            try:
                json.dumps(values)
            except TypeError as error:  # dates and times of TOML
                raise UserError(f"{where} [ablation.knobs] {knob} lists {shown(values)}: {error}.") from error
    return study


def check_count(study: Study, where: str) -> None:
    """UserError for a study that may have more students than limits.MOST_CELLS, before they are listed."""
    parts: list[Grid | Ablation] = [*study.grid, *study.ablation]
    students = 0
    for part in parts:
        mine = [images for images in study.images if images.method in (part.methods or [images.method])]
        sets = sum(max(1, len(images.ipc)) * max(1, len(images.draws)) for images in mine) * len(study.benchmarks)
        values = sum(map(values_in, part.knobs.values())) + 1 if isinstance(part, Ablation) else 0
        students += (len(part.protocols) + values) * sets * max(1, len(part.students)) * len(part.seeds or study.seeds)
    if students > limits.MOST_CELLS:
        raise UserError(
            f"{where} asks for up to {students:,} students, wanted at most {limits.MOST_CELLS:,}; make several studies of it."
        )


def values_in(values: Any) -> int:
    """How many values an ablation has of a knob."""
    return len(values) if isinstance(values, list) else 1


def check_images(study: Study, where: str) -> None:
    """UserError for image sets that are one and the same, and for optional ones that are no folder."""
    for images in study.images:
        sets = [resolved(images.source, where, ipc, draw, "B") for ipc in images.ipc or (0,) for draw in images.draws or (0,)]
        if len(set(sets)) < len(sets):
            raise UserError(
                f"{where}: '{images.source}' of {images.method} is one set for several ipc or draws; write {{ipc}}, {{draw}}."
            )
        if images.optional and (images.make or not sources.reads_as_folder(images.source)):
            raise UserError(
                f"{where}: '{images.source}' of {images.method} is optional: that is for folders (./, ../, /, ~) and without "
                "a make."
            )


def check_teachers(study: Study, where: str) -> None:
    """UserError unless [teachers.BENCHMARK] are lists of sources."""
    for name, table in study.teachers.items():
        lists = list(table.values()) if isinstance(table, dict) else [None]
        if not all(isinstance(sources, list) and all(isinstance(source, str) for source in sources) for sources in lists):
            raise UserError(
                f"{where} [teachers.{name}] wants default = [SOURCE, ...], or a protocol's name instead of default."
            )


def stated_names(study: Study) -> list[tuple[str, Any, Collection]]:
    """[(kind, name, those that are known)] of all names in a study that must be those of something else in it."""
    methods, ipcs = [images.method for images in study.images], {ipc for images in study.images for ipc in images.ipc}
    parts: list[Grid | Ablation] = [*study.grid, *study.ablation]
    checks: list[tuple[str, Any, Collection]] = [("method", name, methods) for part in parts for name in part.methods]
    checks += [("method of [own]", name, methods) for name in study.own]
    checks += [("benchmark", name, study.benchmarks) for part in [*parts, *study.images] for name in part.benchmarks]
    checks += [("benchmark of [teachers]", name, study.benchmarks) for name in study.teachers]
    recipes = {name for part in study.grid for name in part.protocols}
    recipes |= {name for part in study.ablation for name in (part.protocol, *part.protocols)}
    recipes |= set(protocols.names())  # of these, a table of the study has nothing to say, which is no mistake
    checks += [("protocol of [own]", name, recipes) for name in study.own.values()]
    checks += [("unified protocol", study.unified, recipes)] if study.unified else []
    for benchmark, table in study.teachers.items():
        checks += [(f"protocol of [teachers.{benchmark}]", name, ["default", *recipes]) for name in table]
    checks += [("ipc", ipc, ipcs) for part in parts for ipc in part.ipc]
    return checks


def resolved(text: str, where: str, ipc: int | None, draw: int | None, benchmark: str) -> str:
    """`text` with {ipc}, {draw} and {benchmark} filled in."""
    try:
        return text.format(ipc=ipc, draw=draw, benchmark=benchmark)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{where}: '{text}' may hold {{ipc}}, {{draw}} and {{benchmark}} only ({error}).") from error


def cells(study: Study) -> list[Cell]:
    """All Cells of a study, each once, in the order of the file; neighbours share images, then the protocol."""
    all_cells = grid_cells(study)
    for part in study.ablation:
        for protocol, changes, _ in variants(part):
            all_cells += combined(study, part, protocol, changes)
    order = {method: i for i, method in enumerate(dict.fromkeys(images.method for images in study.images))}
    variant = {key: i for i, key in enumerate(dict.fromkeys((cell.protocol, cell.set) for cell in all_cells))}
    student = {name: i for i, name in enumerate(dict.fromkeys(cell.student for cell in all_cells))}

    def place(cell: Cell) -> tuple:
        draw = -1 if cell.draw is None else cell.draw
        of_training = variant[cell.protocol, cell.set], student[cell.student], cell.seed
        return cell.benchmark, cell.ipc or 0, order[cell.method], draw, *of_training

    return sorted(dict.fromkeys(all_cells), key=place)


def located_in(source: str, make: str, folder: Path) -> Source:
    """The Source of images as a study in `folder` states it; what it can make is a folder, whether it is there or not."""
    return sources.folder(source) if make else sources.parse(source, folder)


def grid_cells(study: Study) -> list[Cell]:
    """The Cells that a [[grid]] asks for, whether an ablation does as well."""
    return [cell for part in study.grid for name in part.protocols for cell in combined(study, part, name, part.set)]


def variants(part: Ablation) -> list[tuple[str, tuple[str, ...], str]]:
    """[(protocol, changed knobs, what changed)] of an Ablation, the base first."""
    rows: list[tuple[str, tuple[str, ...], str]] = [(part.protocol, (), "base")]
    for knob, values in part.knobs.items():
        for value in values:
            change = f"{knob}={value if isinstance(value, str) else json.dumps(value)}"
            rows.append((part.protocol, (*part.set, change), ", ".join((*part.set, change))))
    return rows + [(name, part.set, ", ".join((name, *part.set))) for name in part.protocols]


def combined(study: Study, part: Grid | Ablation, protocol: str, changes: Sequence[str]) -> Iterator[Cell]:
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
                source, make = (resolved(text, study.name, ipc, draw, benchmark) for text in (images.source, images.make))
                # a student of all the data always follows teacher-v1
                full = located_in(source, make, study.folder).is_full
                name, knobs = (protocols.TEACHER_PROTOCOL, ()) if full else (protocol, tuple(changes))
                yield Cell(benchmark, images.method, ipc, draw, source, make, name, knobs, student, seed, images.optional)


VIEWS_SEED = 0
