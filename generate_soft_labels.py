"""Label every view of every epoch of an image set with a teacher, once, and keep the labels for every student.

    accelerate launch generate_soft_labels.py                       # the embedded benchmark; --help says more

options -> images, recipe, teachers -> plan of the store -> labelling.make (shards, then index.json) -> Hub
"""

from rd3_utils.cli.label import parse

if __name__ == "__main__":
    given = parse()  # a mistyped option is told before torch is imported

import argparse
import contextlib
import json
import shlex
import time
from pathlib import Path

from rd3_utils import files, launch, pushing, units
from rd3_utils.cli import options as shared
from rd3_utils.data import images as image_sets
from rd3_utils.data import selections, soft_labels, tables
from rd3_utils.errors import UserError
from rd3_utils.learning import labelling, students
from rd3_utils.protocols.knobs import TAUGHT
from rd3_utils.publishing import dataset_repo

WHAT = "benchmark", "protocol", "distilled", "set", "views_seed", "student"  # options that say which labels these are


def main(options: argparse.Namespace) -> None:
    accelerator = launch.accelerator()
    benchmark, protocol = shared.read_what(options)
    target = shared.push_target(options, "dataset")
    student = students.architecture(options.student or benchmark.defaults.student, benchmark)

    def train() -> tables.Table:
        return tables.real(benchmark, "train", options.data_dir, options.workers)

    images = selections.image_set(options.distilled or benchmark.defaults.distilled, benchmark, train, options.workers)
    recipe = protocol.resolve(benchmark, student, images.nominal_ipc, len(images), options.labels)
    if recipe.labels.kind not in TAUGHT:
        raise UserError(f"protocol {protocol.label} has {recipe.labels.kind} labels: there is nothing to generate.")
    recipe = recipe.labelled
    found = labelling.load_teachers(options.teacher or ["default"], recipe, benchmark)
    plan = labelling.plan_store(images, recipe, found, options.views_seed, accelerator.device, options.forward_batch,
                          options.label_dtype, options.shard_mb)  # fmt: skip
    where = soft_labels.store_folder(options.out, images, plan.teachers_id, recipe, options.views_seed)
    say = accelerator.print
    say(f"{images.identity}: {len(images)} images, {plan.epochs} epochs of {protocol.label}, teacher "
        f"{', '.join(t.source for t in found)}")  # fmt: skip
    volume = units.size(plan.epochs * plan.epoch_bytes)
    say(f"{plan.epochs * plan.rows} views, {volume} in {len(plan.shards)} shards -> {where}")
    if options.dry_run:
        say(json.dumps(recipe.as_dict(), indent=1))
        return
    if target:
        missing = not labelling.is_complete(where, plan)
        launch.raise_on_all(accelerator, lambda: pushing.may_push(target, missing) if accelerator.is_main_process else None)
        pushed = images if options.with_images else None
        about = dataset_repo.about_images(options.distilled or benchmark.defaults.distilled, images) if pushed else {}
    if labelling.is_complete(where, plan):
        say("nothing to do: the store is complete.")
    else:
        launch.raise_on_all(accelerator, lambda: files.try_folder(where))
        started = time.time()
        test = image_sets.test_split(benchmark, options.data_dir, options.workers)
        with dataset_repo.LabelUpload(target, where) if target else contextlib.nullcontext() as upload:
            finished = upload.finished if upload else None
            labelling.make_labels(Path(where), plan, images, recipe, found, benchmark, test, accelerator, finished)
        index = json.loads((where / "index.json").read_text())
        for teacher in index["teachers"]:
            say(f"teacher {teacher['source']}: top-1 {100 * teacher['top1']:.2f} % on {benchmark.name}")
        say(f"{'it puts' if len(index['teachers']) == 1 else 'together they put'} {100 * index['recognised']:.2f} % of the "
            f"{len(images)} images into their own class")  # fmt: skip
        say(f"done in {time.time() - started:.1f} s. Train on them with: accelerate launch train_student.py "
            f"{shlex.join(same_labels(options))}")  # fmt: skip
    if target and accelerator.is_main_process:  # alone from here on: others need not wait for an upload
        words = dataset_repo.train_options(options, target.repo, images, options.with_images, WHAT) + plain(options)
        dataset_repo.publish_labels(target, Path(where), pushed, about, benchmark, words)


def same_labels(options: argparse.Namespace) -> list[str]:
    """The options of train_student.py that find these labels again."""
    words = ["--soft-labels", options.out] if options.out != options.defaults["out"] else []
    for name in (*WHAT, "teacher", "data_dir"):
        value = getattr(options, name)
        if value is not None and value != options.defaults[name]:
            values = value if isinstance(value, list) else [value]
            words += [word for one in values for word in (f"--{name.replace('_', '-')}", str(one))]
    return words + plain(options)


def plain(options: argparse.Namespace) -> list[str]:
    """The option of train_student.py for labels of plain views."""
    return ["--arms", "distilled-plain"] if options.labels == "plain" else []


if __name__ == "__main__":
    launch.run(main, given)
