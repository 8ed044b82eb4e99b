"""The plan of a study: which Runs are there, which are missing, where each will lie and what it will cost."""

import math
import os
import statistics
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rd3_utils.data import catalogue, embedded, selections, sources, tables
from rd3_utils.data import images as image_sets
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.learning import initialisation
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.protocol import Protocol
from rd3_utils.protocols.recipe import Recipe
from rd3_utils.scoring import measure
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.results import Results
from rd3_utils.scoring.runs import Run
from rd3_utils.studies.study import VIEWS_SEED, Cell, Study, cells, located_in

QUICK = 2e8  # bytes of pixels up to which a dry run reads an image set to learn its fingerprint
NEAR = 9  # kept Runs that tell what a student costs: few follow the load of a machine, all forget what starting up takes


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
    source: Source  # as the command gets it
    folder: Path | None  # of a local set
    known: Known
    protocol: Protocol
    recipe: Recipe
    arm: str
    teachers: tuple[str, ...]
    path: Path | None  # of the Run; None where the images are not known yet
    run: Run | None

    @property
    def labels_key(self) -> tuple | None:
        """Cells with the same one read the same label store; None where no store is read. See PlannedRun.labels_key."""
        labels, images = self.recipe.labels, self.known.identity or self.source.text
        if labels.kind not in ("soft", "static"):
            return None
        bn = getattr(labels, "teacher_bn", "eval")
        return self.cell.benchmark, images, self.recipe.views_digest, labels.kind, labels.ensemble, bn, self.teachers

    @property
    def work(self) -> int:
        """Images that the student sees in all: optimizer steps x batch, but for smaller last batches."""
        return self.recipe.training.epochs * self.recipe.images


