"""The training loop: one student from its seed to its last epoch, and its score on images that it never saw.

A *cell* says what is trained: student, seed, recipe, images. A TrainingTask is a cell with the labels it learns from, a Learner
what a step changes. A killed training goes on from its checkpoint, to the same bits.
"""

import contextlib
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import tqdm

from rd3_utils import launch
from rd3_utils.data import views as view_sets
from rd3_utils.data.images import ImageSet
from rd3_utils.data.label_readers import LabelReader
from rd3_utils.data.whitening import Whitening
from rd3_utils.learning import batch_norm, evaluation, losses, students, training
from rd3_utils.learning.evaluation import Score
from rd3_utils.learning.training import Learner
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.recipe import Recipe

CHECKPOINT_SECONDS = 60  # a killed run loses at most this much, and the epoch it was in
QUIET: dict = {"leave": False, "mininterval": 1}  # of a progress bar that many others follow


class Trainable(typing.Protocol):
    """What is read of a cell here; arms.planned_runs.PlannedRun is one."""

    @property
    def student(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def images(self) -> ImageSet: ...
    @property
    def name(self) -> str: ...
    @property
    def full_name(self) -> str: ...


AnyCell = typing.TypeVar("AnyCell", bound=Trainable)


@dataclass(frozen=True, eq=False)
class TrainingTask(typing.Generic[AnyCell]):
    """A cell to train, with the labels it learns from and the whitening of its images (None: none)."""

    cell: AnyCell
    labels: LabelReader
    whitening: Whitening | None
    benchmark: Benchmark


def fit(
    task: TrainingTask, checkpoint: Path, accelerator: Accelerator, watch: Callable[..., None] | None = None
) -> tuple[Learner, list[dict], float]:
    """Train one student from its seed: (the Learner after the last epoch, history, when it started).

    `watch(entry, learner)` is called after every epoch with its entry of the history, `watch(entry)` for an old one.
    """
    cell, recipe, labels, started = task.cell, task.cell.recipe, task.labels, time.time()
    device, process, processes = accelerator.device, accelerator.process_index, accelerator.num_processes
    learner = new_learner(task, accelerator)
    student, network, optimizer, average = learner.student, learner.network, learner.optimizer, learner.average
    first, seconds, history = training.load_checkpoint(checkpoint, learner, labels.describe())
    launch.agree(accelerator, first, "the epoch to resume from: put --out on a disk that all share")
    if watch:
        for entry in history:
            watch(entry)
    started, saved = started - seconds, time.time()
    statistics = batch_norm.RunningStatistics(student, recipe, accelerator)
    pixels, classes = training.on_device(cell.images.images, device), cell.images.labels.to(device)
    image_weights = training.image_weights(recipe, cell.images)

    for epoch in tqdm(range(first, recipe.training.epochs), desc=f"{cell.name} seed {cell.seed}", unit="epoch", **QUIET):
        views, logits = labels.epoch(epoch)
        training.seed_epoch(cell.seed, epoch, process)
        total = torch.zeros((), device=device)
        network.train()
        for i, batch in enumerate(training.batches(recipe, views.order, cell.seed, epoch)):
            rate = training.set_learning_rate(optimizer, recipe, epoch * recipe.steps_per_epoch + i)
            passes = training.share(batch, recipe, process, processes, image_weights)
            for rows, weights in passes:
                with contextlib.nullcontext() if rows is passes[-1][0] else accelerator.no_sync(network):
                    x = view_sets.apply(pixels, views, rows, recipe.mean, recipe.std, device, task.whitening)  # [b, 3, S, S]
                    output = network(x).float()  # [b, C]
                    loss = (row_losses(output, rows, views, logits, classes, recipe) * weights.to(device)).sum()
                    accelerator.backward(loss)
                total += loss.detach()
            optimizer.step()
            optimizer.zero_grad()
            statistics.share(batch)
            if average:
                average.update_parameters(student)
        mean = accelerator.reduce(total, "mean").item() / recipe.steps_per_epoch
        training.check_loss_value(mean, epoch, cell.full_name)
        history.append({"epoch": epoch, "loss": mean, "learning_rate": rate})
        if watch:
            watch(history[-1], learner)
        if accelerator.is_main_process and time.time() - saved > CHECKPOINT_SECONDS:
            training.save_checkpoint(checkpoint, learner, labels.describe(), epoch + 1, time.time() - started, history)
            saved = time.time()
    return learner, history, started


def new_learner(task: TrainingTask, accelerator: Accelerator) -> Learner:
    """The student of the task's seed before its first step, with its optimizer and moving average, in this launch."""
    cell, recipe = task.cell, task.cell.recipe
    student = students.create(cell.student, task.benchmark, cell.seed, **recipe.training.drops).to(accelerator.device)
    student = training.with_batch_norm(recipe, student, accelerator)
    average = training.moving_average(recipe, student)
    network, optimizer = accelerator.prepare(student, training.optimizer(recipe, student))
    return Learner(student, network, optimizer, training.fresh_scaler(accelerator), average)


def row_losses(
    output: torch.Tensor,
    rows: torch.Tensor,
    views: view_sets.Views,
    logits: torch.Tensor | None,
    classes: torch.Tensor,
    recipe: Recipe,
) -> torch.Tensor:
    """float32 [b]: the recipe's loss of `output` [b, C] for `rows` of an epoch's views and teacher `logits` [N, C] or None."""
    device = output.device
    teacher = None if logits is None else logits[rows].to(device)  # [b, C]
    own, other = classes[rows.to(device)], classes[views.mix_partner[rows].to(device)]
    own_share = views.own_share(rows, recipe.image_size).to(device)
    return losses.LOSSES[recipe.loss.name](output, teacher, own, other, own_share, recipe.loss)


def score(task: TrainingTask, learner: Learner, images: ImageSet, accelerator: Accelerator) -> Score:
    """The Score on all of `images`, of the moving average of the weights if there is one; Diverged if no numbers."""
    if learner.average:
        for kept, live in zip(learner.average.module.buffers(), learner.student.buffers()):
            kept.copy_(live)
    whose = task.cell.full_name
    return evaluation.accuracy(learner.scored, images, task.benchmark, accelerator, whitening=task.whitening, whose=whose)
