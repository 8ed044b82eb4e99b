"""May two Runs stand in one mean, or beside one another? Only if they measured the same, and here alone that is decided.

`same_measure(a, b)` compares everything that a score depends on, seeds and draws of random images aside, and names the first
difference. Who compares what is meant to differ says so with `but`: arms of one card, two image sets, two protocols.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from rd3_utils.scoring.runs import Run, Split
from rd3_utils.scoring.shapes import shown


@dataclass(frozen=True)
class Verdict:
    """True where two Runs measured the same; else in what they differ, and both values."""

    fact: str = ""  # of FACTS, or a knob
    a: Any = None
    b: Any = None

    def __bool__(self) -> bool:
        return not self.fact

    def __str__(self) -> str:
        return f"{self.fact}: {short(self.a)} and {short(self.b)}" if self.fact else "the same"


def short(value: Any) -> str:
    """A value for a message: hashes by their first 8 digits."""
    if value is None:
        return "not recorded"
    text = value if isinstance(value, str) and value.isprintable() else shown(value)
    return text[:8] if len(text) == 64 and text.isalnum() else text[:60]


def recipe_of(run: Run) -> dict:
    """The recipe; without the learning rate that was searched, for every draw of random images has its own search."""
    recipe, training = run.recipe, run.recipe.get("training")
    if not isinstance(training, dict) or not training.get("learning_rates"):
        return recipe
    return {**recipe, "training": {key: value for key, value in training.items() if key != "learning_rate"}}


def is_drawn(run: Run) -> bool:
    """Whether the images are a draw of random real ones, under whatever arm."""
    return run.draw is not None


FACTS: dict[str, Callable[[Run], Any]] = {  # in this order: the first difference is the one that is said
    "benchmark": lambda run: run.benchmark,
    "test split": lambda run: run.test.fingerprint,
    "precision": lambda run: run.environment.precision,
    "student": lambda run: run.student,
    "initialisation of the network": lambda run: run.network.initialisation,
    "dropout of the network": lambda run: run.network.dropout,
    "stochastic depth of the network": lambda run: run.network.stochastic_depth,
    "number of parameters": lambda run: run.network.parameters,
    "protocol": lambda run: run.protocol.name,
    "protocol digest": lambda run: run.protocol.digest,
    "arm": lambda run: run.arm,
    "number of images per class": lambda run: run.images.ipc,
    "images": lambda run: "random real images" if is_drawn(run) else run.images.fingerprint,
    "train split": lambda run: run.images.train and run.images.train.fingerprint,
    "recipe": recipe_of,
    "kind of views": lambda run: run.views,
    "views of the labels": lambda run: "imported" if run.labels.kind == "imported" else "drawn",
    "kind of labels": lambda run: run.labels.kind,
    "views digest": lambda run: run.labels.views_digest,
    "views digest of students": lambda run: run.labels.student_views_digest,
    "views seed": lambda run: run.views_seed if run.views == "shared" else None,
    "teachers": lambda run: run.labels.teachers_id,
    "rule of the ensemble": lambda run: run.labels.ensemble,
    "batch norm of the teachers": lambda run: run.labels.teacher_bn,
    "label dtype": lambda run: run.labels.label_dtype,
    "views per teacher pass": lambda run: run.labels.forward_batch,
}
UNKNOWN = {  # what older Runs do not state: then nothing is said against them
    "dropout of the network", "stochastic depth of the network", "number of parameters", "views per teacher pass",
    "label dtype",
}  # fmt: skip
OF_LABELS = frozenset(list(FACTS)[list(FACTS).index("views of the labels") :])
TOLD = frozenset(
    {"views of the labels", "views seed", "teachers", "rule of the ensemble", "batch norm of the teachers"}
)  # arms of one kind share it
OF_IMAGES = frozenset({"images", "train split"})
DROPPING = frozenset({"dropout of the network", "stochastic depth of the network"})
NETWORK = frozenset({"student", "initialisation of the network", "number of parameters"}) | DROPPING
PROTOCOLS = frozenset({"protocol", "protocol digest", "recipe"}) | OF_LABELS | DROPPING
OF_ARMS = frozenset({"arm", "images", "number of images per class", "recipe"}) | OF_LABELS  # on one card; of one train split


def same_measure(a: Run, b: Run, but: Collection[str] = ()) -> Verdict:
    """Whether Runs `a` and `b` may stand in one mean: they differ in seed and draw alone, or in what `but` names (of FACTS)."""
    for fact, value_of in FACTS.items():
        if fact in but:
            continue
        mine, theirs = value_of(a), value_of(b)
        if mine == theirs or (fact in UNKNOWN and None in (mine, theirs)):
            continue
        if fact == "train split" and (a.images.fingerprint == b.images.fingerprint or not (is_drawn(a) and is_drawn(b))):
            continue
        if fact == "recipe":
            return first_in_recipe(mine, theirs)
        return Verdict(fact, mine, theirs)
    if a.images.fingerprint == b.images.fingerprint and None not in (a.learning_rate_search, b.learning_rate_search):
        # one search of the learning rate serves all seeds of an image set
        return Verdict() if "recipe" in but else first_in_recipe(a.recipe, b.recipe)
    return Verdict()


def same_labels(a: Run, b: Run) -> Verdict:
    """Whether the students of two arms with labels of one kind were told by the same teachers, about views of the same seed."""
    return same_measure(a, b, but=FACTS.keys() - TOLD)


def first_in_recipe(mine: dict, theirs: dict) -> Verdict:
    """The first knob in which two recipes differ."""
    for key in {**mine, **theirs}:
        a, b = mine.get(key), theirs.get(key)
        if a != b and isinstance(a, dict) and isinstance(b, dict):
            return first_in_recipe({f"{key}.{k}": v for k, v in a.items()}, {f"{key}.{k}": v for k, v in b.items()})
        if a != b:
            return Verdict(key if "." in key else f"recipe, {key}", a, b)
    return Verdict()


def with_split(run: Run, images: dict) -> Run:
    """`run`, which does not state the split of its random images, with that of `images` (ImageSet.describe), the same pixels.

    They were drawn again from the data at hand, so that split holds them where the Run says they are.
    """
    train, own = images.get("train"), run.images
    if own.train is not None or train is None or own.fingerprint != images["fingerprint"]:
        return run
    return dataclasses.replace(run, images=dataclasses.replace(own, train=Split(**train)))


def odd_one(runs: Iterable[Run], but: Collection[str] = ()) -> Verdict:
    """The first difference between the first of `runs` and any other; true where there is none."""
    first, *others = runs
    return next((verdict for verdict in (same_measure(first, other, but) for other in others) if not verdict), Verdict())


def alike(runs: Iterable, but: Collection[str] = (), run_of: Callable[[Any], Run] = lambda run: run) -> list[list]:
    """`runs` (or things of which `run_of` gives the Run) in groups in which all measured the same, in order of appearance."""
    groups: list[list] = []
    for one in runs:
        mine = next((group for group in groups if all(same_measure(run_of(o), run_of(one), but) for o in group)), None)
        if mine is None:
            groups.append([one])
        else:
            mine.append(one)
    return groups


def unstated(run: Run) -> str:
    """Text that, of Runs of one `kind`, tells apart all that `same_measure` may tell apart; for tables of thousands of Runs."""
    search = None if run.learning_rate_search is None else [run.images.fingerprint, run.recipe]
    return json.dumps([*(FACTS[fact](run) for fact in sorted(UNKNOWN)), search], sort_keys=True)


def kind(run: Run) -> str:
    """Text that is equal for Runs that measured the same and tells all others apart, for tables of thousands of Runs.

    Of UNKNOWN it says nothing; what it pools is still asked of `same_measure`.
    """
    return json.dumps([value_of(run) for fact, value_of in FACTS.items() if fact not in UNKNOWN], sort_keys=True, default=str)
