"""Transfer without fine-tuning: what the frozen features of a student tell about images of another benchmark.

Three classifiers of the target's train images are scored on its whole test split, for students, for random-images students
of the same recipe and for untrained networks. One record per network and target, written once and kept:

    <out>/transfer/<target>/<train images>-<digest>/<network>.json, and report.json over all records of that folder

The digest covers the settings and the fingerprints of both splits, so that records of one folder may be compared.
"""

import json
import os
import re
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn
from accelerate.utils import tqdm
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler, normalize

from rd3_utils import launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import selections, sources, tables
from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError
from rd3_utils.learning import features
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.protocol import digest
from rd3_utils.scoring import runs
from rd3_utils.scoring.measure import ARMS, same_measure

SCHEMA = 1
GRID = tuple(10.0**p for p in range(-6, 3))  # of C, the inverse of the probe's L2 penalty
HELD_OUT = 5  # every fifth train image of a class chooses C
STEPS = 1_000  # most of L-BFGS
TOLERANCE = 1e-4  # of the gradient's largest entry at which the probe counts as converged
LONG = 1e7  # numbers from which fitting shows its progress
FEATURES = "what the network's last layer reads; eval mode, float32"
RESIZE = "PIL bilinear"


@dataclass(frozen=True, eq=False)
class Target:
    """A benchmark that features are carried to: real train images, the whole test split, and how they are classified."""

    benchmark: Benchmark
    train: ImageSet
    test: ImageSet
    settings: dict

    @property
    def identity(self):
        """How its folder is called: nothing that could change a number is left out."""
        said = [self.settings, self.train.fingerprint, self.test.fingerprint]
        return f"{self.train.name}-{digest(said)}"


# --- which networks


@dataclass(frozen=True, eq=False)
class Entry:
    """A frozen network and what it is: the checked part of its Run, or of the student that it is the start of."""

    frozen: features.Frozen
    about: dict  # "kind", "benchmark", "student", "seed"; of a trained one also "arm", "protocol", "images", ...
    path: Path | None = None  # of its Run
    run: runs.Run | None = None


def entry(source):
    """The Entry of the network saved at `source`; UserError without a Run of it, beside the folder or in it."""
    one = features.load(source)
    places = [one.folder / features.RUN] + ([one.folder.with_suffix(".json")] if one.commit is None else [])
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(
            f"student {source} has no Run ({' or '.join(place.name for place in places)}), so nothing tells what it learned "
            "from; train_student.py writes it, and pushes it with the network (for an older repo: --push-only)."
        )
    run = runs.read(path)
    about = identity(run)
    if about["student"].partition(".")[0] != one.architecture:
        raise UserError(f"{source} is a network {one.architecture}, and {path.name} speaks of a {about['student']}.")
    size = benchmarks.load(about["benchmark"]).image.size
    if size != one.size:
        raise UserError(f"{source} takes images of {one.size} px, and {path.name} speaks of {about['benchmark']}: {size} px.")
    return Entry(one, about, path, run)


def identity(run):
    """What a record says of the Run behind a network: plain data."""
    benchmarks.load(run.benchmark)
    images = {key: getattr(run.images, key) for key in ("name", "source", "commit", "fingerprint", "ipc", "images")}
    about = {
        "kind": "student" if run.draw is None else "random",
        "benchmark": run.benchmark,
        "student": run.student,
        "seed": run.seed,
        "arm": run.arm,
        "protocol": {"name": run.protocol.name, "digest": run.protocol.digest, "custom": bool(run.protocol.overrides)},
        "images": images,
        "labels": run.labels.kind,
        "teachers": list(run.teacher_weights),
        "views_seed": run.views_seed,
        "precision": run.environment.precision,
        "top1": run.top1,
    }
    later = {"initialisation": (run.network.initialisation, 1), "views": (run.views, "shared")}  # older records state neither
    return about | {key: value for key, (value, first) in later.items() if value != first}


def untrained(about):
    """The Entry of the network that the student `about` was before its training."""
    about = {"kind": "untrained", **{key: about[key] for key in ("benchmark", "student", "seed")}}
    return Entry(features.untrained(about["student"], benchmarks.load(about["benchmark"]), about["seed"]), about)


