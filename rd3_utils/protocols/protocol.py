"""A protocol states every knob that can change a score; a recipe is a protocol resolved for one student and image set.

    released/rd3-v1.toml -> load -> Protocol --override--> Protocol --resolve(benchmark, student, ipc, arm)--> Recipe

Order of authority, weakest first: the tables [training] [views] [labels] [loss], then the [[rules]] that match
(benchmark, image size, IPC, student), then overrides from the command line, then what the arm changes ([arms.hard],
[arms.plain]). All of it is inside the digest; prose (title, description, sources) is not.
"""

import dataclasses
import hashlib
import json
import math
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rd3_utils import units
from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.strict import build, coerce, read_toml

RELEASED = Path(__file__).parent / "released"
STOCK = -1.0  # training.dropout, training.stochastic_depth: as timm's network has it
VIEWS_VERSION = 1  # of the code that draws and applies views: part of a label store's identity


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
    "loss.name": ("kl", "soft_ce", "mse_gt", "joint_ce", "cosine", "ce", "ce_mixed"),
}
CONDITION_TYPES = {"benchmark": tuple[str, ...], "student": tuple[str, ...], "ipc_min": int, "ipc_max": int,
                   "image_size_min": int, "image_size_max": int}  # fmt: skip
NEUTRAL = {  # knobs that came later: what older files mean by not stating them
    f"{name}.{field.name}": field.default
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
    if field.default is not dataclasses.MISSING
}
ARMS = ("soft", "hard", "plain")
TAUGHT = ("soft", "static")  # kinds of labels that teachers make
LARGEST_WHITENED = 64  # pixels: there, the matrix of views.zca has 12,288^2 numbers
AUGMENTATIONS = (  # knobs of views that came later; views.zca is none: teachers and students of plain images know no other
    "views.randaugment views.randaugment_magnitude views.randaugment_kind views.dsa views.color_jitter views.lighting "
    "views.mix_pairing"
).split()
DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")  # operations of views.dsa
IDENTITY = {"crop": "none", "patch_shuffle": 1, "flip": 0.0, "mix": "none", "group": 1}  # views that leave images as they are
CONDITIONS = {  # what a rule's `when` may say -> does it hold?
    "benchmark": lambda value, case: any(fnmatchcase(case["benchmark"], pattern) for pattern in value),
    "student": lambda value, case: any(fnmatchcase(case["student"], pattern) for pattern in value),
    "ipc_min": lambda value, case: case["ipc"] >= value,
    "ipc_max": lambda value, case: case["ipc"] <= value,
    "image_size_min": lambda value, case: case["image_size"] >= value,
    "image_size_max": lambda value, case: case["image_size"] <= value,
}


@dataclass(frozen=True)
class Recipe:
    """Concrete numbers for one benchmark, student and image set: nothing left to decide."""

    training: Training
    views: Views
    labels: Labels
    loss: Loss
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
        plain = {key.split(".")[1]: value for key, value in NEUTRAL.items() if key.startswith("views.")} | IDENTITY
        labels = dataclasses.replace(self.labels, kind="soft", distinct_epochs=1)
        return dataclasses.replace(self, views=dataclasses.replace(self.views, **plain), labels=labels)

    @property
    def views_digest(self):
        """12 hex digits over everything that shapes a view: two recipes with the same one share soft labels."""
        return digest({**stated(self.views), "size": self.image_size, "version": VIEWS_VERSION})

    def as_dict(self):
        """Plain data for a Run, steps included."""
        sections = {name: stated(getattr(self, name)) for name in SECTIONS}
        return {**dataclasses.asdict(self), **sections, "steps_per_epoch": self.steps_per_epoch, "steps": self.steps}


