"""Where the labels of each cell come from: a store on disk or the Hub, a teacher that makes one, or the classes themselves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from rd3_utils import command_lines, files, launch
from rd3_utils.arms.planned_runs import EACH, PlannedRun
from rd3_utils.data import label_readers, label_store, shards, soft_labels, sources
from rd3_utils.data.images import ImageSet
from rd3_utils.data.label_readers import LabelReader
from rd3_utils.data.shards import HubFolder
from rd3_utils.errors import UserError
from rd3_utils.learning import labelling, relabelling, search, teachers
from rd3_utils.learning.teachers import Teacher
from rd3_utils.options import LabelOptions, TrainOptions
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.knobs import TAUGHT
from rd3_utils.protocols.recipe import Recipe
from rd3_utils.scoring import runs, shapes

CHECKED = 1  # forward batches of each shard that teachers who are at hand anyhow label again


@dataclass(frozen=True, eq=False)
class LabelMaker:
    """What missing labels are made with: a command's options, and `test`, which returns the test split to examine teachers."""

    options: TrainOptions
    benchmark: Benchmark
    test: Callable[[], ImageSet]
    accelerator: Accelerator

    def plan(self, cell: PlannedRun, loaded: list[Teacher]) -> soft_labels.StorePlan:
        """The StorePlan of the labels of the Teachers `loaded` for `cell`."""
        form = labelling.StoreFormat.asked(self.options)
        return labelling.plan_store(cell.images, cell.recipe.labelled, loaded, cell.views_seed, self.accelerator.device, form)

    def examine(self, loaded: list[Teacher]) -> None:
        """Replace every Teacher in the list `loaded` by one that was examined on the test split."""
        loaded[:] = [teachers.examined(teacher, self.benchmark, self.test(), self.accelerator) for teacher in loaded]


def find_labels(
    cells: Sequence[PlannedRun],
    options: TrainOptions,
    benchmark: Benchmark,
    test: Callable[[], ImageSet],
    accelerator: Accelerator,
) -> dict[tuple, LabelReader]:
    """{labels_key: reader} for all cells; soft labels that are missing are made if `--teacher` was given.

    UserError, before anything is trained, where labels are missing, of other images, or too few. `test` is a function that
    returns the test split; it is called only where a teacher must be examined.
    """
    taught = taught_labels(cells, LabelMaker(options, benchmark, test, accelerator))
    readers: dict[tuple, LabelReader] = {}
    for cell in cells:
        if cell.labels_key not in readers:
            kind = cell.recipe.labels.kind
            reader = READERS[kind](cell) if kind in READERS else taught(cell)
            readers[cell.labels_key] = (
                label_readers.StaticLabels(cell.recipe, cell.views_seed, reader) if kind == "static" else reader
            )
    return readers


READERS: dict[str, Callable[[PlannedRun], LabelReader]] = {  # of labels that need no teacher
    "hard": lambda cell: label_readers.HardLabels(cell.recipe, cell.views_seed),
    "learned": lambda cell: label_readers.LearnedLabels(cell.recipe, cell.views_seed, cell.images),
}


def labels_of_search(cell: PlannedRun, labels: LabelReader) -> LabelReader:
    """What a learning-rate search learns from: the `labels` of `cell`; of students with views of their own, search.SEED's."""
    return labels if cell.views != EACH else READERS[cell.recipe.labels.kind](replace(cell, views_seed=search.SEED))


def taught_labels(cells: Sequence[PlannedRun], maker: LabelMaker) -> Callable[[PlannedRun], LabelReader]:
    """The function that gives, for a cell, the reader of what teachers say about the views of its `recipe.labelled`."""
    options = maker.options
    if options.online and not options.teacher:
        raise UserError("--online labels with a teacher while students train; give --teacher default, or another.")

    loaded: dict[tuple, list[Teacher]] = {}

    def teachers_of(recipe: Recipe) -> list[Teacher]:
        """What `--teacher` names, loaded once and, when a store must be made, examined once."""
        wanted = recipe.labels.teachers, recipe.labels.architectures
        if wanted not in loaded:
            loaded[wanted] = labelling.load_teachers(options.teacher, recipe, maker.benchmark)
        return loaded[wanted]

    published = published_stores(cells, options)

    def reader(cell: PlannedRun) -> LabelReader:
        if options.online:
            return online(cell, maker, teachers_of(cell.recipe))
        named = teachers_of(cell.recipe) if options.teacher else None
        where, teachers_id = find_store(cell, maker, published, named)
        store = recordable(label_store.load_store(where, cell.images, cell.recipe.labelled, cell.views_seed, teachers_id))
        checked = CHECKED if named and not soft_labels.is_imported(store.index) else 0
        if batches := checked if options.check_labels is None else options.check_labels:
            named = named or relabelling.named_teachers(store.index, cell.recipe, maker.benchmark)
            store.audit = relabelling.audit_of(store, named, maker.benchmark, batches, maker.accelerator)
        return store

    return reader


def recordable(store: label_store.SoftLabelStore) -> label_store.SoftLabelStore:
    """The store; UserError where its index says of labels or teachers what no Run may hold: known before hours of training."""
    try:
        shapes.read(runs.RunLabels, {**store.describe(), **store.origin}, runs.SCHEMA, "labels")
        for teacher in store.teachers:
            shapes.read(runs.RunTeacher, teacher, runs.SCHEMA, "teacher")
    except shapes.Refused as error:
        raise UserError(f"index.json of {store.shards.files} is damaged ({error}); make or fetch the labels again.") from error
    return store


