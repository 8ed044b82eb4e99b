"""Image sets: read or drawn again where they can be had, and compared with what Runs or distilled.json say of them."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rd3_utils import hub
from rd3_utils.data import catalogue, decoding, embedded, overlap, provenance, selections, tables
from rd3_utils.data import images as image_sets
from rd3_utils.data.images import ImageSet
from rd3_utils.data.overlap import Overlap
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.learning import confusion, evaluation, search, teachers
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.scoring import runs, searches, shapes
from rd3_utils.scoring.runs import Run, RunImages
from rd3_utils.verification.at_hand import AtHand, NotAtHand
from rd3_utils.verification.checks import Check, confirmed, contradicted, unchecked
from rd3_utils.verification.evidence import Evidence, RunFile

COMPARED = "compared with every test image and with each other"
AT_ONCE = 8  # sets in memory
HEX = 12  # digits of a fingerprint that a row shows


@dataclass(eq=False)
class Looked:
    """What was read and compared for one SOURCE, so that a set that many Runs state is read once."""

    at_hand: AtHand
    sets: dict[tuple, ImageSet | NotAtHand] = field(default_factory=dict)
    overlaps: dict[tuple[str, str], Overlap] = field(default_factory=dict)

    def images(self, benchmark: str, images: RunImages) -> ImageSet:
        """The set that a Run states, read or drawn again; NotAtHand says what would make that possible."""
        key = benchmark, images.source, images.commit
        if key not in self.sets:
            if len(self.sets) >= AT_ONCE:
                self.sets.pop(next(iter(self.sets)))
            try:
                self.sets[key] = had_again(benchmark, images, self.at_hand)
            except UserError as error:
                self.sets[key] = NotAtHand(str(error))
            except NotAtHand as error:
                self.sets[key] = error
        known = self.sets[key]
        if isinstance(known, NotAtHand):
            raise known
        return known

    def overlap(self, benchmark: str, images: ImageSet) -> Overlap:
        """What a set shares with the test split; NotAtHand where that cannot be had."""
        key = benchmark, images.fingerprint
        if key not in self.overlaps:
            self.overlaps[key] = overlap.compare(images, self.at_hand.test(benchmark))
        return self.overlaps[key]


def of_images(evident: Evidence, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of the image sets that Runs state, and of a SOURCE that is one."""
    looked = Looked(at_hand)
    for file in evident.runs:
        if file.run is not None:
            yield from of_run_images(file, file.run, looked)
    if evident.images is not None:
        yield from of_set(evident.images, evident.commit, looked)


def of_run_images(file: RunFile, run: Run, looked: Looked) -> Iterator[Check]:
    """The Checks of what one Run says of its images, the split that they come from, and the test split."""
    if run.images.origin.draw and run.images.train:
        stated, how = run.images.train, "the train split, read again"
        claim = f"drawn from {stated.images} train images with fingerprint {stated.fingerprint[:HEX]}"
        try:
            train = looked.at_hand.train(run.benchmark)
            now = {"images": len(train), "fingerprint": train.split_fingerprint}
            yield compared(file.name, claim, how, dataclasses.asdict(stated), now, decoder_note(run.benchmark))
        except (NotAtHand, UserError) as error:
            yield unchecked(file.name, claim, str(error))
    yield of_one_set(file.name, run, looked)
    yield of_checks(file.name, run, looked)
    yield of_test(file.name, run, looked.at_hand)
    if run.learning_rate_search is not None:
        yield from of_held_out(file.name, run, looked)


def of_one_set(place: str, run: Run, looked: Looked) -> Check:
    """Whether the images of a Run are those that its source gives."""
    stated = run.images
    claim = f"images {stated.source}: {described(stated)}"
    try:
        images = looked.images(run.benchmark, stated)
    except NotAtHand as error:
        return unchecked(place, claim, str(error))
    how = "drawn again from the train split" if stated.origin.is_selection else "read again"
    return compared(place, claim, how, facts(stated), facts(images), decoder_note(run.benchmark))


def of_checks(place: str, run: Run, looked: Looked) -> Check:
    """Whether a set shares with the test split what its Run says; of an older Run, whether it holds test images."""
    stated = run.images.checks
    claim = "none of its images is a test image (an older Run does not say)"
    if stated is not None:
        claim = f"of its images: {', '.join(overlap.in_words(dataclasses.asdict(stated))) or NOTHING}"
    try:
        images = looked.images(run.benchmark, run.images)
        counts = looked.overlap(run.benchmark, images).counts
    except NotAtHand as error:
        return unchecked(place, claim, str(error), COMPARED)
    here = ", ".join(overlap.in_words(counts)) or NOTHING
    wrong = counts != dataclasses.asdict(stated) if stated else counts["test_images"] and not images.origin.is_selection
    return contradicted(place, claim, COMPARED, here) if wrong else confirmed(place, claim, COMPARED, "" if stated else here)


