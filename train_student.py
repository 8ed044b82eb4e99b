"""Train students on a distilled dataset under one protocol, score them on the whole test split, and write a model card.

    accelerate launch train_student.py --teacher default            # the embedded benchmark
    accelerate launch train_student.py --distilled my_set/ --soft-labels my_labels/ --arms distilled-soft,random-soft \
        --teacher default --seeds 0,1,2

Writes results/<benchmark>/<protocol>-<digest>/<images>@<fingerprint>/<student>/<arm>/seed<K>.json, the weights of the first
seed beside it, and the card README.md above the arms. Runs that are there are kept: the same command again trains only
what is missing. The score is the last epoch's; the test split is opened once per run. --push-to OWNER/REPO puts network, card
and Runs on the Hub.
"""

import argparse
import contextlib
import dataclasses
import functools
import time

import torch
from accelerate.utils import tqdm

from rd3_utils import launch, tracking
from rd3_utils import options as shared
from rd3_utils.data import images as image_sets
from rd3_utils.data import tables
from rd3_utils.data import views as view_sets
from rd3_utils.learning import batch_norm, evaluation, losses, search, students, training
from rd3_utils.publishing import card, student_repo
from rd3_utils.scoring import arms, kept, runs

CHECKPOINT_SECONDS = 60  # a killed run loses at most this much, and the epoch it was in
MONITORED = 20  # how often --monitor-test looks at the test split in one training


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = shared.add_what(parser, each=True)
    what.add_argument("--soft-labels", metavar="SOURCE", default="soft_labels", help="a label store, the folder of stores in "
                      "which to look and, with --teacher, to make missing ones, or OWNER/REPO[@REVISION][:PATH] "
                      "(default: %(default)s)")  # fmt: skip
    what.add_argument("--student", metavar="NAME[,NAME]", help="networks to train (default: the benchmark's)")
    what.add_argument("--arms", metavar="ARM[,ARM]", help="images-labels, such as distilled-soft,random-soft,full-hard; "
                      "groups: lrs, ars, all (default: distilled, with the protocol's own labels)")  # fmt: skip
    what.add_argument("--full-hard", choices=("trained", "cited"), default="trained", help="train a student on all real images "
                      "for HLR and LRS, or cite a published accuracy; outputs say which (default: %(default)s)")  # fmt: skip
    what.add_argument("--seeds", metavar="K[,K]", type=shared.numbers, default="0", help="student seeds (default: 0)")
    what.add_argument("--draws", type=shared.positive, default=3, help="draws of random images (default: %(default)s)")
    what.add_argument("--draw", metavar="K", type=shared.seed, help="of random images only draw K (default: all --draws)")
    where = parser.add_argument_group("where it runs")
    where.add_argument("--data-dir", metavar="DIR", help="read the benchmark's real data from here")
    where.add_argument("--out", metavar="DIR", default="results", help="folder of results (default: %(default)s)")
    where.add_argument("--workers", type=shared.positive, help="threads that decode images (default: one per core)")
    where.add_argument("--label-cache-gb", metavar="GB", type=float, help="keep at most this much of labels from the Hub, and "
                       "no fewer than two shards (default: all, in the Hub's cache)")  # fmt: skip
    where.add_argument("--dry-run", action="store_true", help="print recipes, sources, steps and bytes, and stop")
    where.add_argument("--runs-only", action="store_true", help="write Runs and neither weights nor a card: for a study")
    where.add_argument("--keep-weights", choices=("first", "all"), default="first", help="of the first seed and not of "
                       "random images, or all networks, for transfer; only the first is ever pushed")  # fmt: skip
    where.add_argument("--monitor-test", action="store_true", help="watch the test split during training; outputs say so, "
                       "and the score stays the last epoch's")  # fmt: skip
    where.add_argument("--online", action="store_true", help="label each epoch when it is trained, with --teacher: no "
                       "store, the same bits; every process labels whole epochs")  # fmt: skip
    where.add_argument("--log-with", choices=("tensorboard", "trackio", "wandb"), help="also log every epoch there")
    shared.add_labels(where)
    publish = shared.add_publish(parser, "the first seed's network, its card and all runs")
    publish.add_argument("--push-only", action="store_true", help="train nothing; push what an earlier command trained")
    return shared.parse(parser)


