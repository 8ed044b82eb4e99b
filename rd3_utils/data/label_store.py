"""Reading a label store: checked against images, recipe and teachers, then epoch -> (Views, logits [N, C])."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rd3_utils.data.images import ImageSet
from rd3_utils.data.shards import Folder, HubFolder
from rd3_utils.data.soft_labels import OPTIONAL, SHARD, read_index, recognised, unpacked
from rd3_utils.data.views import Views
from rd3_utils.errors import UserError
from rd3_utils.hub import file_sha256
from rd3_utils.protocols.knobs import stated
from rd3_utils.protocols.recipe import Recipe

OPENINGS = 5  # tries to open a shard that another command may drop


class SoftLabelStore:
    """A finished store, read by memory-mapped slice from `files` (a Folder or HubFolder); shards are checked when opened.

    Its first `epochs` are read, and cycled, however many more it holds. The next shard is fetched while one is read.
    """

    def __init__(self, files: Folder | HubFolder, index: dict, epochs: int) -> None:
        self.files, self.index, self.epochs = files, index, epochs
        self.shard: Any = None
        self.name: str | None = None

    @property
    def teachers(self) -> list[dict]:
        return self.index["teachers"]

    @property
    def origin(self) -> dict:
        """Of no weight for what is learned: where labels came from, if from the Hub, and what teachers made of the images."""
        return {**self.files.origin, **recognised(self.index)}

    def describe(self) -> dict:
        """What a Run records of its labels: of the epochs that are read, in bytes their part of each shard."""
        keys = "views_digest views_seed teachers_id ensemble label_dtype forward_batch device".split()
        size = 0
        for shard in self.index["shards"]:
            first, stop = shard["epochs"]
            size += round(shard["bytes"] * min(1.0, max(0, self.epochs - first) / (stop - first)))
        known = {"epochs": self.epochs, **{key: self.index[key] for key in keys}}
        return {"kind": "soft", "bytes": size, **known, **grouping(self.index)}

    def epoch(self, epoch: int) -> tuple[Views, torch.Tensor]:
        """(Views, logits float32 [N, C]) of `epoch`; epochs beyond the store's `epochs` cycle."""
        epoch %= self.epochs
        shard, at = self.open(epoch)
        read = {key: shard.get_slice(key)[at : at + 1][0] for key in shard.keys()}
        box = read["box"].long()
        box[:, :2] -= self.index["border"]
        patches = read.get("patch_order", torch.zeros(len(box), 2, 1, dtype=torch.uint8)).long()
        partner, mix_box, order = (read[key].long() for key in ("mix_partner", "mix_box", "order"))
        used = {name: read[key] for key, (name, _) in OPTIONAL.items() if key in read}
        used = {name: value if value.is_floating_point() else value.long() for name, value in used.items()}
        return Views(box, read["flip"].bool(), partner, mix_box, order, patches, **used), unpacked(read)

    def open(self, epoch: int) -> tuple[safe_open, int]:
        """(memory-mapped shard that holds `epoch`, verified; its place in it); the next shard is on its way."""
        if self.made_longer(epoch):
            self.index, self.name = read_index(self.files), None
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
                return safe_open(path, "pt")
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
    index = read_index(files)
    try:
        check_use(where, index, images, recipe, views_seed, teachers_id)
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(
            f"index.json of {where} is damaged ({type(error).__name__}: {error}); make the labels again."
        ) from error
    return SoftLabelStore(files, index, recipe.label_epochs)


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
        same=index["views_digest"] == recipe.views_digest,
    )
    check_same(where, "views seed", index["views_seed"], views_seed)
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
    first, entries = 0, index["shards"]
    for entry in entries:
        if not SHARD.fullmatch(entry["file"]):
            raise UserError(f"index.json of {where} is damaged (a shard named {entry['file'][:60]!r}); make the labels again.")
        if entry["epochs"] != [first, min(first + index["epochs_per_shard"], index["epochs"])] or entry["bytes"] < 0:
            raise UserError(f"index.json of {where} is damaged (epochs {entry['epochs']} of a shard); make the labels again.")
        first = entry["epochs"][1]
    if first != index["epochs"] or not all(isinstance(entry["sha256"] + entry["file"], str) for entry in entries):
        raise UserError(f"index.json of {where} is damaged ({first} of {index['epochs']} epochs); make the labels again.")


def intact(where: Path, index: dict) -> bool:
    """Whether every shard that `index` names is there, of its size and SHA-256."""
    for entry in index["shards"]:
        path = where / Path(entry["file"]).name
        if not path.is_file() or path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
            return False
    return True


def check_same(where: object, what: str, found: Any, wanted: Any, same: bool | None = None) -> None:
    if not (found == wanted if same is None else same):
        raise UserError(f"the soft labels in {where} are for {what} {found}, this run has {wanted}; make labels for it.")


def grouping(index: dict) -> dict:
    """{"teacher_bn": ...} of an index or a Plan's header, or {} for the default."""
    return {key: index[key] for key in ("teacher_bn",) if key in index}


def check_architectures(found: Sequence[str], recipe: Recipe, whose: str) -> None:
    """UserError unless the teachers' architectures `found` are those that the recipe names, in any order."""
    wanted = recipe.labels.architectures
    missing = Counter(map(architecture_key, wanted)) - Counter(map(architecture_key, found))
    if missing:
        lacking = [next(name for name in wanted if architecture_key(name) == key) for key in missing.elements()]
        raise UserError(
            f"labels.architectures names {', '.join(wanted)}, {whose} {', '.join(found)}: {', '.join(lacking)} is missing; "
            "give such a --teacher, or --set labels.architectures=[] for any (a custom protocol)."
        )


def architecture_key(name: str) -> str:
    """What tells architectures apart whichever library names them: mobilenetv2_100 (timm) is mobilenet_v2 (torchvision).

    Lower case without tag (".tv_in1k"), timm's prefix "tf_", its suffix "_100" for width 1, our "_cifar" for the stem for
    small images, and underscores. What remains must be equal: shufflenet_v2_x0_5 is not shufflenet_v2_x1_0.
    """
    plain = name.lower().partition(".")[0].removeprefix("tf_").removesuffix("_cifar").removesuffix("_100")
    return plain.replace("_", "")
