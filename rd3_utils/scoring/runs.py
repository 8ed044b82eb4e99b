"""Run: one arm, one seed, one student; one JSON file, written once and kept: its fields and its reader (results.py: its place).

Every file passes the same strict reader, whoever wrote it. Files of schema 1 (until November 2026) are read for ever: they do
not state `network` (it had the first initialisation), `views` (shared) and the train split of random images (unknown).
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rd3_utils import bounded, files
from rd3_utils.data import sources
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.protocols.knobs import TAUGHT
from rd3_utils.scoring import shapes
from rd3_utils.scoring.shapes import (
    Refused,
    is_count,
    is_flag,
    is_fraction,
    is_hex,
    is_name,
    is_number,
    is_seconds,
    is_table,
    is_text,
    is_texts,
    is_whole,
    one_of,
    or_none,
    part,
    shown,
    stated,
)

SCHEMA = 2
READABLE = 1, 2
PRECISIONS = "fp32", "bf16", "fp16", "fp8"
VIEWS = "shared", "each"
ARMS = [f"{side}-{labels}" for labels in ("soft", "hard", "plain") for side in ("distilled", "random")] + ["full-hard"]
A_TEXT, A_NUMBER, A_FRACTION = (is_text, "a text"), (is_number, "a finite number"), (is_fraction, "a fraction from 0 to 1")
A_COUNT = is_count, "a whole number of at least 1"
WHOLE_NUMBER = is_whole, "a whole number from 0"
SHA256, DIGEST = (is_hex(64), "64 hex digits"), (is_hex(12), "12 hex digits")
COMMIT = or_none(is_hex(40)), "a commit of 40 hex digits or null"
A_FLAG = is_flag, "true or false"
A_TABLE = is_table, "a table"
MAYBE_FRACTION = or_none(is_fraction), "a fraction from 0 to 1 or null"


@dataclass(frozen=True)
class Split:
    """The train split that random real images were drawn from; see tables.Table.split_fingerprint."""

    fingerprint: str = stated(*SHA256)
    images: int = stated(*A_COUNT)


@dataclass(frozen=True)
class ImageChecks:
    """How many of a set's images are test images, near copies of them, or twice in the set; see data/overlap.py."""

    test_images: int = stated(*WHOLE_NUMBER)
    near_test_images: int = stated(*WHOLE_NUMBER)
    repeated: int = stated(*WHOLE_NUMBER)
    conflicts: int = stated(*WHOLE_NUMBER)


@dataclass(frozen=True)
class RunImages:
    """An image set, as ImageSet.describe states it."""

    name: str = stated(*A_TEXT)
    source: str = stated(*A_TEXT)
    commit: str | None = stated(*COMMIT)
    fingerprint: str = stated(*SHA256)
    ipc: int | None = stated(or_none(is_count), "a number of images per class or null")
    images: int = stated(is_count, "a number of images")
    train: Split | None = part(default=None)
    checks: ImageChecks | None = part(default=None)

    @property
    def identity(self) -> str:
        """NAME@FINGERPRINT8, as ImageSet.identity."""
        return f"{self.name}@{self.fingerprint[:8]}"

    @property
    def origin(self) -> Source:
        """Where the images came from."""
        return sources.recorded(self.source, self.commit)

    @property
    def draw(self) -> int | None:
        """The draw number of random real images, else None."""
        return self.origin.seed


@dataclass(frozen=True, eq=False)
class StatedProtocol:
    """The protocol as a Run states it."""

    name: str = stated(is_name, "a name")
    digest: str = stated(*DIGEST)
    overrides: dict = stated(*A_TABLE)
    main_labels: str = stated(is_name, "soft or hard")
    knobs: dict = stated(*A_TABLE)


@dataclass(frozen=True)
class Network:
    """How the student was built; see students.describe_network. None: not recorded."""

    architecture: str = stated(*A_TEXT)
    initialisation: int = stated(*A_COUNT)
    dropout: float | None = stated(*MAYBE_FRACTION, default=None)
    stochastic_depth: float | None = stated(*MAYBE_FRACTION, default=None)
    parameters: int | None = stated(or_none(is_count), "a number of parameters or null", default=None)


@dataclass(frozen=True)
class RunMistaken:
    """A class whose images a teacher takes for another; see learning/confusion.py."""

    own: str = stated(*A_TEXT)
    taken_for: str = stated(*A_TEXT)
    times: int = stated(*WHOLE_NUMBER)
    images: int = stated(*A_COUNT)


@dataclass(frozen=True)
class Weights:
    """Which weights were scored; see weights.weights_sha256. They are kept or not: the Run says which they were."""

    sha256: str = stated(*SHA256)


