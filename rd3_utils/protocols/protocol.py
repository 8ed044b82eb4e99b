"""A protocol states every knob that can change a score; a recipe is a protocol resolved for one student and image set.

    released/rd3-v1.toml -> load -> Protocol --override--> Protocol --resolve(benchmark, student, ipc, arm)--> Recipe

Order of authority, weakest first: the tables [training] [views] [labels] [loss], then the [[rules]] that match
(benchmark, image size, IPC, student), then overrides from the command line, then what the arm changes ([arms.hard],
[arms.plain]). All of it is inside the digest; prose (title, description, sources) is not.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rd3_utils.bounded import read_toml
from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.knobs import (
    NEUTRAL,
    SECTIONS,
    LabelKnobs,
    LossKnobs,
    TrainingKnobs,
    ViewKnobs,
    all_knobs,
    check_knob,
    parse_value,
    stated,
)
from rd3_utils.protocols.recipe import AUGMENTATIONS, Recipe, check_recipe, check_resize, digest
from rd3_utils.protocols.strict import build, coerce

RELEASED = Path(__file__).parent / "released"
TEACHER_PROTOCOL = "teacher-v1"  # of full-hard, whatever the protocol of the other arms
CONDITION_TYPES = {"benchmark": tuple[str, ...], "student": tuple[str, ...], "ipc_min": int, "ipc_max": int,
                   "image_size_min": int, "image_size_max": int}  # fmt: skip
ARM_LABELS = ("soft", "hard", "plain")
CONDITIONS: dict[str, Callable[[Any, dict], bool]] = {  # what a rule's `when` may say -> does it hold?
    "benchmark": lambda value, case: any(fnmatchcase(case["benchmark"], pattern) for pattern in value),
    "student": lambda value, case: any(fnmatchcase(case["student"], pattern) for pattern in value),
    "ipc_min": lambda value, case: case["ipc"] >= value,
    "ipc_max": lambda value, case: case["ipc"] <= value,
    "image_size_min": lambda value, case: case["image_size"] >= value,
    "image_size_max": lambda value, case: case["image_size"] <= value,
}


@dataclass(frozen=True)
class Protocol:
    """Every knob of an evaluation, with its rules and arms; `overrides` names what the command line changed."""

    name: str
    title: str
    description: str
    published_selection: str
    sources: dict
    training: TrainingKnobs
    views: ViewKnobs
    labels: LabelKnobs
    loss: LossKnobs
    arms: dict  # label kind of an arm (soft, hard, plain) -> {knob: value} it changes
    rules: tuple  # of {"when": {...}, "set": {knob: value}, "source": where the values come from}; older files have no source
    overrides: tuple = ()  # of (knob, value)

    @property
    def knobs(self) -> dict:
        """All that counts, as plain data."""
        sections = {name: stated(getattr(self, name)) for name in SECTIONS}
        rules = [{key: rule[key] for key in ("when", "set")} for rule in self.rules]
        knobs = {**sections, "rules": rules, "arms": self.arms}
        return {**knobs, "overrides": dict(self.overrides)} if self.overrides else knobs

    @property
    def label_kind(self) -> str:
        """labels.kind, whoever stated it last."""
        return dict(self.overrides).get("labels.kind", self.labels.kind)

    @property
    def main_labels(self) -> str:
        """Which of its arms has the protocol's own labels: "hard" for classes, "soft" for all that is more than a class."""
        return "hard" if self.labels.kind == "hard" else "soft"

    @property
    def digest(self) -> str:
        """The first 12 hex digits of a SHA-256 over canonical JSON of every knob."""
        return digest(self.knobs)

    @property
    def label(self) -> str:
        """How outputs name it: the released name, or "custom, based on NAME (KEY=VALUE)"."""
        if not self.overrides:
            return self.name
        changes = ", ".join(f"{key}={json.dumps(value)}" for key, value in self.overrides)
        return f"custom, based on {self.name} ({changes})"

    def override(self, assignments: Iterable[str]) -> "Protocol":
        """This protocol with `["training.epochs=10", ...]` applied; the digest changes and outputs say so."""
        pairs = dict(self.overrides)
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            if not separator:
                raise UserError(f"--set {assignment}: wanted KEY=VALUE, such as training.epochs=10.")
            pairs[key] = check_knob(key, parse_value(text), "--set")
        return dataclasses.replace(self, overrides=tuple(sorted(pairs.items())))

    def stated(self, key: str) -> set:
        """All values of the knob `key` that some recipe of this protocol may have."""
        section, name = key.split(".")
        changes = [*(rule["set"] for rule in self.rules), dict(self.overrides), *self.arms.values()]
        return {getattr(getattr(self, section), name), *(change[key] for change in changes if key in change)}

    def matching(self, benchmark: Benchmark, student: str, ipc: int) -> list[dict]:
        """The rules that hold for `student` on `ipc` images per class of `benchmark`, in order: later ones win."""
        case = {"benchmark": benchmark.name, "student": student, "ipc": ipc, "image_size": benchmark.image.size}
        return [rule for rule in self.rules if all(CONDITIONS[name](value, case) for name, value in rule["when"].items())]

    def resolve(self, benchmark: Benchmark, student: str, ipc: int, images: int, labels: str) -> Recipe:
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


def load(name: Path | str) -> Protocol:
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
        if arm not in ARM_LABELS or not isinstance(changes, dict):
            raise unknown(f"arm in {where} [arms]", arm, ARM_LABELS)
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


def names() -> list[str]:
    """The names of all released protocols, sorted."""
    return sorted(path.stem for path in RELEASED.glob("*.toml"))


def read_rule(rule: dict, where: str) -> dict:
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
