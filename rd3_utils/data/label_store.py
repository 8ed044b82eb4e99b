"""Reading a label store: checked against images, recipe and teachers, then epoch -> (Views, logits [N, C])."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from rd3_utils import limits
from rd3_utils.bounded import shown
from rd3_utils.data import label_checks, soft_labels
from rd3_utils.data.images import ImageSet
from rd3_utils.data.shards import Folder, HubFolder
from rd3_utils.data.soft_labels import (
    LABEL_DTYPES,
    SHARD,
    border_of,
    epoch_bytes,
    label_layout,
    mistaken,
    read_index,
    recognised,
    unpacked,
    view_tensors,
)
from rd3_utils.data.views import Views, draw
from rd3_utils.errors import UserError, shortened
from rd3_utils.hub import file_sha256
from rd3_utils.protocols.knobs import stated
from rd3_utils.protocols.recipe import Recipe

OPENINGS = 5  # tries to open a shard that another command may drop


class SoftLabelStore:
    """A finished store of an ImageSet under a recipe: the views that are drawn, and what the teachers said about each.

    Nothing of a view is believed: a store whose views are not those of the recipe is refused when it is read. Its first
    `epochs` are read, and cycled, however many more it holds.
    """

    def __init__(self, shards: "Shards", images: ImageSet | None, recipe: Recipe) -> None:
        self.shards, self.images, self.recipe = shards, images, recipe
        self.audit: Audit | None = None  # by the teachers, where they are at hand
        self.agreement: float | None = None
        self.block = label_checks.Block()  # of what was read since labels were last judged
        self.rows = label_checks.Block()  # and since each row was

    @property
    def index(self) -> dict:
        return self.shards.index

    @property
    def epochs(self) -> int:
        return self.shards.epochs

    @property
    def teachers(self) -> list[dict]:
        return self.index["teachers"]

    @property
    def origin(self) -> dict:
        """Of no weight for what is learned: where labels came from, if from the Hub, and what teachers made of the images."""
        return {**self.shards.files.origin, **recognised(self.index), **mistaken(self.index)}

    def describe(self) -> dict:
        """What a Run records of its labels: of the epochs that are read, in bytes their part of each shard."""
        size = 0
        for shard in self.index["shards"]:
            first, stop = shard["epochs"]
            size += round(shard["bytes"] * min(1.0, max(0, self.epochs - first) / (stop - first)))
        kind = "imported" if soft_labels.is_imported(self.index) else "soft"
        return {"kind": kind, "bytes": size, **described(self.index, self.epochs)}

    def epoch(self, epoch: int) -> tuple[Views, torch.Tensor]:
        """(Views, logits float32 [N, C]) of `epoch`; epochs beyond the store's `epochs` cycle. UserError for what is forged."""
        epoch %= self.epochs
        if self.audit is not None:
            self.audit.of_shard(self, epoch)
        if self.agreement is None:
            self.agreement = self.measured_agreement()
        views, logits = self.checked(epoch)
        self.judge(epoch, views, logits)
        return views, logits

    def checked(self, epoch: int) -> tuple[Views, torch.Tensor]:
        """(Views, logits) of `epoch`: the views drawn, and the store's found to be the same; the logits finite.

        Of imported labels the store's own views, found to be possible ones.
        """
        name, recipe = str(self.shards.files), self.recipe
        views = draw(recipe, self.index["views_seed"], epoch)
        columns = view_tensors(views, recipe.image_size, border_of(recipe))
        layout = {key: (column.dtype, tuple(column.shape)) for key, column in columns.items()}
        layout |= label_layout(recipe.images, recipe.classes, self.index["label_dtype"])
        stored = self.shards.read(epoch, layout)
        if soft_labels.is_imported(self.index):
            label_checks.check_stored_views(stored, recipe, border_of(recipe), epoch, name)
            views = stored_views(stored, border_of(recipe), views)
        else:
            label_checks.check_views(stored, columns, epoch, name)
        logits = unpacked(stored)
        label_checks.check_finite_labels(logits, epoch, name)
        return views, logits

    def measured_agreement(self) -> float:
        """The share of labels whose likeliest class is one that their view shows; UserError where they are of other images.

        Of the first epochs that make VIEWS_NEEDED views.
        """
        block = label_checks.Block()
        for epoch in range(min(self.epochs, math.ceil(label_checks.VIEWS_NEEDED / self.recipe.images))):
            block.add(*self.shown(*self.checked(epoch)))
            self.judged(block, epoch, 2)
        return block.agreeing / block.views

    def shown(self, views: Views, logits: torch.Tensor) -> tuple[torch.Tensor, float]:
        """`label_checks.shown_classes` of the labels of an epoch."""
        assert self.images is not None  # `verify` alone has none, and then judges nothing
        return label_checks.shown_classes(logits, self.images.labels, self.images.labels[views.mix_partner])

    def judge(self, epoch: int, views: Views, logits: torch.Tensor) -> None:
        """Judge what was read since the last time, where that is enough, with the labels of `epoch`."""
        agrees, chance = self.shown(views, logits)
        self.block.add(agrees, chance)
        self.rows.add(agrees, chance)
        if self.judged(self.block, epoch, 4):
            self.block = label_checks.Block()
        if self.trusted(epoch, lambda: label_checks.check_rows(self.rows, self.index, str(self.shards.files))):
            self.rows = label_checks.Block()

    def judged(self, block: label_checks.Block, epoch: int, errors: float) -> bool:
        """Whether the labels of `block`, of which `epoch` is the last, are enough to be judged, and were."""
        return self.trusted(epoch, lambda: label_checks.check_agreement(block, self.index, str(self.shards.files), errors))

    def trusted(self, epoch: int, check: Callable[[], bool]) -> bool:
        """What `check()` returns; where it refuses, teachers that are at hand label some of `epoch` again instead.

        Labels that these give are true whatever the views show, as those of --online are.
        """
        try:
            return check()
        except UserError:
            if self.audit is None:
                raise
            self.audit.of_epoch(self, epoch)
            return True


