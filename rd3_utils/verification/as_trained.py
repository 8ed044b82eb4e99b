"""A Run as training would have written it, made again from what the Run says it is; what only its publisher knows is copied.

    student, seed, arm, images, labels, teachers, test split (as stated)  ->  PlannedRun.describe, as training calls it  ->  Run

Training refuses some Runs before it begins: then there is none to compare with, and its own words say why.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import torch

from rd3_utils import limits
from rd3_utils.arms import planned_runs
from rd3_utils.arms.planned_runs import PlannedRun
from rd3_utils.data import embedded, images, label_readers, label_store, sources
from rd3_utils.data.images import ImageSet
from rd3_utils.data.label_readers import LabelReader
from rd3_utils.data.soft_labels import StorePlan
from rd3_utils.errors import UserError
from rd3_utils.learning import labelling, search, students, teachers, training
from rd3_utils.learning.labelling import StoreFormat
from rd3_utils.learning.teachers import Teacher
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.knobs import TAUGHT
from rd3_utils.protocols.protocol import Protocol
from rd3_utils.protocols.recipe import Recipe
from rd3_utils.scoring import runs
from rd3_utils.scoring.runs import Run, RunTeacher
from rd3_utils.scoring.searches import check_share
from rd3_utils.scoring.shapes import Refused, shown

SHARD_HEADER = 2_000  # bytes of a shard beside its tensors and what its header states: offsets, padding
TEACHER_TOP1 = 0.001  # the top-1 of a teacher that comes with the project is this near to the known one, whatever the device
STATED = {  # what nothing in a Run tells: shown as stated by its publisher, until verify has what it takes
    "schema": "which form the file has: the same facts in both",
    "arm": "random or distilled, of a selection of real images: one training, shown as random real images either way",
    "seed": "of the student: only training it again shows that it was this one",
    "views": "with views of its own seed a student is the same to the bit as with shared ones of that seed",
    "top1, top5": "shares of the test images: verify scores kept weights again",
    "weights": "SHA-256 of what was scored: verify compares it with weights that were kept",
    "history.loss, history.test_top1": "numbers that only a training shows",
    "seconds": "of the training",
    "environment": "processes, threads, devices, precision, versions and commit of the code",
    "images.name, images.source, images.commit": "of a set that is no selection of real images",
    "images.fingerprint": "verify reads the images",
    "images.train.fingerprint, images.checks": "verify reads the splits",
    "test.source, test.commit, test.fingerprint": "of a test split that does not come with the project",
    "test.ipc": "as many images of every class, or null, as of the whole train split: verify reads the splits",
    "labels.teachers_id": "of teachers that do not come with the project: it covers their normalisation and columns",
    "labels.kind": "imported instead of a teacher's: then the Run is not ranked",
    "labels.bytes": "to within the headers of its shards: the labels and views in them are counted",
    "labels.device, labels.forward_batch, labels.label_dtype": "how the labels were made",
    "labels.recognised, labels.mistaken": "what the teachers made of the images",
    "labels.source, labels.commit": "where the labels were fetched from",
    "labels.online": "with no bytes: the same labels, made while training",
    "teachers": "source, commit, SHA-256, top-1 from the benchmark's floor on, and architecture where the protocol names none",
    "learning_rate_search": "top-1 of its candidates, its held-out images and seconds",
    "corrected": "which of its fields were mended after the training, and what they were",
}


def as_trained(run: Run, protocol: Protocol, recipe: Recipe, bench: Benchmark) -> Run:
    """The Run that training writes for what `run` says it is; Refused where training would refuse it.

    `recipe` is what `protocol` makes for it, at the learning rate that its search chose.
    """
    try:
        check_trainable(run, recipe, bench)
        cell = PlannedRun(
            run.benchmark, run.arm, cast(ImageSet, StatedImages(run)), protocol, recipe, run.student, run.seed,
            run.views, run.views_seed,
        )  # fmt: skip
        planned_runs.check_learned(recipe, cell.images)
        table = cell.describe(reader(run, recipe, bench))
        network = stated_network(run, recipe)
    except UserError as error:
        raise Refused(f"training refuses it: {' '.join(str(error).split())[:300]}") from None
    kept = dataclasses.asdict(light(run))
    made = {
        **kept,  # scores, seconds, environment: what stands below is made
        **table,
        "schema": run.schema,
        "protocol": {**table["protocol"], "knobs": {}},
        "network": network,
        "test": test_images(run, bench),
        "history": [],
        "monitored_test": any("test_top1" in entry for entry in run.history),
        "learning_rate_search": rate_search(run, recipe),
    }
    return runs.as_read(made)


def light(run: Run) -> Run:
    """`run` without its history, which check_rates compares, and the knobs, of which it states the digest."""
    return dataclasses.replace(run, history=[], protocol=dataclasses.replace(run.protocol, knobs={}))


def check_trainable(run: Run, recipe: Recipe, bench: Benchmark) -> None:
    """UserError or Refused where training would refuse a Run before it begins."""
    images.check_size(run.images.images, bench)
    if students.architecture(run.student, bench) != run.student:
        raise Refused(f"student {run.student} is recorded as {students.architecture(run.student, bench)} on {bench.name}")
    batch = recipe.training.batch_size
    if run.environment.processes > batch:
        raise Refused(f"{run.environment.processes} processes share batches of {batch} images, wanted at most {batch}")
    if recipe.labels.kind in TAUGHT:
        check_teachers(run, recipe, bench)


def check_teachers(run: Run, recipe: Recipe, bench: Benchmark) -> None:
    """UserError or Refused unless the teachers are of the architectures that the recipe names, and good enough."""
    floor, n = bench.defaults.teacher_floor, bench.data.test_images
    label_store.check_architectures([one.architecture for one in run.teachers], recipe, "its teachers are")
    for one in () if run.labels.kind == "imported" else run.teachers:  # whom nobody here has examined
        if one.top1 is None or one.top1 < floor:
            raise Refused(f"top-1 of teacher {shown(one.source)} is {one.top1}, {bench.name} wants at least {floor}")
        check_share(one.top1, n, f"top-1 of teacher {shown(one.source)}")


# --- stand-ins, of which training's own functions ask what they ask of images and labels


@dataclasses.dataclass(frozen=True)
class StatedImages:
    """The images of a Run as they describe themselves: what follows from their source and number, the rest as stated."""

    run: Run

    @property
    def source(self) -> str:
        return self.run.images.source

    @property
    def soft_labels(self) -> torch.Tensor | None:
        """Real images have none; whether a distilled set has some, only the set knows."""
        return None if self.run.images.origin.is_selection else torch.empty(0)

    def describe(self) -> dict:
        """As ImageSet.describe."""
        run, own = self.run, self.run.images
        table = {key: value for key, value in dataclasses.asdict(own).items() if value is not None}
        origin, classes = own.origin, run.recipe["classes"]
        name, commit, ipc = own.name, own.commit, own.images // classes  # a distilled set has as many in every class
        if origin.is_selection:
            name, commit = origin.set_name, run.test.commit  # both splits are of one repo at one commit, or of one folder
            ipc = own.ipc if origin.is_full and own.ipc in (None, own.images / classes) else ipc
        elif origin.repo:
            name = origin.set_name
        elif commit is not None:
            commit = None  # of a folder
        if origin.draw is None:
            table.pop("train", None)
        return {**table, "name": name, "commit": commit, "ipc": ipc}


@dataclasses.dataclass(frozen=True)
class StatedStore:
    """The labels of teachers as a store of them describes itself, or teachers that label while students train."""

    run: Run
    plan: StorePlan

    @property
    def teachers(self) -> list[dict]:
        return list(self.plan.teachers)

    @property
    def origin(self) -> dict:
        """What nothing else tells, as stated."""
        own = self.run.labels
        table = {"source": own.source, "commit": own.commit, "recognised": own.recognised}
        mistaken = [dataclasses.asdict(one) for one in own.mistaken]
        return {key: value for key, value in {**table, "mistaken": mistaken or None}.items() if value is not None}

    def describe(self) -> dict:
        """As SoftLabelStore.describe and OnlineLabels.describe."""
        own, made = self.run.labels, label_store.described(self.plan.header, self.plan.epochs)
        if own.kind == "imported":
            return {"kind": "imported", "bytes": own.bytes, **made}
        if own.online:
            return {"kind": "soft", "bytes": 0, **made, "online": True}
        least, most = self.bounds
        return {"kind": "soft", "bytes": own.bytes if least <= own.bytes <= most else least, **made}

    @property
    def bounds(self) -> tuple[int, int]:
        """Bytes of the tensors of the epochs that are read, and those with the headers of shards as small as may be."""
        tensors, shards = self.plan.epochs * self.plan.epoch_bytes, dataclasses.replace(self.plan, shard_mb=1).shards
        header = len(json.dumps(json.dumps(self.plan.header))) + SHARD_HEADER
        return tensors, tensors + len(shards) * header

    def epoch(self, epoch: int) -> Any:
        raise AssertionError("nobody learns from labels that are only stated")


def reader(run: Run, recipe: Recipe, bench: Benchmark) -> LabelReader:
    """What describes the labels of `run` as training has them."""
    kind, seed = recipe.labels.kind, run.views_seed
    if kind == "hard":
        return label_readers.HardLabels(recipe, seed)
    if kind == "learned":
        return label_readers.LearnedLabels(recipe, seed, cast(ImageSet, StatedImages(run)))
    store = cast(LabelReader, StatedStore(run, store_plan(run, recipe.labelled, bench)))
    return label_readers.StaticLabels(recipe, seed, store) if kind == "static" else store


def store_plan(run: Run, recipe: Recipe, bench: Benchmark) -> StorePlan:
    """The StorePlan of the labels of `run`: as labelling.plan_store, of teachers that are only stated."""
    own = run.labels
    for key in ("teachers_id", "label_dtype", "forward_batch", "device"):
        if getattr(own, key) is None:
            raise Refused(f"labels lacks {key}")
    if own.label_dtype not in ("fp16", "u8"):
        raise Refused(f"labels.label_dtype is {shown(own.label_dtype)}, wanted fp16 or u8")
    if own.recognised is not None:
        check_share(own.recognised, recipe.images, "labels.recognised")
    if (own.source is None) != (own.commit is None):
        raise Refused(f"labels are of {shown(own.source)} at commit {shown(own.commit)}, wanted both or none")
    form = StoreFormat(own.forward_batch or 0, str(own.label_dtype))
    return labelling.stated_plan(
        dataclasses.asdict(run.images),
        bench.classes,
        recipe,
        labellers(run, recipe, bench),
        run.views_seed,
        device=str(own.device),
        form=form,
    )


def labellers(run: Run, recipe: Recipe, bench: Benchmark) -> tuple[tuple[dict, ...], str]:
    """(what is recorded of the teachers of `run`, their id): as it is of the one that comes with the project, else stated."""
    ours, labels, rule = carried_teacher(bench.name), run.labels, (recipe.labels.ensemble, recipe.labels.teacher_bn)
    teachers_id = str(labels.teachers_id)
    if ours is None:
        return tuple(map(dataclasses.asdict, run.teachers)), teachers_id
    known = teachers.teachers_id([ours] * len(run.teachers), *rule)
    all_ours = teachers_id == known or all(one.sha256 == ours.sha256 for one in run.teachers)
    made = [as_recorded(one, ours) if all_ours or is_carried(one, ours) else dataclasses.asdict(one) for one in run.teachers]
    return tuple(made), known if all_ours else teachers_id


def is_carried(one: RunTeacher, ours: Teacher) -> bool:
    """Whether a teacher that a Run states says that it is the one that comes with the project."""
    return one.sha256 == ours.sha256 or one.source == ours.source


def as_recorded(one: RunTeacher, ours: Teacher) -> dict:
    """What is recorded of `ours`, wherever it lay; its accuracy as `one` states it, if it is near the known one."""
    near = one.top1 is not None and ours.top1 is not None and math.isclose(one.top1, ours.top1, abs_tol=TEACHER_TOP1)
    top1 = one.top1 if near else ours.top1
    return dataclasses.asdict(RunTeacher(one.source, ours.commit, ours.architecture, ours.sha256, top1))


# --- what comes with the project, and what a name alone decides


@lru_cache
def carried_teacher(benchmark: str) -> Teacher | None:
    """The teacher of a benchmark, where it comes with the project, with the top-1 of its own Run; else None."""
    bench, run = benchmarks.load(benchmark), carried_run(benchmark)
    if run is None:
        return None
    teacher = teachers.load(bench.defaults.teacher, bench)
    return dataclasses.replace(teacher, top1=run.top1, network=torch.nn.Identity())


@lru_cache
def carried_run(benchmark: str) -> Run | None:
    """The Run of the teacher of a benchmark, where it comes with the project, else None."""
    source = sources.parse_network(benchmarks.load(benchmark).defaults.teacher)
    file = embedded.PACKAGE / source.name / "run.json"
    return runs.read(file) if source.kind == "local-dir" and file.is_file() else None


@lru_cache
def built(student: str, benchmark: str, dropout: float, stochastic_depth: float) -> dict:
    """students.describe_network of a student, built in shapes without numbers."""
    if built.cache_info().misses > limits.MOST_NETWORKS:
        raise Refused(f"one of more than {limits.MOST_NETWORKS} kinds of students, which are not built to be compared")
    with torch.device("meta"):
        network = students.create(student, benchmarks.load(benchmark), 0, dropout, stochastic_depth)
    return students.describe_network(student, network)


def stated_network(run: Run, recipe: Recipe) -> dict:
    """The network of a Run, as it is built today; what files of schema 1 do not state, and how it was drawn, as stated."""
    made, own = built(run.student, run.benchmark, *recipe.training.drops.values()), dataclasses.asdict(run.network)
    absent = {key: None for key, value in own.items() if value is None and run.schema == 1}
    return {**own, **made, **absent, "initialisation": own["initialisation"]}


def test_images(run: Run, bench: Benchmark) -> dict:
    """The test split of a Run: whole, and of the benchmark's repo where a commit says that it is of the Hub."""
    own, n, classes = run.test, bench.data.test_images, len(bench.classes)
    return {
        "name": f"{bench.name}-test",
        "source": bench.data.repo if own.commit else own.source,
        "commit": own.commit if bench.data.on_hub else None,
        "fingerprint": own.fingerprint,
        "ipc": own.ipc if own.ipc in (None, n / classes) else None,
        "images": n,
    }