def main(options):
    accelerator = launch.accelerator(**tracking.arguments(options.log_with, options.out))
    benchmark, protocol = shared.read_what(options)
    target = shared.push_target(options, "model")
    names = (options.student or benchmark.defaults.student).split(",")
    names = [students.architecture(name, benchmark) for name in names]
    cells = arms.plan(options, benchmark, protocol, list(dict.fromkeys(names)))
    launch.agree(accelerator, [cell.images.fingerprint for cell in cells], "the images they read (a Hub revision that moved?)")
    for cell in (cell for cell in cells if cell.seed == options.seeds[0]):
        network = students.create(cell.student, benchmark, cell.seed, **cell.recipe.training.drops)
        training.check_launch(cell.recipe, network, accelerator)
        training.image_weights(cell.recipe, cell.images)
    if options.dry_run:
        accelerator.print(arms.describe(cells, options, launch.precision(accelerator)))
        return
    precision, main_process = launch.precision(accelerator), accelerator.is_main_process
    pushed = student_repo.check(target, cells, options, precision, accelerator) if target else None
    if options.push_only:
        if main_process:
            finished = student_repo.kept(cells, options, precision)
            student_repo.push(target, pushed, cells, finished, benchmark, options, precision)
        return
    test = functools.cache(lambda size: image_sets.test_split(benchmark, options.data_dir, options.workers, size))
    labels = arms.find_labels(cells, options, benchmark, lambda: test(0), accelerator)  # the split is read when needed
    known = [(labels[cell.labels_key].describe(), labels[cell.labels_key].origin) for cell in cells]
    launch.agree(accelerator, known, "the soft labels they read (a Hub revision that moved?)")
    whitening = arms.find_whitening(cells, options, benchmark)
    look = functools.partial(kept.kept_run, options=options, precision=precision, benchmark=benchmark, test=test)
    there = launch.from_main(accelerator, lambda: [look(cell, labels[cell.labels_key]) for cell in cells])

    finished = []
    for cell, run in tqdm(list(zip(cells, there)), desc="students", unit="run", disable=len(cells) < 2):
        where = cell.path(options.out, precision)
        given = labels[cell.labels_key], whitening[cell.recipe.views.zca], benchmark
        finished.append(run or train(cell, *given, test(cell.recipe.training.test_resize), where, options, accelerator))
    if main_process and not options.runs_only:
        card.publish(finished, cells, labels, benchmark, protocol, options)
    accelerator.end_training()
    if target and main_process:  # alone from here on: others need not wait for an upload
        student_repo.push(target, pushed, cells, finished, benchmark, options, precision)


