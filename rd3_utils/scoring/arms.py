"""Arms: which images with which labels. A command's options become cells: one student to train in each.

    distilled-soft   the distilled images, the protocol's soft labels   random-soft   random real images, same kind of labels
    distilled-hard   the same images, their classes                     random-hard
    distilled-plain  no augmentation, one teacher label per image       random-plain
    full-hard        the whole train split, classes, always teacher-v1

What "hard" and "plain" change is stated by the protocol ([arms.hard], [arms.plain]).
"""

import shlex
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rd3_utils import hub, units
from rd3_utils.data import selections, shards, soft_labels, tables, whitening
from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import labelling, search, teachers
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.protocol import Protocol, Recipe
from rd3_utils.scoring import runs
from rd3_utils.scoring.runs import ARMS

TEACHER_PROTOCOL = "teacher-v1"
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
class Cell:
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

    @property
    def name(self):
        """How progress bars call it."""
        return f"{self.arm} {self.images.name} {self.student} {self.protocol.name}"

    @property
    def full_name(self):
        """How errors and trackers call it."""
        return f"{self.name} seed {self.seed}"

    @property
    def labels_key(self):
        """Cells with the same one read the same labels."""
        return self.images.fingerprint, self.recipe.views_digest, self.recipe.labels, self.recipe.label_epochs, self.views_seed

    def path(self, root, precision):
        """Where the Run of this cell lies under `root`."""
        names = self.benchmark, self.protocol.name, self.protocol.digest, self.images.identity, self.student, self.arm
        return runs.path(root, *names, self.seed, precision, self.views)

    def keeps_weights(self, options):
        """Whether the trained network is kept: that of the first seed, never the best, and not one of random images.

        `--keep-weights all` keeps every one, to be compared (`transfer`) and never pushed. None that needs whitened images
        is kept: nobody could use it without the matrix.
        """
        first = self.seed == options.seeds[0] and not self.arm.startswith("random-")
        return (first or options.keep_weights == "all") and not self.recipe.views.zca and not options.runs_only

    def describe(self, labels):
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


def names(text, kind):
    """The arms that `--arms TEXT` asks for, groups expanded; without a text, distilled images with the protocol's labels.

    `kind` is that of the protocol's own labels.
    """
    groups = {**GROUPS.get(kind, GROUPS["soft"])}
    groups["all"] = sorted({arm for group in groups.values() for arm in group}, key=ARMS.index)
    found = []
    for name in (text or f"distilled-{'hard' if kind == 'hard' else 'soft'}").split(","):
        if name in groups:
            found += groups[name]
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
            found.append(name)
        else:
            raise unknown("arm", name, [*ARMS, *groups])
    return list(dict.fromkeys(found))


def plan(options, benchmark, protocol, students):
    """The cells of a command: every arm x images x student x seed, images loaded and recipes resolved.

    Random arms have `options.draws` image sets, or only that of `options.draw`, at the distilled set's IPC; `full-hard`
    follows teacher-v1, and with `--full-hard cited` is looked up, not trained.
    """

    if options.runs_only and options.keep_weights == "all":
        raise UserError("--runs-only writes no weights, and --keep-weights all keeps every one; leave out one of them.")

    @cache
    def train():
        return tables.real(benchmark, "train", options.data_dir, options.workers)

    @cache
    def distilled():
        return selections.image_set(options.distilled or benchmark.defaults.distilled, benchmark, train, options.workers)

    def random(draw):
        return selections.select(f"random:ipc={distilled().nominal_ipc},seed={draw}", benchmark, train)

    wanted, cells = names(options.arms, protocol.label_kind), []
    each = options.views_seed == EACH
    views = EACH if each else "shared"
    if options.full_hard == "cited":
        check_cited(benchmark, students)
        wanted = [arm for arm in wanted if arm != "full-hard"]
        if not wanted:
            raise UserError("--full-hard cited leaves nothing to train: name other --arms, such as lrs.")
    if options.set and wanted == ["full-hard"] and protocol.name != TEACHER_PROTOCOL:
        raise UserError(
            f"--set changes {protocol.name}, which nothing follows here: full-hard is always {TEACHER_PROTOCOL}; add "
            f"--protocol {TEACHER_PROTOCOL}."
        )
    for arm in wanted:
        side, labels = arm.split("-")
        of_arm = protocols.load(TEACHER_PROTOCOL) if side == "full" and protocol.name != TEACHER_PROTOCOL else protocol
        if side == "random":
            sets = [random(draw) for draw in (range(options.draws) if options.draw is None else [options.draw])]
        else:
            sets = [selections.select("full", benchmark, train) if side == "full" else distilled()]
        for images in sets:
            for student in students:
                recipe = of_arm.resolve(benchmark, student, images.nominal_ipc, len(images), labels)
                check_learned(recipe, images)
                cells += [
                    Cell(
                        benchmark.name, arm, images, of_arm, recipe, student, seed, views, seed if each else options.views_seed
                    )
                    for seed in options.seeds
                ]
    return cells


