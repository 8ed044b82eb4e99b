"""The networks that a transfer compares: students, random-images students of the same recipe, untrained ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rd3_utils.errors import UserError
from rd3_utils.learning import features, weights
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.recipe import digest
from rd3_utils.scoring import runs
from rd3_utils.scoring.measure import OF_ARMS, kind, same_measure
from rd3_utils.scoring.results import random_networks_beside


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A frozen network and what it is: the checked part of its Run, or of the student that it is the start of."""

    frozen: features.Frozen
    about: dict  # "kind", "benchmark", "student", "seed"; of a trained one also "arm", "protocol", "images", ...
    path: Path | None = None  # of its Run
    run: runs.Run | None = None


def frozen_network(source: str) -> FrozenNetwork:
    """The Entry of the network saved at `source`; UserError without a Run of it, beside the folder or in it."""
    one = features.load_frozen(source)
    assert one.folder is not None  # only untrained networks lie nowhere
    places = [one.folder / weights.RUN] + ([one.folder.with_suffix(".json")] if one.commit is None else [])
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(
            f"student {source} has no Run ({' or '.join(place.name for place in places)}), so nothing tells what it learned "
            "from; train_student.py writes it, and pushes it with the network (for an older repo: --push-only)."
        )
    run = runs.read(path)
    about = network_identity(run)
    if about["student"].partition(".")[0] != one.architecture:
        raise UserError(f"{source} is a network {one.architecture}, and {path.name} speaks of a {about['student']}.")
    size = benchmarks.load(about["benchmark"]).image.size
    if size != one.size:
        raise UserError(f"{source} takes images of {one.size} px, and {path.name} speaks of {about['benchmark']}: {size} px.")
    return FrozenNetwork(one, about, path, run)


def network_identity(run: runs.Run) -> dict:
    """What a record says of the Run behind a network: plain data."""
    benchmarks.load(run.benchmark)
    images = {key: getattr(run.images, key) for key in ("name", "source", "commit", "fingerprint", "ipc", "images")}
    about: dict = {
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
    about["measured"] = digest(kind(run))  # what Runs of one mean share; records made before that do not state it
    later = {"initialisation": (run.network.initialisation, 1), "views": (run.views, "shared")}  # older records state neither
    return about | {key: value for key, (value, first) in later.items() if value != first}


def untrained_network(about: dict) -> FrozenNetwork:
    """The Entry of the network that the student `about` was before its training."""
    about = {"kind": "untrained", **{key: about[key] for key in ("benchmark", "student", "seed")}}
    return FrozenNetwork(features.untrained(about["student"], benchmarks.load(about["benchmark"]), about["seed"]), about)


def entries(sources: Sequence[str], against: Sequence[str] = ()) -> list[FrozenNetwork]:
    """The Entries to measure: those of `sources`, random-images students of their recipes, and each one untrained.

    Random ones are those of `against`, each of which must fit a student; without them, those that lie with the student's
    results. UserError before anything is measured.
    """
    given = distinct([frozen_network(source) for source in sources])
    students = [one for one in given if one.about["kind"] == "student"]
    if against:
        random = [frozen_network(source) for source in against]
        for one, source in zip(random, against):
            misfits = [unlike(mine, one) for mine in students]
            if not misfits:
                raise UserError(
                    "--against compares with a student of other images, and every STUDENT given is a random-images one."
                )
            if all(misfits):
                raise UserError(f"--against {source} is no random-images student to compare with: {misfits[0]}.")
    else:
        random = [one for mine in students for one in random_beside(mine)]
    trained = distinct([*given, *random])
    for name, same in runs.grouped(trained, lambda one: name_of(one.about)).items():
        if len(same) > 1:
            sources = " and ".join(one.frozen.source for one in same)
            raise UserError(f"{sources} are two networks of one recipe, images and seed ({name}); give one of them.")
    starts = {tuple(one.about[key] for key in ("benchmark", "student", "seed")): one.about for one in trained}
    return [*trained, *map(untrained_network, starts.values())]


def distinct(networks: Sequence[FrozenNetwork]) -> list[FrozenNetwork]:
    """The Entries without copies of earlier ones."""
    return list({(one.frozen.sha256, name_of(one.about)): one for one in reversed(networks)}.values())[::-1]


def unlike(student: FrozenNetwork, random: FrozenNetwork) -> str | None:
    """Why the Entry `random` is no baseline of the Entry `student`, or None."""
    why = misfit(student.about, random.about)
    if why is not None:
        return why
    assert student.run is not None and random.run is not None  # both are trained
    same = same_measure(student.run, random.run, but=OF_ARMS)
    return None if same else f"it differs in {same}"


def misfit(student: dict, random: dict) -> str | None:
    """Why the random-images student `random` is no baseline of `student` (both as `network_identity` gives them), or None."""
    if random["kind"] != "random":
        return f"it learned from {random['images']['name']}, which are no random real images"
    for key in ("benchmark", "student", "precision", "initialisation", "views"):
        if random.get(key) != student.get(key):
            return f"its {key} is {random.get(key)}, wanted {student.get(key)}"
    if random["protocol"]["digest"] != student["protocol"]["digest"]:
        wanted, stated = (f"{about['protocol']['name']} {about['protocol']['digest']}" for about in (student, random))
        return f"its protocol is {stated}, wanted {wanted}"
    mine, theirs = counterpart(student), random["arm"].split("-")[1]
    if theirs != mine:
        return f"it has {theirs} labels, wanted {mine}"
    seeds = [about.get("views_seed") for about in (random, student)]
    if mine == student["arm"].split("-")[1] and student.get("views") != "each" and seeds[0] != seeds[1]:
        return f"its views were drawn from seed {seeds[0]}, wanted {seeds[1]}"
    if random["teachers"] != student["teachers"] and mine != "hard":
        return "other teachers labelled its images"
    if per_class(random) != per_class(student):
        return f"it has {per_class(random)} images per class, wanted {per_class(student)}"
    return None


def counterpart(about: dict) -> str:
    """The labels of the random arm that belongs to a student: its own, but hard ones where its images brought them."""
    return "hard" if about["labels"] in ("learned", "hard") else about["arm"].split("-")[1]


def per_class(about: dict) -> int:
    """Images per class, rounded down where classes differ."""
    return about["images"]["ipc"] or about["images"]["images"] // len(benchmarks.load(about["benchmark"]).classes)


def random_beside(one: FrozenNetwork) -> list[FrozenNetwork]:
    """The Entries of the kept random-images students of the recipe of `one`, where its Run lies in a folder of results."""
    if one.path is None or one.frozen.commit is not None or one.path.name == weights.RUN:
        return []
    networks = [frozen_network(str(folder)) for folder in random_networks_beside(one.path)]
    return [other for other in networks if unlike(one, other) is None]


def name_of(about: dict) -> str:
    """How the record of a network is called: readable, and different for what `network_identity` tells apart."""
    words = [about["student"], about.get("arm", about["kind"]), about["benchmark"]]
    words += [about["images"]["name"]] if "images" in about else []
    text = re.sub(r"[^\w.-]", "_", "-".join([*words, f"seed{about['seed']}"]))[:150]
    unmeasured = {key: value for key, value in about.items() if key not in ("top1", "measured")}
    return f"{text}-{digest(unmeasured)}"
