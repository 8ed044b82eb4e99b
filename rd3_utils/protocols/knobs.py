"""Every knob of a protocol: its section, type, range, choices, and what older files mean by leaving it out."""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rd3_utils import limits
from rd3_utils.bounded import shown, toml
from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.strict import coerce

STOCK = -1.0  # training.dropout, training.stochastic_depth: as timm's network has it
DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")  # operations of views.dsa


BYTES = {"uint8": 1, "uint16": 2, "float32": 4}  # types of a column on disk, as torch and safetensors name them


@dataclass(frozen=True)
class Column:
    """What a view operation draws of every row and stores with the labels: a field of Views, a key in a shard."""

    key: str  # in a shard
    dtype: str  # on disk, of BYTES
    text: str
    width: int | Callable[[dict], int] = 1  # numbers of a row; else of the stated knobs of views, 0 where they do not use it
    field: str = ""  # of data.views.Views, where it is not called like the key
    knob: str = ""  # of views that declares it: filled in by COLUMNS

    @property
    def name(self) -> str:
        return self.field or self.key

    @property
    def in_memory(self) -> str:
        """The type of its array in Views, drawn or read from a store."""
        return "float32" if self.dtype == "float32" else "int64"

    def numbers(self, views: dict) -> int:
        """How many numbers of a row a store holds under the stated knobs `views`."""
        if callable(self.width):
            return self.width(views)
        return self.width if views.get(self.knob, PLAIN[self.knob]) != PLAIN[self.knob] else 0


def knob(
    text: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    limit: float | None = None,
    choices: tuple[str, ...] | None = None,
    wanted: tuple[Callable[[Any], bool], str] | None = None,
    later: Any = dataclasses.MISSING,
    plain: Any = None,
    of: str | None = None,
    columns: tuple[Column, ...] = (),
) -> Any:
    """One knob, declared once: what it is, its range, and all that other places must know of it.

    `above`, `least` and `most` bound a number, `limit` what would hang or fill a machine, `choices` a word, `wanted` is
    (test, words) of anything else. `later`: what files that came before the knob mean by not stating it. Of views: `plain`,
    the value under which a view is the image itself, or `of`, the knob without which this one does nothing; `columns`, what
    it stores of every row.
    """
    told = {"text": text, "above": above, "least": least, "most": most, "limit": limit, "choices": choices, "wanted": wanted}
    return dataclasses.field(default=later, metadata={**told, "plain": plain, "of": of, "columns": columns})


def grouped_rows(least: int, others: tuple[str, ...]) -> tuple[Callable[[str], bool], str]:
    """(test, words) of a text that is one of `others` or groups:N, N at least `least`."""

    def holds(value: str) -> bool:
        kind, _, size = value.partition(":")
        return value in others or (kind == "groups" and re.fullmatch("[0-9]{1,9}", size) is not None and int(size) >= least)

    words = f"{', '.join(others)} or groups:N" + (f", N at least {least}" if least > 1 else "")
    return holds, words


def strips(views: dict) -> int:
    """Numbers of a row that say which strip went where, of both axes."""
    return 2 * views["patch_shuffle"] if views["patch_shuffle"] > 1 else 0


def operations(views: dict) -> int:
    """RandAugment's operations of a row."""
    return views.get("randaugment", 0)


def magnitudes(views: dict) -> int:
    """Their magnitudes, which only timm's RandAugment draws."""
    return operations(views) if views.get("randaugment_kind") == "timm" else 0


def weights(views: dict) -> int:
    """MixUp's weight of a row."""
    return int(views.get("mix") == "mixup")


def is_strategy(value: str) -> bool:
    """Whether `value` is none or names of DSA's operations joined by "_"."""
    return value == "none" or set(value.split("_")) <= set(DSA)


def all_different(value: tuple[float, ...]) -> bool:
    """Whether the numbers are above 0 and different."""
    return min(value, default=1) > 0 and len(set(value)) == len(value)


DROP_PROBABILITY = (
    lambda value: value == STOCK or 0 <= value < 1,
    "-1 (as timm's network has it) or a fraction from 0 to below 1",
)