NOTHING = "none is a test image or nearly one, none is there twice"


def of_test(place: str, run: Run, at_hand: AtHand) -> Check:
    """Whether a Run was scored on the official test split."""
    claim = f"scored on the test split: {run.test.images} images with fingerprint {run.test.fingerprint[:HEX]}"
    try:
        test = at_hand.test(run.benchmark, run.recipe["training"].get("test_resize", 0))
    except NotAtHand as error:
        return unchecked(place, claim, str(error))
    keys = "images", "fingerprint"
    stated, now = ({key: one[key] for key in keys} for one in (facts(run.test), facts(test)))
    return compared(place, claim, "the test split, read again", stated, now, decoder_note(run.benchmark))


def of_held_out(place: str, run: Run, looked: Looked) -> Iterator[Check]:
    """Whether a learning-rate search scored on the train images that are held out for it."""
    try:
        stated = shapes.read(searches.Search, run.learning_rate_search, runs.SCHEMA, "learning_rate_search").images
    except shapes.Refused:
        return  # told of the Run itself
    claim, how = f"learning rate searched on held-out images: {described(stated)}", "held out again from the train split"
    try:
        images = search.held_out(looked.at_hand.train(run.benchmark), looked.images(run.benchmark, run.images))
        yield compared(place, claim, how, facts(stated), facts(images), decoder_note(run.benchmark))
    except (NotAtHand, UserError) as error:
        yield unchecked(place, claim, str(error), how)


def had_again(name: str, stated: RunImages, at_hand: AtHand) -> ImageSet:
    """The images that a Run states, from their source; NotAtHand where that is a path of another machine.

    No path that a Run states is opened: only names of sets that the package carries, and repos at a commit.
    """
    benchmark, origin = at_hand.benchmark(name), stated.origin
    if origin.draw or origin.is_full:
        return selections.select(origin, benchmark, lambda: at_hand.train(name))
    if origin.repo and stated.commit:
        at_commit = dataclasses.replace(origin, revision=stated.commit)
        return image_sets.with_provenance(at_commit, benchmark, at_hand.options.workers)[0]
    if origin.kind == "path" and origin.name in embedded.image_sets():
        return image_sets.with_provenance(Source("name", origin.name), benchmark)[0]
    raise NotAtHand(
        f"{origin.text} is a folder or file of whoever trained; with it at hand, verify it: its fingerprint must begin with "
        f"{stated.fingerprint[:HEX]}"
    )


def facts(images: RunImages | ImageSet) -> dict[str, Any]:
    """What is compared of two image sets."""
    count = images.images if isinstance(images, RunImages) else len(images)
    return {"images": count, "images per class": images.ipc, "fingerprint": images.fingerprint}


def described(stated: RunImages) -> str:
    """The same of a Run, in words."""
    per_class = f"{stated.ipc} per class, " if stated.ipc else ""
    return f"{stated.images} images, {per_class}fingerprint {stated.fingerprint[:HEX]}"


def compared(place: str, claim: str, how: str, stated: dict[str, Any], now: dict[str, Any], note: str = "") -> Check:
    """Confirmed if `stated` and `now`, of equal keys, are equal; else contradicted, with what is another."""
    other = [f"{key} {str(now[key])[:HEX]}" for key in stated if stated[key] != now[key]]
    return contradicted(place, claim, how, ", ".join(other) + note) if other else confirmed(place, claim, how)


def decoder_note(name: str) -> str:
    """What may explain other pixels of photographs, which are JPEG: another decoder."""
    photographs = name in benchmarks.names() and benchmarks.load(name).image.shorter_side
    return f" (decoded by {decoding.DECODER}; another decoder gives other pixels)" if photographs else ""


def of_set(source: Source, commit: str | None, looked: Looked) -> Iterator[Check]:
    """The Checks of an image set itself: what its distilled.json says, and what it shares with the test split.

    UserError where it cannot be read as a set of its benchmark.
    """
    if source.repo and commit is None:
        commit = hub.commit(source.name, source.revision)
    about = provenance.stated_by(source, commit)
    name = benchmark_of(about, looked.at_hand)
    if name is None:
        if source.kind == "path":
            tables.local(Path(source.name), ("train",))  # UserError for what holds no images
        why = f"neither {provenance.NAME} nor --data-dir NAME=DIR says which benchmark they are of; give the latter"
        yield unchecked(source.text, "its images", why)
        return
    try:
        benchmark = looked.at_hand.benchmark(name)
        images = set_of(source, commit, benchmark, looked.at_hand)
    except NotAtHand as error:
        yield unchecked(source.text, f"its images, of benchmark {name[:60]}", str(error))
        return
    size, classes = images.images.shape[-1], len(images.class_names)
    what_it_is = f"{len(images)} images of {size} x {size} pixels, {classes} classes as {name} names them"
    yield confirmed(source.text, what_it_is, "read, decoded and counted", f"fingerprint {images.fingerprint[:HEX]}")
    yield from of_provenance(about, images, name)
    yield from of_overlap(source.text, images, name, looked)
    for teacher in looked.at_hand.options.teacher:
        yield of_classes(source.text, images, teacher, benchmark, looked.at_hand)