@dataclass(frozen=True)
class Protocol:
    """Every knob of an evaluation, with its rules and arms; `overrides` names what the command line changed."""

    name: str
    title: str
    description: str
    published_selection: str
    sources: dict
    training: Training
    views: Views
    labels: Labels
    loss: Loss
    arms: dict  # label kind of an arm (soft, hard, plain) -> {knob: value} it changes
    rules: tuple  # of {"when": {...}, "set": {knob: value}, "source": where the values come from}; older files have no source
    overrides: tuple = ()  # of (knob, value)

    @property
    def knobs(self):
        """All that counts, as plain data."""
        sections = {name: stated(getattr(self, name)) for name in SECTIONS}
        rules = [{key: rule[key] for key in ("when", "set")} for rule in self.rules]
        knobs = {**sections, "rules": rules, "arms": self.arms}
        return {**knobs, "overrides": dict(self.overrides)} if self.overrides else knobs

    @property
    def label_kind(self):
        """labels.kind, whoever stated it last."""
        return dict(self.overrides).get("labels.kind", self.labels.kind)

    @property
    def main_labels(self):
        """Which of its arms has the protocol's own labels: "hard" for classes, "soft" for all that is more than a class."""
        return "hard" if self.labels.kind == "hard" else "soft"

    @property
    def digest(self):
        """The first 12 hex digits of a SHA-256 over canonical JSON of every knob."""
        return digest(self.knobs)

    @property
    def label(self):
        """How outputs name it: the released name, or "custom, based on NAME (KEY=VALUE)"."""
        if not self.overrides:
            return self.name
        changes = ", ".join(f"{key}={json.dumps(value)}" for key, value in self.overrides)
        return f"custom, based on {self.name} ({changes})"

    def override(self, assignments):
        """This protocol with `["training.epochs=10", ...]` applied; the digest changes and outputs say so."""
        pairs = dict(self.overrides)
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            if not separator:
                raise UserError(f"--set {assignment}: wanted KEY=VALUE, such as training.epochs=10.")
            pairs[key] = check_knob(key, parse_value(text), "--set")
        return dataclasses.replace(self, overrides=tuple(sorted(pairs.items())))

    def matching(self, benchmark, student, ipc):
        """The rules that hold for `student` on `ipc` images per class of `benchmark`, in order: later ones win."""
        case = {"benchmark": benchmark.name, "student": student, "ipc": ipc, "image_size": benchmark.image.size}
        return [rule for rule in self.rules if all(CONDITIONS[name](value, case) for name, value in rule["when"].items())]

    def resolve(self, benchmark, student, ipc, images, labels):
        """The Recipe for `images` images at `ipc` per class, for the arm that labels them `labels` (soft, hard, plain).

        The batch and the mixing group are capped at the number of images. UserError when the protocol has no such arm.
        """
        if labels not in self.arms:
            raise UserError(f"protocol {self.name} has no arm with {labels} labels; it has {', '.join(sorted(self.arms))}.")
        changes = {key: value for rule in self.matching(benchmark, student, ipc) for key, value in rule["set"].items()}
        changes.update(self.overrides)
        if labels == "plain":  # identity views by definition, also without the knobs that its file was too early for
            changes.update({key: NEUTRAL[key] for key in AUGMENTATIONS})
        changes.update(self.arms[labels])
        if not benchmark.image.mirror:
            strategy = changes.get("views.dsa", self.views.dsa).split("_")
            changes.update({"views.flip": 0.0, "views.dsa": "_".join(op for op in strategy if op != "flip") or "none"})
        parts = {
            name: dataclasses.replace(
                getattr(self, name),
                **{key.split(".")[1]: value for key, value in changes.items() if key.split(".")[0] == name},
            )
            for name in SECTIONS
        }
        training, views = parts["training"], parts["views"]
        parts["training"] = dataclasses.replace(training, batch_size=min(training.batch_size, images))
        parts["views"] = dataclasses.replace(views, group=min(views.group, images))
        recipe = Recipe(
            **parts,
            images=images,
            image_size=benchmark.image.size,
            classes=len(benchmark.classes),
            mean=benchmark.image.mean,
            std=benchmark.image.std,
        )
        check_recipe(recipe, self.name)
        check_resize(recipe, benchmark, self.name)
        return recipe


def load(name):
    """The released protocol `name`, or the one in a TOML file whose path is given."""
    path = Path(name) if str(name).endswith(".toml") else RELEASED / f"{name}.toml"
    if not path.is_file():
        raise unknown("protocol", name, names())
    table = read_toml(path)
    where = f"protocol {name}"
    for section, cls in SECTIONS.items():
        if section in table:
            table[section] = build(cls, table[section], f"{where} [{section}]")
    for arm, changes in table.get("arms", {}).items():
        if arm not in ARMS or not isinstance(changes, dict):
            raise unknown(f"arm in {where} [arms]", arm, ARMS)
    table["arms"] = {
        arm: {key: check_knob(key, value, f"{where} [arms.{arm}]") for key, value in changes.items()}
        for arm, changes in table.get("arms", {}).items()
    }
    table["rules"] = tuple(read_rule(rule, where) for rule in table.get("rules", []))
    protocol = build(Protocol, table, where)
    if protocol.name != path.stem:
        raise UserError(f"{path} names itself '{protocol.name}', wanted '{path.stem}': the name is the file's.")
    for section in SECTIONS:
        for key, value in dataclasses.asdict(getattr(protocol, section)).items():
            check_knob(f"{section}.{key}", value, where)
    released = RELEASED / f"{protocol.name}.toml"
    if path != released and released.is_file() and protocol.digest != load(protocol.name).digest:
        raise UserError(f"{path} takes the released name '{protocol.name}' but states other knobs; give it a name of its own.")
    for key, source in protocol.sources.items():
        if key not in all_knobs() or not isinstance(source, str):
            raise unknown(f"source in {where} [sources]", key, all_knobs())
    unsourced = [f"{name}.{key}" for name in SECTIONS for key in stated(getattr(protocol, name))]
    unsourced = [key for key in unsourced if key not in protocol.sources]
    if unsourced:
        raise UserError(f"{where} [sources] lacks {', '.join(unsourced)}; say where each value comes from.")
    return protocol