def entries(sources, against=()):
    """The Entries to measure: those of `sources`, random-images students of their recipes, and each one untrained.

    Random ones are those of `against`, each of which must fit a student; without them, those that lie with the student's
    results. UserError before anything is measured.
    """
    given = distinct([entry(source) for source in sources])
    students = [one for one in given if one.about["kind"] == "student"]
    if against:
        random = [entry(source) for source in against]
        for one, source in zip(random, against):
            misfits = [unlike(mine, one) for mine in students]
            if not misfits:
                raise UserError(
                    "--against compares with a student of other images, and every STUDENT given is a random-images one."
                )
            if all(misfits):
                raise UserError(f"--against {source} is no random-images student to compare with: {misfits[0]}.")
    else:
        random = [one for mine in students for one in beside(mine)]
    trained = distinct([*given, *random])
    for name, same in runs.grouped(trained, lambda one: name_of(one.about)).items():
        if len(same) > 1:
            sources = " and ".join(one.frozen.source for one in same)
            raise UserError(f"{sources} are two networks of one recipe, images and seed ({name}); give one of them.")
    starts = {tuple(one.about[key] for key in ("benchmark", "student", "seed")): one.about for one in trained}
    return [*trained, *map(untrained, starts.values())]


def distinct(found):
    """The Entries without copies of earlier ones."""
    return list({(one.frozen.sha256, name_of(one.about)): one for one in reversed(found)}.values())[::-1]


def unlike(student, random):
    """Why the Entry `random` is no baseline of the Entry `student`, or None."""
    why = misfit(student.about, random.about)
    if why is not None:
        return why
    same = same_measure(student.run, random.run, but=ARMS)
    return None if same else f"it differs in {same}"


def misfit(student, random):
    """Why the random-images student `random` is no baseline of `student` (both as `identity` gives them), or None."""
    if random["kind"] != "random":
        return f"it learned from {random['images']['name']}, which are no random real images"
    for key in ("benchmark", "student", "precision", "initialisation", "views"):
        if random.get(key) != student.get(key):
            return f"its {key} is {random.get(key)}, wanted {student.get(key)}"
    if random["protocol"]["digest"] != student["protocol"]["digest"]:
        wanted, found = (f"{of['protocol']['name']} {of['protocol']['digest']}" for of in (student, random))
        return f"its protocol is {found}, wanted {wanted}"
    mine, theirs = counterpart(student), random["arm"].split("-")[1]
    if theirs != mine:
        return f"it has {theirs} labels, wanted {mine}"
    if random["teachers"] != student["teachers"] and mine != "hard":
        return "other teachers labelled its images"
    if per_class(random) != per_class(student):
        return f"it has {per_class(random)} images per class, wanted {per_class(student)}"
    return None


def counterpart(about):
    """The labels of the random arm that belongs to a student: its own, but hard ones where its images brought them."""
    return "hard" if about["labels"] in ("learned", "hard") else about["arm"].split("-")[1]


def per_class(about):
    """Images per class, rounded down where classes differ."""
    return about["images"]["ipc"] or about["images"]["images"] // len(benchmarks.load(about["benchmark"]).classes)


def beside(one):
    """The Entries of the kept random-images students of the recipe of `one`, where its Run lies in a folder of results."""
    if one.path is None or one.frozen.commit is not None or one.path.name == features.RUN:
        return []
    student, protocol = one.path.parents[1].name, one.path.parents[3]
    folders = [file.parent for file in sorted(protocol.glob(f"random-ipc*/{student}/random-*/seed*/config.json"))]
    found = [entry(str(folder)) for folder in folders if folder.with_suffix(".json").is_file()]
    return [other for other in found if unlike(one, other) is None]


# --- which images


