"""Arms: which images with which labels. A command's options become cells: one student to train in each.

    distilled-soft   the distilled images, the protocol's soft labels   random-soft   random real images, same kind of labels
    distilled-hard   the same images, their classes                     random-hard
    distilled-plain  no augmentation, one teacher label per image       random-plain
    full-hard        the whole train split, classes, always teacher-v1

What "hard" and "plain" change is stated by the protocol ([arms.hard], [arms.plain]).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from accelerate import Accelerator

from rd3_utils import units
from rd3_utils.data import selections, soft_labels, sources, tables, whitening
from rd3_utils.data.images import ImageSet
from rd3_utils.data.label_readers import LabelReader
from rd3_utils.data.tables import Table
from rd3_utils.data.whitening import Whitening
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import students as networks
from rd3_utils.learning import training
from rd3_utils.options import TrainOptions
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.benchmark import Benchmark, Citation
from rd3_utils.protocols.knobs import TAUGHT
from rd3_utils.protocols.protocol import TEACHER_PROTOCOL, Protocol
from rd3_utils.protocols.recipe import Recipe
from rd3_utils.scoring import runs
from rd3_utils.scoring.results import Results
from rd3_utils.scoring.runs import ARMS

EACH = "each"  # --views-seed each: the views of a student are drawn from its own seed
GROUPS = {  # by the labels of the protocol itself; static ones are soft
    "soft": {
        "lrs": ["full-hard", "distilled-hard", "distilled-soft", "random-soft"],
        "ars": ["distilled-soft", "random-soft", "distilled-plain", "random-plain"],
    },
    "learned": {"lrs": ["full-hard", "distilled-hard", "distilled-soft", "random-hard"]},  # random images have no learned ones
    "hard": {"lrs": ["full-hard", "distilled-hard", "random-hard"]},
}


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One student to train: arm, images, protocol, recipe, student, seed."""

    benchmark: str
    arm: str
    images: ImageSet
    protocol: Protocol
    recipe: Recipe
    student: str
    seed: int
    views: str = "shared"  # or each: every student has views of its own
    views_seed: int = 0
    keeps_weights: bool = False  # whether the trained network is kept

    @property
    def name(self) -> str:
        """How progress bars call it."""
        return f"{self.arm} {self.images.name} {self.student} {self.protocol.name}"

    @property
    def full_name(self) -> str:
        """How errors and trackers call it."""
        return f"{self.name} seed {self.seed}"

    @property
    def labels_key(self) -> tuple:
        """Cells with the same one read the same labels."""
        return self.images.fingerprint, self.recipe.views_digest, self.recipe.labels, self.recipe.label_epochs, self.views_seed

    def path(self, root: Path | str, precision: str) -> Path:
        """Where the Run of this cell lies under `root`."""
        return Results(root).path(
            benchmark=self.benchmark,
            protocol=self.protocol.name,
            digest=self.protocol.digest,
            images=self.images.identity,
            student=self.student,
            arm=self.arm,
            seed=self.seed,
            precision=precision,
            views=self.views,
        )

    def describe(self, labels: LabelReader) -> dict:
        """What a Run records of what was measured, before it is measured."""
        protocol = self.protocol
        return {
            "schema": runs.SCHEMA,
            "benchmark": self.benchmark,
            "protocol": {
                "name": protocol.name,
                "digest": protocol.digest,
                "overrides": dict(protocol.overrides),
                "main_labels": protocol.main_labels,
                "knobs": protocol.knobs,
            },
            "recipe": self.recipe.as_dict(),
            "arm": self.arm,
            "student": self.student,
            "seed": self.seed,
            "views": self.views,
            "views_seed": self.views_seed,
            "images": self.images.describe(),
            "labels": {**labels.describe(), **labels.origin},
            "teachers": labels.teachers,
        }


def arm_names(text: str | None, kind: str) -> list[str]:
    """The arms that `--arms TEXT` asks for, groups expanded; without a text, distilled images with the protocol's labels.

    `kind` is that of the protocol's own labels.
    """
    groups = {**GROUPS.get(kind, GROUPS["soft"])}
    groups["all"] = sorted({arm for group in groups.values() for arm in group}, key=ARMS.index)
    arms = []
    for name in (text or f"distilled-{'hard' if kind == 'hard' else 'soft'}").split(","):
        if name in groups:
            arms += groups[name]
        elif name == "ars":
            raise UserError(
                f"the ARS arms need the soft labels of a teacher, and this protocol has {kind} ones; use --arms lrs or rd3-v1."
            )
        elif kind == "learned" and name in ("random-soft", "random-plain"):
            raise UserError(
                f"arm {name}: this protocol's labels come with a distilled set, and random images have none; use random-hard, "
                "or a protocol with the soft labels of a teacher such as rd3-v1."
            )
        elif name in ARMS:
            arms.append(name)
        else:
            raise unknown("arm", name, [*ARMS, *groups])
    return list(dict.fromkeys(arms))