def stored_views(stored: Mapping[str, torch.Tensor], border: int, drawn: Views) -> Views:
    """The Views that shards hold of one epoch of imported labels; of what they do not hold, those `drawn`: no patch shuffle."""
    held = {key: stored[key].long() for key in ("box", "mix_partner", "mix_box", "order")}
    held["box"] -= torch.tensor([border, border, 0, 0])
    held["flip"] = stored["flip"].bool()
    if "patch_order" in stored:
        held["patch_order"] = stored["patch_order"].long()
    if "mix_lam" in stored:
        held["mix_weight"] = stored["mix_lam"]
    return dataclasses.replace(drawn, **held)


class Audit(Protocol):
    """Who labels a sample of a store again and raises UserError where it says otherwise: see learning/relabelling.py."""

    def of_shard(self, store: SoftLabelStore, epoch: int) -> None: ...
    def of_epoch(self, store: SoftLabelStore, epoch: int) -> None: ...


class Shards:
    """The shards of a finished store, read by memory-mapped slice from `files` (a Folder or HubFolder), checked when opened.

    The next shard is fetched while one is read. `reread` returns the index of a store that another command made longer, checked
    as the first one was.
    """

    def __init__(self, files: Folder | HubFolder, index: dict, epochs: int, reread: Callable[[], dict] | None = None) -> None:
        self.files, self.index, self.epochs = files, index, epochs
        self.reread = reread or partial(read_index, files)
        self.shard: Any = None
        self.name: str | None = None

    def read(self, epoch: int, layout: label_checks.Layout | None = None) -> dict[str, torch.Tensor]:
        """{key: what the store holds of `epoch`}; UserError, before anything is read, where that is not of this `layout`."""
        shard, at = self.open(epoch)
        if layout is not None:
            first, stop = self.index["shards"][epoch // self.index["epochs_per_shard"]]["epochs"]
            label_checks.check_layout(shard, stop - first, layout, f"{self.name} of {self.files}")
        return {key: shard.get_slice(key)[at : at + 1][0] for key in shard.keys()}

    def open(self, epoch: int) -> tuple[safe_open, int]:
        """(memory-mapped shard that holds `epoch`, verified; its place in it); the next shard is on its way."""
        if self.made_longer(epoch):
            self.index, self.name = self.reread(), None
        entries, k = self.index["shards"], self.index["epochs_per_shard"]
        i = epoch // k
        if self.name != entries[i]["file"]:
            self.shard, self.name = self.opened(entries[i]), entries[i]["file"]
            after = [entry for entry in entries[i + 1 : i + 2] if entry["epochs"][0] < self.epochs]
            kept = [Path(entry["file"]).name for entry in (entries[i], *after)]
            self.files.drop(kept, sum(entry["bytes"] for entry in after))
            for entry in after:
                self.files.soon(entry)
        return self.shard, epoch % k

    def made_longer(self, epoch: int) -> bool:
        """Whether another command cut this local store into other shards meanwhile: the same labels under other names."""
        entry = self.index["shards"][epoch // self.index["epochs_per_shard"]]
        if not isinstance(self.files, Folder) or self.name == entry["file"] or (self.files.where / entry["file"]).is_file():
            return False
        known, now = self.index, read_index(self.files)
        same = all(now[key] == known[key] for key in ("images", "views_digest", "views_seed", "teachers_id", "label_dtype",
                                                      "forward_batch", "ensemble"))  # fmt: skip
        return same and now["epochs"] >= self.epochs

    def opened(self, entry: dict) -> safe_open:
        """The memory-mapped shard of an index entry; fetched again where another command dropped it from a bounded cache."""
        for attempt in range(OPENINGS):
            path = self.files.path(entry)
            try:
                shard = safe_open(path, "pt")
                if (size := path.stat().st_size) != entry["bytes"]:
                    raise UserError(f"{path} has {size} bytes, index.json says {entry['bytes']}; make the labels again.")
                return shard
            except FileNotFoundError as error:
                if attempt == OPENINGS - 1:
                    raise UserError(
                        f"{path} was removed {OPENINGS} times before it could be read: several commands share a bounded "
                        "cache; give a larger --label-cache-gb."
                    ) from error
            except SafetensorError as error:
                raise UserError(f"{path} is no safetensors file, though its SHA-256 is the index's: {error}.") from error
        raise AssertionError("the last opening returns or raises")


def load_store(
    where: Path | str | HubFolder, images: ImageSet, recipe: Recipe, views_seed: int, teachers_id: str | None = None
) -> SoftLabelStore:
    """The SoftLabelStore in `where`, a local folder or a HubFolder, checked against what it is to label.

    UserError, with both values, for labels of other images, classes, views, seeds or teachers, for fewer epochs than the
    recipe needs, and for a folder whose index is not there yet.
    """
    files = where if isinstance(where, HubFolder) else Folder(where)

    def read() -> dict:
        index = read_index(files)
        try:
            check_kinds(where, index)
            check_use(where, index, images, recipe, views_seed, teachers_id)
            check_shards(where, index)
            check_bytes(where, index, recipe)
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise damaged(where, f"{type(error).__name__}: {error}") from error
        return index

    return SoftLabelStore(Shards(files, read(), recipe.label_epochs, read), images, recipe)


def damaged(where: object, reason: str) -> UserError:
    """The refusal of an index that says what none may say."""
    return UserError(f"index.json of {where} is damaged ({shortened(reason, 500)}); make the labels again.")


def check_kinds(where: object, index: dict) -> None:
    """UserError unless what an index says of its making, which Runs repeat and teachers are asked with, is of its kind."""
    facts: list[tuple[str, Any, bool]] = [  # (what, its value, whether it may be)
        *((key, index[key], type(index[key]) is int and index[key] >= 0) for key in ("views_seed", "forward_batch")),
        *((key, index[key], isinstance(index[key], str)) for key in ("teachers_id", "ensemble", "views_digest")),
        ("device", index["device"], isinstance(index["device"], (str, type(None)))),
    ]
    for about in index["teachers"]:
        facts += [(key, about[key], isinstance(about[key], str)) for key in ("source", "architecture", "sha256")]
        facts.append(("commit", about["commit"], isinstance(about["commit"], (str, type(None)))))
    for _, accuracy in soft_labels.teacher_scores(index):
        fits = accuracy is None or (type(accuracy) in (int, float) and 0 <= accuracy <= 1)
        facts.append(("accuracy of a teacher", accuracy, fits))
    for name, value, fits in facts:
        if not fits:
            raise damaged(where, f"{name} is {shown(value)}")


def check_use(where: object, index: dict, images: ImageSet, recipe: Recipe, views_seed: int, teachers_id: str | None) -> None:
    """UserError, with both values, where the labels that `index` describes are not those that a training asks for."""
    check_same(
        where,
        "images",
        f"{index['images']['name']}@{index['images']['fingerprint'][:8]}",
        images.identity,
        same=index["images"]["fingerprint"] == images.fingerprint,
    )
    check_same(where, "classes", list(index["class_names"])[:3], list(images.class_names)[:3],
          same=tuple(index["class_names"]) == images.class_names)  # fmt: skip
    wanted = stated(recipe.views)
    wanted = json.loads(json.dumps(wanted))
    different = [k for k in {**index["views"], **wanted} if wanted.get(k) != index["views"].get(k)]
    check_same(
        where,
        "views",
        {k: index["views"].get(k) for k in different} or index["views_digest"],
        {k: wanted.get(k) for k in different} or recipe.views_digest,
        same=index["views_digest"] == recipe.views_digest and not different,
    )
    check_same(where, "views seed", index["views_seed"], views_seed)
    check_same(where, "a number of rows of", index["rows"], len(images))
    check_same(where, "a number of classes of", index["classes"], len(images.class_names))
    check_same(where, "image_size and border", [index["image_size"], index["border"]], [recipe.image_size, border_of(recipe)])
    check_same(where, "a number of teachers of", len(index["teachers"]), recipe.labels.teachers)
    if recipe.labels.teachers > 1:
        check_same(where, "ensemble rule", index["ensemble"], recipe.labels.ensemble)
    check_same(where, "labels.teacher_bn", index.get("teacher_bn", "eval"), recipe.labels.teacher_bn)
    check_architectures([teacher["architecture"] for teacher in index["teachers"]], recipe, f"the labels in {where} are of")
    if teachers_id is not None:
        check_same(where, "teachers", index["teachers_id"][:8], teachers_id[:8], same=index["teachers_id"] == teachers_id)
    if index["epochs"] < recipe.label_epochs:
        raise UserError(
            f"{where} labels {index['epochs']} epochs, the recipe needs {recipe.label_epochs}; run "
            "generate_soft_labels.py for the same protocol, or train with --set training.epochs="
            f"{index['epochs']} (a custom protocol)."
        )


def check_shards(where: object, index: dict) -> None:
    """UserError unless the shards that `index` names are files of the store's own folder that hold its epochs in a row."""
    whole = [index["epochs"], index["epochs_per_shard"], *(entry["bytes"] for entry in index["shards"])]
    if any(type(number) is not int for number in whole) or ("recognised" in index and not recognised(index)):
        raise damaged(where, "a number that is none in it")
    first, entries = 0, index["shards"]
    for entry in entries:
        if not SHARD.fullmatch(entry["file"]):
            raise damaged(where, f"a shard named {entry['file'][:60]!r}")
        if entry["epochs"] != [first, min(first + index["epochs_per_shard"], index["epochs"])] or entry["bytes"] < 0:
            raise damaged(where, f"epochs {entry['epochs']} of a shard")
        first = entry["epochs"][1]
    if first != index["epochs"] or not all(isinstance(entry["sha256"] + entry["file"], str) for entry in entries):
        raise damaged(where, f"{first} of {index['epochs']} epochs")


def check_bytes(where: object, index: dict, recipe: Recipe) -> None:
    """UserError unless every shard has the bytes of its epochs' labels and views, and of a header: before one is fetched."""
    if index["label_dtype"] not in LABEL_DTYPES:
        raise damaged(where, f"label_dtype {shown(index['label_dtype'])}")
    epoch = epoch_bytes(recipe, index["label_dtype"])
    for entry in index["shards"]:
        tensors = epoch * (entry["epochs"][1] - entry["epochs"][0])
        least = 0 if soft_labels.is_imported(index) else tensors  # those need not hold every column
        if not least <= entry["bytes"] <= tensors + limits.MOST_HEADER_BYTES:
            raise damaged(where, f"the epochs of {entry['file']} have {tensors} bytes, index.json says {entry['bytes']}")


def intact(where: Path, index: dict) -> bool:
    """Whether every shard that `index` names is there, of its size and SHA-256."""
    for entry in index["shards"]:
        path = where / Path(entry["file"]).name
        if not path.is_file() or path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
            return False
    return True


def check_same(where: object, fact: str, stated: Any, wanted: Any, same: bool | None = None) -> None:
    if not (stated == wanted if same is None else same):
        mine = shortened(str(stated), 500)
        raise UserError(f"the soft labels in {where} are for {fact} {mine}, this run has {wanted}; make labels for it.")


def described(index: dict, epochs: int) -> dict:
    """What a Run records of the labels of an index or of a StorePlan's header, of which it reads `epochs`."""
    keys = "views_digest views_seed teachers_id ensemble label_dtype forward_batch device".split()
    grouping = {key: index[key] for key in ("teacher_bn",) if key in index}  # not there: the default
    return {"epochs": epochs, **{key: index[key] for key in keys}, **grouping}


def check_architectures(given: Sequence[str], recipe: Recipe, whose: str) -> None:
    """UserError unless the teachers' architectures `given` are those that the recipe names, in any order."""
    wanted = recipe.labels.architectures
    missing = Counter(map(architecture_key, wanted)) - Counter(map(architecture_key, given))
    if missing:
        lacking = [next(name for name in wanted if architecture_key(name) == key) for key in missing.elements()]
        raise UserError(
            f"labels.architectures names {', '.join(wanted)}, {whose} {', '.join(given)}: {', '.join(lacking)} is missing; "
            "give such a --teacher, or --set labels.architectures=[] for any (a custom protocol)."
        )


def architecture_key(name: str) -> str:
    """What tells architectures apart whichever library names them: mobilenetv2_100 (timm) is mobilenet_v2 (torchvision).

    Lower case without tag (".tv_in1k"), timm's prefix "tf_", its suffix "_100" for width 1, our "_cifar" for the stem for
    small images, and underscores. What remains must be equal: shufflenet_v2_x0_5 is not shufflenet_v2_x1_0.
    """
    plain = name.lower().partition(".")[0].removeprefix("tf_").removesuffix("_cifar").removesuffix("_100")
    return plain.replace("_", "")
