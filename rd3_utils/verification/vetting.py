"""A Run that somebody else wrote, checked as hostile input: it is what it says it is, or one line says what is wrong.

Everything that can be computed again is: the protocol's digest from its knobs, the recipe from the protocol, the number of
images from classes and IPC, right answers from top-1 and the number of images scored. What cannot is checked for its form.
No text of a Run is ever used as a path, a pattern or code.
"""

import dataclasses
import json
from functools import lru_cache

from rd3_utils import bounded, limits
from rd3_utils.errors import UserError
from rd3_utils.learning import initialisation, search
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.knobs import SECTIONS, TAUGHT, check_knob
from rd3_utils.protocols.protocol import TEACHER_PROTOCOL, Protocol
from rd3_utils.protocols.recipe import Recipe, digest
from rd3_utils.protocols.strict import build
from rd3_utils.scoring import runs, shapes
from rd3_utils.scoring.runs import Run, StatedProtocol
from rd3_utils.scoring.searches import check_search, check_share
from rd3_utils.scoring.shapes import Refused, is_count, is_hex, is_name, is_seconds, shown
from rd3_utils.verification.as_trained import as_trained, check_as_trained, check_rates, light


def vetted(data: bytes, ranked: bool = True) -> tuple[Run, Protocol]:
    """(Run, Protocol) of the bytes `data`, the Run without what only proves it (history, knobs); Refused says why not.

    One that is not to be `ranked` may also be of those that are compared with no other.
    """
    run = runs.of(bounded.parse(data))
    if run.benchmark not in benchmarks.names():
        raise Refused(f"benchmark {shown(run.benchmark)} is none of ours")
    bench = bench_of(run.benchmark)
    protocol = stated_protocol(run)
    recipe = checked_recipe(run, protocol, bench)
    if ranked:
        check_ranked(run)
    check_score(run, bench)
    check_history(run, recipe)
    check_as_trained(run, as_trained(run, protocol, recipe, bench))
    return dataclasses.replace(light(run), recipe=shared(json.dumps(run.recipe, sort_keys=True))), protocol


def checked_recipe(run: Run, protocol: Protocol, bench: Benchmark) -> Recipe:
    """The Recipe that `protocol` makes of the student and images of `run`; Refused unless the Run has it and its labels."""
    check_run_images(run, bench)
    recipe = check_run_recipe(run, protocol, bench)
    check_network(run)
    check_labels(run, recipe)
    return recipe


@lru_cache(maxsize=10_000)
def shared(recipe: str) -> dict:
    """The recipe in a JSON text: one table for all Runs that have it."""
    return json.loads(recipe)


def is_custom(run: Run) -> bool:
    """Whether a Run followed anything but a released protocol as it is."""
    return bool(run.protocol.overrides) or not is_released(run.protocol.name)


@lru_cache
def bench_of(name: str) -> Benchmark:
    return benchmarks.load(name)


@lru_cache
def released(name: str) -> Protocol:
    return protocols.load(name)


def is_released(name: str) -> bool:
    return name in protocols.names()


def stated_protocol(run: Run) -> Protocol:
    """The Protocol that the knobs of a Run make; Refused unless its digest, labels and released name are theirs."""
    own = run.protocol
    knobs, overrides = json.dumps(own.knobs, sort_keys=True), json.dumps(own.overrides, sort_keys=True)
    if len(knobs) > limits.MOST_KNOBS or len(overrides) > limits.MOST_KNOBS / 10:
        raise Refused(f"the knobs of its protocol are {len(knobs)} characters, wanted at most {limits.MOST_KNOBS}")
    protocol = protocol_of(own.name, knobs, overrides)
    check_protocol(own, protocol)
    return protocol


