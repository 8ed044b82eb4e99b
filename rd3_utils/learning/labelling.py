"""Labelling: teachers look once at every view of every epoch and the answers become a SoftLabelStore.

Rows of all epochs form one long stream (epoch-major), cut into forward batches of a fixed size. Which process or shard
asks does not matter: a row is always computed in the same batch, at the same place, so its logits have the same bits.
With labels.teacher_bn = "groups:N" the batches are those of N views in the epoch's order instead.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import tqdm
from torch import nn

from rd3_utils.data import label_store, soft_labels, views
from rd3_utils.data.images import ImageSet
from rd3_utils.data.soft_labels import StorePlan
from rd3_utils.errors import UserError
from rd3_utils.launch import agree, raise_on_all
from rd3_utils.learning import confusion, evaluation, teachers
from rd3_utils.learning.teachers import Teacher
from rd3_utils.learning.training import on_device
from rd3_utils.options import LabelOptions, TrainOptions
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.knobs import stated
from rd3_utils.protocols.recipe import Recipe


@dataclass(frozen=True)
class StoreFormat:
    """How labels are computed and kept, as the options of these names say."""

    forward_batch: int = LabelOptions.forward_batch  # views per teacher pass
    label_dtype: str = LabelOptions.label_dtype
    shard_mb: int = LabelOptions.shard_mb  # the largest file

    @classmethod
    def asked(cls, options: LabelOptions | TrainOptions) -> "StoreFormat":
        """What the options of a command ask for."""
        return cls(options.forward_batch, options.label_dtype, options.shard_mb)


@dataclass(frozen=True, eq=False)
class LabellingTask:
    """Labels to make: the views of `images` under `recipe`, as `plan` has them in a store, by `teachers`."""

    plan: StorePlan
    images: ImageSet
    recipe: Recipe
    teachers: Sequence[Teacher]
    benchmark: Benchmark


@dataclass(frozen=True, eq=False)
class Labeller:
    """A LabellingTask on one device: its teachers as one network, its images as `pixels` uint8 [N, 3, S, S]."""

    network: nn.Module
    pixels: torch.Tensor
    recipe: Recipe
    plan: StorePlan
    device: torch.device


def load_teachers(sources: Sequence[str], recipe: Recipe, benchmark: Benchmark) -> list[Teacher]:
    """The Teachers at `sources`; UserError unless they are as many, and of the architectures, that the recipe labels with."""
    wanted = recipe.labels.teachers
    if len(sources) != wanted:
        raise UserError(
            f"{len(sources)} teachers given, the recipe labels with {wanted}; give --teacher {wanted} times or "
            f"--set labels.teachers={len(sources)}."
        )
    loaded = [teachers.load(source, benchmark) for source in sources]
    label_store.check_architectures([teacher.architecture for teacher in loaded], recipe, "the teachers given are")
    return loaded


def plan_store(
    images: ImageSet,
    recipe: Recipe,
    labellers: Sequence[Teacher],
    views_seed: int,
    device: torch.device,
    form: StoreFormat = StoreFormat(),
) -> StorePlan:
    """The StorePlan for labelling `images` under `recipe` by the Teachers `labellers`."""
    rule = recipe.labels
    taught_by = (
        tuple(teachers.described(labellers, rule.ensemble)),
        teachers.teachers_id(labellers, rule.ensemble, rule.teacher_bn),
    )
    return stated_plan(images.describe(), images.class_names, recipe, taught_by, views_seed, device=device.type, form=form)


def stated_plan(
    images: dict,
    class_names: tuple,
    recipe: Recipe,
    taught_by: tuple[tuple[dict, ...], str],
    views_seed: int,
    *,
    device: str,
    form: StoreFormat,
) -> StorePlan:
    """The StorePlan of `images` (ImageSet.describe) and of what is recorded of teachers: (one by one, their id)."""
    return StorePlan(
        images={key: value for key, value in images.items() if key not in ("source", "train", "checks")},
        class_names=class_names,
        epochs=recipe.label_epochs,
        rows=recipe.images,
        classes=recipe.classes,
        image_size=recipe.image_size,
        border=soft_labels.border_of(recipe),
        views=stated(recipe.views),
        views_digest=recipe.views_digest,
        views_seed=views_seed,
        teachers=taught_by[0],
        teachers_id=taught_by[1],
        ensemble=recipe.labels.ensemble,
        label_dtype=form.label_dtype,
        forward_batch=form.forward_batch,
        device=device,
        shard_mb=form.shard_mb,
        teacher_bn=recipe.labels.teacher_bn,
    )


def is_complete(where: Path, plan: StorePlan) -> bool:
    """Whether a finished, undamaged store with all epochs of `plan` lies in `where`.

    UserError if it holds another kind of labels.
    """
    if not (where / "index.json").is_file():
        return False
    index = soft_labels.read_index(where)
    if soft_labels.is_imported(index):
        raise UserError(f"{where} already holds imported labels; give another folder for labels, or remove that one.")
    for key in ("label_dtype", "forward_batch", "device"):
        if index[key] != getattr(plan, key):
            raise UserError(
                f"{where} already holds labels with {key} {index[key]}, this command asks for {getattr(plan, key)}; "
                "give another folder for labels, or remove that one."
            )
    return index["epochs"] >= plan.epochs and label_store.intact(where, index)


def make_labels(
    where: Path,
    task: LabellingTask,
    test: ImageSet,
    accelerator: Accelerator,
    finished: Callable[[list[Path]], None] | None = None,
) -> Path:
    """Write the shards of the task's plan that `where` lacks, split over the processes, then the index. Returns the folder.

    First every teacher is examined on the whole `test` split, and its accuracy goes into the store, beside the share of
    the images that they recognise. Resumable: a shard that is there and whole is kept. An error in one process is raised in
    all. After each of its own shards the main process calls `finished(paths)` with all that are whole by then, whoever made
    them.
    """
    agree(accelerator, test.fingerprint, "the test images they read (a Hub revision that moved?)")
    examined = [teachers.examined(teacher, task.benchmark, test, accelerator) for teacher in task.teachers]
    plan = dataclasses.replace(task.plan, teachers=tuple(teachers.described(examined, task.plan.ensemble)))
    if (where / "index.json").is_file():  # a damaged store of more epochs is mended, not cut short
        plan = dataclasses.replace(plan, epochs=max(plan.epochs, soft_labels.read_index(where)["epochs"]))
    known = soft_labels.known_sha256(where)
    missing = [shard for shard in plan.shards if not soft_labels.is_written(where / shard[0], plan, shard[1], shard[2], known)]
    accelerator.wait_for_everyone()  # every process has seen the same gaps before anyone fills one
    if accelerator.is_main_process and any(name in known for name, *_ in missing):
        (where / "index.json").unlink(missing_ok=True)  # it names shards that are about to change
    accelerator.wait_for_everyone()
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    task = dataclasses.replace(task, teachers=examined, plan=plan)
    labeller = labeller_on(accelerator.device, task)
    recognised = accepted_recognition(labeller.network, task, accelerator)

    def write_mine() -> None:
        for name, first, stop in tqdm(mine, desc=f"labels {task.images.name}", unit="shard", leave=False):
            drawn: dict[int, views.Views] = {}
            logits = label_epochs(labeller, first, stop, drawn)
            epochs = [drawn[epoch] for epoch in range(first, stop)]
            soft_labels.write_shard(where / name, plan, first, stop, epochs, logits)
            if finished is not None and accelerator.is_main_process:
                whole = [s[0] for s in plan.shards if s not in missing or soft_labels.is_written(where / s[0], plan, *s[1:])]
                finished([where / name for name in whole])

    raise_on_all(accelerator, write_mine)
    if accelerator.is_main_process:
        soft_labels.finish(where, plan, recognised)
    accelerator.wait_for_everyone()
    return where


def labeller_on(device: torch.device, task: LabellingTask) -> Labeller:
    """The Labeller of a task on `device`."""
    network = teachers.Ensemble(task.teachers, task.benchmark, task.plan.ensemble).to(device)
    return Labeller(network, on_device(task.images.images, device), task.recipe, task.plan, device)


def recognition(network: nn.Module, task: LabellingTask, accelerator: Accelerator) -> dict:
    """{"recognised": the share of the images, as they are, that the task's teachers put into their own class}.

    Images that a teacher takes for other classes have soft labels that speak of those: it is what such labels are worth. Batch
    norm in eval mode. Classes that look swapped (confusion.py) stand in it as "mistaken", where there are any.
    """
    images, whose = task.images, f"the teacher, shown {task.images.name}"
    score, answers = evaluation.graded(network, images, task.benchmark, accelerator, exact=True, whose=whose)
    table = confusion.confusion_table(answers, images.labels, len(images.class_names))
    confused = [dataclasses.asdict(one) for one in confusion.mistaken(table, images.class_names)[: confusion.MOST]]
    return {"recognised": score.top1, **({"mistaken": confused} if confused else {})}


def accepted_recognition(network: nn.Module, task: LabellingTask, accelerator: Accelerator) -> dict:
    """`recognition`; classes that look swapped are said, and UserError where all are."""
    known = recognition(network, task, accelerator)
    confused = [confusion.Mistaken(**one) for one in known.get("mistaken", ())]
    if len(confused) == len(task.images.class_names) or (len(confused) == confusion.MOST and known["recognised"] == 0):
        raise UserError(
            f"the classes of {task.images.name} stand in another order than the teacher learned: "
            f"{confusion.in_words(confused)}. Put its labels or class names right."
        )
    if confused and accelerator.is_main_process:
        print(f"{task.images.name}: classes look swapped to the teacher: {confusion.in_words(confused)}.", file=sys.stderr)
    return known


@torch.no_grad()
def label_epochs(labeller: Labeller, first: int, stop: int, drawn: dict[int, views.Views]) -> torch.Tensor:
    """Logits float32 [stop - first, N, C] of epochs first..stop; fills `drawn` with the Views of each epoch."""
    plan = labeller.plan
    logits = torch.empty(stop - first, plan.rows, plan.classes)
    for batch in range(count_batches(plan, first, stop)):
        epochs, rows = forward_batch(labeller, first, batch, drawn)
        output = label_batch(labeller, epochs, rows, drawn)
        inside = (epochs >= first) & (epochs < stop)
        logits[epochs[inside] - first, rows[inside]] = output[inside]
    return logits


def count_batches(plan: StorePlan, first: int, stop: int) -> int:
    """How many forward batches label epochs first..stop."""
    if plan.teacher_bn == "eval":
        return -(-stop * plan.rows // plan.forward_batch) - first * plan.rows // plan.forward_batch
    return (stop - first) * -(-plan.rows // group_size(plan))


def group_size(plan: StorePlan) -> int:
    """Views that the teachers' batch norm sees together."""
    return int(plan.teacher_bn.removeprefix("groups:"))


def forward_batch(
    labeller: Labeller, first: int, batch: int, drawn: dict[int, views.Views]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(epochs, rows) int64 [B] of a forward batch, the `batch`-th of those that label from epoch `first` on.

    Where views do not influence one another, batch b holds rows b * F ... (b + 1) * F of the endless stream of epochs, so
    batches at the edges reach into the neighbouring epochs and are always full. With teacher_bn = "groups:N" it holds N
    consecutive views of one epoch's order, those of a student's batch, and the last of an epoch may be smaller; as
    Jiacheng8/CV-DD relabel/relabel.py:281-328, but for what `teachers.batch_statistics` leaves out.
    """
    plan = labeller.plan
    if plan.teacher_bn == "eval":
        b = first * plan.rows // plan.forward_batch + batch
        places = torch.arange(b * plan.forward_batch, (b + 1) * plan.forward_batch)
        return places // plan.rows, places % plan.rows
    groups = -(-plan.rows // group_size(plan))
    epoch = first + batch // groups
    rows = drawn_once(labeller, epoch, drawn).order.split(group_size(plan))[batch % groups]
    return torch.full_like(rows, epoch), rows


def drawn_once(labeller: Labeller, epoch: int, drawn: dict[int, views.Views]) -> views.Views:
    """The Views of `epoch`, from `drawn`, into which they go when they are drawn."""
    if epoch not in drawn:
        drawn[epoch] = views.draw(labeller.recipe, labeller.plan.views_seed, epoch)
    return drawn[epoch]


@torch.no_grad()
def label_batch(labeller: Labeller, epochs: torch.Tensor, rows: torch.Tensor, drawn: dict[int, views.Views]) -> torch.Tensor:
    """Logits float32 [B, C] of one forward pass over the views of a `forward_batch`."""
    recipe, device, parts = labeller.recipe, labeller.device, []
    for epoch in epochs.unique().tolist():
        views_here, rows_here = drawn_once(labeller, epoch, drawn), rows[epochs == epoch]
        parts.append(views.apply(labeller.pixels, views_here, rows_here, recipe.mean, recipe.std, device))
    together = labeller.plan.teacher_bn != "eval"
    with teachers.batch_statistics(labeller.network) if together else contextlib.nullcontext():
        return labeller.network(torch.cat(parts)).float().cpu()


class OnlineLabels:
    """The same reader as a SoftLabelStore, without one: the task's teachers label each epoch when it is asked for.

    Views and logits have the bits that the store would give back. Every process labels whole epochs by itself.
    """

    def __init__(self, task: LabellingTask, accelerator: Accelerator) -> None:
        self.plan, self.labeller = task.plan, labeller_on(accelerator.device, task)
        self.teachers = teachers.described(task.teachers, task.plan.ensemble)
        self.origin = accepted_recognition(self.labeller.network, task, accelerator)
        self.at: int | None = None
        self.last: tuple[views.Views, torch.Tensor] | None = None

    def describe(self) -> dict:
        """What a Run records of its labels: the same as of a store, of no bytes."""
        return {"kind": "soft", "bytes": 0, **label_store.described(self.plan.header, self.plan.epochs), "online": True}

    def epoch(self, epoch: int) -> tuple[views.Views, torch.Tensor]:
        """(Views, logits float32 [N, C]) of `epoch`; epochs beyond the planned ones cycle."""
        epoch %= self.plan.epochs
        if self.last is None or epoch != self.at:
            drawn: dict[int, views.Views] = {}
            logits = label_epochs(self.labeller, epoch, epoch + 1, drawn)
            stored = soft_labels.unpacked(soft_labels.packed(logits, self.plan, epoch, epoch + 1))
            self.at, self.last = epoch, (drawn[epoch], stored[0])
        return self.last