class StudyPlan:
    """The Cells of a study against what lies under `out`.

    `data_dirs` {benchmark: --data-dir}; `precision` and `device` (its kind) of the launch. `asked` are all Cells; those of
    optional sets that are neither there nor trained on are not among `cells`, and `left_out` {method: [SOURCE]} names those
    sets.
    """

    def __init__(
        self,
        study: Study,
        out: Path | str,
        data_dirs: dict[str, str] | None = None,
        precision: str = "fp32",
        soft_labels: str = "soft_labels",
        device: str = "cpu",
    ) -> None:
        self.study, self.out, self.data_dirs, self.precision = study, Path(out), data_dirs or {}, precision
        self.results, self.soft_labels, self.device = Results(self.out), soft_labels, device
        self.protocol, self.train = cache(self.read_protocol), cache(self.read_train)
        self.known: dict[tuple[str, str], Known] = {}  # of (benchmark, source)
        self.splits: dict[tuple[str, int], Run] = {}  # of (benchmark, test_resize) the first kept: others had its test split
        self.facts: dict[str, dict] = {}  # of the last report: what it says of image sets that may be gone
        self.asked = cells(study)
        self.cells = [cell for cell in self.asked if not self.lacks(cell)]
        self.left_out: dict[str, list[str]] = {}
        kept = {cell.source for cell in self.cells}
        for method, source in sorted(
            {(cell.method, self.located(cell)[0].text) for cell in self.asked if cell.source not in kept}
        ):
            self.left_out.setdefault(method, []).append(source)
        if self.left_out and not self.cells:
            [first, *_] = next(iter(self.left_out.values()))
            raise UserError(f"study {study.name}: its optional image sets are all missing; put one into {first}.")

    def lacks(self, cell: Cell) -> bool:
        """Whether the optional images of a cell are not there, and no Run of it."""
        folder = self.located(cell)[1]
        return cell.optional and folder is not None and not is_made(folder) and self.placed(cell, False).run is None

    @property
    def folder(self) -> Path:
        """Where report, logs and notes of the study lie."""
        return self.results.study_folder(self.study.name)

    @cached_property
    def runs(self) -> dict[str, list[tuple[Path, Run]]]:
        """{benchmark: [(path, Run)]}: every Run under `out`."""
        runs: dict[str, list[tuple[Path, Run]]] = {}
        for name in self.study.benchmarks:
            runs[name], left_out = self.results.runs_of(name)
            for line in left_out:
                print(f"left out: {line}", file=sys.stderr)
        return runs

    def read_protocol(self, name: str, changes: tuple[str, ...]) -> Protocol:
        """The Protocol that the study calls `name`, with `changes`; a .toml file is relative to the study's."""
        path = self.study.folder / name
        return protocols.load(str(path) if name.endswith(".toml") else name).override(changes)

    def place(self, fetch: bool, chosen: list[Cell] | None = None) -> list[Placed]:
        """[Placed] of `chosen` cells (all by default).

        With `fetch`, image sets are read wherever they are, as running needs it; without, those that would need the Hub or
        much time are planned by name.
        """
        self.__dict__.pop("runs", None)
        return [self.placed(cell, fetch) for cell in (self.cells if chosen is None else chosen)]

    def placed(self, cell: Cell, fetch: bool) -> Placed:
        bench = benchmarks.load(cell.benchmark)
        source, folder = self.located(cell)
        known = self.look(cell, source, folder, bench, fetch)
        protocol = self.protocol(cell.protocol, cell.set)
        side = source.name if source.is_selection else "distilled"
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
            path = self.results.path(
                benchmark=cell.benchmark,
                protocol=protocol.name,
                digest=protocol.digest,
                images=known.identity,
                student=cell.student,
                arm=arm,
                seed=cell.seed,
                precision=self.precision,
            )
            run = run_files.kept(path)
        if run is not None:
            run = self.checked(run, path, {**wanted, "precision": self.precision}, known)
        teachers = self.teachers(cell, recipe)
        return Placed(cell, source, folder, known, protocol, recipe, arm, teachers, path, run)

    def checked(self, run: Run, path: Path | None, wanted: dict[str, Any], known: Known) -> Run:
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
                f"study {self.study.name}: {path or 'a Run of ' + run.images.name} has another {different.fact}: "
                f"{measure.short(different.a)}, wanted {measure.short(different.b)}; give another --out, or remove that file."
            )
        return run

    def check_test_split(self, name: str) -> None:
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

    def located(self, cell: Cell) -> tuple[Source, Path | None]:
        """(Source as a command in this folder takes it, the set's Path or None)."""
        source = located_in(cell.source, cell.make, self.study.folder)
        if source.kind != "path":
            return source, None
        path = Path(os.path.normpath(self.study.folder / Path(cell.source).expanduser()))
        return sources.folder(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path), path

    def look(self, cell: Cell, source: Source, folder: Path | None, bench: Benchmark, fetch: bool) -> Known:
        """What is Known of a set; it is read where that is quick and needs no network, or where `fetch` asks for it."""
        key = cell.benchmark, source.text
        if key in self.known and (self.known[key].identity or not fetch):
            return self.known[key]
        count = (cell.ipc or 0) * len(bench.classes) or bench.data.train_images or len(bench.classes)
        by_name = Known(None, cell.ipc or max(1, count // len(bench.classes)), count)
        if folder is not None:
            here = is_made(folder)
        elif source.is_selection:
            here = bench.name in self.data_dirs or bench.data.carried
        else:
            here = source.name in embedded.image_sets()
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

    def read_train(self, name: str) -> tables.Table:
        """The Table of a benchmark's train split."""
        return tables.real(benchmarks.load(name), "train", self.data_dirs.get(name))

    def named(self, cell: Cell, source: Source, folder: Path | None, bench: Benchmark, wanted: dict[str, Any]) -> list[Run]:
        """The Runs that may be of a cell whose images were not read: by the name of the set's folder, or by its source."""
        text = catalogue.located(source, bench).text
        runs = []
        for _, run in self.runs[cell.benchmark]:
            named = run.images.name == source.set_name if folder else run.images.source == text
            if named and run.environment.precision == self.precision and self.misfit(run, wanted) is None:
                runs.append(run)
        return runs

    def whose(self, cell: Cell, folder: Path | None, runs: list[Run]) -> Run | None:
        """The one of the `named` Runs that had the images of a cell, or None: never by a name that two sets share.

        Of a folder that is gone, or a repo that moved, the last report says what lay there.
        """
        stated = self.facts.get(fact_key(cell), {}).get("images")
        if stated is not None:
            return next((run for run in runs if run.images.identity == stated), None)
        others = {self.located(other)[0] for other in self.asked} if folder else set()
        namesakes = [other for other in others if other.kind == "path" and other.set_name == self.located(cell)[0].set_name]
        if len(namesakes) > 1 or len({run.images.fingerprint for run in runs}) != 1:
            return None  # nothing tells whose Run it is
        return runs[0]

    def misfit(self, run: Run, wanted: dict[str, Any]) -> measure.Verdict | None:
        """In what a Run differs from what is `wanted` of a cell, {of measure.FACTS or "seed": value}; None if it fits."""
        for fact, value in wanted.items():
            mine = run.seed if fact == "seed" else measure.FACTS[fact](run)
            if mine != value:
                return measure.Verdict(fact, mine, value)
        return None

    def teachers(self, cell: Cell, recipe: Recipe) -> tuple[str, ...]:
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

    def seconds(self, placed: Placed) -> float | None:
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


def resize_of(run: Run) -> int:
    """How the test images of a Run were resized; see Training.test_resize."""
    return run.recipe["training"].get("test_resize", 0)


def fact_key(cell: Cell) -> str:
    """How images.json names the image set of a cell."""
    return f"{cell.benchmark} {cell.source}"


def is_made(folder: Path) -> bool:
    """Whether there is an image set in `folder`, or a file: not nothing, and no empty folder."""
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def part_of_array(ordered: list[Cell], index: int, count: int) -> list[Cell]:
    """The part number `index` (from 0) of `count` of a list: whole neighbourhoods, which share images and labels."""
    return ordered[index * len(ordered) // count : (index + 1) * len(ordered) // count]


def recorded_teacher(teacher: str, benchmark: str) -> str:
    """How a store names the teacher that `--teacher` calls so; see teachers.load and Teacher.describe."""
    return sources.parse_network(teacher, benchmarks.load(benchmark).defaults.teacher).stated.text