def benchmark_of(about: dict[str, Any], at_hand: AtHand) -> str | None:
    """The benchmark that distilled.json names, or else the one that --data-dir does."""
    stated = about.get("benchmark")
    given = [text.partition("=")[0] for text in at_hand.options.data_dir if "=" in text]
    return stated if isinstance(stated, str) else next((name for name in given if name in benchmarks.names()), None)


def set_of(source: Source, commit: str | None, benchmark: Benchmark, at_hand: AtHand) -> ImageSet:
    """The ImageSet that a SOURCE is, whatever its distilled.json says."""
    if source.is_selection:
        return selections.select(source, benchmark, lambda: at_hand.train(benchmark.name))
    at_commit = dataclasses.replace(source, revision=commit) if source.repo else catalogue.located(source, benchmark)
    return image_sets.with_provenance(at_commit, benchmark, at_hand.options.workers)[0]


def of_provenance(about: dict[str, Any], images: ImageSet, benchmark: str) -> Iterator[Check]:
    """The Checks of what a distilled.json says."""
    stated = provenance.stated_fingerprint(about, benchmark)
    if stated:
        how = "of the pixels, labels and class names that were read"
        pair = {"fingerprint": stated}, {"fingerprint": images.fingerprint}
        yield compared(provenance.NAME, f"fingerprint {stated[:HEX]}", how, *pair)
    if (ipc := about.get("ipc")) is not None:
        yield compared(provenance.NAME, f"{shapes.shown(ipc)} images per class", "counted", {"ipc": ipc}, {"ipc": images.ipc})
    if (method := about.get("method")) is not None:
        seconds = about.get("seconds")
        took = f" in {shapes.shown(seconds)} seconds" if seconds is not None else ""
        why = "stated by its publisher: making the set again, with the settings there, would tell"
        yield unchecked(provenance.NAME, f"made by {shapes.shown(method)}{took}", why)


def of_overlap(place: str, images: ImageSet, benchmark: str, looked: Looked) -> Iterator[Check]:
    """The Checks that nobody needs to state: a set holds no test images, and its images are different ones."""
    claims = "none of its images is a test image", "none is nearly a test image", "none is there twice"
    try:
        copies = looked.overlap(benchmark, images)
    except NotAtHand as error:
        yield from (unchecked(place, claim, str(error), COMPARED) for claim in claims)
        return
    real = images.origin.is_selection  # what the splits of a benchmark share is how it is published
    rows = [copies.test, copies.near_test, copies.repeated]
    for claim, some in zip(claims, rows, strict=True):
        here = f"{len(some)} of {len(images)}: {overlap.pairs(some)}"
        if not some:
            yield confirmed(place, claim, COMPARED)
        elif some is copies.near_test:
            yield unchecked(place, claim, f"{here}; look whether they are copies", COMPARED)
        elif real:
            yield confirmed(place, claim, COMPARED, f"but for what the real data hold, {here}")
        else:
            other = f"; {len(copies.conflicts)} of another class" if some is copies.repeated and copies.conflicts else ""
            yield contradicted(place, claim, COMPARED, here + other)


def of_classes(place: str, images: ImageSet, source: str, benchmark: Benchmark, at_hand: AtHand) -> Check:
    """Whether a teacher takes a set's classes for what they are called; of few images per class it can tell little."""
    claim, how = "its classes are those that they are called", f"shown to the teacher {source}"
    try:
        teacher = teachers.load(source, benchmark)
    except UserError as error:
        return unchecked(place, claim, str(error), how)
    network = teachers.Ensemble([teacher], benchmark).to(at_hand.accelerator.device)
    score, answers = evaluation.graded(network, images, benchmark, at_hand.accelerator, exact=True, whose=source)
    confused = confusion.mistaken(confusion.confusion_table(answers, images.labels, len(benchmark.classes)), benchmark.classes)
    if confused:
        return contradicted(place, claim, how, confusion.in_words(confused))
    share = f"it recognises {100 * score.top1:.1f} % of the images"
    if score.top1 < 0.5:
        return unchecked(place, claim, f"{share}, too few to tell; another teacher may know them", how)
    return confirmed(place, claim, how, share)
