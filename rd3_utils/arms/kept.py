"""Which students of a command are there already: a Run is taken up only if it measured what this command would measure."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from rd3_utils import bounded, launch
from rd3_utils.arms import planned_runs
from rd3_utils.arms.planned_runs import PlannedRun
from rd3_utils.data.images import ImageSet
from rd3_utils.data.label_readers import LabelReader
from rd3_utils.errors import UserError
from rd3_utils.learning import search, students
from rd3_utils.learning.evaluation import Score
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.recipe import digest
from rd3_utils.scoring import measure, results, runs, searches, shapes
from rd3_utils.scoring.runs import Run


def kept_run(
    cell: PlannedRun,
    labels: LabelReader,
    *,
    root: Path | str,
    precision: str,
    benchmark: Benchmark,
    test: Callable[[int], ImageSet],
    with_network: bool,
) -> Run | None:
    """The Run of `cell` that is there already, or None; UserError if it measured something else than this command would.

    A path names benchmark, protocol, images, arm and seed; all else that counts is compared: test split, network, labels.
    None, too, `with_network` (--keep-weights all) where an earlier command did not keep that: it is trained again. `root` is
    the folder of results; `test(resize)` is a function that returns the test split, resized as a recipe says.
    """
    where = cell.path(root, precision)
    run = runs.kept(where)
    if run is None:
        return taken_over(cell, labels, root, precision, benchmark, test)
    wanted = expected(cell, labels, precision, benchmark, test(cell.recipe.training.test_resize))
    run = measure.with_split(run, cell.images.describe())
    same = measure.same_measure(run, wanted)
    if same and (run.images.fingerprint, run.seed) != (wanted.images.fingerprint, wanted.seed):
        same = measure.Verdict(
            "images or seed", f"{run.images.identity}, {run.seed}", f"{wanted.images.identity}, {wanted.seed}"
        )
    if not same:
        raise UserError(
            f"{where} is there already, with another {same.fact}: {measure.short(same.a)}, and this command has "
            f"{measure.short(same.b)}; give another --out to keep both, or remove that file."
        )
    if with_network and cell.keeps_weights and not students.is_saved(results.student_folder(where)):
        return None
    return run


def expected(cell: PlannedRun, labels: LabelReader, precision: str, benchmark: Benchmark, test: ImageSet) -> Run:
    """The Run that this command would write for `cell`, as far as it is known before the training."""
    with torch.device("meta"):
        network = students.create(cell.student, benchmark, cell.seed, **cell.recipe.training.drops)
    here = {"processes": 1, "precision": precision, "devices": "any", "threads": 1, "versions": {}, "git": None}
    result = {**dataclasses.asdict(Score(0.0, 0.0, len(test))), "monitored_test": False, "history": [], "seconds": 0.0}
    known = students.describe_network(cell.student, network)
    stated = {**cell.describe(labels), "network": known, **result, "test": test.describe(), "environment": here}
    return runs.as_read(stated)


def taken_over(
    cell: PlannedRun,
    labels: LabelReader,
    root: Path | str,
    precision: str,
    benchmark: Benchmark,
    test: Callable[[int], ImageSet],
) -> Run | None:
    """With --views-seed each: the Run of `cell` copied from one of shared views, where those were drawn from its own seed.

    It is the same student to the bit. The two kinds are kept apart, so it is never counted twice. None where there is none, and
    where its learning rate was searched with other views than all students of this kind search with (labels_of_search).
    """
    if cell.views != planned_runs.EACH:
        return None
    shared = dataclasses.replace(cell, views="shared").path(root, precision)
    run = runs.kept(shared)
    if run is None or run.views_seed != cell.seed:
        return None
    if cell.recipe.training.learning_rates and run.views_seed != search.SEED:
        return None
    wanted = expected(cell, labels, precision, benchmark, test(cell.recipe.training.test_resize))
    run = measure.with_split(run, cell.images.describe())
    if not measure.same_measure(run, wanted, but=["kind of views", "views seed"]):
        return None  # another test split, teacher or network: that Run is left where it is
    where, network = cell.path(root, precision), results.student_folder(shared)
    if cell.keeps_weights:
        if not students.is_saved(network):
            return None
        shutil.copytree(network, results.student_folder(where), dirs_exist_ok=True)
    today = {key: value for key, value in cell.describe(labels).items() if key in ("schema", "views", "images")}
    table = {**json.loads(shared.read_text()), **today, "network": dataclasses.asdict(wanted.network)}
    runs.write(where, table)
    return runs.read(where)


def rate_search(
    folder: Path, wanted: Run, held_out: ImageSet, top1: Callable[[float], float | None], accelerator: Accelerator
) -> dict:
    """The learning-rate search for the Run `wanted` (see `expected`) on the ImageSet `held_out`: kept in `folder`, or made now.

    `top1(rate)` trains and scores, in all processes. What is made is kept at once: a kill afterwards does not repeat it.
    """
    made = launch.from_main(accelerator, lambda: known_search(folder, wanted, held_out))
    if made is None:
        made = search.best(wanted.recipe["training"]["learning_rates"], top1, held_out)
        launch.from_main(accelerator, lambda: runs.write(search_file(folder, wanted, held_out), made))
    return made


def known_search(folder: Path, wanted: Run, held_out: ImageSet) -> dict | None:
    """The learning-rate search for the Run `wanted` (see `expected`) on the ImageSet `held_out` that `folder` keeps, or None.

    As a file of its own, or as the Run of another seed records it; one on other held-out images, or of Runs that measured
    something else, is not taken.
    """

    def checked(table: Any) -> dict | None:
        stated = searches.check_search(table, wanted.recipe["training"]["learning_rates"], wanted.test.fingerprint)
        return table if stated.images.fingerprint == held_out.fingerprint else None

    with contextlib.suppress(shapes.Refused):  # not there, or damaged: then it is made
        return checked(bounded.read_json(search_file(folder, wanted, held_out)))
    for file in results.seeds_in(folder):
        with contextlib.suppress(UserError, shapes.Refused):
            run = runs.read(file)
            if measure.same_measure(run, wanted) and run.images.fingerprint == wanted.images.fingerprint:
                kept = checked(run.learning_rate_search)
                if kept:
                    return kept
    return None


def search_file(folder: Path, wanted: Run, held_out: ImageSet) -> Path:
    """Where the search for the Run `wanted` on `held_out` is kept: named after all that it depends on."""
    known = [measure.kind(wanted), wanted.images.fingerprint, held_out.fingerprint]
    return folder / f"learning-rate-search-{digest(known)}.json"


def agreed(where: Path, run: dict) -> Run:
    """The Run of `run` (plain data), or what is at `where` already; UserError if that scored otherwise."""
    there = runs.kept(where)
    made = runs.as_read(run)
    if there is not None and there.top1 != made.top1:
        raise UserError(
            f"{where} has top-1 {there.top1:.4f}, and the same student trained again to keep its network has "
            f"{made.top1:.4f} (another machine, or other processes or threads); give another --out."
        )
    if there is not None and there.weights is not None and there.weights != made.weights:
        raise UserError(
            f"{where} states other weights than the same student trained again to keep its network has (another machine, or "
            "other processes or threads); give another --out."
        )
    return made if there is None else there
