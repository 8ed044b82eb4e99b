"""Label every view of every epoch of an image set with a teacher, once, and keep the labels for every student.

    accelerate launch generate_soft_labels.py                       # the embedded benchmark; --help says more

options -> images, recipe, teachers -> plan of the store -> labelling.make (shards, then index.json) -> Hub
"""

from rd3_utils.cli.label import parse

if __name__ == "__main__":
    given = parse()  # a mistyped option is told before torch is imported

import contextlib
import functools
import json
import time
from pathlib import Path

from rd3_utils import command_lines, files, launch, pushing, units
from rd3_utils.cli import options as shared
from rd3_utils.data import images as image_sets
from rd3_utils.data import selections, soft_labels, tables
from rd3_utils.errors import UserError
from rd3_utils.learning import labelling, students
from rd3_utils.options import LabelOptions
from rd3_utils.protocols.knobs import TAUGHT
from rd3_utils.publishing import dataset_repo


def main(options: LabelOptions) -> None:
    accelerator = launch.accelerator()
    benchmark, protocol = shared.read_what(options)
    target = shared.push_target(options, "dataset")
    student = students.architecture(options.student or benchmark.defaults.student, benchmark)
    train = functools.partial(tables.real, benchmark, "train", options.data_dir, options.workers)
    images = selections.image_set(options.distilled or benchmark.defaults.distilled, benchmark, train, options.workers)
    recipe = protocol.resolve(benchmark, student, images.nominal_ipc, len(images), options.labels)
    if recipe.labels.kind not in TAUGHT:
        raise UserError(f"protocol {protocol.label} has {recipe.labels.kind} labels: there is nothing to generate.")
    recipe = recipe.labelled
    teachers = labelling.load_teachers(options.teacher or ("default",), recipe, benchmark)
    form = labelling.StoreFormat.asked(options)
    plan = labelling.plan_store(images, recipe, teachers, options.views_seed, accelerator.device, form)
    where = soft_labels.store_folder(options.out, images, plan.teachers_id, recipe, options.views_seed)
    say = accelerator.print
    say(f"{images.identity}: {len(images)} images, {plan.epochs} epochs of {protocol.label}, teacher "
        f"{', '.join(t.source for t in teachers)}")  # fmt: skip
    volume = units.size(plan.epochs * plan.epoch_bytes)
    say(f"{plan.epochs * plan.rows} views, {volume} in {len(plan.shards)} shards -> {where}")
    if options.dry_run:
        return say(json.dumps(recipe.as_dict(), indent=1))
    launch.agree(accelerator, images.fingerprint, "the images they read (a Hub revision that moved?)")
    if target:
        missing = not labelling.is_complete(where, plan)
        launch.raise_on_all(accelerator, lambda: pushing.may_push(target, missing) if accelerator.is_main_process else None)
        pushed = images if options.with_images else None
        about = dataset_repo.about_images(options.distilled or benchmark.defaults.distilled, images, target) if pushed else {}
    if labelling.is_complete(where, plan):
        say("nothing to do: the store is complete.")
    else:
        launch.raise_on_all(accelerator, lambda: files.try_folder(where))
        started = time.time()
        test = image_sets.test_split(benchmark, options.data_dir, options.workers)
        with dataset_repo.LabelUpload(target, where) if target else contextlib.nullcontext() as upload:
            finished = upload.finished if upload else None
            task = labelling.LabellingTask(plan, images, recipe, teachers, benchmark)
            labelling.make_labels(Path(where), task, test, accelerator, finished)
        index = json.loads((where / "index.json").read_text())
        for source, top1 in soft_labels.teacher_scores(index):
            say(f"teacher {source}: top-1 {100 * top1:.2f} % on {benchmark.name}")
        say(f"{'it puts' if len(index['teachers']) == 1 else 'together they put'} {100 * index['recognised']:.2f} % of the "
            f"{len(images)} images into their own class")  # fmt: skip
        train_on_them = command_lines.launch(options.for_training())
        say(f"done in {time.time() - started:.1f} s. Train on them with: {train_on_them}")
    if target and accelerator.is_main_process:  # alone from here on: others need not wait for an upload
        command = dataset_repo.train_command(options, target.repo, images)
        dataset_repo.publish_labels(target, Path(where), pushed, about, benchmark, command)


if __name__ == "__main__":
    launch.run(main, given)