def names():
    """The names of all released protocols, sorted."""
    return sorted(path.stem for path in RELEASED.glob("*.toml"))


def stated(section):
    """{field: value} of a section without the knobs that came later and do nothing: older files need not know them."""
    name = next(name for name, cls in SECTIONS.items() if isinstance(section, cls))
    return {k: v for k, v in dataclasses.asdict(section).items() if f"{name}.{k}" not in NEUTRAL or v != NEUTRAL[f"{name}.{k}"]}


def all_knobs():
    """Every knob as "section.field"."""
    return [f"{name}.{field.name}" for name, cls in SECTIONS.items() for field in dataclasses.fields(cls)]


def read_rule(rule, where):
    """A rule with known conditions and knobs, values coerced; `source` says in words where its values come from."""
    source = {"source": str} if "source" in rule else {}
    wanted = {"when": dict, "set": dict, **source}
    if set(rule) != set(wanted) or not all(isinstance(part, wanted[key]) for key, part in rule.items()):
        raise UserError(
            f"{where} [[rules]] has {sorted(rule)}, wanted exactly the tables 'when' and 'set', and a text 'source' if any."
        )
    for condition in rule["when"]:
        if condition not in CONDITIONS:
            raise unknown(f"condition in {where} [[rules]]", condition, CONDITIONS)
    when = {key: coerce(CONDITION_TYPES[key], value, f"{where} [[rules]] {key}") for key, value in rule["when"].items()}
    changes = {key: check_knob(key, value, f"{where} [[rules]]") for key, value in rule["set"].items()}
    return {"when": when, "set": changes, **({"source": rule["source"]} if source else {})}


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


def check_recipe(recipe, name):
    """UserError where knobs contradict one another: such a training would run and mean nothing."""
    training, views, labels, loss = recipe.training, recipe.views, recipe.labels, recipe.loss
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
    if loss.hard_target == "mixed" and loss.name not in ("mse_gt", "joint_ce"):
        raise UserError(f"{name}: loss.hard_target=mixed with loss '{loss.name}'; it is for mse_gt and joint_ce.")
    if loss.hard_weight and loss.name not in ("mse_gt", "joint_ce", "cosine"):
        raise UserError(
            f"{name}: loss.hard_weight={loss.hard_weight} with loss '{loss.name}', which has no hard term; set it to 0, or use "
            "mse_gt, joint_ce or cosine."
        )
    if loss.t_squared and loss.name not in ("kl", "soft_ce", "joint_ce"):
        raise UserError(f"{name}: loss.t_squared with loss '{loss.name}', which has no temperature; set it to false.")
    if labels.kind == "hard" and loss.name not in ("ce", "ce_mixed"):
        raise UserError(f"{name}: hard labels with loss '{loss.name}', which reads teacher logits; use ce or ce_mixed.")
    if labels.kind != "hard" and loss.name in ("ce", "ce_mixed"):
        raise UserError(f"{name}: {labels.kind} labels with loss '{loss.name}', which ignores them; use kl, soft_ce or mse_gt.")
    if views.mix != "none" and loss.name == "ce":
        raise UserError(f"{name}: images are mixed ({views.mix}) but the labels of loss 'ce' are not; use ce_mixed.")
    if views.mix != "none" and recipe.images > 1 and (views.group < 2 or not views.mix_probability):
        raise UserError(
            f"{name}: views.mix={views.mix} mixes nothing with views.group={views.group} and views.mix_probability="
            f"{views.mix_probability}; set the rows to mix among (such as views.group=50) and a probability above 0."
        )
    if views.randaugment_magnitude != Views.randaugment_magnitude and not views.randaugment:
        raise UserError(f"{name}: views.randaugment_magnitude={views.randaugment_magnitude} without views.randaugment.")
    if views.randaugment_kind == "timm" and not views.randaugment:
        raise UserError(f"{name}: views.randaugment_kind=timm without views.randaugment.")
    if views.randaugment_kind == "timm" and views.randaugment_magnitude > 10:
        raise UserError(f"{name}: views.randaugment_magnitude={views.randaugment_magnitude}; timm's magnitudes go to 10.")
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
