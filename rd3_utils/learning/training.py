"""What the training loop of train_student.py is made of: rows of a step, learning rate, optimizer, batch norm, checkpoints.

Every function here is pure in the step, the epoch and the seed: nothing depends on what ran before, so a killed training
resumes to the same bits.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from rd3_utils import files, hub, launch
from rd3_utils.data import tensor_files
from rd3_utils.data.images import ImageSet
from rd3_utils.data.shards import is_first_here
from rd3_utils.errors import UserError
from rd3_utils.learning.students import has_batch_norm
from rd3_utils.protocols.knobs import TrainingKnobs
from rd3_utils.protocols.recipe import Recipe

CHECKPOINT = {"epoch", "seconds", "labels", "network", "optimizer", "scaler", "average", "history"}


@dataclass(frozen=True, eq=False)
class Learner:
    """What changes while a student is trained; a checkpoint restores it. `network` is the `student` as a launch wraps it."""

    student: nn.Module
    network: nn.Module
    optimizer: Optimizer
    scaler: GradScaler | None
    average: AveragedModel | None

    @property
    def holds_numbers(self) -> bool:
        """Whether all weights and buffers, and those of the moving average, are finite numbers."""
        return not any(not_finite(network) for network in (self.student, self.average) if network)

    @property
    def scored(self) -> nn.Module:
        """The network that is scored and kept: the moving average of the weights if there is one."""
        return self.average.module if self.average else self.student


class Diverged(UserError):
    """A network whose loss, weights or outputs are no numbers any more, or images that are none."""


def check_loss_value(mean: float, epoch: int, whose: str) -> None:
    """Diverged unless the epoch's loss is a finite number."""
    if not math.isfinite(mean):
        raise Diverged(f"{whose}: the loss is {mean} in epoch {epoch}; the training diverged.")


def not_finite(network: nn.Module) -> str | None:
    """The name of a parameter or buffer of `network` that holds NaN or infinity, or None."""
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return name
    return None


def check_finite(network: nn.Module, whose: str) -> None:
    """Diverged unless all weights and buffers of `network` are finite numbers; `whose` names it."""
    name = not_finite(network)
    if name is not None:
        raise Diverged(f"{whose}: its weights are no finite numbers (the first in {name}); it diverged and tells nothing.")