def train(cell, labels, whitening, benchmark, test, where, options, accelerator):
    """Train one student from its seed, score its last epoch, write and return the Run."""
    launched = f"{accelerator.num_processes}-{launch.precision(accelerator)}"
    checkpoint = where.with_name(f"seed{cell.seed}-{launched}.checkpoint")
    searched = {}
    if cell.recipe.training.learning_rates:
        found = best_rate(cell, labels, whitening, benchmark, test, checkpoint, options, accelerator)
        searched = {"learning_rate_search": found}
        cell = dataclasses.replace(cell, recipe=search.with_rate(cell.recipe, found["learning_rate"]))

    tracking.begin(accelerator, where.relative_to(options.out).with_suffix(""), cell.describe(labels))

    def watch(entry, student=None, average=None):
        if options.monitor_test and student and entry["epoch"] % max(1, cell.recipe.training.epochs // MONITORED) == 0:
            entry["test_top1"] = score(cell, student, average, test, benchmark, whitening, accelerator)["top1"]
        accelerator.log(entry, step=entry["epoch"])

    student, average, history, started = fit(cell, labels, whitening, benchmark, checkpoint, accelerator, watch)
    result = score(cell, student, average, test, benchmark, whitening, accelerator)
    accelerator.log(result, step=cell.recipe.training.epochs)
    run = {
        **cell.describe(labels),
        "network": students.describe(cell.student, accelerator.unwrap_model(student)),
        **result,
        **searched,
        "test": test.describe(),
        "monitored_test": any("test_top1" in entry for entry in history),
        "history": history,
        "seconds": time.time() - started,
        "environment": launch.environment(accelerator),
    }
    finished = kept.agreed(where, run)
    if accelerator.is_main_process:
        if cell.keeps_weights(options):
            scored = accelerator.unwrap_model(student) if average is None else average.module
            students.save(scored, where.with_suffix(""), benchmark)
        runs.write(where, run)
        checkpoint.unlink(missing_ok=True)
    accelerator.free_memory()
    return finished


def best_rate(cell, labels, whitening, benchmark, test, checkpoint, options, accelerator):
    """The learning-rate search of the recipe's grid on held-out images: as it is kept there, or made now by all processes."""
    held_out = search.held_out(tables.real(benchmark, "train", options.data_dir, options.workers), cell.images)
    launch.agree(accelerator, held_out.fingerprint, "the train images they hold out")
    labels = arms.labels_of_search(cell, labels)  # the same for all seeds
    wanted = kept.expected(cell, labels, launch.precision(accelerator), benchmark, test)

    def top1(rate):
        candidate = dataclasses.replace(cell, recipe=search.with_rate(cell.recipe, rate), seed=search.SEED)
        temporary = checkpoint.with_stem(f"{checkpoint.stem}-rate{rate:g}")
        try:
            student, average, *_ = fit(candidate, labels, whitening, benchmark, temporary, accelerator)
            return score(candidate, student, average, held_out, benchmark, whitening, accelerator)["top1"]
        except training.Diverged:
            return None
        finally:
            accelerator.free_memory()
            if accelerator.is_main_process:
                temporary.unlink(missing_ok=True)

    return kept.rate_search(checkpoint.parent, wanted, held_out, top1, accelerator)


def fit(cell, labels, whitening, benchmark, checkpoint, accelerator, watch=None):
    """Train one student from its seed: (network, moving average or None, history, when it started).

    `watch(entry, network, average)` is called after every epoch with its entry of the history, `watch(entry)` for an old one.
    """
    recipe, seed, started = cell.recipe, cell.seed, time.time()
    processes, device = accelerator.num_processes, accelerator.device
    student = students.create(cell.student, benchmark, seed, **recipe.training.drops).to(device)
    student = training.with_batch_norm(recipe, student, accelerator)
    average = training.moving_average(recipe, student)
    optimizer = training.optimizer(recipe, student)
    network, optimizer = accelerator.prepare(student, optimizer)
    state = student, optimizer, training.fresh_scaler(accelerator), average
    first, seconds, history = training.load_checkpoint(checkpoint, labels.describe(), *state)
    launch.agree(accelerator, first, "the epoch to resume from: put --out on a disk that all share")
    for entry in history if watch else ():
        watch(entry)
    started, saved = started - seconds, time.time()
    statistics = batch_norm.RunningStatistics(student, recipe, accelerator)

    pixels = training.on_device(cell.images.images, device)
    classes = cell.images.labels.to(device)
    image_weights = training.image_weights(recipe, cell.images)
    loss_of = losses.LOSSES[recipe.loss.name]
    epochs = range(first, recipe.training.epochs)
    for epoch in tqdm(epochs, desc=f"{cell.name} seed {seed}", unit="epoch", leave=False, mininterval=1):
        views, logits = labels.epoch(epoch)
        training.seed_epoch(seed, epoch, accelerator.process_index)
        total = torch.zeros((), device=device)
        network.train()
        for i, batch in enumerate(training.batches(recipe, views.order, seed, epoch)):
            rate = training.learning_rate(recipe, epoch * recipe.steps_per_epoch + i)
            for group in optimizer.param_groups:
                group["lr"] = rate
            passes = training.share(batch, recipe, accelerator.process_index, processes, image_weights)
            for rows, weights in passes:
                last = rows is passes[-1][0]
                with contextlib.nullcontext() if last else accelerator.no_sync(network):
                    x = view_sets.apply(pixels, views, rows, recipe.mean, recipe.std, device, whitening)  # [b, 3, S, S]
                    output = network(x).float()  # [b, C]
                    teacher = None if logits is None else logits[rows].to(device)  # [b, C]
                    own, other = classes[rows.to(device)], classes[views.mix_partner[rows].to(device)]
                    shown = views.own_share(rows, recipe.image_size).to(device)
                    loss = (loss_of(output, teacher, own, other, shown, recipe.loss) * weights.to(device)).sum()
                    accelerator.backward(loss)
                total += loss.detach()
            optimizer.step()
            optimizer.zero_grad()
            statistics.share(batch)
            if average:
                average.update_parameters(student)
        mean = accelerator.reduce(total, "mean").item() / recipe.steps_per_epoch
        training.check_loss(mean, epoch, cell.full_name)
        history.append({"epoch": epoch, "loss": mean, "learning_rate": rate})
        if watch:
            watch(history[-1], student, average)
        if accelerator.is_main_process and time.time() - saved > CHECKPOINT_SECONDS:
            training.save_checkpoint(checkpoint, epoch + 1, time.time() - started, labels.describe(), *state, history)
            saved = time.time()
    return student, average, history, started


def score(cell, student, average, test, benchmark, whitening, accelerator):
    """Top-1 and top-5 on the whole test split, of the moving average of the weights if there is one; Diverged if no numbers."""
    if average:
        for kept, live in zip(average.module.buffers(), student.buffers()):
            kept.copy_(live)
    network = average.module if average else student
    return evaluation.accuracy(network, test, benchmark, accelerator, whitening=whitening, whose=cell.full_name)


if __name__ == "__main__":
    launch.run(main, parse())
