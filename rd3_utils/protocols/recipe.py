"""A recipe: a protocol resolved for one benchmark, student and image set; concrete numbers only, checked together."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass

from rd3_utils import units
from rd3_utils.errors import UserError
from rd3_utils.protocols.knobs import (
    LOSSES,
    NEUTRAL,
    PLAIN,
    SECTIONS,
    TAUGHT,
    LabelKnobs,
    LossKnobs,
    TrainingKnobs,
    ViewKnobs,
    stated,
)

VIEWS_VERSION = 1  # of the code that draws and applies views: part of a label store's identity
LARGEST_WHITENED = 64  # pixels: there, the matrix of views.zca has 12,288^2 numbers
# of views, which came later; views.zca is none: teachers and students of plain images know no other
AUGMENTATIONS = [key for key in NEUTRAL if key.startswith("views.") and key != "views.zca"]


@dataclass(frozen=True)
class Recipe:
    """Concrete numbers for one benchmark, student and image set: nothing left to decide."""

    training: TrainingKnobs
    views: ViewKnobs
    labels: LabelKnobs
    loss: LossKnobs
    images: int  # N
    image_size: int
    classes: int  # C
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def steps_per_epoch(self):
        """Optimizer steps in one epoch; the last may hold fewer images."""
        return math.ceil(self.images / self.training.batch_size)

    @property
    def steps(self):
        """Optimizer steps of the whole training."""
        return self.training.epochs * self.steps_per_epoch

    @property
    def label_epochs(self):
        """How many epochs of views and labels the training reads before it cycles."""
        return min(self.labels.distinct_epochs or self.training.epochs, self.training.epochs)

    @property
    def labelled(self):
        """The Recipe under which teachers look: this one; for static labels, one epoch of plain images.

        Its views are those of an arm with plain labels, so both read the same store.
        """
        if self.labels.kind != "static":
            return self
        labels = dataclasses.replace(self.labels, kind="soft", distinct_epochs=1)
        return dataclasses.replace(self, views=dataclasses.replace(self.views, **PLAIN), labels=labels)

    @property
    def views_digest(self):
        """12 hex digits over everything that shapes a view: two recipes with the same one share soft labels."""
        return digest({**stated(self.views), "size": self.image_size, "version": VIEWS_VERSION})

    def as_dict(self):
        """Plain data for a Run, steps included."""
        sections = {name: stated(getattr(self, name)) for name in SECTIONS}
        return {**dataclasses.asdict(self), **sections, "steps_per_epoch": self.steps_per_epoch, "steps": self.steps}


def check_recipe(recipe, name):
    """UserError where knobs contradict one another: such a training would run and mean nothing."""
    check_training(recipe, name)
    check_loss(recipe, name)
    check_mixing(recipe, name)
    check_teaching(recipe, name)
    check_sizes(recipe, name)


def check_training(recipe, name):
    """UserError for optimizers, schedules and searches that contradict themselves."""
    training, labels = recipe.training, recipe.labels
    if training.optimizer == "sgd" and training.nesterov and not training.momentum:
        raise UserError(f"{name}: training.nesterov needs a training.momentum above 0.")
    if training.schedule in ("cosine", "linear", "ssrs") and training.zeta < 1:
        wrong = "makes the learning rate negative" if training.schedule == "linear" else "lets the learning rate rise again"
        raise UserError(f"{name}: a {training.schedule} schedule with zeta {training.zeta} < 1 {wrong}.")
    if training.schedule == "step" and (not training.milestones or training.drop == 1):
        raise UserError(f"{name}: training.schedule=step never drops; set training.milestones and training.drop.")
    if (training.warmup_start or training.warmup_apart) and not training.warmup_epochs:
        raise UserError(f"{name}: training.warmup_start or training.warmup_apart without training.warmup_epochs.")
    if training.learning_rates and labels.kind in TAUGHT:
        raise UserError(
            f"{name}: training.learning_rates with {labels.kind} labels: the search is for hard and learned ones; state one "
            "training.learning_rate."
        )


def check_mixing(recipe, name):
    """UserError for mixing and RandAugment without what they need."""
    views = recipe.views
    if views.mix != "none" and recipe.images > 1 and (views.group < 2 or not views.mix_probability):
        raise UserError(
            f"{name}: views.mix={views.mix} mixes nothing with views.group={views.group} and views.mix_probability="
            f"{views.mix_probability}; set the rows to mix among (such as views.group=50) and a probability above 0."
        )
    if views.randaugment_magnitude != ViewKnobs.randaugment_magnitude and not views.randaugment:
        raise UserError(f"{name}: views.randaugment_magnitude={views.randaugment_magnitude} without views.randaugment.")
    if views.randaugment_kind == "timm" and not views.randaugment:
        raise UserError(f"{name}: views.randaugment_kind=timm without views.randaugment.")
    if views.randaugment_kind == "timm" and views.randaugment_magnitude > 10:
        raise UserError(f"{name}: views.randaugment_magnitude={views.randaugment_magnitude}; timm's magnitudes go to 10.")


def check_teaching(recipe, name):
    """UserError for labels of teachers that the recipe's views, or their own number, rule out."""
    views, labels = recipe.views, recipe.labels
    if views.zca and labels.kind in TAUGHT:
        raise UserError(f"{name}: views.zca with soft labels: teachers are not trained on whitened images; use hard labels.")
    if labels.kind in TAUGHT and len(labels.architectures) not in (0, labels.teachers):
        raise UserError(
            f"{name}: labels.teachers is {labels.teachers} and labels.architectures names {len(labels.architectures)}; "
            "set both, or --set labels.architectures=[] for any."
        )
    if labels.kind in TAUGHT and labels.teacher_bn != "eval" and recipe.images % int(labels.teacher_bn[7:]) == 1:
        raise UserError(
            f"{name}: labels.teacher_bn={labels.teacher_bn} leaves one of {recipe.images} images alone, and batch norm needs "
            "two; set another N."
        )