def check_finite_images(x: torch.Tensor, method: str) -> None:
    """Diverged unless the images x [B, 3, S, S] that `method` optimised are finite numbers: eight bits would hide it."""
    if not bool(x.isfinite().all()):
        raise Diverged(f"{method}: the images are no finite numbers any more; take a smaller learning rate or another network.")


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of optimizer step `step` (from 0).

    With progress e counted in epochs from 0 (whole ones if schedule_unit is "epoch") and N epochs in all, times a warm-up:

        cosine    (1 + cos(pi e / (zeta N))) / 2      EDC, arXiv 2404.13733 sec. 3.2; zeta = 1 is plain cosine
        linear    1 - e / (zeta N)
        ssrs      cosine up to e = 5N/6, then (1 + cos(5 pi / (6 zeta))) / 2 (N - e) / N, a sixth of where it was:
                  EDC eq. 33, as shaoshitong/EDC 32d5765 Branch_CIFAR_100/train/direct_train.py ("cos2")
        step      drop ** (number of milestones m with e >= m N)
        constant  1

    The warm-up of W epochs rises in every step, from 0; with a warmup_start s, in the schedule's unit, as s + (1 - s) e / W
    (torch's LinearLR). If it stands apart, e and N of the schedule count what comes after it (torch's SequentialLR).
    """
    t = recipe.training
    e, n = step / recipe.steps_per_epoch, t.epochs
    warm = (step + 1) / (t.warmup_epochs * recipe.steps_per_epoch) if t.warmup_epochs else 1.0
    if t.schedule_unit == "epoch":
        e = math.floor(e)
    if t.warmup_start:
        warm = t.warmup_start + (1 - t.warmup_start) * e / t.warmup_epochs
    if t.warmup_apart:  # where the warm-up is the whole training, the schedule never starts
        e, n = max(0, e - t.warmup_epochs), max(1, n - t.warmup_epochs)
    return t.learning_rate * min(1.0, warm) * SCHEDULES[t.schedule](t, e, n)


def set_learning_rate(optimizer: Optimizer, recipe: Recipe, step: int) -> float:
    """Give all parameters the learning rate of optimizer step `step`; the rate."""
    rate = learning_rate(recipe, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def cosine_schedule(t: TrainingKnobs, e: float, n: int) -> float:
    return (1 + math.cos(math.pi * e / (t.zeta * n))) / 2


def ssrs(t: TrainingKnobs, e: float, n: int) -> float:
    return cosine_schedule(t, e, n) if e <= 5 * n / 6 else cosine_schedule(t, 5 * n / 6, n) * (n - e) / n


SCHEDULES: dict[str, Callable[[TrainingKnobs, float, int], float]] = {
    "cosine": cosine_schedule,
    "linear": lambda t, e, n: 1 - e / (t.zeta * n),
    "ssrs": ssrs,
    "step": lambda t, e, n: t.drop ** sum(e >= milestone * n - 1e-9 for milestone in t.milestones),
    "constant": lambda t, e, n: 1.0,
}


def optimizer(recipe: Recipe, network: nn.Module) -> Optimizer:
    """AdamW, Adam or SGD over decayed and undecayed parameters; the learning rate is set before every step.

    decay "ndim>1": matrices and kernels named weight, so no position embedding or class token of a transformer (get_parameters,
    VILA-Lab/SRe2L SRe2L/validate/utils.py:59-73).
    """
    t = recipe.training
    groups: list[dict] = [{"params": [], "weight_decay": t.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, p in network.named_parameters():
        if p.requires_grad:
            groups[0 if t.decay == "all" or ("weight" in name and p.ndim > 1) else 1]["params"].append(p)
    groups = [group for group in groups if group["params"]]
    if t.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=t.learning_rate, momentum=t.momentum, nesterov=t.nesterov)
    adam = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[t.optimizer]
    return adam(groups, lr=t.learning_rate, betas=t.betas, eps=t.eps)


def batches(recipe: Recipe, order: torch.Tensor, seed: int, epoch: int) -> list[torch.Tensor]:
    """The epoch's batches, each int64 [B] rows in training order; the last may be smaller.

    `order` is walked in whole groups of `views.group` rows, which the student's seed shuffles (a smaller last group stays
    last): where the batch is the group, every batch mixes exactly as the recipe's original does.
    """
    group, size = recipe.views.group, recipe.training.batch_size
    whole = len(order) // group * group
    shuffle = np.random.Philox(key=[seed, epoch]).random_raw(whole // group).argsort(kind="stable")
    rows = torch.cat([order[:whole].view(-1, group)[torch.from_numpy(shuffle)].flatten(), order[whole:]])
    return list(rows.split(size))


def image_weights(recipe: Recipe, images: ImageSet) -> torch.Tensor | None:
    """float32 [N]: what the recipe weighs the rows of an ImageSet by, or None. UserError where it asks and the set has none."""
    weights = getattr(images, "weights", None)
    if not recipe.loss.image_weights:
        return None
    if weights is None:
        raise UserError(
            f"loss.image_weights: {images.identity} has no weights of its images; use a set that carries them, or "
            "--set loss.image_weights=false (a custom protocol)."
        )
    return weights


def share(
    rows: torch.Tensor, recipe: Recipe, process: int, processes: int, image_weights: torch.Tensor | None = None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The part of a batch that one process computes, as a list of (rows [b], weights [b]) for one forward pass each.

    The B rows are shared as evenly as possible. A row's weight is processes / B, so that the sum over rows, averaged over
    processes by DDP, is the mean over the batch, whatever the shares. A process without a row computes one with weight 0,
    so that all take part in the reduction. With batch norm in groups of n, rows are dealt in whole groups.
    `image_weights` [N] multiply the rows' weights, scaled to mean 1 over the batch (WMDD, train/train_FKD.py:267-272).
    """
    weight = processes / len(rows)
    kind, _, n = recipe.training.batch_norm.partition(":")
    if kind == "groups":  # whole ones
        groups = batch_norm_groups(rows, int(n))
        mine = groups[part_of_process(len(groups), process, processes)]
    else:
        mine = [rows[part_of_process(len(rows), process, processes)]]
    passes = [(some, torch.full((len(some),), weight)) for some in mine if len(some)]
    if image_weights is not None:
        mean = image_weights[rows].mean().clamp(min=1e-12)  # a batch of zeros weighs nothing
        passes = [(some, weights * image_weights[some] / mean) for some, weights in passes]
    return passes or [(rows[:1], torch.zeros(1))]