def check_cited(benchmark, students):
    """UserError where the benchmark cites no full-data accuracy of one of `students`, before anything is trained."""
    for student, found in citations(benchmark, students).items():
        if not found:
            there = ", ".join(dict.fromkeys(citation.student for citation in benchmark.full_data)) or "no student"
            raise UserError(
                f"--full-hard cited: benchmark {benchmark.name} cites no full-data accuracy of {student}, but of {there}; "
                "leave the option out to train it."
            )


def citations(benchmark, students):
    """{student: [the benchmark's Citations of its full-data accuracy]}, the one that counts first."""
    return {name: [citation for citation in benchmark.full_data if citation.student == name] for name in students}


def check_learned(recipe, images):
    """UserError where labels that come with the images are asked for and there are none."""
    if recipe.labels.kind == "learned" and images.soft_labels is None:
        raise UserError(
            f"{images.source} brings no labels of its own (no column soft_label), and the protocol learns from them; give such "
            "a set (python -m rd3_utils convert makes one of a release), or another protocol."
        )


def find_labels(cells, options, benchmark, test, accelerator):
    """{labels_key: reader} for all cells; soft labels that are missing are made if `--teacher` was given.

    UserError, before anything is trained, where labels are missing, of other images, or too few. `test` is a function that
    returns the test split; it is called only where a teacher must be examined.
    """
    taught = taught_labels(cells, options, benchmark, test, accelerator)
    found = {}
    for cell in cells:
        if cell.labels_key not in found:
            kind = cell.recipe.labels.kind
            found[cell.labels_key] = READERS[kind](cell) if kind in READERS else taught(cell)
            if kind == "static":
                found[cell.labels_key] = soft_labels.StaticLabels(cell.recipe, cell.views_seed, found[cell.labels_key])
    return found


READERS = {  # of labels that need no teacher
    "hard": lambda cell: soft_labels.HardLabels(cell.recipe, cell.views_seed),
    "learned": lambda cell: soft_labels.LearnedLabels(cell.recipe, cell.views_seed, cell.images),
}


def labels_of_search(cell, labels):
    """What a learning-rate search learns from: the `labels` of `cell`; of students with views of their own, search.SEED's."""
    return labels if cell.views != EACH else READERS[cell.recipe.labels.kind](replace(cell, views_seed=search.SEED))


def taught_labels(cells, options, benchmark, test, accelerator):
    """The function that gives, for a cell, the reader of what teachers say about the views of its `recipe.labelled`."""
    if options.online and not options.teacher:
        raise UserError("--online labels with a teacher while students train; give --teacher default, or another.")

    loaded = {}

    def teachers_of(recipe):
        """What `--teacher` names, loaded once and, when a store must be made, examined once."""
        wanted = recipe.labels.teachers, recipe.labels.architectures
        if wanted not in loaded:
            loaded[wanted] = labelling.load_teachers(options.teacher, recipe, benchmark)
        return loaded[wanted]

    published = published_stores(cells, options)

    def reader(cell):
        found = teachers_of(cell.recipe) if options.teacher else None
        if options.online:
            return online(cell, options, found, benchmark, test, accelerator)
        where, teachers_id = find_store(cell, options, published, found, benchmark, test, accelerator)
        return soft_labels.load(where, cell.images, cell.recipe.labelled, cell.views_seed, teachers_id)

    return reader


def published_stores(cells, options):
    """{path: HubFolder} of the stores that --soft-labels OWNER/REPO names, or {}."""
    if not hub.looks_like_repo(options.soft_labels) or options.online:
        return {}
    if not any(cell.recipe.labels.kind in protocols.TAUGHT for cell in cells):
        return {}
    limit = None if options.label_cache_gb is None else options.label_cache_gb * 1e9
    return shards.on_hub(options.soft_labels, limit)


def find_store(cell, options, published, found, benchmark, test, accelerator):
    """(the store for `cell`, the teachers_id it must have or None): a given one, one on the Hub, one made here, one found here.

    `found` are the Teachers that were given, or None.
    """
    root, labels = Path(options.soft_labels), cell.recipe.labels
    given = (root / "index.json").is_file() or any(root.glob("labels-*.safetensors"))
    where = hub_store(cell, published, options) if published else None
    if given and cell.arm == "distilled-soft" and serves(root, cell, found):
        where = root
    if where is not None:
        return where, found and teachers.teachers_id(found, labels.ensemble, labels.teacher_bn)
    root = Path("soft_labels") if given or published else root
    if found:
        return made(cell, options, found, benchmark, test, root, accelerator), None
    return stored(cell, options, root), None


def serves(root, cell, found):
    """Whether the store in `root`, which was given by name, is that of the views of `cell`; another can be made with `found`.

    UserError where every student has views of its own and no teacher is there to label them.
    """
    if cell.views != EACH or not (root / "index.json").is_file():
        return True
    seed = soft_labels.read_index(root)["views_seed"]
    if seed != cell.views_seed and not found:
        raise UserError(
            f"{root} holds the labels of views seed {seed}{OWN_SEEDS[EACH]}; add --teacher default to make those of seed "
            f"{cell.views_seed}, or give --views-seed {seed}, which all students share."
        )
    return seed == cell.views_seed