def check_sizes(recipe, name):
    """UserError for views that do not fit the image size, or the range of crops."""
    views = recipe.views
    if views.zca and recipe.image_size > LARGEST_WHITENED:
        size = (3 * recipe.image_size**2) ** 2 * 4
        raise UserError(
            f"{name}: views.zca at {recipe.image_size} px needs a matrix of {units.size(size)}; it is for at most "
            f"{LARGEST_WHITENED} px."
        )
    if recipe.image_size % views.patch_shuffle:
        raise UserError(
            f"{name}: views.patch_shuffle={views.patch_shuffle} does not divide the image size {recipe.image_size}."
        )
    if not (0 < views.crop_scale[0] <= views.crop_scale[1] <= 1 and 0 < views.crop_ratio[0] <= views.crop_ratio[1]):
        raise UserError(f"{name}: crop_scale {views.crop_scale} or crop_ratio {views.crop_ratio} is no range in (0, 1].")


def check_loss(recipe, name):
    """UserError for a loss whose knobs, labels or views it does not read: they would be without effect, or wrong."""
    views, labels, loss = recipe.views, recipe.labels, recipe.loss
    reads = LOSSES[loss.name]
    if loss.hard_target == "mixed" and not reads.hard_target:
        others = losses_that("hard_target", joined="and")
        raise UserError(f"{name}: loss.hard_target=mixed with loss '{loss.name}'; it is for {others}.")
    if loss.hard_weight and not reads.hard_term:
        raise UserError(
            f"{name}: loss.hard_weight={loss.hard_weight} with loss '{loss.name}', which has no hard term; set it to 0, or use "
            f"{losses_that('hard_term')}."
        )
    if loss.t_squared and not reads.temperature:
        raise UserError(f"{name}: loss.t_squared with loss '{loss.name}', which has no temperature; set it to false.")
    if labels.kind == "hard" and reads.teacher:
        raise UserError(
            f"{name}: hard labels with loss '{loss.name}', which reads teacher logits; use {losses_that('teacher', False)}."
        )
    if labels.kind != "hard" and not reads.teacher:
        others = losses_that("teacher")
        raise UserError(f"{name}: {labels.kind} labels with loss '{loss.name}', which ignores them; use {others}.")
    if views.mix != "none" and not reads.mixed:
        raise UserError(f"{name}: images are mixed ({views.mix}) but the labels of loss '{loss.name}' are not; use ce_mixed.")


def losses_that(reads, wanted=True, joined="or"):
    """The names of the losses of which `reads`, a field of LossReads, is `wanted`, as a person lists them."""
    *names, last = [name for name, loss in LOSSES.items() if getattr(loss, reads) is wanted]
    return f"{', '.join(names)} {joined} {last}" if names else last


def check_resize(recipe, benchmark, name):
    """UserError where test images of the benchmark cannot be resized as the recipe says."""
    resize = recipe.training.test_resize
    if resize and not benchmark.image.shorter_side:
        raise UserError(f"{name}: training.test_resize={resize}, and {benchmark.name} resizes no image; set it to 0.")
    if 0 < resize < recipe.image_size:
        raise UserError(
            f"{name}: training.test_resize={resize} is less than the {recipe.image_size} px that networks see of "
            f"{benchmark.name}; set 0 (as the benchmark, {benchmark.image.shorter_side}) or {recipe.image_size} and more."
        )
    if resize and recipe.training.learning_rates:
        raise UserError(
            f"{name}: training.test_resize with training.learning_rates: the search holds out images as {benchmark.name} has "
            "them; state one training.learning_rate."
        )


def digest(data):
    """12 hex digits of the SHA-256 over canonical JSON of `data`."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