def part_of_process(count: int, process: int, processes: int) -> slice:
    """Which of `count` things, in order, one of the processes takes: a slice; as even as possible."""
    return slice(process * count // processes, (process + 1) * count // processes)


def batch_norm_groups(rows: torch.Tensor, n: int) -> list[torch.Tensor]:
    """`rows` [B] in groups of n for batch norm, the last smaller; a single row left over joins the group before it."""
    groups = list(rows.split(n))
    if len(groups) > 1 and len(groups[-1]) == 1:
        groups[-2:] = [torch.cat(groups[-2:])]
    return groups


def check_launch(recipe: Recipe, network: nn.Module, accelerator: Accelerator) -> None:
    """UserError where this launch cannot run the recipe as stated, before anything is trained."""
    processes, batch = accelerator.num_processes, recipe.training.batch_size
    if batch < processes:
        raise UserError(
            f"the batch has {batch} images (min of training.batch_size and the {recipe.images} images), this launch has "
            f"{processes} processes; use at most {batch}."
        )
    if not has_batch_norm(network):
        return
    last = recipe.images % batch or batch
    kind, _, n = recipe.training.batch_norm.partition(":")
    alone = last // processes if kind == "local" else last
    if alone == 1 or (kind == "groups" and int(n) == 1):
        raise UserError(
            f"batch normalisation would see a single image: {recipe.images} images, batch {batch}, "
            f"training.batch_norm={recipe.training.batch_norm}; choose another training.batch_size."
        )
    if processes == 1:
        return
    if recipe.training.batch_norm == "global":
        check_global(network, accelerator)
    least = len(batch_norm_groups(torch.arange(last), int(n))) if kind == "groups" else last
    if least < processes:
        raise UserError(
            f"the last batch has {least} {'groups' if kind == 'groups' else 'images'} for {processes} processes, and a "
            f"batch-norm student needs one in each; use at most {least} processes."
        )


def check_global(network: nn.Module, accelerator: Accelerator) -> None:
    """UserError where batch norm over the whole batch does not exist in this launch, and the network has one."""
    if accelerator.num_processes > 1 and not launch.on_several_gpus(accelerator) and has_batch_norm(network):
        raise UserError(
            f"training.batch_norm is global, and {accelerator.num_processes} CPU processes have no synchronised batch norm; "
            "use one process, GPUs, or a student without batch norm such as convnet3."
        )


def with_batch_norm(recipe: Recipe, network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The network whose batch norm sees what the recipe says: SyncBatchNorm for "global" on several GPUs."""
    if recipe.training.batch_norm == "global" and launch.on_several_gpus(accelerator):
        return convert_sync_batchnorm(network)  # of timm: torch's own would drop the activation inside timm's norms
    return network


def moving_average(recipe: Recipe, network: nn.Module) -> AveragedModel | None:
    """The moving average of the weights that is scored instead of them, or None. Buffers are those of the network."""
    decay = recipe.training.ema_decay
    if not decay:
        return None
    swa = torch.optim.swa_utils
    return swa.AveragedModel(network, multi_avg_fn=swa.get_ema_multi_avg_fn(decay), use_buffers=False)


def fresh_scaler(accelerator: Accelerator) -> GradScaler | None:
    """Put the fp16 gradient scaler, if there is one, back to its start: it must not remember the student before."""
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(torch.amp.GradScaler(accelerator.device.type).state_dict())
    return accelerator.scaler


def seed_epoch(seed: int, epoch: int, process: int) -> None:
    """Seed what is random inside a network (dropout, drop path) for one epoch: nothing needs to be saved to resume."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, process]).generate_state(1, np.uint64)[0] >> 1))


def save_checkpoint(path: Path | str, learner: Learner, labels: dict, epoch: int, seconds: float, history: list[dict]) -> None:
    """Write the Learner after `epoch` epochs and `seconds`, with the labels it learned from: temporary name, then renamed.

    Nothing is written of a network that diverged in the last step: the next loss says so, or the score.
    """
    if not learner.holds_numbers:
        return
    state = {
        "epoch": epoch,
        "seconds": seconds,
        "labels": labels,
        "network": learner.student.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict() if learner.scaler else None,
        "average": learner.average.state_dict() if learner.average else None,
        "history": history,
    }
    with files.whole_file(path) as partial, open(partial, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path | str, learner: Learner, labels: dict) -> tuple[int, float, list[dict]]:
    """(epochs done, seconds, history) after restoring the Learner at `path`; (0, 0.0, []) if there is none or it is damaged.

    UserError if it learned from other labels than `labels` (plain data), if its weights are no numbers, or if its history is
    not that of the epochs that it says are done.
    """
    state = read_checkpoint(Path(path))
    if state is None:
        return 0, 0.0, []
    if without_bytes(state["labels"]) != without_bytes(labels):
        raise UserError(
            f"{path} is of a training that was stopped and learned from other labels (views seed, teacher or kind); "
            "give another --out, or remove that file."
        )
    settings = settings_of(learner.optimizer)
    try:
        learner.student.load_state_dict(state["network"])
        learner.optimizer.load_state_dict(state["optimizer"])
        if learner.scaler:
            learner.scaler.load_state_dict(state["scaler"])
        if learner.average:
            learner.average.load_state_dict(state["average"])
    except tensor_files.DAMAGED as error:
        raise UserError(
            f"{path}, of a training that was stopped, is of another network or optimizer ({hub.one_line(error)}); remove that "
            "file, and the same command starts this training again."
        ) from error
    if settings_of(learner.optimizer) != settings:
        raise UserError(f"{path}, of a training that was stopped, has other settings of the optimizer; remove that file.")
    if not learner.holds_numbers:
        raise UserError(
            f"{path}, of a training that was stopped, holds weights that are no finite numbers; remove that file, and the "
            "same command starts this training again."
        )
    check_epochs_done(state["history"], state["epoch"], path)
    return state["epoch"], state["seconds"], state["history"]


def check_epochs_done(history: Any, epochs: Any, path: Path | str) -> None:
    """UserError unless a `history` has the entries of the first `epochs`: a training that resumes adds those of the others."""
    entries = history if isinstance(history, list) else []
    done = [entry.get("epoch") if isinstance(entry, dict) else None for entry in entries]
    if type(epochs) is not int or epochs != len(done) or done != list(range(len(done))):
        raise UserError(
            f"{path}, of a training that was stopped, says that {str(epochs)[:20]} epochs are done, its history has "
            f"{len(done)}; remove that file, and the same command starts this training again."
        )


def read_checkpoint(path: Path) -> dict | None:
    """What `save_checkpoint` wrote to `path`, every bit of it; None if it is not there or, which is said, damaged."""
    if not path.is_file():
        return None
    try:
        state = tensor_files.read(path)
    except tensor_files.DAMAGED:
        state = None
    if not is_checkpoint(state):
        if is_first_here():
            print(f"{path} of a stopped training is damaged: this student starts again from its first epoch.", file=sys.stderr)
        return None
    return state


def settings_of(optimizer: Optimizer) -> str:
    """What a recipe says of an optimizer, in every group of parameters, as text; the learning rate is set at every step."""
    groups = optimizer.param_groups
    return repr([{key: group[key] for key in sorted(group.keys() - {"params", "lr", "initial_lr"})} for group in groups])


def is_checkpoint(state: Any) -> bool:
    """Whether what a file holds has the form of a checkpoint; its network and history are looked at where they are used."""
    if not isinstance(state, dict) or state.keys() != CHECKPOINT:
        return False
    seconds = state["seconds"]
    return isinstance(state["labels"], dict) and isinstance(seconds, float) and 0 <= seconds < math.inf


def without_bytes(labels: dict) -> dict:
    """What identifies labels: the same ones take other bytes in a store that was made longer meanwhile."""
    return {key: value for key, value in labels.items() if key != "bytes"}


def on_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The images on the training device where they take less than 4 GB, else where they are; `views.apply` reads either."""
    return images.to(device) if images.numel() < 4e9 else images