def plan(options: TrainOptions, benchmark: Benchmark, protocol: Protocol, students: Sequence[str]) -> list[PlannedRun]:
    """The cells of a command: every arm x images x student x seed, images loaded and recipes resolved.

    Random arms have `options.draws` image sets, or only that of `options.draw`, at the distilled set's IPC; `full-hard`
    follows teacher-v1, and with `--full-hard cited` is looked up, not trained.
    """

    if options.runs_only and options.keep_weights == "all":
        raise UserError("--runs-only writes no weights, and --keep-weights all keeps every one; leave out one of them.")

    @cache
    def train() -> Table:
        return tables.real(benchmark, "train", options.data_dir, options.workers)

    @cache
    def distilled() -> ImageSet:
        return selections.image_set(options.distilled or benchmark.defaults.distilled, benchmark, train, options.workers)

    def random(draw: int) -> ImageSet:
        return selections.select(sources.random(distilled().nominal_ipc, draw), benchmark, train)

    cells = []
    views = EACH if options.views_seed == EACH else "shared"
    for arm in trained_arms(options, benchmark, protocol, students):
        side, labels = arm.split("-")
        followed = protocols.load(TEACHER_PROTOCOL) if side == "full" and protocol.name != TEACHER_PROTOCOL else protocol
        if side == "random":
            sets = [random(draw) for draw in (range(options.draws) if options.draw is None else [options.draw])]
        else:
            sets = [selections.select(sources.FULL, benchmark, train) if side == "full" else distilled()]
        for images in sets:
            for student in students:
                recipe = followed.resolve(benchmark, student, images.nominal_ipc, len(images), labels)
                check_learned(recipe, images)
                for seed in options.seeds:
                    mine = seed if options.views_seed == EACH else int(options.views_seed)
                    keeps = keeps_weights(options, arm, recipe, seed)
                    cells.append(PlannedRun(benchmark.name, arm, images, followed, recipe, student, seed, views, mine, keeps))
    return cells


def check_start(
    options: TrainOptions, benchmark: Benchmark, protocol: Protocol, names: Sequence[str], accelerator: Accelerator
) -> None:
    """UserError where no image need be read to see that this launch cannot train one of the students `names`."""
    arms = trained_arms(options, benchmark, protocol, names)
    followed = [protocol] if set(arms) - {"full-hard"} else []
    followed += [protocols.load(TEACHER_PROTOCOL)] if "full-hard" in arms else []
    if accelerator.num_processes > 1 and any(each.stated("training.batch_norm") == {"global"} for each in followed):
        for name in names:
            training.check_global(networks.create(name, benchmark, options.seeds[0]), accelerator)


def check_cells(cells: Iterable[PlannedRun], options: TrainOptions, benchmark: Benchmark, accelerator: Accelerator) -> None:
    """UserError where this launch cannot train one of the `cells` as its recipe says."""
    for cell in (cell for cell in cells if cell.seed == options.seeds[0]):
        network = networks.create(cell.student, benchmark, cell.seed, **cell.recipe.training.drops)
        training.check_launch(cell.recipe, network, accelerator)
        training.image_weights(cell.recipe, cell.images)


def keeps_weights(options: TrainOptions, arm: str, recipe: Recipe, seed: int) -> bool:
    """Whether the trained network is kept: that of the first seed, never the best, and not one of random images.

    `--keep-weights all` keeps every one, to be compared (`transfer`) and never pushed. None that needs whitened images
    is kept: nobody could use it without the matrix.
    """
    first = seed == options.seeds[0] and not arm.startswith("random-")
    return (first or options.keep_weights == "all") and not recipe.views.zca and not options.runs_only


def trained_arms(options: TrainOptions, benchmark: Benchmark, protocol: Protocol, students: Sequence[str]) -> list[str]:
    """The arms that a command trains; UserError where it would train none, or none that follows its `--set`."""
    arms = arm_names(options.arms, protocol.label_kind)
    if options.full_hard == "cited":
        check_cited(benchmark, students)
        arms = [arm for arm in arms if arm != "full-hard"]
        if not arms:
            raise UserError("--full-hard cited leaves nothing to train: name other --arms, such as lrs.")
    if options.set and arms == ["full-hard"] and protocol.name != TEACHER_PROTOCOL:
        raise UserError(
            f"--set changes {protocol.name}, which nothing follows here: full-hard is always {TEACHER_PROTOCOL}; add "
            f"--protocol {TEACHER_PROTOCOL}."
        )
    return arms


