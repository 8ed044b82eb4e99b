"""A Run that somebody else wrote, checked as hostile input: it is what it says it is, or one line says what is wrong.

Everything that can be computed again is: the protocol's digest from its knobs, the recipe from the protocol, the number of
images from classes and IPC, right answers from top-1 and the number of images scored. What cannot is checked for its form.
No text of a Run is ever used as a path, a pattern or code.
"""

import dataclasses
import json
import math
import re
from functools import lru_cache

from rd3_utils import units
from rd3_utils.errors import UserError
from rd3_utils.learning import search
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.strict import build
from rd3_utils.scoring import runs
from rd3_utils.scoring.arms import ARMS, TEACHER_PROTOCOL

MOST_BYTES = 4_000_000  # of a file; a Run of 1000 epochs that watched the test split has 0.15 MB
MOST_KNOBS = 50_000  # characters of a protocol's knobs as JSON; ours have at most 4,000
LONGEST = 200  # characters of a text
PRECISIONS = ("fp32", "bf16", "fp16", "fp8")
WHOLE = 2**63  # numbers stay below


class Refused(Exception):
    """Why a file is not ranked, in one line without what only its author needs."""


def shown(value):
    """A value for a message: one short line, no character of it invisible."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse(data):
    """The JSON value in the bytes `data`; Refused for what is not plain JSON of finite numbers with each key once."""
    if len(data) > MOST_BYTES:
        raise Refused(f"more than {units.size(MOST_BYTES)}, a Run has less")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=each_once, parse_constant=no_number, parse_float=finite, parse_int=whole
        )
    except RecursionError:
        raise Refused("not a Run: nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused(f"not JSON: {str(error)[:80]}") from None


def each_once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Refused(f"key {shown(next(key for key in keys if keys.count(key) > 1))} is there more than once")
    return found


def no_number(text):
    raise Refused(f"{text} is no number of JSON")


def finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise Refused(f"{text[:40]} is no finite number")
    return value


def whole(text):
    if len(text) > 19 or abs(int(text)) >= WHOLE:
        raise Refused(f"{text[:20]}... is too large a number")
    return int(text)


def is_text(value):
    return isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable()


def is_name(value):
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", value) is not None


def is_hex(digits):
    pattern = re.compile(rf"[0-9a-f]{{{digits}}}")
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < WHOLE


def is_count(value):
    return is_whole(value) and value > 0


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_fraction(value):
    return is_number(value) and 0 <= value <= 1


def is_seconds(value):
    return is_number(value) and 0 <= value < 1e10


def is_table(value):
    return isinstance(value, dict)


def is_versions(value):
    return is_table(value) and len(value) <= 40 and all(is_text(name) and is_text(version) for name, version in value.items())


def or_none(check):
    return lambda value: value is None or check(value)


IMAGES = {
    "name": (is_text, "a text"),
    "source": (is_text, "a text"),
    "commit": (or_none(is_hex(40)), "a commit of 40 hex digits or null"),
    "fingerprint": (is_hex(64), "64 hex digits"),
    "ipc": (or_none(is_count), "a number of images per class or null"),
    "images": (is_count, "a number of images"),
}
TEACHER = {
    "source": (is_text, "a text"),
    "commit": (or_none(is_hex(40)), "a commit of 40 hex digits or null"),
    "architecture": (is_text, "a text"),
    "sha256": (is_hex(64), "64 hex digits"),
    "top1": (or_none(is_fraction), "a fraction from 0 to 1 or null"),
}
RUN = {  # key -> (check, what is wanted), or a table of such
    "benchmark": (is_name, "the name of a benchmark"),
    "protocol": {
        "name": (is_name, "a name"),
        "digest": (is_hex(12), "12 hex digits"),
        "overrides": (is_table, "a table"),
        "main_labels": (is_name, "soft or hard"),
        "knobs": (is_table, "a table"),
    },
    "recipe": (is_table, "a table"),
    "arm": (lambda value: value in ARMS, f"one of {', '.join(ARMS)}"),
    "student": (is_name, "a name of letters, digits, dots and dashes"),
    "seed": (is_whole, "a whole number from 0"),
    "views_seed": (is_whole, "a whole number from 0"),
    "images": IMAGES,
    "labels": {"kind": (is_name, "a name"), "views_digest": (is_hex(12), "12 hex digits")},
    "teachers": (lambda value: isinstance(value, list) and len(value) <= 100, "a list of at most 100"),
    "top1": (is_fraction, "a fraction from 0 to 1"),
    "top5": (is_fraction, "a fraction from 0 to 1"),
    "images_scored": (is_count, "a number of images"),
    "test": IMAGES,
    "monitored_test": (lambda value: isinstance(value, bool), "true or false"),
    "history": (lambda value: isinstance(value, list), "a list"),
    "seconds": (is_seconds, "seconds"),
    "environment": {
        "processes": (is_count, "a number of processes"),
        "precision": (lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        "devices": (is_text, "a text"),
        "threads": (is_count, "a number of threads"),
        "versions": (is_versions, "a table of texts"),
        "git": (or_none(is_text), "a text or null"),
    },
}
STORED = {
    "bytes": (is_whole, "a number of bytes"),
    "teachers_id": (is_hex(64), "64 hex digits"),
    "label_dtype": (is_name, "a name"),
}
EPOCH = {
    "epoch": (is_whole, "a whole number"),
    "loss": (is_number, "a finite number"),
    "learning_rate": (is_number, "a finite number"),
}
SEARCH = {"candidates": (lambda value: isinstance(value, list), "a list"), "images": IMAGES}
CANDIDATE = {"learning_rate": (is_number, "a finite number"), "top1": (or_none(is_fraction), "a fraction from 0 to 1 or null")}


def shaped(value, shape, where="the file"):
    """Refused unless the table `value` has every key of `shape`, each as it wants; further keys are let be and not read."""
    if not is_table(value):
        raise Refused(f"{where} is {shown(value)}, wanted a table")
    for key, wanted in shape.items():
        if key not in value:
            raise Refused(f"{where} lacks {key}")
        name = key if where == "the file" else f"{where}.{key}"
        if isinstance(wanted, dict):
            shaped(value[key], wanted, name)
        elif not wanted[0](value[key]):
            raise Refused(f"{name} is {shown(value[key])}, wanted {wanted[1]}")


def vetted(data):
    """(Run, Protocol) of the bytes `data`, the Run without what only proves it (history, knobs, recipe); Refused says why not.

    The Run gains "group_ipc": images per class, also where classes have various numbers, and protocol["custom"]: whether it is
    anything but a released protocol.
    """
    run = parse(data)
    if not is_table(run) or run.get("schema") not in runs.READABLE:
        raise Refused(f"schema is {shown(run.get('schema') if is_table(run) else run)}, wanted {runs.SCHEMA}")
    shaped(run, RUN)
    if run["benchmark"] not in benchmarks.names():
        raise Refused(f"benchmark {shown(run['benchmark'])} is none of ours")
    bench = bench_of(run["benchmark"])
    stated = run["protocol"]
    knobs, overrides = json.dumps(stated["knobs"], sort_keys=True), json.dumps(stated["overrides"], sort_keys=True)
    if len(knobs) > MOST_KNOBS or len(overrides) > MOST_KNOBS / 10:
        raise Refused(f"the knobs of its protocol are {len(knobs)} characters, wanted at most {MOST_KNOBS}")
    protocol = protocol_of(stated["name"], knobs, overrides)
    check_protocol(stated, protocol)
    check_images(run, bench)
    recipe = check_recipe(run, protocol, bench)
    check_labels(run, recipe)
    check_score(run, bench)
    check_history(run, recipe)
    kept = {
        key: {part: run[key][part] for part in shape} if isinstance(shape, dict) else run[key]
        for key, shape in RUN.items()
        if key not in ("recipe", "history")
    }
    kept["labels"] = {key: run["labels"][key] for key in (*RUN["labels"], *STORED) if key in run["labels"]}
    kept["teachers"] = [{key: teacher[key] for key in TEACHER} for teacher in run["teachers"]]
    kept["protocol"] = {key: stated[key] for key in ("name", "digest", "overrides", "main_labels")}
    kept["protocol"]["custom"] = bool(stated["overrides"]) or not is_released(stated["name"])
    kept["steps"] = recipe.steps
    kept["group_ipc"] = run["images"]["ipc"] or run["images"]["images"] // len(bench.classes)
    return kept, protocol


@lru_cache
def bench_of(name):
    return benchmarks.load(name)


@lru_cache
def released(name):
    return protocols.load(name)


def is_released(name):
    return name in protocols.names()


@lru_cache(maxsize=1000)
def protocol_of(name, knobs, overrides):
    """The Protocol that the knobs of a Run (JSON) make; Refused where they are none, or not those of their released name."""
    knobs, overrides = json.loads(knobs), json.loads(overrides)
    where = f"protocol {name}"
    try:
        sections = {
            section: build(cls, knobs.get(section), f"{where} [{section}]") for section, cls in protocols.SECTIONS.items()
        }
        rules = tuple(protocols.read_rule(rule, where) for rule in knobs.get("rules", []))
        arms = {
            arm: {key: protocols.check_knob(key, value, where) for key, value in changes.items()}
            for arm, changes in knobs["arms"].items()
        }
        if not arms.keys() <= set(protocols.ARMS):
            raise Refused(f"its protocol has arms {shown(sorted(arms))}, wanted some of {', '.join(protocols.ARMS)}")
        pairs = tuple(sorted((key, protocols.check_knob(key, value, where)) for key, value in overrides.items()))
        found = protocols.Protocol(name, name, "", "not stated", {}, **sections, arms=arms, rules=rules, overrides=pairs)
        for section in protocols.SECTIONS:
            for key, value in dataclasses.asdict(getattr(found, section)).items():
                protocols.check_knob(f"{section}.{key}", value, where)
        plain = dataclasses.replace(found, overrides=())
        differs = is_released(name) and plain.digest != released(name).digest
        digest = found.digest
    except UserError as error:
        raise Refused(f"the knobs of its protocol are none of ours: {str(error)[:160]}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"the knobs of its protocol are malformed ({type(error).__name__})") from None
    if differs:
        raise Refused(f"says {name}, but its knobs have digest {plain.digest}; {name} has {released(name).digest}")
    if digest != protocols.digest(knobs):
        raise Refused(f"the knobs of its protocol have digest {protocols.digest(knobs)}, as we read them {digest}")
    return found


def check_protocol(stated, protocol):
    """Refused unless the digest that is stated is that of the knobs, and labels are those that they say."""
    if stated["digest"] != protocol.digest:
        raise Refused(f"states protocol digest {stated['digest']}, its knobs have {protocol.digest}")
    if stated["main_labels"] != protocol.main_labels:
        raise Refused(f"says its protocol has {shown(stated['main_labels'])} labels, it has {protocol.main_labels}")


def check_images(run, bench):
    """Refused unless numbers of images agree with classes, IPC, selection and arm."""
    images, classes, side = run["images"], len(bench.classes), run["arm"].partition("-")[0]
    if images["ipc"] is not None and images["images"] != images["ipc"] * classes:
        raise Refused(f"{images['images']} images, but {images['ipc']} per class of {classes} are {images['ipc'] * classes}")
    if side == "random" and not re.fullmatch(r"random:ipc=\d+,seed=\d+", images["source"]):
        raise Refused(f"arm {run['arm']} with images {shown(images['source'])}, wanted a selection random:ipc=K,seed=S")
    if images["source"].startswith("random:"):
        drawn = re.match(r"random:ipc=(\d+),", images["source"])
        if not drawn or int(drawn[1]) != images["ipc"]:
            raise Refused(f"images {shown(images['source'])} with {images['ipc']} per class")
    if side == "full" and (images["source"] != "full" or images["images"] != (bench.data.train_images or images["images"])):
        raise Refused(f"arm full-hard with {images['images']} images of {shown(images['source'])}, wanted the train split")
    if side == "full" and (run["protocol"]["name"] != TEACHER_PROTOCOL or run["protocol"]["overrides"]):
        raise Refused(f"arm full-hard under {run['protocol']['name']}, wanted {TEACHER_PROTOCOL} as it is")


def check_search(run, rates):
    """The learning rate that won on held-out real images; Refused unless every one of the grid is told and it is the best."""
    found, where = run.get("learning_rate_search"), "learning_rate_search"
    if not is_table(found) or found.get("learning_rate") not in rates:
        raise Refused("its protocol searches a learning rate, and it does not say which of the grid won")
    shaped(found, SEARCH, where)
    for candidate in found["candidates"]:
        shaped(candidate, CANDIDATE, f"a candidate of {where}")
    if sorted(one["learning_rate"] for one in found["candidates"]) != sorted(rates):
        raise Refused(f"{where} tried other rates than its protocol's grid")
    finished = [one for one in found["candidates"] if one["top1"] is not None]
    if not finished:
        raise Refused(f"{where} has no candidate that finished")
    best = max(finished, key=lambda one: (one["top1"], -one["learning_rate"]))
    if best["learning_rate"] != found["learning_rate"]:
        raise Refused(f"{where} chose {found['learning_rate']:g}, and {best['learning_rate']:g} scored best")
    images = found["images"]
    if not images["source"].startswith("held-out:") or images["fingerprint"] == run["test"]["fingerprint"]:
        raise Refused(f"{where} was not scored on held-out train images")
    for one in finished:
        check_share(one["top1"], images["images"], f"top1 of a candidate of {where}")
    return found["learning_rate"]


def check_recipe(run, protocol, bench):
    """The Recipe that the protocol makes for this student and these images; Refused where the Run has another one."""
    images, labels = run["images"], run["arm"].partition("-")[2]
    ipc = images["ipc"] or images["images"] // len(bench.classes)
    try:
        recipe = protocol.resolve(bench, run["student"], ipc, images["images"], labels)
    except UserError as error:
        raise Refused(f"its protocol makes no recipe for it: {str(error)[:160]}") from None
    rates = recipe.training.learning_rates
    if rates:
        recipe = search.with_rate(recipe, check_search(run, rates))
    mine, wanted = run["recipe"], json.loads(json.dumps(recipe.as_dict()))
    if mine != wanted:
        for key in {**wanted, **mine}:
            if mine.get(key) != wanted.get(key):
                break
        a, b = mine.get(key), wanted.get(key)
        if is_table(a) and is_table(b):
            part = next(part for part in {**b, **a} if a.get(part) != b.get(part))
            key, a, b = f"{key}.{part}", a.get(part), b.get(part)
        raise Refused(f"its recipe has {shown(key)} {shown(a)}, its protocol makes it {shown(b)}")
    return recipe


def check_labels(run, recipe):
    """Refused unless labels and teachers are those that the recipe asks for."""
    labels, teachers = run["labels"], run["teachers"]
    kinds = {"static": ("static", "soft")}.get(recipe.labels.kind, (recipe.labels.kind,))
    if labels["kind"] not in kinds:
        raise Refused(f"labels are {shown(labels['kind'])}, its recipe has {recipe.labels.kind} ones")
    if recipe.labels.kind in protocols.TAUGHT:
        shaped(labels, STORED, "labels")
        if len(teachers) != recipe.labels.teachers:
            raise Refused(f"{len(teachers)} teachers, its recipe has {recipe.labels.teachers}")
    elif teachers:
        raise Refused(f"{len(teachers)} teachers, and {labels['kind']} labels need none")
    for teacher in teachers:
        shaped(teacher, TEACHER, "a teacher")


def check_share(value, n, name):
    """Refused unless `value` is a share of n images."""
    if abs(value * n - round(value * n)) > 1e-3:
        raise Refused(f"{name} is {shown(value)}, which is no whole number of {n} images")


def check_score(run, bench):
    """Refused unless the whole test split was scored and top-1 and top-5 are shares of it."""
    n = run["images_scored"]
    if n != bench.data.test_images or run["test"]["images"] != n:
        raise Refused(f"scored {n} test images of {run['test']['images']}, {bench.name} has {bench.data.test_images}")
    for key in ("top1", "top5"):
        check_share(run[key], n, key)
    if run["top5"] < run["top1"]:
        raise Refused(f"top5 is {run['top5']}, less than top1, {run['top1']}")


def check_history(run, recipe):
    """Refused unless every epoch is there once, in order, up to the last, whose network is the one that is scored."""
    history, epochs = run["history"], recipe.training.epochs
    if len(history) != epochs:
        raise Refused(f"its history has {len(history)} epochs, its recipe {epochs}: the score is not the last epoch's")
    for i, entry in enumerate(history):
        shaped(entry, EPOCH, f"epoch {i} of its history")
        if entry["epoch"] != i:
            raise Refused(f"epoch {entry['epoch']} stands at place {i} of its history")
    if not run["monitored_test"] and any("test_top1" in entry for entry in history):
        raise Refused("its history has scores on the test split, and monitored_test says that it was not watched")


DISTILLED = {
    "method": (is_name, "a name"),
    "fingerprint": (is_hex(64), "64 hex digits"),
    "ipc": (is_count, "a number of images per class"),
}


def made(data):
    """{"method", "fingerprint", "ipc", "seconds" or None, "settings"}: what a distilled.json says; Refused if it is none."""
    about = parse(data)
    shaped(about, DISTILLED)
    seconds = about.get("seconds")
    if seconds is not None and not is_seconds(seconds):
        raise Refused(f"seconds is {shown(seconds)}, wanted seconds")
    return {**{key: about[key] for key in DISTILLED}, "seconds": seconds}
