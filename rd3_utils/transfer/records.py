"""Transfer without fine-tuning: what the frozen features of a student tell about images of another benchmark.

Three classifiers of the target's train images are scored on its whole test split, for students, for random-images students
of the same recipe and for untrained networks. One record per network and target, written once and kept:

    <out>/transfer/<target>/<train images>-<digest>/<network>.json, and report.json over all records of that folder

The digest covers the settings and the fingerprints of both splits, so that records of one folder may be compared.
"""

import json
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from rd3_utils import bounded, files, launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import selections, sources, tables
from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError
from rd3_utils.learning import features
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.recipe import digest
from rd3_utils.scoring import runs
from rd3_utils.scoring.results import Results
from rd3_utils.transfer.classifiers import CLASSIFIERS, GRID, HELD_OUT, STEPS, TOLERANCE, classify
from rd3_utils.transfer.networks import FrozenNetwork, entries, misfit, name_of, per_class

RECORD_SCHEMA = 1
FEATURES = "what the network's last layer reads; eval mode, float32"
RESIZE = "PIL bilinear"


@dataclass(frozen=True, eq=False)
class TransferTarget:
    """A benchmark that features are carried to: real train images, the whole test split, and how they are classified."""

    benchmark: Benchmark
    train: ImageSet
    test: ImageSet
    settings: dict

    @property
    def identity(self) -> str:
        """How its folder is called: nothing that could change a number is left out."""
        said = [self.settings, self.train.fingerprint, self.test.fingerprint]
        return f"{self.train.name}-{digest(said)}"


# --- which images


def target(
    benchmark: Benchmark,
    data_dir: Path | str | None,
    train_per_class: int | None,
    neighbours: int,
    seed: int,
    workers: int | None = None,
) -> Callable[[], TransferTarget]:
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

    def read() -> TransferTarget:
        source = sources.random(train_per_class, seed) if train_per_class else sources.FULL
        return TransferTarget(
            benchmark, selections.select(source, benchmark, lambda: train), image_sets.of_table(test), settings
        )

    return read


# --- one record per network


