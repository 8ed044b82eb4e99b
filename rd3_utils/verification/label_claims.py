"""Label stores: views drawn again, layout, agreement, and forward batches labelled again by the teachers.

An index does not say of which benchmark it is, nor where its images came from: the benchmark is the one that has its classes,
the images are those that `--distilled` names or that a set of the stated name has, and only a fingerprint makes them the same.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rd3_utils import units
from rd3_utils.arms import label_sources
from rd3_utils.data import catalogue, embedded, label_checks, label_store, selections, shards, soft_labels, sources
from rd3_utils.data.images import ImageSet
from rd3_utils.data.label_store import Shards, SoftLabelStore
from rd3_utils.data.shards import Folder, HubFolder
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.learning import evaluation, labelling, relabelling, teachers
from rd3_utils.learning.relabelling import Relabelling
from rd3_utils.learning.teachers import Teacher
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import knobs
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.recipe import Recipe, check_sizes
from rd3_utils.scoring import report as reports
from rd3_utils.verification.at_hand import AtHand, NotAtHand
from rd3_utils.verification.checks import Check, confirmed, contradicted, unchecked
from rd3_utils.verification.evidence import Evidence

DAMAGED = (TypeError, KeyError, AttributeError, IndexError, ValueError, OverflowError)  # what an index of wrong types raises
DRAWN = re.compile(r"random-ipc([1-9][0-9]{0,9})-seed(0|[1-9][0-9]{0,17})")  # the name of a draw of random images
FLIPS = 0.001  # of the images: near ties that another device decides otherwise
PINNED = ("hf-hub", "local-dir")  # sources of networks whose weights cannot have moved: by commit, or of this project
IMPORTED = "imported labels: another tool made their views; labels made here with --teacher can be checked"
GIVE_IMAGES, GIVE_TEACHER = "give --distilled SOURCE with them", "give it with --teacher"


@dataclass(frozen=True, eq=False)
class Claimed:
    """A store with a sound index: what it is to hold, and what of its images and teachers is at hand."""

    place: str  # its index.json, for people
    index: dict
    benchmark: Benchmark
    store: SoftLabelStore
    images: ImageSet | str  # else why they are not at hand
    teachers: Sequence[Teacher] | str

    @property
    def labellers(self) -> tuple[ImageSet, Sequence[Teacher]] | str:
        """(images, teachers) that labels are made of, or why they cannot be made again."""
        if isinstance(self.images, str):
            return self.images
        return self.teachers if isinstance(self.teachers, str) else (self.images, self.teachers)


@dataclass
class Reading:
    """What came of reading all epochs of a store: which claims were `refused` {of what: why}."""

    audit: Relabelling | str  # else why nobody labels again
    refused: dict[str, str] = field(default_factory=dict)
    block: label_checks.Block = field(default_factory=label_checks.Block)  # all views, against what they show


def of_labels(evident: Evidence, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of all label stores of the evidence."""
    try:
        stores = stores_of(evident)
    except UserError as error:
        yield unchecked("index.json", "soft labels", str(error))
        return
    for prefix, files in stores.items():
        yield from of_store(files, prefix, evident, at_hand)


def stores_of(evident: Evidence) -> dict[str, Folder | HubFolder]:
    """{what stands before the names of its files: label store}; of a repo on the Hub every store in it."""
    labels: Any = evident.labels
    if labels is None:
        return {}
    if isinstance(labels, (Folder, HubFolder)):
        return {"": labels}
    if isinstance(labels, Source) and labels.repo:
        source = labels if labels.revision or not evident.commit else dataclasses.replace(labels, revision=evident.commit)
        return {f"{path}/": folder for path, folder in shards.stores_on_hub(source).items()}
    return {"": Folder(labels.name if isinstance(labels, Source) else labels)}