@dataclass(frozen=True)
class LossReads:
    """What a loss is, for people, and what it reads beside the student's logits; the functions are in learning/losses.py."""

    text: str
    teacher: bool = True  # a teacher's logits, or learned ones; else classes alone
    temperature: bool = False  # loss.temperature and loss.t_squared
    hard_term: bool = False  # loss.hard_weight times a term of the class
    hard_target: bool = False  # which may be that of both images of a mixed one, by loss.hard_target
    mixed: bool = True  # it is right for images that are mixed


LOSSES = {
    "kl": LossReads("KL(teacher || student) of softmax(logits / T), times T^2 if `t_squared`", temperature=True),
    "soft_ce": LossReads("cross-entropy of softmax(student / T) with softmax(teacher / T) as target", temperature=True),
    "mse_gt": LossReads("mean squared error of the logits plus a hard term", hard_term=True, hard_target=True),
    "joint_ce": LossReads("soft_ce plus a hard term", temperature=True, hard_term=True, hard_target=True),
    "cosine": LossReads("1 - cosine of the student's logits and teacher's plus smoothed class", hard_term=True),
    "ce": LossReads("cross-entropy with the class of the image", teacher=False, mixed=False),
    "ce_mixed": LossReads("cross-entropy with both classes of a mixed image, by their share of pixels", teacher=False),
}


@dataclass(frozen=True)
class TrainingKnobs:
    """How the student learns."""

    epochs: int = knob("passes over the images", above=0, limit=limits.MOST_EPOCHS)
    batch_size: int = knob("images per optimizer step over all processes; never more than there are images", above=0)
    optimizer: str = knob("of the student", choices=("adamw", "adam", "sgd"))
    learning_rate: float = knob("at the start of the schedule", above=0)
    momentum: float = knob("of sgd", least=0, most=1)
    nesterov: bool = knob("of sgd")
    betas: tuple[float, float] = knob(
        "of adam and adamw", wanted=(lambda value: all(0 <= beta < 1 for beta in value), "two numbers from 0 to below 1")
    )
    eps: float = knob("of adam and adamw", above=0)
    weight_decay: float = knob("decoupled in adamw, in the gradient else", least=0)
    decay: str = knob("ndim>1: weight matrices and kernels only; all: every parameter", choices=("ndim>1", "all"))
    schedule: str = knob("of the learning rate", choices=("cosine", "linear", "ssrs", "step", "constant"))
    schedule_unit: str = knob("how often the learning rate changes", choices=("epoch", "step"))
    zeta: float = knob("cosine, linear, ssrs: the schedule runs over zeta times the training", above=0)
    milestones: tuple[float, ...] = knob("step: fractions of the training after which the rate drops")
    drop: float = knob("step: factor of each drop", above=0)
    warmup_epochs: int = knob("linear from 0", least=0, limit=limits.MOST_EPOCHS)
    ema_decay: float = knob(
        "0: the student itself is scored; else the moving average of its weights",
        least=0,
        most=1,
        wanted=(lambda value: value != 1, "less than 1: the average would stay the first step's"),
    )
    batch_norm: str = knob("which rows batch normalisation sees together", wanted=grouped_rows(1, ("global", "local")))
    warmup_start: float = knob(
        "factor in the first epoch of the warm-up; 0: it rises from the first step on", least=0, most=1, later=0.0
    )
    warmup_apart: bool = knob(
        "the schedule covers what the warm-up leaves; else the two are multiplied over all epochs", later=False
    )
    learning_rates: tuple[float, ...] = knob(
        "the best of these on held-out real train images replaces learning_rate",
        later=(),
        wanted=(all_different, "different numbers above 0"),
    )
    dropout: float = knob("of the layers before the classifier", later=STOCK, wanted=DROP_PROBABILITY)
    stochastic_depth: float = knob("of the last block, growing from 0 at the first", later=STOCK, wanted=DROP_PROBABILITY)
    test_resize: int = knob(
        "pixels of a test image's shorter side before the centre crop; 0: as the benchmark has it",
        least=0,
        limit=limits.MOST_SIDE,
        later=0,
    )

    @property
    def drops(self) -> dict[str, float]:
        """What the network is built with, besides its name."""
        return {"dropout": self.dropout, "stochastic_depth": self.stochastic_depth}