def target(benchmark, data_dir, train_per_class, neighbours, seed, workers=None):
    """A function that reads the Target; what can be wrong with it is checked here, before an image is decoded."""
    train, test = (tables.real(benchmark, split, data_dir, workers) for split in ("train", "test"))
    counts = np.bincount(train.labels, minlength=len(benchmark.classes))
    few = f"class '{benchmark.classes[counts.argmin()]}' has {counts.min()} train images"
    if train_per_class and counts.min() < train_per_class:
        raise UserError(f"{benchmark.name}: {few}; use --train-per-class {counts.min()} or fewer.")
    if 1 in (train_per_class, counts.min()):
        raise UserError(
            f"{benchmark.name}: {'--train-per-class is 1' if train_per_class else few}, and the linear probe holds some out to "
            "choose its penalty; give at least 2 of each class."
        )
    count = len(benchmark.classes) * train_per_class if train_per_class else len(train)
    if neighbours > count:
        raise UserError(f"--neighbours {neighbours}: {benchmark.name} has only {count} train images here; use fewer.")
    image_sets.check_size(count, benchmark)
    settings = {
        "classifiers": sorted(CLASSIFIERS),
        "neighbours": neighbours,
        "seed": seed,
        "grid": list(GRID),
        "held_out": f"1 of {HELD_OUT}",
        "steps": STEPS,
        "tolerance": TOLERANCE,
        "resize": RESIZE,
    }

    def read():
        source = f"random:ipc={train_per_class},seed={seed}" if train_per_class else "full"
        return Target(benchmark, selections.select(source, benchmark, lambda: train), image_sets.of_table(test), settings)

    return read


# --- the classifiers: features float32 [N, D] and labels int64 [N] of train images, features of test images -> classes


def nearest_centre(x, y, test, settings):
    """The class whose mean feature is nearest: Euclidean, features scaled to length 1 (as in iCaRL, CVPR 2017)."""
    fitted = NearestCentroid().fit(unit(x), y)
    return fitted.predict(unit(test)), {}


def nearest_neighbours(x, y, test, settings):
    """What most of the k nearest train images are: Euclidean, features scaled to length 1, which is k-NN by cosine."""
    fitted = KNeighborsClassifier(settings["neighbours"], algorithm="brute").fit(unit(x), y)
    return fitted.predict(unit(test)), {}


def linear_probe(x, y, test, settings):
    """Logistic regression with an L2 penalty on standardised features, its C the best of a grid on held-out train images.

    Of equals the strongest penalty. Then all train images are fitted with it; the test split takes no part in the choice.
    """
    x, test = x.astype(np.float64), test.astype(np.float64)
    aside = held_out(y, settings["seed"])
    grid = []
    for c in tqdm(settings["grid"], desc="linear probe", unit="fit", leave=False, disable=x.size < LONG):
        predicted, found = regression(x[~aside], y[~aside], x[aside], c, settings)
        grid.append({**found, "held_out_top1": float((predicted == y[aside]).mean())})
    best = max(grid, key=lambda tried: tried["held_out_top1"])["c"]  # the first of equals
    predicted, found = regression(x, y, test, best, settings)
    first, second, last = grid[0], grid[1], grid[-1]
    at_edge = best == last["c"] or (best == first["c"] and first["held_out_top1"] > second["held_out_top1"])
    return predicted, {**found, "at_edge_of_grid": at_edge, "held_out": int(aside.sum()), "tried": grid}


