"""The commands of a study: make an image set, label it, train the students of a cell, as jobs that wait for one another."""

import contextlib
import dataclasses
import shlex
import sys
from functools import partial
from pathlib import Path

from rd3_utils import command_lines
from rd3_utils.data import soft_labels
from rd3_utils.errors import UserError
from rd3_utils.options import LabelOptions, TrainOptions
from rd3_utils.protocols.recipe import digest
from rd3_utils.studies.jobs import Job
from rd3_utils.studies.planning import Placed, StudyPlan, is_made, recorded_teacher
from rd3_utils.studies.study import PROJECT, VIEWS_SEED


def make_jobs(plan: StudyPlan, placed: list[Placed]) -> dict[Path, Job]:
    """A Job for each image set that `placed` cells need and the study can make: {folder: Job}."""
    jobs: dict[Path, Job] = {}
    for one in placed:
        cell, folder = one.cell, one.folder
        if folder is None or folder in jobs or is_made(folder) or one.run is not None or not cell.make:
            continue
        given = {"benchmark": cell.benchmark, "out": one.source.text, "data_dir": data_dir(plan, cell.benchmark)}
        words = [word for name, value in given.items() for word in command_lines.option(name, value)]
        command = [sys.executable, *command_lines.MODULE[1:], *shlex.split(cell.make), *words]
        claim = folder.with_name(f"{folder.name}.claim")
        log = plan.folder / "logs" / f"make-{cell.benchmark}-{folder.name}.log"
        jobs[folder] = Job(f"{cell.benchmark} {cell.images_name}, making it", command, partial(is_made, folder), claim, log)
    return jobs


def train_jobs(
    plan: StudyPlan, placed: list[Placed], config: Path | str, everything: list[Placed] | None = None
) -> tuple[list[Job], dict[Job, Placed]]:
    """(Jobs, {Job: Placed}) for the cells of `placed` that have no Run: label stores first, each before the cells that need it.

    A store gets as many epochs as any cell of `everything` reads from it, so that nobody makes it twice.
    """
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    longest: dict[tuple, Placed] = {}
    for one in everything or placed:
        if one.labels_key:
            other = longest.setdefault(one.labels_key, one)
            longest[one.labels_key] = max(one, other, key=lambda p: p.recipe.label_epochs)
    jobs: list[Job] = []
    cells: dict[Job, Placed] = {}
    labels: dict[tuple, Job] = {}
    planned: set[Path | None] = set()
    for one in placed:
        if one.run is not None or one.path in planned:
            continue
        planned.add(one.path)
        after: list[Job] = []
        key = one.labels_key
        if key in labels:
            after = [labels[key]]
        elif key and one.recipe.labels.kind == "soft":
            needed = longest[key]
            if not has_store(plan, one, needed.recipe.label_epochs):
                assert one.known.identity is not None  # the images of cells that are to be trained were read
                labels[key] = label_job(plan, needed, launch, one.known.identity)
                jobs.append(labels[key])
                after = [labels[key]]
        job = train_job(plan, one, launch, after)
        if key and one.recipe.labels.kind == "static" and key not in labels:
            labels[key] = job  # the first cell makes the labels for the others
        jobs.append(job)
        cells[job] = one
    return jobs, cells


def train_job(plan: StudyPlan, one: Placed, launch: list[str], after: list[Job]) -> Job:
    """The Job that trains one cell."""
    assert one.path is not None  # its images were read
    options = dataclasses.replace(
        label_options(plan, one).for_training(),
        arms=one.arm,
        seeds=(one.cell.seed,),
        draw=one.source.seed if one.arm.startswith("random-") else None,
        out=str(plan.out),
        runs_only=True,
    )
    log = plan.folder / "logs" / f"{'-'.join((*one.path.relative_to(plan.out).parts[:-1], one.path.stem))}.log"
    return Job(one.cell.name, script(launch, options), one.path.is_file, one.path.with_suffix(".claim"), log, after)


def label_job(plan: StudyPlan, one: Placed, launch: list[str], identity: str) -> Job:
    """The Job that makes the label store of one cell."""
    assert one.labels_key is not None  # it reads one
    name = f"{one.recipe.views_digest}-{digest([*one.labels_key])}"
    log = plan.folder / "logs" / f"labels-{one.cell.benchmark}-{identity}-{name}.log"
    epochs, claim = one.recipe.label_epochs, Path(plan.soft_labels) / identity / f"{name}.claim"
    text = f"{one.cell.benchmark} {one.cell.images_name}, soft labels of {epochs} epochs for {one.cell.variant}"
    return Job(text, script(launch, label_options(plan, one)), lambda: has_store(plan, one, epochs), claim, log)


def label_options(plan: StudyPlan, one: Placed) -> LabelOptions:
    """What the label store of a cell is made with; a cell trains with the same."""
    cell = one.cell
    return LabelOptions(
        benchmark=cell.benchmark,
        protocol=str(plan.study.folder / cell.protocol) if cell.protocol.endswith(".toml") else one.protocol.name,
        distilled=one.source.text,
        student=cell.student,
        set=tuple(cell.set),
        teacher=tuple(one.teachers),
        data_dir=data_dir(plan, cell.benchmark),
        out=plan.soft_labels,
    )


def script(launch: list[str], options: TrainOptions | LabelOptions) -> list[str]:
    """The words that `launch` the script of `options` with them."""
    return [*launch, str(PROJECT / command_lines.SCRIPTS[type(options)]), *command_lines.option_words(options)]


def data_dir(plan: StudyPlan, benchmark: str) -> str | None:
    """The --data-dir of a command for one benchmark, if it has one."""
    return str(plan.data_dirs[benchmark]) if benchmark in plan.data_dirs else None


def has_store(plan: StudyPlan, one: Placed, epochs: int) -> bool:
    """Whether a finished store with `epochs` epochs labels the views of a cell with its teachers, as far as names tell."""
    wanted = teacher_names(one)
    for folder in soft_labels.candidates(plan.soft_labels, str(one.known.identity), one.recipe, VIEWS_SEED):
        with contextlib.suppress(UserError):  # said by the command that is to use it
            index = soft_labels.read_index(folder)
            if index["epochs"] >= epochs and [teacher["source"] for teacher in index["teachers"]] == wanted:
                return True
    return False


def teacher_names(one: Placed) -> list[str]:
    """How stores and Runs name the teachers of a Placed, as far as the study's text tells."""
    return [recorded_teacher(teacher, one.cell.benchmark) for teacher in one.teachers]