@dataclass(frozen=True)
class ViewKnobs:
    """How a random view is drawn of every image in every epoch."""

    crop: str = knob("which part of an image is seen", choices=("none", "random_resized", "pad"), plain="none")
    crop_scale: tuple[float, float] = knob("random_resized: share of the area", of="crop")
    crop_ratio: tuple[float, float] = knob("random_resized: width / height", of="crop")
    padding: float = knob("pad: black border on each side, as a share of the image size", least=0, limit=1, of="crop")
    patch_shuffle: int = knob(
        "strips per axis shuffled before the crop; 1: none",
        above=0,
        plain=1,
        columns=(Column("patch_order", "uint8", "which strip went where: of columns, then of rows", strips),),
    )
    flip: float = knob("probability of a mirror image; 0 where the benchmark forbids mirroring", least=0, most=1, plain=0.0)
    mix: str = knob(
        "whether images of a group are mixed",
        choices=("none", "cutmix", "mixup"),
        plain="none",
        columns=(Column("mix_lam", "float32", "MixUp: the weight of the own image", weights, "mix_weight"),),
    )
    mix_alpha: float = knob("lambda ~ Beta(alpha, alpha)", above=0, of="mix")
    mix_probability: float = knob("of a group, or of a row, to be mixed", least=0, most=1, of="mix")
    mix_per: str = knob("one box or weight for a whole group, or one for every row", choices=("group", "row"), of="mix")
    group: int = knob("rows of the epoch's order that are mixed with one another, or share a DSA operation", above=0, plain=1)
    randaugment: int = knob(
        "operations of RandAugment before all else; 0: none",
        least=0,
        limit=limits.MOST_OPERATIONS,
        later=0,
        plain=0,
        columns=(
            Column("operations", "uint16", "codes of draw_torchvision or draw_timm in data/randaugment.py", operations),
            Column("magnitudes", "float32", "timm: the magnitude of each operation, 0 to 10", magnitudes),
        ),
    )
    randaugment_magnitude: int = knob(
        "0 to 30; of timm 0 to 10", least=0, later=9, plain=9, of="randaugment", wanted=(lambda value: value <= 30, "0 to 30")
    )
    dsa: str = knob(
        "none, or some of color_crop_cutout_flip_scale_rotate: one of them after all else, per group",
        later="none",
        plain="none",
        wanted=(is_strategy, f"none or some of {'_'.join(DSA)}"),
        columns=(
            Column("dsa", "uint8", "1 + the index of the operation in DSA_OPERATIONS of data/augmentation.py"),
            Column("dsa_numbers", "float32", "in [0, 1): the operation's own randomness", 3),
        ),
    )
    randaugment_kind: str = knob(
        "whose operations and magnitudes",
        choices=("torchvision", "timm"),
        later="torchvision",
        plain="torchvision",
        of="randaugment",
    )
    color_jitter: float = knob(
        "brightness, contrast and saturation each by a factor in 1 +- this; 0: none",
        least=0,
        later=0.0,
        plain=0.0,
        columns=(
            Column("jitter", "float32", "factors of brightness, contrast and saturation", 3),
            Column("jitter_order", "uint8", "in which order: index in ORDERS of data/augmentation.py"),
        ),
    )
    lighting: float = knob(
        "std of AlexNet's PCA noise on the colours; 0: none",
        least=0,
        later=0.0,
        plain=0.0,
        columns=(Column("lighting", "float32", "added to red, green and blue: grey levels, multiples of 2^-8", 3),),
    )
    mix_pairing: str = knob(
        "with which row of its group an image is mixed",
        choices=("permutation", "roll"),
        later="permutation",
        plain="permutation",
        of="mix",
    )
    zca: float = knob("epsilon of the ZCA whitening that is fitted on the train split; 0: none", least=0, later=0.0, plain=0.0)


@dataclass(frozen=True)
class LabelKnobs:
    """What the student is told about a view."""

    kind: str = knob(
        "soft: teacher logits of exactly that view; static: of the plain image; learned: the set's own; hard",
        choices=("soft", "static", "learned", "hard"),
    )
    teachers: int = knob("how many teachers make the label", above=0, limit=limits.MOST_TEACHERS)
    ensemble: str = knob("all of logits", choices=("mean", "norm_balanced", "accuracy_weighted"))
    distinct_epochs: int = knob(
        "views and labels of this many epochs, cycled; 0: every epoch has its own", least=0, limit=limits.MOST_EPOCHS
    )
    teacher_bn: str = knob(
        "groups:N: the teachers' batch norm sees N views of the epoch's order together",
        later="eval",
        wanted=grouped_rows(2, ("eval",)),
    )
    architectures: tuple[str, ...] = knob("that the teachers must have, in any order; none stated: any", later=())