def check_cited(benchmark: Benchmark, students: Iterable[str]) -> None:
    """UserError where the benchmark cites no full-data accuracy of one of `students`, before anything is trained."""
    for student, cited in citations(benchmark, students).items():
        if not cited:
            there = ", ".join(dict.fromkeys(citation.student for citation in benchmark.full_data)) or "no student"
            raise UserError(
                f"--full-hard cited: benchmark {benchmark.name} cites no full-data accuracy of {student}, but of {there}; "
                "leave the option out to train it."
            )


def citations(benchmark: Benchmark, students: Iterable[str]) -> dict[str, list[Citation]]:
    """{student: [the benchmark's Citations of its full-data accuracy]}, the one that counts first."""
    return {name: [citation for citation in benchmark.full_data if citation.student == name] for name in students}


def check_learned(recipe: Recipe, images: ImageSet) -> None:
    """UserError where labels that come with the images are asked for and there are none."""
    if recipe.labels.kind == "learned" and images.soft_labels is None:
        raise UserError(
            f"{images.source} brings no labels of its own (no column soft_label), and the protocol learns from them; give such "
            "a set (python -m rd3_utils convert makes one of a release), or another protocol."
        )


def find_whitening(cells: Iterable[PlannedRun], options: TrainOptions, benchmark: Benchmark) -> dict[float, Whitening | None]:
    """{views.zca: Whitening of the train split, or None for 0} for all cells."""
    by_eps: dict[float, Whitening | None] = {0.0: None}
    for eps in {cell.recipe.views.zca for cell in cells} - {0.0}:
        train = selections.select(
            sources.FULL, benchmark, lambda: tables.real(benchmark, "train", options.data_dir, options.workers)
        )
        by_eps[eps] = whitening.fitted(train, benchmark.image.mean, benchmark.image.std, eps)
    return by_eps


def dry_run(cells: Sequence[PlannedRun], options: TrainOptions, precision: str) -> str:
    """What `--dry-run` prints: for every arm, images and student the resolved recipe, sources, steps and bytes."""
    lines = [f"{len(cells)} students to train"]
    for cell in cells:
        if cell.seed != options.seeds[0]:
            continue
        recipe, images = cell.recipe, cell.images
        lines += [
            "",
            f"{cell.arm}: {cell.student} on {images.identity}, seeds {', '.join(map(str, options.seeds))}",
            f"  protocol  {cell.protocol.label}, digest {cell.protocol.digest}",
            f"  images    {len(images)} ({images.ipc or 'various'} per class) from {images.source}, "
            f"{units.size(images.images.numel())}",
        ]
        if recipe.labels.kind in TAUGHT:
            source = ", ".join(options.teacher) if options.teacher else f"the store under {options.soft_labels}"
            source += ", while training" if options.online else ""
            epochs, digest = recipe.labelled.label_epochs, recipe.labelled.views_digest
            label_bytes = 0 if options.online else soft_labels.planned_bytes(recipe.labelled, options.label_dtype)
            lines.append(f"  labels    {epochs} epochs of {recipe.labels.teachers} teacher(s): {source}, "
                         f"{units.size(label_bytes)}{OF_EACH[cell.views]}, views {digest}")  # fmt: skip
        elif recipe.labels.kind == "learned":
            lines.append("  labels    those that come with the images")
        else:
            lines.append("  labels    the class of each image")
        if recipe.training.learning_rates:
            rates = ", ".join(map(str, recipe.training.learning_rates))
            lines.append(f"  search    learning rate of {rates}, on held-out train images")
        lines.append(f"  steps     {recipe.steps} = {recipe.training.epochs} epochs x {recipe.steps_per_epoch} of "
                     f"{recipe.training.batch_size} images")  # fmt: skip
        for section in ("training", "views", "labels", "loss"):
            values = recipe.as_dict()[section]
            lines.append(f"  {section:9} " + ", ".join(f"{key}={value}" for key, value in values.items()))
        lines.append(f"  result    {cell.path(options.out, precision)}")
    return "\n".join(lines)


OF_EACH = {"shared": "", EACH: " for each seed"}
