"""Labels made again: teachers at hand look once more at a few forward batches of each shard of a store.

What a store says of its own labels comes from the hand that wrote them; a teacher says what they are. Whole forward batches
are labelled, for the bits of a label depend on its batch. Which ones is drawn from the SHA-256 of the shard and a salt of the
moment: a forger who knew them could try changes until they miss. Two readings look at different batches, and a refusal names
a row that anyone can label again.
"""

import dataclasses
import hashlib
import secrets
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from rd3_utils import launch, limits
from rd3_utils.data import embedded, soft_labels, sources
from rd3_utils.data.label_store import SoftLabelStore
from rd3_utils.errors import UserError
from rd3_utils.learning import labelling, students, teachers
from rd3_utils.learning.labelling import Labeller, LabellingTask, StoreFormat
from rd3_utils.learning.teachers import Teacher
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.recipe import Recipe

TOLERANCE = 0.05  # of the range of a row's logits: between float32 and TF32 they differ by 0.001 to 0.015 of it


class Relabelling:
    """The audit of one store by its teachers: `batches` forward batches of each shard are labelled again when it is first read.

    UserError where a label is another one. It counts the rows that were labelled again, those of them with the same bits,
    and the largest difference as a share of its row's range. `make` gives the Labeller, which is let go after the last shard.
    """

    def __init__(self, make: Callable[[], Labeller], batches: int, salt: bytes) -> None:
        self.make, self.batches, self.salt = make, batches, salt
        self.labeller: Labeller | None = None
        self.audited: set[str] = set()
        self.rows, self.same, self.largest = 0, 0, 0.0

    def of_shard(self, store: SoftLabelStore, epoch: int) -> None:
        """Label a sample of the shard that holds `epoch` again, unless that was done."""
        entry = store.index["shards"][epoch // store.index["epochs_per_shard"]]
        if entry["sha256"] in self.audited:
            return
        first, stop = entry["epochs"][0], min(entry["epochs"][1], store.epochs)
        self.sample(store, first, stop, entry["sha256"])
        self.audited.add(entry["sha256"])
        if stop == store.epochs:
            self.labeller = None

    def of_epoch(self, store: SoftLabelStore, epoch: int) -> None:
        """Label a sample of `epoch` again, each time that it is asked for."""
        self.sample(store, epoch, epoch + 1, f"epoch {epoch}")

    def sample(self, store: SoftLabelStore, first: int, stop: int, what_of: str) -> None:
        """Label a sample of epochs first..stop again, spread over them."""
        labeller = self.labeller = self.labeller or self.make()
        drawn: dict = {}
        for batch in drawn_batches(
            labelling.count_batches(labeller.plan, first, stop), self.batches, self.salt + what_of.encode()
        ):
            epochs, rows = labelling.forward_batch(labeller, first, batch, drawn)
            output = labelling.label_batch(labeller, epochs, rows, drawn)
            for epoch in epochs.unique().tolist():
                if first <= epoch < stop:
                    here = epochs == epoch
                    self.compare(store, epoch, rows[here], store.checked(epoch)[1][rows[here]], output[here])

    def compare(
        self, store: SoftLabelStore, epoch: int, rows: torch.Tensor, stored: torch.Tensor, output: torch.Tensor
    ) -> None:
        """Count the labels `stored` of `rows` [B] of an epoch against the teachers' `output`, both float32 [B, C]."""
        assert self.labeller is not None
        made = soft_labels.unpacked(soft_labels.packed(output[None], self.labeller.plan, epoch, epoch + 1))[0]
        difference = (stored - made).abs()
        spread = output.amax(1) - output.amin(1)  # [B]
        allowed = TOLERANCE * spread + storage_step(output, self.labeller.plan.label_dtype)
        wrong = difference.amax(1) - allowed
        if bool((wrong > 0).any()):
            row = int(wrong.argmax())
            k = int(difference[row].argmax())
            raise UserError(
                f"epoch {epoch} of {store.shards.files} ({store.shards.name}): the label of row {int(rows[row])} says "
                f"{stored[row, k]:.4g} of class {k}, its teachers say {made[row, k]:.4g} of the same view (more than "
                f"{allowed[row]:.2g} apart): these are not the labels of these teachers; make or fetch the labels again."
            )
        self.rows += len(rows)
        self.same += int((difference == 0).all(1).sum())
        self.largest = max(self.largest, float((difference.amax(1) / spread.clamp(min=1e-6)).max()))


def storage_step(output: torch.Tensor, label_dtype: str) -> torch.Tensor:
    """[B] By how much storing alone may set two labels apart that are almost the same: a step of their type."""
    if label_dtype == "u8":
        return (output.amax(1) - output.amin(1)).clamp(min=255e-4) / 255 + output.abs().amax(1) * 2.0**-10
    return output.abs().amax(1).clamp(min=1e-4) * 2.0**-10


def drawn_batches(total: int, wanted: int, key: bytes) -> list[int]:
    """At most `wanted` of `total` forward batches, in order, one of each of as many equal parts."""
    parts = min(wanted, total)
    number = iter(int.from_bytes(hashlib.sha256(key + b" %d" % part).digest()[:8], "big") for part in range(parts))
    edges = [part * total // parts for part in range(parts + 1)]
    return [low + next(number) % (high - low) for low, high in zip(edges, edges[1:])]


def audit_of(
    store: SoftLabelStore, loaded: Sequence[Teacher], benchmark: Benchmark, batches: int, accelerator: Accelerator
) -> Relabelling:
    """The Relabelling of `store` by the Teachers `loaded`, the same sample in every process.

    UserError where they are not those of the store, or its forward batch is too large for any machine. What an ensemble weighs
    by accuracy has the accuracies that the index states.
    """
    index, rule = store.index, store.recipe.labels
    if soft_labels.is_imported(index):
        raise UserError(
            f"the soft labels in {store.shards.files} are imported: another tool made their views, which are not its teachers' "
            "to the bit; they cannot be labelled again, leave out --check-labels."
        )
    mine = teachers.teachers_id(loaded, rule.ensemble, rule.teacher_bn)
    if mine != index["teachers_id"]:
        raise UserError(
            f"the soft labels in {store.shards.files} are by teachers {str(index['teachers_id'])[:8]}, those at hand are "
            f"{mine[:8]}; give their --teacher, or --check-labels 0."
        )
    if not 0 < index["forward_batch"] <= limits.MOST_LABELLED_AGAIN:
        raise UserError(
            f"the soft labels in {store.shards.files} were made {index['forward_batch']} views at a time, and at most "
            f"{limits.MOST_LABELLED_AGAIN} are labelled again; give --check-labels 0."
        )
    scored = [
        teacher if teacher.top1 is not None else dataclasses.replace(teacher, top1=top1)
        for teacher, (_, top1) in zip(loaded, soft_labels.teacher_scores(index))
    ]
    salt = launch.from_main(accelerator, lambda: secrets.token_bytes(16))
    return Relabelling(lambda: labeller_of(store, scored, benchmark, accelerator.device), batches, salt)


def labeller_of(store: SoftLabelStore, loaded: Sequence[Teacher], benchmark: Benchmark, device: torch.device) -> Labeller:
    """The Labeller that makes the labels of `store` again, in its forward batches and its type."""
    images, index = store.images, store.index
    assert images is not None  # a store is only read without them where nothing is labelled
    form = StoreFormat(index["forward_batch"], index["label_dtype"])
    plan = labelling.plan_store(images, store.recipe, loaded, index["views_seed"], device, form)
    return labelling.labeller_on(device, LabellingTask(plan, images, store.recipe, loaded, benchmark))


def named_teachers(index: dict, recipe: Recipe, benchmark: Benchmark) -> list[Teacher]:
    """The Teachers that an index names; UserError where one cannot be had or has other weights than it states."""
    loaded = loaded_by_name(index, recipe, benchmark)
    for about, teacher in zip(index["teachers"], loaded):
        if teacher.sha256 != about["sha256"]:
            raise UserError(
                f"teacher {about['source']} has weights {teacher.sha256[:8]}, the labels are by {str(about['sha256'])[:8]}; "
                "give --teacher."
            )
    return loaded


def loaded_by_name(index: dict, recipe: Recipe, benchmark: Benchmark) -> list[Teacher]:
    """The Teachers at the sources that an index states, whatever their weights.

    From the Hub, at the commit that it states, from timm and torchvision, and from what comes with the project: no other
    folder is opened because a stranger's file says so. UserError where one cannot be had.
    """
    return labelling.load_teachers([network_source(about, benchmark) for about in index["teachers"]], recipe, benchmark)


def network_source(about: dict, benchmark: Benchmark) -> str:
    """Where the teacher of an index entry is loaded from; UserError for a folder that does not come with the project."""
    source = sources.parse_network(str(about["source"]), benchmark.defaults.teacher)
    if source.kind == "hf-hub" and source.revision is None and about["commit"]:
        return dataclasses.replace(source, revision=about["commit"]).text
    if source.kind == "local-dir":
        folder = (embedded.PACKAGE / source.name).resolve()
        if not folder.is_relative_to(embedded.EMBEDDED.resolve()) or not students.is_saved(folder):
            raise UserError(f"teacher {source} is a folder of whoever made the labels; give it with --teacher.")
    return source.text