@dataclass(frozen=True)
class LossKnobs:
    """What the student minimises; see learning/losses.py."""

    name: str = knob("which loss", choices=tuple(LOSSES))
    temperature: float = knob("of both sides of a loss that has one", above=0)
    t_squared: bool = knob("multiply by temperature^2")
    hard_weight: float = knob("gamma of mse_gt, joint_ce and cosine: weight of the hard label", least=0)
    hard_target: str = knob("whether that term knows of the image that was mixed in", choices=("own", "mixed"), later="own")
    image_weights: bool = knob("rows are weighted by the image set's own weights (mean 1 over the batch)", later=False)


SECTIONS = {"training": TrainingKnobs, "views": ViewKnobs, "labels": LabelKnobs, "loss": LossKnobs}
KNOBS = {f"{name}.{field.name}": field for name, section in SECTIONS.items() for field in dataclasses.fields(section)}
NEUTRAL = {  # knobs that came later: what older files mean by not stating them
    key: field.default for key, field in KNOBS.items() if field.default is not dataclasses.MISSING
}
PLAIN = {  # views that leave images as they are
    field.name: field.metadata["plain"] for field in dataclasses.fields(ViewKnobs) if field.metadata["plain"] is not None
}
COLUMNS = [
    dataclasses.replace(column, knob=field.name)
    for field in dataclasses.fields(ViewKnobs)
    for column in field.metadata["columns"]
]
TAUGHT = ("soft", "static")  # kinds of labels that teachers make


def stated(section: Any) -> dict:
    """{field: value} of a section without the knobs that came later and do nothing: older files need not know them."""
    name = next(name for name, cls in SECTIONS.items() if isinstance(section, cls))
    return {k: v for k, v in dataclasses.asdict(section).items() if f"{name}.{k}" not in NEUTRAL or v != NEUTRAL[f"{name}.{k}"]}


def all_knobs() -> list[str]:
    """Every knob as "section.field"."""
    return list(KNOBS)


def parse_value(text: str) -> Any:
    """A command-line value: TOML if it is TOML (3, 0.1, true, [0.5, 1]), else the text itself."""
    try:
        table = toml(f"value = {text}")
    except ValueError:
        return text
    return table["value"] if len(table) == 1 else text  # else a line of its own came after the value


def check_knob(key: str, value: Any, where: str) -> Any:
    """`value` coerced to the type of knob `key`, its choice checked; UserError otherwise."""
    if key not in all_knobs():
        raise unknown(f"knob in {where}", key, all_knobs())
    section, field = key.split(".")
    value = coerce(SECTIONS[section].__annotations__[field], value, f"{where} {key}")
    told = KNOBS[key].metadata
    if told["choices"] and value not in told["choices"]:
        raise unknown(f"value of {key} in {where}", value, told["choices"])
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) > limits.MOST_LISTED:
        raise UserError(f"{where} {key} lists {len(numbers)} values, wanted at most {limits.MOST_LISTED}.")
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise UserError(f"{where} {key} is {value}, wanted finite numbers.")
    limit = told["limit"] or (limits.MOST_NUMBER if isinstance(value, int) else limits.MOST_FLOAT)
    if any(isinstance(number, (int, float)) and abs(number) > limit for number in numbers):
        raise UserError(f"{where} {key} is {shown(value)}, wanted at most {limit:,}.")
    if told["above"] is not None and not value > told["above"]:
        raise UserError(f"{where} {key} is {value}, wanted more than {told['above']}.")
    if told["most"] is not None and not told["least"] <= value <= told["most"]:
        raise UserError(f"{where} {key} is {value}, wanted a fraction from {told['least']} to {told['most']}.")
    if told["least"] is not None and not value >= told["least"]:
        raise UserError(f"{where} {key} is {value}, wanted at least {told['least']}.")
    if told["wanted"] is not None and not told["wanted"][0](value):
        raise UserError(f"{where} {key} is {shown(value)}, wanted {told['wanted'][1]}.")
    return value