OWN_SEEDS = {"shared": "", EACH: ", and --views-seed each wants a store for every student's seed"}


def online(cell, options, found, benchmark, test, accelerator):
    """The reader that labels with the Teachers `found` while students train; they are replaced by examined ones."""
    found[:] = [teachers.examined(teacher, benchmark, test(), accelerator) for teacher in found]
    plan = label_plan(cell, options, found, accelerator)
    return labelling.OnlineLabels(plan, cell.images, cell.recipe.labelled, found, benchmark, accelerator)


def label_plan(cell, options, found, accelerator):
    """The soft_labels.Plan of the labels of the Teachers `found` for `cell`."""
    return labelling.plan(cell.images, cell.recipe.labelled, found, cell.views_seed, accelerator.device,
                          options.forward_batch, options.label_dtype, options.shard_mb)  # fmt: skip


def hub_store(cell, published, options):
    """Of the stores `published` {path: HubFolder}, the one for `cell`; None where it can be made here."""
    if len(published) == 1 and cell.arm == "distilled-soft" and cell.views != EACH:
        return next(iter(published.values()))  # loading says in what it differs
    digest = cell.recipe.labelled.views_digest
    tail = f"-{digest}-s{cell.views_seed}"
    mine = [path for path in published if f"@{cell.images.fingerprint[:8]}/" in path and path.endswith(tail)]
    if len(mine) > 1:
        raise UserError(
            f"{len(mine)} stores on the Hub label these views of {cell.images.name}: {', '.join(mine)}; name one with "
            f"--soft-labels {options.soft_labels.partition(':')[0]}:{mine[0]}."
        )
    if not mine and not options.teacher:
        raise UserError(
            f"{options.soft_labels} has no labels for {cell.images.identity} with views {digest} of seed "
            f"{cell.views_seed}{OWN_SEEDS[cell.views]}; it has {', '.join(list(published)[:3])}. Add --teacher default to make "
            "them here."
        )
    return published[mine[0]] if mine else None


def find_whitening(cells, options, benchmark):
    """{views.zca: Whitening of the train split, or None for 0} for all cells."""
    found = {0.0: None}
    for eps in {cell.recipe.views.zca for cell in cells} - {0.0}:
        train = selections.select("full", benchmark, lambda: tables.real(benchmark, "train", options.data_dir, options.workers))
        found[eps] = whitening.fitted(train, benchmark.image.mean, benchmark.image.std, eps)
    return found


def made(cell, options, found, benchmark, test, root, accelerator):
    """The folder of the store of the Teachers `found` for `cell` under `root`; a missing one is made.

    `found` is a list in which Teachers are replaced by examined ones.
    """
    plan, recipe = label_plan(cell, options, found, accelerator), cell.recipe.labelled
    where = soft_labels.folder(root, cell.images, plan.teachers_id, recipe, cell.views_seed)
    if not labelling.is_complete(where, plan):
        found[:] = [teachers.examined(teacher, benchmark, test(), accelerator) for teacher in found]
        labelling.make(where, plan, cell.images, recipe, found, benchmark, test(), accelerator)
    return where


def stored(cell, options, root):
    """The folder of the one store for `cell` that is there under `root`; UserError says how to make or choose one."""
    images, recipe = cell.images, cell.recipe.labelled
    stores = soft_labels.candidates(root, images, recipe, cell.views_seed)
    if len(stores) == 1:
        return stores[0]
    if stores:
        raise UserError(
            f"{len(stores)} stores label these views of {images.name}: {', '.join(str(store) for store in stores)}; "
            "choose one with --soft-labels, or name its --teacher."
        )
    half_written = [p for p in (root / images.identity).glob(f"*-{recipe.views_digest}-s{cell.views_seed}") if p.is_dir()]
    if half_written:
        soft_labels.read_index(half_written[0])  # says what is missing
    raise UserError(
        f"no soft labels for {images.identity} under {root}; add --teacher default, or make them with: {command(cell, options)}"
    )


def command(cell, options):
    """The generate_soft_labels.py command that makes the labels `cell` lacks."""
    given = options.distilled if cell.arm.startswith("distilled-") else None
    words = ["accelerate", "launch", "generate_soft_labels.py", "--benchmark", cell.benchmark]
    words += ["--protocol", options.protocol, "--distilled", given or cell.images.source]
    words += [word for assignment in options.set for word in ("--set", assignment)]
    words += ["--views-seed", str(cell.views_seed)] if cell.views_seed else []
    words += ["--labels", "plain"] if cell.arm.endswith("-plain") else []
    words += ["--data-dir", options.data_dir] if options.data_dir else []
    words += ["--out", options.soft_labels] if options.soft_labels != "soft_labels" else []
    words += ["--student", cell.student] if options.student else []
    return shlex.join(words)


OF_EACH = {"shared": "", EACH: " for each seed"}


def describe(cells, options, precision):
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
        if recipe.labels.kind in protocols.TAUGHT:
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