@dataclass(frozen=True)
class RunLabels:
    """What the student was told, as the reader of the labels describes it; None: not stated, or of no meaning for the kind."""

    kind: str = stated(is_name, "a name")
    views_digest: str = stated(*DIGEST)
    views_seed: int | None = stated(or_none(is_whole), "a whole number from 0", default=None)
    student_views_digest: str | None = stated(or_none(is_hex(12)), "12 hex digits", default=None)
    epochs: int | None = stated(or_none(is_count), "a number of epochs", default=None)
    bytes: int = stated(is_whole, "a number of bytes", default=0)
    teachers_id: str | None = stated(or_none(is_hex(64)), "64 hex digits", default=None)
    ensemble: str | None = stated(or_none(is_name), "a name", default=None)
    teacher_bn: str = stated(is_text, "eval or groups:N", default="eval")
    label_dtype: str | None = stated(or_none(is_name), "a name", default=None)
    forward_batch: int | None = stated(or_none(is_count), "a number of views", default=None)
    device: str | None = stated(or_none(is_name), "a kind of device", default=None)
    online: bool = stated(*A_FLAG, default=False)
    recognised: float | None = stated(*MAYBE_FRACTION, default=None)
    mistaken: tuple[RunMistaken, ...] = part(default=())
    source: str | None = stated(or_none(is_text), "a text", default=None)
    commit: str | None = stated(*COMMIT, default=None)

    @property
    def of_teachers(self) -> bool:
        """Whether teachers made them, here or, imported ones, with another tool."""
        return self.kind in (*TAUGHT, "imported")


@dataclass(frozen=True)
class RunTeacher:
    """A teacher, as Teacher.describe states it."""

    source: str = stated(*A_TEXT)
    commit: str | None = stated(*COMMIT)
    architecture: str = stated(*A_TEXT)
    sha256: str = stated(*SHA256)
    top1: float | None = stated(*MAYBE_FRACTION)


@dataclass(frozen=True, eq=False)
class Environment:
    """Where a student was trained; see launch.environment."""

    processes: int = stated(is_count, "a number of processes")
    precision: str = stated(one_of(*PRECISIONS), f"one of {', '.join(PRECISIONS)}")
    devices: str = stated(*A_TEXT)
    threads: int = stated(is_count, "a number of threads")
    versions: dict = stated(is_texts, "a table of texts")
    git: str | None = stated(or_none(is_text), "a text or null")
    processor: str | None = stated(or_none(is_text), "a text or null", default=None)


@dataclass(frozen=True, eq=False)
class Run:
    """What was trained, from what, and what it scores; accuracies are fractions. Read with `read`, never from loose keys."""

    schema: int = stated(is_count, "a number")
    benchmark: str = stated(is_name, "the name of a benchmark")
    protocol: StatedProtocol = part()
    recipe: dict = stated(*A_TABLE)
    arm: str = stated(one_of(*ARMS), f"one of {', '.join(ARMS)}")
    student: str = stated(is_name, "a name of letters, digits, dots and dashes")
    seed: int = stated(*WHOLE_NUMBER)
    views_seed: int = stated(*WHOLE_NUMBER)
    images: RunImages = part()
    labels: RunLabels = part()
    teachers: tuple[RunTeacher, ...] = part()
    top1: float = stated(*A_FRACTION)
    top5: float = stated(*A_FRACTION)
    images_scored: int = stated(is_count, "a number of images")
    test: RunImages = part()
    monitored_test: bool = stated(*A_FLAG)
    history: list = stated(lambda value: isinstance(value, list), "a list")
    seconds: float = stated(is_seconds, "seconds")
    environment: Environment = part()
    views: str = stated(one_of(*VIEWS), f"one of {', '.join(VIEWS)}", since=2, default="shared")
    network: Network = part(since=2, default=None)  # `of` states it where the file does not
    weights: Weights | None = part(default=None)  # older Runs do not state them
    learning_rate_search: dict | None = stated(or_none(is_table), "a table or null", default=None)
    corrected: dict | None = stated(or_none(is_table), "a table or null", default=None)  # {key: {"was", "commit"}}

    @property
    def draw(self) -> int | None:
        """The draw number of a Run on random real images, else None."""
        return self.images.draw

    @property
    def labels_of_arm(self) -> str:
        """soft, hard or plain."""
        return self.arm.partition("-")[2]

    @property
    def ipc(self) -> int:
        """Images per class; where classes have various numbers, their mean rounded down."""
        return self.images.ipc or self.images.images // self.recipe["classes"]

    @property
    def teacher_weights(self) -> tuple[str, ...]:
        """SHA-256 of the weights of every teacher."""
        return tuple(teacher.sha256 for teacher in self.teachers)


EPOCH = {"epoch": WHOLE_NUMBER, "loss": A_NUMBER, "learning_rate": A_NUMBER}
RECIPE = {section: A_TABLE for section in ("training", "views", "labels", "loss")} | {  # what is read of any Run's recipe
    "training.epochs": A_COUNT,
    "loss.name": A_TEXT,
    "loss.temperature": A_NUMBER,
    **dict.fromkeys(("images", "image_size", "classes", "steps"), A_COUNT),
}


