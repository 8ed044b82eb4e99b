"""Train students on a distilled dataset under one protocol, score them on the whole test split, and write a model card.

    accelerate launch train_student.py --teacher default            # the embedded benchmark; --help says more

options -> cells (image set x labels x student x seed) -> labels -> fitting.fit -> fitting.score -> Run -> card -> Hub
"""

from rd3_utils.cli.train import parse

if __name__ == "__main__":
    given = parse()  # a mistyped option is told before torch is imported

import dataclasses
import functools
import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import tqdm

from rd3_utils import files, launch, tracking
from rd3_utils.arms import image_checks, kept, label_sources, planned_runs
from rd3_utils.cli import options as shared
from rd3_utils.data import images as image_sets
from rd3_utils.data import tables
from rd3_utils.data.images import ImageSet
from rd3_utils.learning import fitting, search, students, training
from rd3_utils.learning.fitting import TrainingTask
from rd3_utils.learning.weights import weights_sha256
from rd3_utils.options import TrainOptions
from rd3_utils.publishing import card, student_repo
from rd3_utils.scoring import runs

MONITORED = 20  # how often --monitor-test looks at the test split in one training


def main(options: TrainOptions) -> None:
    accelerator = launch.accelerator(**tracking.arguments(options.log_with, options.out))
    benchmark, protocol = shared.read_what(options)
    target = shared.push_target(options, "model")
    names = [students.architecture(name, benchmark) for name in (options.student or benchmark.defaults.student).split(",")]
    names = list(dict.fromkeys(names))
    planned_runs.check_start(options, benchmark, protocol, names, accelerator)
    cells = planned_runs.plan(options, benchmark, protocol, names)
    launch.agree(accelerator, [cell.images.fingerprint for cell in cells], "the images they read (a Hub revision that moved?)")
    planned_runs.check_cells(cells, options, benchmark, accelerator)
    precision, main_process = launch.precision(accelerator), accelerator.is_main_process
    if options.dry_run:
        return accelerator.print(planned_runs.dry_run(cells, options, precision))
    push = student_repo.prepared(target, cells, benchmark, options, precision, accelerator) if target else None
    if options.push_only:
        if push and main_process:
            push(student_repo.kept_runs(cells, options, precision))
        return
    launch.from_main(accelerator, lambda: files.try_files(cell.path(options.out, precision) for cell in cells))
    test = functools.cache(lambda size: image_sets.test_split(benchmark, options.data_dir, options.workers, size))
    labels = label_sources.find_labels(cells, options, benchmark, lambda: test(0), accelerator)  # the split is read when needed
    known = [(labels[cell.labels_key].describe(), labels[cell.labels_key].origin) for cell in cells]
    launch.agree(accelerator, known, "the soft labels they read (a Hub revision that moved?)")
    whitening = planned_runs.find_whitening(cells, options, benchmark)
    look = functools.partial(kept.kept_run, root=options.out, precision=precision, benchmark=benchmark, test=test,
                             with_network=options.keep_weights == "all")  # fmt: skip
    there = launch.from_main(accelerator, lambda: [look(cell, labels[cell.labels_key]) for cell in cells])
    cells = image_checks.with_checks(cells, there, lambda: test(0), options.allow_test_images, accelerator)
    finished = []
    for cell, run in tqdm(list(zip(cells, there)), desc="students", unit="run", disable=len(cells) < 2):
        where = cell.path(options.out, precision)
        task = TrainingTask(cell, labels[cell.labels_key], whitening[cell.recipe.views.zca], benchmark)
        finished.append(run or train(task, test(cell.recipe.training.test_resize), where, options, accelerator))
    if main_process and not options.runs_only:
        card.publish_cards(finished, cells, labels, benchmark, protocol, options)
    accelerator.end_training()
    if push and main_process:  # alone from here on: others need not wait for an upload
        push(finished)


def train(task: TrainingTask, test: ImageSet, where: Path, options: TrainOptions,
          accelerator: Accelerator) -> runs.Run:  # fmt: skip
    """Train one student from its seed, score its last epoch, write and return the Run."""
    launch.agree(accelerator, test.fingerprint, "the test images they read (a Hub revision that moved?)")
    cell = task.cell
    launched = f"{accelerator.num_processes}-{launch.precision(accelerator)}"
    checkpoint = where.with_name(f"seed{cell.seed}-{launched}.checkpoint")
    best = best_rate(task, test, checkpoint, options, accelerator) if cell.recipe.training.learning_rates else None
    if best:
        cell = dataclasses.replace(cell, recipe=search.with_rate(cell.recipe, best["learning_rate"]))
        task = dataclasses.replace(task, cell=cell)

    tracking.begin(accelerator, where.relative_to(options.out).with_suffix(""), cell.describe(task.labels))

    def watch(entry: dict, learner: training.Learner | None = None) -> None:
        if options.monitor_test and learner and entry["epoch"] % max(1, cell.recipe.training.epochs // MONITORED) == 0:
            entry["test_top1"] = fitting.score(task, learner, test, accelerator).top1
        accelerator.log(entry, step=entry["epoch"])

    learner, history, started = fitting.fit(task, checkpoint, accelerator, watch)
    result = dataclasses.asdict(fitting.score(task, learner, test, accelerator))
    accelerator.log(result, step=cell.recipe.training.epochs)
    run = {
        **cell.describe(task.labels),
        "network": students.describe_network(cell.student, accelerator.unwrap_model(learner.student)),
        "weights": {"sha256": weights_sha256(accelerator.unwrap_model(learner.scored))},
        **result,
        **({"learning_rate_search": best} if best else {}),
        "test": test.describe(),
        "monitored_test": any("test_top1" in entry for entry in history),
        "history": history,
        "seconds": time.time() - started,
        "environment": launch.environment(accelerator),
    }
    finished = kept.agreed(where, run)
    if accelerator.is_main_process:
        if cell.keeps_weights:
            students.save(accelerator.unwrap_model(learner.scored), where.with_suffix(""), task.benchmark)
        runs.write(where, run)
        checkpoint.unlink(missing_ok=True)
    accelerator.free_memory()
    return finished


def best_rate(task: TrainingTask, test: ImageSet, checkpoint: Path, options: TrainOptions,
              accelerator: Accelerator) -> dict:  # fmt: skip
    """The learning-rate search of the recipe's grid on held-out images: as it is kept there, or made now by all processes."""
    cell = task.cell
    held_out = search.held_out(tables.real(task.benchmark, "train", options.data_dir, options.workers), cell.images)
    launch.agree(accelerator, held_out.fingerprint, "the train images they hold out")
    labels = label_sources.labels_of_search(cell, task.labels)  # the same for all seeds
    wanted = kept.expected(cell, labels, launch.precision(accelerator), task.benchmark, test)

    def top1(rate: float) -> float | None:
        candidate = dataclasses.replace(cell, recipe=search.with_rate(cell.recipe, rate), seed=search.SEED)
        trial = dataclasses.replace(task, cell=candidate, labels=labels)
        temporary = checkpoint.with_stem(f"{checkpoint.stem}-rate{rate:g}")
        try:
            learner, *_ = fitting.fit(trial, temporary, accelerator)
            return fitting.score(trial, learner, held_out, accelerator).top1
        except training.Diverged:
            return None
        finally:
            accelerator.free_memory()
            if accelerator.is_main_process:
                temporary.unlink(missing_ok=True)

    return kept.rate_search(checkpoint.parent, wanted, held_out, top1, accelerator)


if __name__ == "__main__":
    launch.run(main, given)