def regression(x, y, test, c, settings):
    """(classes of `test`, {"c", "steps", "converged"}) of one fit."""
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=c, max_iter=settings["steps"], tol=settings["tolerance"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(scaler.transform(x), y)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return model.predict(scaler.transform(test)), {"c": c, "steps": int(model.n_iter_.max()), "converged": converged}


def held_out(labels, seed):
    """bool [N]: of every class one image in HELD_OUT, and at least one, in the order of a Philox stream keyed by `seed`."""
    key = np.random.Philox(key=[seed, 1]).random_raw(len(labels))
    aside = np.zeros(len(labels), bool)
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        aside[rows[np.argsort(key[rows])][: max(1, len(rows) // HELD_OUT)]] = True
    return aside


def unit(x):
    """float64 [N, D] rows of length 1; a row of zeros stays."""
    return normalize(x.astype(np.float64))


CLASSIFIERS = {"nearest_centre": nearest_centre, "nearest_neighbours": nearest_neighbours, "linear_probe": linear_probe}


# --- one record per network


def classify(train, train_labels, test, test_labels, settings):
    """({classifier: top-1 as a fraction}, {classifier: what is worth recording}) of features [N, D] and labels [N]."""
    top1, about = {}, {}
    for name, classifier in CLASSIFIERS.items():
        predicted, about[name] = classifier(train, train_labels, test, settings)
        top1[name] = float((predicted == test_labels).mean())
    return top1, {name: found for name, found in about.items() if found}


def measure(one, to, accelerator):
    """The record of an Entry on a Target: plain data."""
    started, frozen = time.time(), one.frozen
    sets = to.train, to.test
    x, test = (features.extract(frozen, images.images, accelerator.device).numpy() for images in sets)
    top1, about = classify(x, to.train.labels.numpy(), test, to.test.labels.numpy(), to.settings)
    environment = launch.environment(accelerator)
    environment["versions"]["scikit-learn"] = sklearn.__version__
    size = to.benchmark.image.size
    return {
        "schema": SCHEMA,
        "name": name_of(one.about),
        "network": {
            **one.about,
            "source": frozen.source,
            "commit": frozen.commit,
            "architecture": frozen.architecture,
            "sha256": frozen.sha256,
            "mean": list(frozen.mean),
            "std": list(frozen.std),
        },
        "target": {
            "benchmark": to.benchmark.name,
            "title": to.benchmark.title,
            "own": to.benchmark.name == one.about["benchmark"],
            "size": size,
            "resized_to": None if size == frozen.size else frozen.size,
            "train": to.train.describe(),
            "test": to.test.describe(),
        },
        "features": {"dimension": x.shape[1], "of": FEATURES},
        "settings": to.settings,
        "top1": top1,
        "classifiers": about,
        "images_scored": len(to.test),
        "seconds": time.time() - started,
        "environment": environment,
    }


def measured(one, to, out, accelerator):
    """The record of an Entry on a Target: the one that is there, or a new one, written."""
    where = folder(out, to) / f"{name_of(one.about)}.json"
    kept = read(where) if where.is_file() else None
    if kept is not None and kept["network"]["sha256"] == one.frozen.sha256:
        return kept
    record = measure(one, to, accelerator)
    write(where, record)
    return record


def folder(out, to):
    """Where the records of a Target lie."""
    return Path(out) / "transfer" / to.benchmark.name / to.identity


def name_of(about):
    """How the record of a network is called: readable, and different for what `identity` tells apart."""
    words = [about["student"], about.get("arm", about["kind"]), about["benchmark"]]
    words += [about["images"]["name"]] if "images" in about else []
    words = re.sub(r"[^\w.-]", "_", "-".join([*words, f"seed{about['seed']}"]))[:150]
    unmeasured = {key: value for key, value in about.items() if key != "top1"}
    return f"{words}-{digest(unmeasured)}"


def write(where, data):
    """Write plain data: temporary name, renamed."""
    where.parent.mkdir(parents=True, exist_ok=True)
    temporary = where.with_name(f".{where.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    os.replace(temporary, where)


def read(where):
    """The record at `where`; UserError if it is none."""
    try:
        record = json.loads(where.read_text())
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']}, wanted {SCHEMA}")
        group_of(record), [record["top1"][name] for name in CLASSIFIERS], record["network"]["sha256"], record["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is no record of transfer ({type(error).__name__}: {error}); remove the file.") from error
    return record


# --- what the records say


def report(records):
    """{"target", "settings", "groups"} over the records of one folder: a group is one recipe and one kind of images.

    Of every group the summary (`runs.summary`) of each classifier, and its gain in mean over the untrained networks and over
    the random-images students of the same recipe; None where there are none.
    """
    groups, found = runs.grouped(sorted(records, key=group_of), group_of), []
    summaries = {key: {name: summary(mine, name) for name in CLASSIFIERS} for key, mine in groups.items()}
    for key, mine in groups.items():
        head, probes = mine[0]["network"], [record["classifiers"]["linear_probe"] for record in mine]
        found.append(
            {
                "group": digest(key),
                **{k: head.get(k) for k in ("kind", "benchmark", "student", "arm", "labels", "protocol", "precision")},
                "images": names_of_images(mine),
                "own_top1": statistics.fmean(r["network"]["top1"] for r in mine) if "top1" in head else None,
                "own_benchmark": mine[0]["target"]["own"],
                "dimension": mine[0]["features"]["dimension"],
                "resized_to": mine[0]["target"]["resized_to"],
                "top1": summaries[key],
                "over_untrained": gain(key, groups, summaries, is_start),
                "over_random": gain(key, groups, summaries, is_random),
                "probe_converged": all(probe["converged"] for probe in probes),
                "probe_at_edge_of_grid": any(probe["at_edge_of_grid"] for probe in probes),
            }
        )
    about = {key: records[0]["target"][key] for key in ("benchmark", "title", "size", "train", "test")}
    return {"target": about, "settings": records[0]["settings"], "groups": found}


def summary(records, name):
    """`runs.summarised` of one classifier's top-1."""
    draws = [sources.draw_of(r["network"].get("images", {}).get("source", "")) for r in records]
    return runs.summarised([(draw and draw[1], r["network"]["seed"], r["top1"][name]) for draw, r in zip(draws, records)])


def group_of(record):
    """What records share that are seeds or draws of one thing, as text that sorts: students, random ones, untrained ones."""
    of = record["network"]
    key = [("student", "random", "untrained").index(of["kind"]), of["benchmark"], of["student"]]
    if of["kind"] != "untrained":
        key += [of["protocol"]["digest"], of["arm"], of["labels"], of["teachers"], of["precision"], per_class(of)]
        key += [of[later] for later in ("initialisation", "views") if later in of]
        key += [of["images"]["fingerprint"]] if of["kind"] == "student" else []
    return json.dumps(key)


def name_in_report(record):
    """The "group" of a report that a record belongs to."""
    return digest(group_of(record))


def gain(key, groups, summaries, belongs):
    """{"group" of the other, classifier: difference of the means} over the group that `belongs` to that of `key`, or None."""
    mine = groups[key][0]["network"]
    other = next((k for k, records in groups.items() if belongs(records[0]["network"], mine)), None)
    if other is None:
        return None
    found = {name: summaries[key][name]["mean"] - summaries[other][name]["mean"] for name in CLASSIFIERS}
    return {"group": digest(other), **found}


def is_start(other, mine):
    """Whether `other` is an untrained network of the kind of `mine`, which is trained."""
    same = (other["benchmark"], other["student"]) == (mine["benchmark"], mine["student"])
    return same and other["kind"] == "untrained" != mine["kind"]


def is_random(other, mine):
    """Whether `other` is a random-images student of the recipe of `mine`."""
    return (mine["kind"], other["kind"]) == ("student", "random") and misfit(mine, other) is None


def names_of_images(records):
    """The names of the images behind a group, each once; none of untrained networks."""
    return list(dict.fromkeys(r["network"]["images"]["name"] for r in records if "images" in r["network"]))


def chosen(report, wanted):
    """The groups of a report of which `wanted` has the name, and those that they are compared with."""
    mine = [group for group in report["groups"] if group["group"] in wanted]
    others = {group[over]["group"] for group in mine for over in ("over_random", "over_untrained") if group[over]}
    return [group for group in report["groups"] if group["group"] in {*wanted, *others}]


def records_of(folder):
    """All records of one folder, in the order of their names."""
    return [read(file) for file in sorted(folder.glob("*.json")) if file.name != "report.json"]


def transfer(sources, against, targets, out):
    """Measure all networks on all Targets (functions that read them); yields (folder, report of it, the groups measured)."""
    accelerator = launch.accelerator()
    if accelerator.num_processes > 1:
        raise UserError(f"transfer runs in one process, {accelerator.num_processes} were launched; run it without a launcher.")
    everything = entries(sources, against)
    targets = [prepare() for prepare in targets]
    for read_target in targets:
        to = read_target()
        mine = {name_in_report(measured(one, to, out, accelerator)) for one in everything}
        where = folder(out, to)
        found = report(records_of(where))
        write(where / "report.json", found)
        yield where, found, chosen(found, mine)