def published_stores(cells: Iterable[PlannedRun], options: TrainOptions) -> dict[str, HubFolder]:
    """{path: HubFolder} of the stores that --soft-labels OWNER/REPO names, or {}."""
    if options.online or not any(cell.recipe.labels.kind in TAUGHT for cell in cells):
        return {}
    source = sources.parse_stores(options.soft_labels)
    if source.repo is None:
        return {}
    limit = None if options.label_cache_gb is None else options.label_cache_gb * 1e9
    return shards.stores_on_hub(source, limit)


def find_store(
    cell: PlannedRun, maker: LabelMaker, published: dict[str, HubFolder], loaded: list[Teacher] | None
) -> tuple[Path | HubFolder, str | None]:
    """(the store for `cell`, the teachers_id it must have or None): a given one, one on the Hub, one made here, one found here.

    `loaded` are the Teachers that the command names, or None.
    """
    options, labels = maker.options, cell.recipe.labels
    root = Path(options.soft_labels)
    given = (root / "index.json").is_file() or any(root.glob("labels-*.safetensors"))
    where: Path | HubFolder | None = hub_store(cell, published, options) if published else None
    if given and cell.arm == "distilled-soft" and serves(root, cell, loaded):
        where = root
    if where is not None:
        return where, teachers.teachers_id(loaded, labels.ensemble, labels.teacher_bn) if loaded else None
    root = Path("soft_labels") if given or published else root
    if loaded:
        return made_store(cell, maker, loaded, root), teachers.teachers_id(loaded, labels.ensemble, labels.teacher_bn)
    return stored(cell, options, root), None


def serves(root: Path, cell: PlannedRun, loaded: list[Teacher] | None) -> bool:
    """Whether the store in `root`, which was given by name, is that of the views of `cell`; another can be made with `loaded`.

    UserError where every student has views of its own and no teacher is there to label them.
    """
    if cell.views != EACH or not (root / "index.json").is_file():
        return True
    seed = soft_labels.read_index(root)["views_seed"]
    if seed != cell.views_seed and not loaded:
        raise UserError(
            f"{root} holds the labels of views seed {seed}{OWN_SEEDS[EACH]}; add --teacher default to make those of seed "
            f"{cell.views_seed}, or give --views-seed {seed}, which all students share."
        )
    return seed == cell.views_seed


OWN_SEEDS = {"shared": "", EACH: ", and --views-seed each wants a store for every student's seed"}


def online(cell: PlannedRun, maker: LabelMaker, loaded: list[Teacher]) -> labelling.OnlineLabels:
    """The reader that labels with the Teachers `loaded` while students train; they are replaced by examined ones."""
    maker.examine(loaded)
    plan = maker.plan(cell, loaded)
    task = labelling.LabellingTask(plan, cell.images, cell.recipe.labelled, loaded, maker.benchmark)
    return labelling.OnlineLabels(task, maker.accelerator)


def hub_store(cell: PlannedRun, published: dict[str, HubFolder], options: TrainOptions) -> HubFolder | None:
    """Of the stores `published` {path: HubFolder}, the one for `cell`; None where it can be made here."""
    if len(published) == 1 and cell.arm == "distilled-soft" and cell.views != EACH:
        return next(iter(published.values()))  # loading says in what it differs
    digest = cell.recipe.labelled.views_digest
    tail = f"-{digest}-s{cell.views_seed}"
    mine = [path for path in published if f"@{cell.images.fingerprint[:8]}/" in path and path.endswith(tail)]
    if len(mine) > 1:
        raise UserError(
            f"{len(mine)} stores on the Hub label these views of {cell.images.name}: {', '.join(mine)}; name one with "
            f"--soft-labels {replace(sources.parse_stores(options.soft_labels), config=mine[0])}."
        )
    if not mine and not options.teacher:
        raise UserError(
            f"{options.soft_labels} has no labels for {cell.images.identity} with views {digest} of seed "
            f"{cell.views_seed}{OWN_SEEDS[cell.views]}; it has {', '.join(list(published)[:3])}. Add --teacher default to make "
            "them here."
        )
    return published[mine[0]] if mine else None


def made_store(cell: PlannedRun, maker: LabelMaker, loaded: list[Teacher], root: Path) -> Path:
    """Where the store of the Teachers `loaded` for `cell` lies under `root`; a missing one is made, with them examined."""
    plan, recipe = maker.plan(cell, loaded), cell.recipe.labelled
    where = soft_labels.store_folder(root, cell.images, plan.teachers_id, recipe, cell.views_seed)
    if not labelling.is_complete(where, plan):
        launch.raise_on_all(maker.accelerator, lambda: files.try_folder(where))
        maker.examine(loaded)
        task = labelling.LabellingTask(plan, cell.images, recipe, loaded, maker.benchmark)
        labelling.make_labels(where, task, maker.test(), maker.accelerator)
    return where


def stored(cell: PlannedRun, options: TrainOptions, root: Path) -> Path:
    """The folder of the one store for `cell` that is there under `root`; UserError says how to make or choose one."""
    images, recipe = cell.images, cell.recipe.labelled
    stores = soft_labels.candidates(root, images.identity, recipe, cell.views_seed)
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
        f"no soft labels for {images.identity} under {root}; add --teacher default, or make them with: "
        f"{command(cell, options, root)}"
    )


def command(cell: PlannedRun, options: TrainOptions, root: Path) -> str:
    """The generate_soft_labels.py command that makes the labels `cell` lacks, where they are then looked for."""
    given = options.distilled if cell.arm.startswith("distilled-") else None
    label = LabelOptions(
        benchmark=cell.benchmark,
        protocol=options.protocol,
        distilled=given or cell.images.source,
        set=options.set,
        views_seed=cell.views_seed,
        labels="plain" if cell.arm.endswith("-plain") else "soft",
        data_dir=options.data_dir,
        out=str(root),
        student=cell.student if options.student else None,
    )
    return command_lines.launch(label, stated=("benchmark", "protocol"))
