"""The training loop: one student from its seed to its last epoch, and its score on images that it never saw.

A *cell* says what is trained: student, seed, recipe, images. A killed training goes on from its checkpoint, to the same bits.
"""

import contextlib
import time
import typing
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import tqdm
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rd3_utils import launch
from rd3_utils.data import views as view_sets
from rd3_utils.data.images import ImageSet
from rd3_utils.data.label_readers import LabelReader
from rd3_utils.data.whitening import Whitening
from rd3_utils.learning import batch_norm, evaluation, losses, students, training
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.recipe import Recipe

CHECKPOINT_SECONDS = 60  # a killed run loses at most this much, and the epoch it was in


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


def fit(
    cell: Trainable,
    labels: LabelReader,
    whitening: Whitening | None,
    benchmark: Benchmark,
    checkpoint: Path,
    accelerator: Accelerator,
    watch: Callable[..., None] | None = None,
) -> tuple[nn.Module, AveragedModel | None, list[dict], float]:
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
    if watch:
        for entry in history:
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
        training.check_loss_value(mean, epoch, cell.full_name)
        history.append({"epoch": epoch, "loss": mean, "learning_rate": rate})
        if watch:
            watch(history[-1], student, average)
        if accelerator.is_main_process and time.time() - saved > CHECKPOINT_SECONDS:
            training.save_checkpoint(checkpoint, epoch + 1, time.time() - started, labels.describe(), *state, history)
            saved = time.time()
    return student, average, history, started


def score(
    cell: Trainable,
    student: nn.Module,
    average: AveragedModel | None,
    test: ImageSet,
    benchmark: Benchmark,
    whitening: Whitening | None,
    accelerator: Accelerator,
) -> dict:
    """Top-1 and top-5 on the whole test split, of the moving average of the weights if there is one; Diverged if no numbers."""
    if average:
        for kept, live in zip(average.module.buffers(), student.buffers()):
            kept.copy_(live)
    network = average.module if average else student
    return evaluation.accuracy(network, test, benchmark, accelerator, whitening=whitening, whose=cell.full_name)