@lru_cache(maxsize=1000)
def protocol_of(name: str, knobs: str, overrides: str) -> Protocol:
    """The Protocol that the knobs of a Run (JSON) make; Refused where they are none, or not those of their released name."""
    own, changes, where = json.loads(knobs), json.loads(overrides), f"protocol {name}"
    try:
        sections: dict = {section: build(cls, own.get(section), f"{where} [{section}]") for section, cls in SECTIONS.items()}
        rules = tuple(protocols.read_rule(rule, where) for rule in own.get("rules", []))
        arms = {
            arm: {key: check_knob(key, value, where) for key, value in changed.items()} for arm, changed in own["arms"].items()
        }
        if not arms.keys() <= set(protocols.ARM_LABELS):
            raise Refused(f"its protocol has arms {shown(sorted(arms))}, wanted some of {', '.join(protocols.ARM_LABELS)}")
        pairs = tuple(sorted((key, check_knob(key, value, where)) for key, value in changes.items()))
        protocol = protocols.Protocol(name, name, "", "not stated", {}, **sections, arms=arms, rules=rules, overrides=pairs)
        for section in SECTIONS:
            for key, value in dataclasses.asdict(getattr(protocol, section)).items():
                check_knob(f"{section}.{key}", value, where)
        plain = dataclasses.replace(protocol, overrides=())
        differs = is_released(name) and plain.digest != released(name).digest
        read = protocol.digest
    except UserError as error:
        raise Refused(f"the knobs of its protocol are none of ours: {str(error)[:160]}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"the knobs of its protocol are malformed ({type(error).__name__})") from None
    if differs:
        raise Refused(f"says {name}, but its knobs have digest {plain.digest}; {name} has {released(name).digest}")
    if read != digest(own):
        raise Refused(f"the knobs of its protocol have digest {digest(own)}, as we read them {read}")
    return protocol


def check_protocol(stated: StatedProtocol, protocol: Protocol) -> None:
    """Refused unless the digest that is stated is that of the knobs, and labels are those that they say."""
    if stated.digest != protocol.digest:
        raise Refused(f"states protocol digest {stated.digest}, its knobs have {protocol.digest}")
    if stated.main_labels != protocol.main_labels:
        raise Refused(f"says its protocol has {shown(stated.main_labels)} labels, it has {protocol.main_labels}")


def check_run_images(run: Run, bench: Benchmark) -> None:
    """Refused unless numbers of images agree with classes, IPC, selection and arm."""
    images, classes, side = run.images, len(bench.classes), run.arm.partition("-")[0]
    if images.ipc is not None and images.images != images.ipc * classes:
        raise Refused(f"{images.images} images, but {images.ipc} per class of {classes} are {images.ipc * classes}")
    drawn, full = images.origin.draw, images.origin.is_full
    if drawn is None and (side == "random" or (images.origin.is_selection and not full)):
        raise Refused(f"arm {run.arm} with images {shown(images.source)}, wanted a selection random:ipc=K,seed=S")
    if drawn and drawn[0] != images.ipc:
        raise Refused(f"images {shown(images.source)} with {images.ipc} per class")
    if images.train is not None and images.train.images != (bench.data.train_images or images.train.images):
        raise Refused(f"drawn from {images.train.images} train images, {bench.name} has {bench.data.train_images}")
    if side == "full" and (not full or images.images != (bench.data.train_images or images.images)):
        raise Refused(f"arm full-hard with {images.images} images of {shown(images.source)}, wanted the train split")
    if side == "full" and run.protocol.name != TEACHER_PROTOCOL:
        raise Refused(f"arm full-hard under {run.protocol.name}, wanted {TEACHER_PROTOCOL}")


def check_network(run: Run) -> None:
    """Refused where a Run says of another network than its student's that it was trained."""
    assert run.network is not None  # every Run that was read states one, or has that of its time
    if run.network.architecture != run.student:
        raise Refused(f"its network is {shown(run.network.architecture)}, its student {run.student}")


def check_ranked(run: Run) -> None:
    """Refused for a Run that may well be what it says, and is compared with no other."""
    if run.arm == "full-hard" and run.protocol.overrides:
        raise Refused(f"arm full-hard under {run.protocol.name}, wanted {TEACHER_PROTOCOL} as it is")
    if run.arm.startswith("distilled-") and run.images.checks is not None and run.images.checks.test_images:
        raise Refused(f"{run.images.checks.test_images} of its {run.images.images} images are images of the test split")
    network, today = run.network, initialisation.version(run.student)
    assert network is not None
    if network.initialisation != today:
        raise Refused(
            f"its {run.student} has initialisation {network.initialisation}, today's is {today}, torchvision's: another network"
        )


def check_run_recipe(run: Run, protocol: Protocol, bench: Benchmark) -> Recipe:
    """The Recipe that the protocol makes for this student and these images; Refused where the Run has another one."""
    images = run.images
    ipc = images.ipc or images.images // len(bench.classes)
    try:
        recipe = protocol.resolve(bench, run.student, ipc, images.images, run.labels_of_arm)
    except UserError as error:
        raise Refused(f"its protocol makes no recipe for it: {str(error)[:160]}") from None
    rates = recipe.training.learning_rates
    if rates:
        searched = check_search(run.learning_rate_search, rates, run.test.fingerprint)
        recipe = search.with_rate(recipe, searched.learning_rate)
    mine, wanted = run.recipe, json.loads(json.dumps(recipe.as_dict()))
    if mine != wanted:
        for key in {**wanted, **mine}:
            if mine.get(key) != wanted.get(key):
                break
        a, b = mine.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            part = next(part for part in {**b, **a} if a.get(part) != b.get(part))
            key, a, b = f"{key}.{part}", a.get(part), b.get(part)
        raise Refused(f"its recipe has {shown(key)} {shown(a)}, its protocol makes it {shown(b)}")
    return recipe


def check_labels(run: Run, recipe: Recipe) -> None:
    """Refused unless labels and teachers are those that the recipe asks for."""
    labels, teachers = run.labels, run.teachers
    taught = {"static": ("static", "soft", "imported"), "soft": ("soft", "imported")}
    kinds = taught.get(recipe.labels.kind, (recipe.labels.kind,))
    if labels.kind not in kinds:
        raise Refused(f"labels are {shown(labels.kind)}, its recipe has {recipe.labels.kind} ones")
    if recipe.labels.kind in TAUGHT:
        for key in ("teachers_id", "label_dtype"):
            if getattr(labels, key) is None:
                raise Refused(f"labels lacks {key}")
        if len(teachers) != recipe.labels.teachers:
            raise Refused(f"{len(teachers)} teachers, its recipe has {recipe.labels.teachers}")
    elif teachers:
        raise Refused(f"{len(teachers)} teachers, and {labels.kind} labels need none")


def check_score(run: Run, bench: Benchmark) -> None:
    """Refused unless the whole test split was scored and top-1 and top-5 are shares of it."""
    n = run.images_scored
    if n != bench.data.test_images or run.test.images != n:
        raise Refused(f"scored {n} test images of {run.test.images}, {bench.name} has {bench.data.test_images}")
    check_share(run.top1, n, "top1")
    check_share(run.top5, n, "top5")
    if run.top5 < run.top1:
        raise Refused(f"top5 is {run.top5}, less than top1, {run.top1}")


def check_history(run: Run, recipe: Recipe) -> None:
    """Refused unless every epoch is there once, in order, with its learning rate, up to the last, whose network is scored."""
    history, epochs = run.history, recipe.training.epochs
    if len(history) != epochs:
        raise Refused(f"its history has {len(history)} epochs, its recipe {epochs}: the score is not the last epoch's")
    for i, entry in enumerate(history):
        if entry["epoch"] != i:
            raise Refused(f"epoch {entry['epoch']} stands at place {i} of its history")
    if not run.monitored_test and any("test_top1" in entry for entry in history):
        raise Refused("its history has scores on the test split, and monitored_test says that it was not watched")
    check_rates(run, recipe)


@dataclasses.dataclass(frozen=True)
class Made:
    """What a distilled.json says of how images were made; `seconds` None: not stated."""

    method: str = shapes.stated(is_name, "a name")
    fingerprint: str = shapes.stated(is_hex(64), "64 hex digits")
    ipc: int = shapes.stated(is_count, "a number of images per class")
    seconds: float | None = shapes.stated(shapes.or_none(is_seconds), "seconds", default=None)


def made_by(data: bytes) -> Made:
    """The Made of the bytes of a distilled.json; Refused if it is none."""
    return shapes.read(Made, bounded.parse(data), runs.SCHEMA)
