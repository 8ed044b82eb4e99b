"""Every knob of a protocol: its section, type, range, choices, and what older files mean by leaving it out."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass

from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.strict import coerce

STOCK = -1.0  # training.dropout, training.stochastic_depth: as timm's network has it


@dataclass(frozen=True)
class Training:
    """How the student learns."""

    epochs: int
    batch_size: int  # images per optimizer step over all processes; never more than there are images
    optimizer: str  # adamw | adam | sgd
    learning_rate: float
    momentum: float  # sgd
    nesterov: bool  # sgd
    betas: tuple[float, float]  # adam, adamw
    eps: float  # adam, adamw
    weight_decay: float
    decay: str  # "ndim>1": weight matrices and kernels only | "all": every parameter
    schedule: str  # cosine | linear | ssrs | step | constant
    schedule_unit: str  # "epoch" | "step": how often the learning rate changes
    zeta: float  # cosine, linear, ssrs: the schedule runs over zeta times the training
    milestones: tuple[float, ...]  # step: fractions of the training after which the rate drops
    drop: float  # step: factor of each drop
    warmup_epochs: int  # linear from 0
    ema_decay: float  # 0: the student itself is scored; else the moving average of its weights
    batch_norm: str  # global | local | groups:N: which rows batch normalisation sees together
    warmup_start: float = 0.0  # factor in the first epoch of the warm-up; 0: it rises from the first step on
    warmup_apart: bool = False  # the schedule covers what the warm-up leaves; else the two are multiplied over all epochs
    learning_rates: tuple[float, ...] = ()  # the best of these on held-out real train images replaces learning_rate
    dropout: float = STOCK  # of the layers before the classifier
    stochastic_depth: float = STOCK  # of the last block, growing from 0 at the first
    test_resize: int = 0  # pixels of a test image's shorter side before the centre crop; 0: as the benchmark has it

    @property
    def drops(self):
        """What the network is built with, besides its name."""
        return {"dropout": self.dropout, "stochastic_depth": self.stochastic_depth}


@dataclass(frozen=True)
class Views:
    """How a random view is drawn of every image in every epoch."""

    crop: str  # none | random_resized | pad
    crop_scale: tuple[float, float]  # random_resized: share of the area
    crop_ratio: tuple[float, float]  # random_resized: width / height
    padding: float  # pad: black border on each side, as a share of the image size
    patch_shuffle: int  # strips per axis shuffled before the crop; 1: none
    flip: float  # probability of a mirror image; 0 where the benchmark forbids mirroring
    mix: str  # none | cutmix | mixup
    mix_alpha: float  # lambda ~ Beta(alpha, alpha)
    mix_probability: float
    mix_per: str  # group | row: one box or weight for a whole group, or one for every row
    group: int  # rows of the epoch's order that are mixed with one another, or share a DSA operation
    randaugment: int = 0  # operations of RandAugment before all else; 0: none
    randaugment_magnitude: int = 9  # 0 to 30; of timm 0 to 10
    dsa: str = "none"  # none | some of color_crop_cutout_flip_scale_rotate: one of them after all else, per group
    randaugment_kind: str = "torchvision"  # torchvision | timm: whose operations and magnitudes
    color_jitter: float = 0.0  # brightness, contrast and saturation each by a factor in 1 +- this; 0: none
    lighting: float = 0.0  # std of AlexNet's PCA noise on the colours; 0: none
    mix_pairing: str = "permutation"  # permutation | roll: with which row of its group an image is mixed
    zca: float = 0.0  # epsilon of the ZCA whitening that is fitted on the train split; 0: none


@dataclass(frozen=True)
class Labels:
    """What the student is told about a view."""

    kind: str  # soft: teacher logits of exactly that view | static: of the plain image | learned: the set's own | hard
    teachers: int  # how many teachers make the label
    ensemble: str  # mean | norm_balanced | accuracy_weighted (all of logits)
    distinct_epochs: int  # views and labels of this many epochs, cycled; 0: every epoch has its own
    teacher_bn: str = "eval"  # eval | groups:N: the teachers' batch norm sees N views of the epoch's order together
    architectures: tuple[str, ...] = ()  # that the teachers must have, in any order; (): any


@dataclass(frozen=True)
class Loss:
    """What the student minimises; see learning/losses.py."""

    name: str
    temperature: float
    t_squared: bool  # multiply by temperature^2
    hard_weight: float  # gamma of mse_gt, joint_ce and cosine: weight of the hard label
    hard_target: str = "own"  # own | mixed: whether that term knows of the image that was mixed in
    image_weights: bool = False  # rows are weighted by the image set's own weights (mean 1 over the batch)


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
SECTIONS = {"training": Training, "views": Views, "labels": Labels, "loss": Loss}
CHOICES = {
    "training.optimizer": ("adamw", "adam", "sgd"),
    "training.decay": ("ndim>1", "all"),
    "training.schedule": ("cosine", "linear", "ssrs", "step", "constant"),
    "training.schedule_unit": ("epoch", "step"),
    "views.crop": ("none", "random_resized", "pad"),
    "views.mix": ("none", "cutmix", "mixup"),
    "views.mix_per": ("group", "row"),
    "views.mix_pairing": ("permutation", "roll"),
    "views.randaugment_kind": ("torchvision", "timm"),
    "labels.kind": ("soft", "static", "learned", "hard"),
    "labels.ensemble": ("mean", "norm_balanced", "accuracy_weighted"),
    "loss.hard_target": ("own", "mixed"),
    "loss.name": tuple(LOSSES),
}
NEUTRAL = {  # knobs that came later: what older files mean by not stating them
    f"{name}.{field.name}": field.default
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
    if field.default is not dataclasses.MISSING
}
TAUGHT = ("soft", "static")  # kinds of labels that teachers make
DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")  # operations of views.dsa


def stated(section):
    """{field: value} of a section without the knobs that came later and do nothing: older files need not know them."""
    name = next(name for name, cls in SECTIONS.items() if isinstance(section, cls))
    return {k: v for k, v in dataclasses.asdict(section).items() if f"{name}.{k}" not in NEUTRAL or v != NEUTRAL[f"{name}.{k}"]}


def all_knobs():
    """Every knob as "section.field"."""
    return [f"{name}.{field.name}" for name, cls in SECTIONS.items() for field in dataclasses.fields(cls)]


def parse_value(text):
    """A command-line value: TOML if it is TOML (3, 0.1, true, [0.5, 1]), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check_knob(key, value, where):
    """`value` coerced to the type of knob `key`, its choice checked; UserError otherwise."""
    if key not in all_knobs():
        raise unknown(f"knob in {where}", key, all_knobs())
    section, field = key.split(".")
    value = coerce(SECTIONS[section].__annotations__[field], value, f"{where} {key}")
    if key in CHOICES and value not in CHOICES[key]:
        raise unknown(f"value of {key} in {where}", value, CHOICES[key])
    if key == "training.batch_norm":
        kind, _, size = value.partition(":")
        if not (value in ("global", "local") or (kind == "groups" and size.isdigit() and int(size) > 0)):
            raise UserError(f"{where} {key} is '{value}', wanted global, local or groups:N.")
    if key == "labels.teacher_bn":
        kind, _, size = value.partition(":")
        if not (value == "eval" or (kind == "groups" and size.isdigit() and int(size) > 1)):
            raise UserError(f"{where} {key} is '{value}', wanted eval or groups:N, N at least 2.")
    if key in POSITIVE and not value > 0:
        raise UserError(f"{where} {key} is {value}, wanted more than 0.")
    if key in FRACTIONS and not 0 <= value <= 1:
        raise UserError(f"{where} {key} is {value}, wanted a fraction from 0 to 1.")
    if key in NOT_NEGATIVE and not 0 <= value:
        raise UserError(f"{where} {key} is {value}, wanted at least 0.")
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(v, float) and not math.isfinite(v) for v in numbers):
        raise UserError(f"{where} {key} is {value}, wanted finite numbers.")
    if key == "views.randaugment_magnitude" and value > 30:
        raise UserError(f"{where} {key} is {value}, wanted 0 to 30.")
    if key == "training.learning_rates" and (min(value, default=1) <= 0 or len(set(value)) < len(value)):
        raise UserError(f"{where} {key} is {value}, wanted different numbers above 0.")
    if key == "views.dsa" and value != "none" and not set(value.split("_")) <= set(DSA):
        raise UserError(f"{where} {key} is '{value}', wanted none or some of {'_'.join(DSA)}.")
    if key in ("training.dropout", "training.stochastic_depth") and not (value == STOCK or 0 <= value < 1):
        raise UserError(f"{where} {key} is {value}, wanted -1 (as timm's network has it) or a fraction from 0 to below 1.")
    if key == "training.ema_decay" and value == 1:
        raise UserError(f"{where} {key} is {value}, wanted less than 1: the average would stay the first step's.")
    if key == "training.betas" and not all(0 <= beta < 1 for beta in value):
        raise UserError(f"{where} {key} is {value}, wanted two numbers from 0 to below 1.")
    return value


POSITIVE = (
    "training.epochs training.batch_size training.learning_rate training.zeta training.drop training.eps "
    "views.patch_shuffle views.mix_alpha views.group labels.teachers loss.temperature"
).split()
NOT_NEGATIVE = (
    "training.warmup_epochs training.weight_decay views.padding views.randaugment views.randaugment_magnitude views.zca "
    "views.color_jitter views.lighting labels.distinct_epochs loss.hard_weight training.test_resize"
).split()
FRACTIONS = "training.ema_decay training.momentum training.warmup_start views.flip views.mix_probability".split()