def of(table: Any) -> Run:
    """The Run that the plain data `table` states; Refused says what it lacks or what is not what it must be."""
    if not is_table(table) or table.get("schema") not in READABLE or isinstance(table.get("schema"), bool):
        stated = shown(table.get("schema") if is_table(table) else table)
        raise Refused(f"schema is {stated}, wanted {' or '.join(map(str, READABLE))}")
    schema = table["schema"]
    run = shapes.read(Run, {**table, "schema": schema}, schema)
    if run.network is None:  # as it was before Runs stated it
        run = dataclasses.replace(run, network=Network(run.student, 1))
    if schema >= 2 and run.draw is not None and run.images.train is None:
        raise Refused("images lacks train, the split that random images were drawn from")
    if run.views == "each" and run.views_seed != run.seed:
        raise Refused(f"views_seed is {run.views_seed}, and a student with views of its own has those of its seed, {run.seed}")
    check_recipe_keys(run.recipe)
    for i, entry in enumerate(run.history):
        if not is_table(entry):
            raise Refused(f"epoch {i} of its history is {shown(entry)}, wanted a table")
        for key, (check, wanted) in EPOCH.items():
            if key not in entry:
                raise Refused(f"epoch {i} of its history lacks {key}")
            if not check(entry[key]):
                raise Refused(f"epoch {i} of its history.{key} is {shown(entry[key])}, wanted {wanted}")
        if "test_top1" in entry and not is_fraction(entry["test_top1"]):
            raise Refused(f"test_top1 in epoch {i} of its history is {shown(entry['test_top1'])}, wanted a fraction")
    return run


def check_recipe_keys(recipe: dict) -> None:
    """Refused unless a recipe has what is read of it, whoever wrote it; its other knobs are compared, never read alone."""
    for name, (check, wanted) in RECIPE.items():
        section, _, key = name.rpartition(".")
        table = recipe[section] if section else recipe
        if key not in table:
            raise Refused(f"recipe lacks {name}")
        if not check(table[key]):
            raise Refused(f"recipe.{name} is {shown(table[key])}, wanted {wanted}")
    resize = recipe["training"].get("test_resize", 0)
    if not is_whole(resize):
        raise Refused(f"recipe.training.test_resize is {shown(resize)}, wanted a whole number from 0")


def read(where: Path) -> Run:
    """The Run in the file `where`; UserError says why it is none."""
    try:
        return of(bounded.parse(bounded.contents(where)))
    except Refused as refused:
        raise UserError(f"{where} is no whole Run of this project ({refused}); remove the file, or mend it.") from None


def kept(where: Path) -> Run | None:
    """The Run at `where`, or None if nothing is there; UserError if something else is."""
    return read(where) if where.exists() or where.is_symlink() else None


def write(where: Path, run: dict) -> None:
    """Write the plain data of a Run to `where`: temporary name, renamed; an existing file is kept."""
    if not where.exists():
        files.write_whole(where, json.dumps(run, indent=1, allow_nan=False) + "\n")


def as_read(run: dict) -> Run:
    """The Run that a file with the plain data `run` gives back."""
    return of(json.loads(json.dumps(run, allow_nan=False)))


# --- statistics


def summary(runs: Iterable[Run]) -> dict:
    """`summarised` of the top-1 of `runs`, all of one arm."""
    return summarised([(run.draw, run.seed, run.top1) for run in runs])


def summarised(values: list[tuple[int | None, int, float]]) -> dict:
    """{"mean", "std", "n", "std_seeds", "std_draws", "seeds", "draws"} of (draw or None, seed, accuracy).

    std is the sample standard deviation (n - 1) over all; std_seeds the pooled one over seeds within a draw; std_draws the one
    over the means of the draws (None where there is one draw). None where a single value has no spread.
    """
    by_draw: dict = {}
    for draw, _, value in values:
        by_draw.setdefault(draw, []).append(value)
    everything = [value for group in by_draw.values() for value in group]
    free = sum(len(group) - 1 for group in by_draw.values())
    within = sum(sum((v - statistics.fmean(group)) ** 2 for v in group) for group in by_draw.values())
    return {
        "mean": statistics.fmean(everything),
        "std": spread(everything),
        "n": len(everything),
        "std_seeds": math.sqrt(within / free) if free else None,
        "std_draws": spread([statistics.fmean(group) for group in by_draw.values()]),
        "seeds": sorted({seed for _, seed, _ in values}),
        "draws": sorted(draw for draw in by_draw if draw is not None),
    }


def spread(values: list[float]) -> float | None:
    """Sample standard deviation, or None of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def grouped(items: Iterable, key: Callable) -> dict:
    """{key(item): [items]} in order of appearance: of Runs, and of what is made of them."""
    groups: dict = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