def measure(one: FrozenNetwork, to: TransferTarget, accelerator: Accelerator) -> dict:
    """The record of an Entry on a Target: plain data."""
    started, frozen = time.time(), one.frozen
    sets = to.train, to.test
    x, test = (features.extract(frozen, images.images, accelerator.device).numpy() for images in sets)
    top1, about = classify(x, to.train.labels.numpy(), test, to.test.labels.numpy(), to.settings)
    environment = launch.environment(accelerator)
    environment["versions"]["scikit-learn"] = metadata.version("scikit-learn")
    size = to.benchmark.image.size
    return {
        "schema": RECORD_SCHEMA,
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


def measured(one: FrozenNetwork, to: TransferTarget, out: Path | str, accelerator: Accelerator) -> dict:
    """The record of an Entry on a Target: the one that is there, or a new one, written."""
    where = records_folder(out, to) / f"{name_of(one.about)}.json"
    kept = read_record(where) if where.is_file() else None
    if kept is not None and kept["network"]["sha256"] == one.frozen.sha256:
        stated = {**kept["network"], **one.about}
        if stated != kept["network"]:  # an older record, of the same network
            kept["network"] = stated
            write_record(where, kept)
        return kept
    record = measure(one, to, accelerator)
    write_record(where, record)
    return record


def records_folder(out: Path | str, to: TransferTarget) -> Path:
    """Where the records of a Target lie."""
    return Results(out).transfer_folder(to.benchmark.name, to.identity)


def write_record(where: Path, data: dict) -> None:
    """Write plain data."""
    files.write_whole(where, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_record(where: Path) -> dict:
    """The record at `where`; UserError if it is none."""
    try:
        record = bounded.read_json(where, kind="a record of transfer")
        if record["schema"] != RECORD_SCHEMA:
            raise ValueError(f"schema {record['schema']}, wanted {RECORD_SCHEMA}")
        record_group(record), [record["top1"][name] for name in CLASSIFIERS], record["network"]["sha256"], record["name"]
    except (bounded.Refused, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{where} is no record of transfer ({type(error).__name__}: {error}); remove the file.") from error
    return record


# --- what the records say


def records_report(records: Sequence[dict]) -> dict:
    """{"target", "settings", "groups"} over the records of one folder: a group is one recipe and one kind of images.

    Of every group the summary (`runs.summary`) of each classifier, and its gain in mean over the untrained networks and over
    the random-images students of the same recipe; None where there are none.
    """
    groups, entries = runs.grouped(sorted(records, key=record_group), record_group), []
    summaries = {key: {name: records_summary(mine, name) for name in CLASSIFIERS} for key, mine in groups.items()}
    for key, mine in groups.items():
        head, probes = mine[0]["network"], [record["classifiers"]["linear_probe"] for record in mine]
        entries.append(
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
    return {"target": about, "settings": records[0]["settings"], "groups": entries}


def records_summary(records: Sequence[dict], name: str) -> dict:
    """`runs.summarised` of one classifier's top-1."""
    draws = [sources.recorded(r["network"].get("images", {}).get("source", "")).draw for r in records]
    return runs.summarised([(draw and draw[1], r["network"]["seed"], r["top1"][name]) for draw, r in zip(draws, records)])


def record_group(record: dict) -> str:
    """What records share that are seeds or draws of one thing, as text that sorts: students, random ones, untrained ones."""
    network = record["network"]
    key = [("student", "random", "untrained").index(network["kind"]), network["benchmark"], network["student"]]
    if network["kind"] != "untrained":
        key += [network["protocol"]["digest"], *(network[part] for part in ("arm", "labels", "teachers", "precision"))]
        key += [per_class(network)]
        key += [network[later] for later in ("initialisation", "views", "measured") if later in network]
        key += [network["images"]["fingerprint"]] if network["kind"] == "student" else []
    return json.dumps(key)


def name_in_report(record: dict) -> str:
    """The "group" of a report that a record belongs to."""
    return digest(record_group(record))


def gain(
    key: str, groups: dict[str, list[dict]], summaries: dict[str, dict[str, dict]], belongs: Callable[[dict, dict], bool]
) -> dict | None:
    """{"group" of the other, classifier: difference of the means} over the group that `belongs` to that of `key`, or None."""
    mine = groups[key][0]["network"]
    other = next((k for k, records in groups.items() if belongs(records[0]["network"], mine)), None)
    if other is None:
        return None
    gains = {name: summaries[key][name]["mean"] - summaries[other][name]["mean"] for name in CLASSIFIERS}
    return {"group": digest(other), **gains}


def is_start(other: dict, mine: dict) -> bool:
    """Whether `other` is an untrained network of the kind of `mine`, which is trained."""
    same = (other["benchmark"], other["student"]) == (mine["benchmark"], mine["student"])
    return same and other["kind"] == "untrained" != mine["kind"]


def is_random(other: dict, mine: dict) -> bool:
    """Whether `other` is a random-images student of the recipe of `mine`."""
    return (mine["kind"], other["kind"]) == ("student", "random") and misfit(mine, other) is None


def names_of_images(records: Iterable[dict]) -> list[str]:
    """The names of the images behind a group, each once; none of untrained networks."""
    return list(dict.fromkeys(r["network"]["images"]["name"] for r in records if "images" in r["network"]))


def chosen(report: dict, wanted: Collection[str]) -> list[dict]:
    """The groups of a report of which `wanted` has the name, and those that they are compared with."""
    mine = [group for group in report["groups"] if group["group"] in wanted]
    others = {group[over]["group"] for group in mine for over in ("over_random", "over_untrained") if group[over]}
    return [group for group in report["groups"] if group["group"] in {*wanted, *others}]


def records_of(folder: Path) -> list[dict]:
    """All records of one folder, in the order of their names."""
    return [read_record(file) for file in sorted(folder.glob("*.json")) if file.name != "report.json"]


def transfer(
    sources: Sequence[str],
    against: Sequence[str],
    targets: Iterable[Callable[[], Callable[[], TransferTarget]]],
    out: Path | str,
) -> Iterator[tuple[Path, dict, list[dict]]]:
    """Measure all networks on all Targets (functions that read them); yields (folder, report of it, the groups measured)."""
    accelerator = launch.accelerator()
    if accelerator.num_processes > 1:
        raise UserError(f"transfer runs in one process, {accelerator.num_processes} were launched; run it without a launcher.")
    files.try_folder(Path(out) / "transfer")
    everything = entries(sources, against)
    prepared = [prepare() for prepare in targets]
    for read_target in prepared:
        to = read_target()
        mine = {name_in_report(measured(one, to, out, accelerator)) for one in everything}
        where = records_folder(out, to)
        report = records_report(records_of(where))
        write_record(where / "report.json", report)
        yield where, report, chosen(report, mine)