def rate_search(run: Run, recipe: Recipe) -> dict | None:
    """The learning-rate search of a Run whose recipe has one: of its grid, on as many held-out images of every class."""
    own = run.learning_rate_search
    if own is None or not recipe.training.learning_rates:
        return None
    count = own["images"]["images"]
    apart = sources.held_out(count // recipe.classes)
    images = {
        "name": f"held-out-ipc{apart.ipc}", "source": apart.text, "commit": run.test.commit, "ipc": apart.ipc,
        "images": (apart.ipc or 0) * recipe.classes,
    }  # fmt: skip
    return {**own, "grid": list(recipe.training.learning_rates), "seed": search.SEED, "images": {**own["images"], **images}}


# --- comparing


def check_as_trained(run: Run, made: Run) -> None:
    """Refused unless `run` is what training would have written for it: the first field that is not, with both values."""
    stated_run, wanted = (dict(leaves(dataclasses.asdict(light(one)))) for one in (run, made))
    for field in {**wanted, **stated_run}:
        mine, theirs = stated_run.get(field), wanted.get(field)
        if mine != theirs:
            raise Refused(f"its {field} is {shown(mine)}, training makes it {shown(theirs)}")


def check_rates(run: Run, recipe: Recipe) -> None:
    """Refused unless the history states the learning rate of the last step of each epoch."""
    for entry, rate in zip(run.history, rates(recipe), strict=True):
        if not math.isclose(rate, entry["learning_rate"], rel_tol=1e-9, abs_tol=1e-15):  # a cosine's last bit is the machine's
            mine, made = f"{entry['learning_rate']:.9g}", f"{rate:.9g}"
            raise Refused(f"learning rate of epoch {entry['epoch']} of its history is {mine}, training makes it {made}")


@lru_cache(maxsize=1000)
def rates(recipe: Recipe) -> tuple[float, ...]:
    """The learning rate of the last step of every epoch."""
    steps = recipe.steps_per_epoch
    return tuple(training.learning_rate(recipe, (epoch + 1) * steps - 1) for epoch in range(recipe.training.epochs))


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """[(field, value)] of plain data: tables and lists of tables by their parts, other lists whole."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, (list, tuple)) and any(isinstance(one, dict) for one in value):
        for i, one in enumerate(value):
            yield from leaves(one, f"{name}[{i}]")
    else:
        yield name, value