def of_store(files: Folder | HubFolder, prefix: str, evident: Evidence, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of one store; all that follows rests on its index, so one that is damaged ends it."""
    place, claim = f"{prefix}index.json", "an index of soft labels"
    try:
        index = soft_labels.read_index(files)
        label_store.check_shards(files, index)
        benchmark = benchmark_of(index)
        recipe = stated_recipe(index, benchmark)
        images = images_of(index, benchmark, evident, at_hand)
        held = images if isinstance(images, ImageSet) else None
        store = SoftLabelStore(Shards(files, index, index["epochs"]), held, recipe)
        mine = Claimed(place, index, benchmark, store, images, teachers_of(index, recipe, benchmark, at_hand))
        checks = list(of_index(mine))
    except NotAtHand as error:
        yield unchecked(place, claim, str(error))
    except UserError as error:
        yield contradicted(place, claim, "read", str(error))
    except DAMAGED as error:
        yield contradicted(place, claim, "read", f"it is damaged ({type(error).__name__}: {str(error)[:80]})")
    else:
        yield from checks
        if not any(check.outcome == "contradicted" for check in checks):
            yield from of_shards(mine, prefix)
            yield from of_teachers(mine, at_hand)
            yield from of_epochs(mine, at_hand)


def benchmark_of(index: dict) -> Benchmark:
    """The benchmark with the classes and the image size of an index."""
    names = tuple(index["class_names"])
    for benchmark in map(benchmarks.load, benchmarks.names()):
        if tuple(benchmark.classes) == names and benchmark.image.size == index["image_size"]:
            return benchmark
    first = ", ".join(str(name)[:30] for name in names[:3])
    raise NotAtHand(f"no benchmark here has the classes {first} ... ({len(names)}) at {index['image_size']} px")


def stated_recipe(index: dict, benchmark: Benchmark) -> Recipe:
    """The Recipe of which an index states views and labels; all else of it is of no weight for a store."""
    values = {key: knobs.check_knob(f"views.{key}", value, "index.json") for key, value in index["views"].items()}
    rows, count = index["rows"], index["epochs"]
    if type(rows) is not int or rows < 1 or rows > most_rows(index):
        raise UserError(f"it states {rows!r} rows, more than its shards hold.")
    recipe = protocols.load("rd3-v1").resolve(benchmark, benchmark.defaults.student, max(1, rows // 2), rows, "soft")
    labels = {
        "teachers": len(index["teachers"]),
        "ensemble": index["ensemble"],
        "teacher_bn": index.get("teacher_bn", "eval"),
        "kind": "soft",
        "architectures": [],
        "distinct_epochs": 0,
    }
    labels = {key: knobs.check_knob(f"labels.{key}", value, "index.json") for key, value in labels.items()}
    recipe = dataclasses.replace(
        recipe,
        views=knobs.ViewKnobs(**values),
        labels=knobs.LabelKnobs(**labels),
        training=dataclasses.replace(recipe.training, epochs=count),
    )
    check_sizes(recipe, "index.json")
    return recipe


def most_rows(index: dict) -> int:
    """The most rows that the shards have bytes for: known before an epoch is drawn."""
    held = sum(entry["bytes"] for entry in index["shards"])
    side = index["image_size"] + 2 * index["border"]
    return held // (max(1, index["epochs"]) * soft_labels.row_bytes({**knobs.PLAIN, **index["views"]}, index["classes"], side,
                                                                    index["label_dtype"]))  # fmt: skip


def of_index(mine: Claimed) -> Iterator[Check]:
    """What an index says twice, and that a Run can say it."""
    index, recipe, place = mine.index, mine.store.recipe, mine.place
    label_sources.recordable(mine.store)
    how = "digest of the views that it states"
    claim = f"views digest {index['views_digest']}"
    same = index["views_digest"] == recipe.views_digest
    yield confirmed(place, claim, how) if same else contradicted(place, claim, how, recipe.views_digest)
    border, claim, how = soft_labels.border_of(recipe), f"border {index['border']}", "from the views that it states"
    if index["border"] != border:
        yield contradicted(place, claim, how, str(border))
    if index["border"] != border or not same:
        return
    claim = f"images {str(index['images']['name'])[:60]}@{str(index['images']['fingerprint'])[:8]}"
    if isinstance(mine.images, str):
        yield unchecked(place, claim, mine.images)
    else:
        label_store.check_use(mine.store.shards.files, index, mine.images, recipe, index["views_seed"], None)
        yield confirmed(place, claim, "pixels, classes and class names read and hashed", f"{mine.images.source}")


def images_of(index: dict, benchmark: Benchmark, evident: Evidence, at_hand: AtHand) -> ImageSet | str:
    """The images of a store, or why they are not at hand."""
    name, fingerprint = str(index["images"]["name"]), index["images"]["fingerprint"]
    given = at_hand.options.distilled
    candidates = [sources.parse(given)] if given else named_sets(name, index["images"].get("commit"), benchmark, evident)
    reason = f"nothing here is called {name[:60]}; {GIVE_IMAGES}"
    for source in candidates:
        try:
            images = selections.image_set(source, benchmark, lambda: at_hand.train(benchmark.name), at_hand.options.workers)
        except (UserError, NotAtHand) as error:
            reason = f"{error} Or {GIVE_IMAGES}."
            continue
        if images.fingerprint == fingerprint:
            return images
        reason = f"{source} has the fingerprint {images.fingerprint[:8]}; {GIVE_IMAGES}"
    return reason


def named_sets(name: str, commit: str | None, benchmark: Benchmark, evident: Evidence) -> list[Source]:
    """Where a set of this name may be: embedded, a draw of random images, in the store's own repo, in the catalogue."""
    if name in embedded.image_sets():
        return [Source("name", name)]
    if draw := DRAWN.fullmatch(name):
        return [sources.random(int(draw[1]), int(draw[2]))]
    if name == sources.FULL.name:
        return [sources.FULL]
    own = [evident.source] if evident.source.repo else []
    if commit is None:
        return own
    every = [(one, method, ipc) for one in catalogue.publishers() for method in one.methods for ipc in one.ipc]
    repos = [one.repo.format(method=method, ipc=ipc) for one, method, ipc in every if one.benchmark == benchmark.name]
    published = [dataclasses.replace(sources.repository(repo), revision=commit) for repo in repos]
    return [*(source for source in published if source.set_name == name), *own]


def teachers_of(index: dict, recipe: Recipe, benchmark: Benchmark, at_hand: AtHand) -> list[Teacher] | str:
    """The teachers given, or those that an index names, or why they are not at hand."""
    try:
        if at_hand.options.teacher:
            return labelling.load_teachers(at_hand.options.teacher, recipe, benchmark)
        return relabelling.loaded_by_name(index, recipe, benchmark)
    except UserError as error:
        return str(error)


def of_shards(mine: Claimed, prefix: str) -> Iterator[Check]:
    """The bytes of every shard."""
    size, how = 0, "hashed"
    for entry in mine.index["shards"]:
        claim = f"{units.size(entry['bytes'])} with SHA-256 {entry['sha256'][:12]}"
        try:
            path = mine.store.shards.files.path(entry)
        except UserError as error:
            yield contradicted(f"{prefix}{entry['file']}", claim, how, str(error))
            continue
        if (stored := path.stat().st_size) != entry["bytes"]:
            yield contradicted(f"{prefix}{entry['file']}", f"{entry['bytes']} bytes", how, f"{stored} bytes")
        size += stored
    yield confirmed(mine.place, f"{len(mine.index['shards'])} shards, {units.size(size)}", how, "the hash is the store's own")


def of_teachers(mine: Claimed, at_hand: AtHand) -> Iterator[Check]:
    """What an index says of its teachers: their weights, their scores, and how many of the images they recognise."""
    stated = soft_labels.teacher_scores(mine.index)
    if isinstance(mine.teachers, str):
        for source, top1 in stated:
            yield unchecked(mine.place, f"teacher {source}, top-1 {percent(top1)}", f"stated by its publisher: {mine.teachers}")
        return
    for (source, top1), about, teacher in zip(stated, mine.index["teachers"], mine.teachers):
        claim, how = f"teacher {source}, a {about['architecture']} of weights {about['sha256'][:8]}", "loaded and hashed"
        own = f"{teacher.source} is a {teacher.architecture} of weights {teacher.sha256[:8]}"
        if (teacher.architecture, teacher.sha256) == (about["architecture"], about["sha256"]):
            yield confirmed(mine.place, claim, how)
            yield of_score(mine, teacher, f"teacher {source}, top-1 {percent(top1)}", top1, at_hand)
        elif at_hand.options.teacher or sources.parse_network(teacher.source).kind not in PINNED:
            yield unchecked(mine.place, claim, f"{own}; {GIVE_TEACHER}", how)
        else:
            yield contradicted(mine.place, claim, how, own)
    rule = mine.store.recipe.labels
    identity = teachers.teachers_id(mine.teachers, rule.ensemble, rule.teacher_bn)
    if [one.sha256 for one in mine.teachers] == [about["sha256"] for about in mine.index["teachers"]]:
        claim, how = f"teachers {mine.index['teachers_id'][:8]}", "from their weights, normalisation, classes and rule"
        same = identity == mine.index["teachers_id"]
        yield confirmed(mine.place, claim, how) if same else contradicted(mine.place, claim, how, identity[:8])


def of_score(mine: Claimed, teacher: Teacher, claim: str, top1: Any, at_hand: AtHand) -> Check:
    """The Check of a teacher's accuracy on the test split."""
    try:
        test = at_hand.test(mine.benchmark.name)
        network = teachers.Ensemble([teacher], mine.benchmark).to(at_hand.accelerator.device)
        score = evaluation.accuracy(network, test, mine.benchmark, at_hand.accelerator, exact=True, whose=claim).top1
    except (NotAtHand, UserError) as error:
        return unchecked(mine.place, claim, str(error))
    if top1 is None:
        return unchecked(mine.place, claim, f"it is {percent(score)}, and the index states none")
    return compared(mine.place, claim, "scored on the test split", top1, score, len(test), score=True)


def compared(place: str, claim: str, how: str, stated: float, counted: float, images: int, *, score: bool = False) -> Check:
    """The Check of a share of images that was counted again: the same, but for FLIPS of them where devices differ."""
    if abs(stated - counted) * images > max(1, FLIPS * images) + 1e-6:
        return contradicted(place, claim, how, percent(counted), score=score)
    remark = "" if stated == counted else f"{percent(counted)} on this device"
    return confirmed(place, claim, how, remark, score=score)


def percent(share: Any) -> str:
    """A share for people."""
    return "not stated" if share is None else f"{reports.percent(share)} %"


def of_epochs(mine: Claimed, at_hand: AtHand) -> Iterator[Check]:
    """The views of every epoch, its labels against what the views show, and a sample of them labelled again."""
    store, reading = mine.store, Reading(audit_of(mine, at_hand))
    for epoch in range(store.epochs):
        try:
            views, logits = store.checked(epoch)
        except UserError as error:
            reading.refused["views"] = str(error)
            break
        if isinstance(reading.audit, Relabelling) and "labels" not in reading.refused:
            try:
                reading.audit.of_shard(store, epoch)
                store.audit = reading.audit
            except UserError as error:
                reading.refused["labels"], store.audit = str(error), None
        if store.images is not None and "agreement" not in reading.refused:
            reading.block.add(*store.shown(views, logits))
            try:
                store.judge(epoch, views, logits)
            except UserError as error:
                reading.refused["agreement"] = str(error)
    yield from of_reading(mine, reading)
    yield from of_recognised(mine, at_hand)


def audit_of(mine: Claimed, at_hand: AtHand) -> Relabelling | str:
    """Who labels a sample again, or why nobody can."""
    if isinstance(mine.labellers, str):
        return mine.labellers
    try:
        loaded, batches = mine.labellers[1], at_hand.options.check_labels
        return relabelling.audit_of(mine.store, loaded, mine.benchmark, batches, at_hand.accelerator)
    except UserError as error:
        return str(error)


def of_reading(mine: Claimed, reading: Reading) -> Iterator[Check]:
    """The Checks of what came of reading all epochs."""
    epochs, rows, refused, audit = mine.index["epochs"], mine.index["rows"], reading.refused, reading.audit
    claim, how = f"views of {epochs} epochs of {rows} images, seed {mine.index['views_seed']}", "every one drawn again"
    if "views" in refused:
        yield contradicted(mine.place, claim, how, refused["views"])
        return
    if soft_labels.is_imported(mine.index):
        yield unchecked(mine.place, claim, IMPORTED, "each is a possible view; labels are finite")
    else:
        yield confirmed(mine.place, claim, how, "labels are finite")
    if mine.store.images is not None:
        yield of_agreement(mine, reading)
    claim = f"labels of {epochs} epochs of {rows} images"
    if isinstance(audit, str):
        yield unchecked(mine.place, claim, f"stated by its publisher: {audit}")
    elif "labels" in refused:
        yield contradicted(mine.place, claim, "a sample labelled again", refused["labels"])
    else:
        bits = "the same bits" if audit.same == audit.rows else f"at most {percent(audit.largest)} of a row's range apart"
        yield confirmed(mine.place, claim, f"{audit.rows} of them, in every shard, labelled again", bits)


def of_agreement(mine: Claimed, reading: Reading) -> Check:
    """The Check of labels against the classes that their views show."""
    claim, how = "labels are of the classes that their views show", "the likeliest class of each"
    share = f"{percent(reading.block.agreeing / reading.block.views)} do"
    if "agreement" in reading.refused:
        return contradicted(mine.place, claim, how, reading.refused["agreement"])
    try:
        enough = label_checks.check_agreement(reading.block, mine.index, mine.place, 2)
    except UserError as error:
        if mine.store.audit is None:
            return contradicted(mine.place, claim, how, str(error))
        return confirmed(mine.place, claim, how, f"{share}: no more than by chance, and the teachers say the same")
    if not enough:
        return unchecked(mine.place, claim, f"{share}: too few views, or images that teachers know, to tell", how)
    return confirmed(mine.place, claim, how, share)


def of_recognised(mine: Claimed, at_hand: AtHand) -> Iterator[Check]:
    """The share of the images that the teachers recognise."""
    share = soft_labels.recognised(mine.index).get("recognised")
    if share is None:
        return
    claim, how = f"teachers recognise {percent(share)} of the images", "shown to them again"
    if isinstance(mine.labellers, str):
        yield unchecked(mine.place, claim, f"stated by its publisher: {mine.labellers}")
        return
    images, loaded = mine.labellers
    labeller = relabelling.labeller_of(mine.store, loaded, mine.benchmark, at_hand.accelerator.device)
    task = labelling.LabellingTask(labeller.plan, images, mine.store.recipe, loaded, mine.benchmark)
    try:
        counted = labelling.recognition(labeller.network, task, at_hand.accelerator)
    except UserError as error:
        yield unchecked(mine.place, claim, str(error))
        return
    yield compared(mine.place, claim, how, share, counted["recognised"], len(images))
    swapped, again = ([(one["own"], one["taken_for"]) for one in about.get("mistaken", ())] for about in (mine.index, counted))
    claim = f"{len(swapped)} classes look swapped to the teachers"
    if swapped != again:
        yield contradicted(mine.place, claim, how, "; ".join(f"{own} for {other}" for own, other in again) or "none does")
    elif again:
        yield confirmed(mine.place, claim, how)
