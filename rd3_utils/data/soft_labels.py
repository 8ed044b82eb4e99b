"""The format of a label store, and writing one: safetensors shards of whole epochs, and an index written last.

A store is bound to an ImageSet (fingerprint), to teachers and to the view part of a recipe; its folder is named after all
three. Rows are in image order, so any batch size and any number of processes read the same labels.

    soft_labels/<images>@<fingerprint8>/<teachers8>-<views12>-s<views_seed>/labels-00000-of-000NN.safetensors, index.json

Keys of a shard of K epochs of N images, C classes:

    logits       F16 [K, N, C]   at temperature 1; or logits_q U8 [K, N, C] with logits_lo, logits_scale F16 [K, N]
    box          U8 [K, N, 4]    top, left, height, width in pixels of the image with its border (U16 above 255 px)
    flip         U8 [K, N]
    mix_partner  U32 [K, N]
    mix_box      U8 [K, N, 4]    top, left, bottom, right, half open (U16 above 255 px)
    order        U32 [K, N]
    patch_order  U8 [K, N, 2, F] where patches are shuffled

and where view operations are used, what they drew: the columns that docs/knobs.md lists, [K, N] or [K, N, n]. The index, and
test vectors of views, are in docs/soft_labels.md.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rd3_utils import bounded, files, limits
from rd3_utils.data.shards import Folder, HubFolder
from rd3_utils.errors import UserError
from rd3_utils.hub import file_sha256
from rd3_utils.protocols.knobs import BYTES, COLUMNS, stated
from rd3_utils.protocols.recipe import Recipe

if TYPE_CHECKING:
    from rd3_utils.data.images import ImageSet
    from rd3_utils.data.views import Views

FORMAT = 1
UNSTATED = [("teacher_bn", "eval"), ("views_from", "recipe")]  # defaults that no header names
LABEL_DTYPES = "fp16", "u8"
LEAST_SHARDS = 16  # a kill or a lost process costs at most a sixteenth of the labels, also where all would fit one file
SHARD = re.compile(r"labels-\d+-of-\d+\.safetensors")  # no name that an index may state leaves its folder


@dataclass(frozen=True)
class StorePlan:
    """What a store will hold: enough to name its folder, cut its shards and check them."""

    images: dict  # ImageSet.describe()
    class_names: tuple
    epochs: int
    rows: int  # N
    classes: int  # C
    image_size: int
    border: int  # pixels added on each side before the crop
    views: dict  # the view part of the recipe
    views_digest: str
    views_seed: int
    teachers: tuple  # of {"source", "commit", "architecture", "sha256", "top1"}
    teachers_id: str
    ensemble: str
    label_dtype: str  # fp16 | u8
    forward_batch: int
    device: str  # kind of device that made the logits
    shard_mb: int
    teacher_bn: str = "eval"  # of labels.teacher_bn; headers name it only where it is not the default
    views_from: str = "recipe"  # "store": imported labels, whose views are not drawn; named only then, too

    @property
    def epoch_bytes(self) -> int:
        """Bytes of one epoch: labels and views."""
        return self.rows * row_bytes(self.views, self.classes, self.image_size + 2 * self.border, self.label_dtype)

    @property
    def epochs_per_shard(self) -> int:
        """K: whole epochs to about `shard_mb`, and at least LEAST_SHARDS shards."""
        by_size = max(1, round(self.shard_mb * 1e6 / self.epoch_bytes))
        return min(by_size, math.ceil(self.epochs / LEAST_SHARDS))

    @property
    def shards(self) -> list[tuple[str, int, int]]:
        """[(file name, first epoch, one past the last)]."""
        k = self.epochs_per_shard
        count = math.ceil(self.epochs / k)
        return [(f"labels-{i:05d}-of-{count:05d}.safetensors", i * k, min((i + 1) * k, self.epochs)) for i in range(count)]

    @property
    def header(self) -> dict:
        """The store's metadata as it stands in every shard and in the index: plain data, no machine paths."""
        stated = {key: value for key, value in dataclasses.asdict(self).items() if (key, value) not in UNSTATED}
        return {"format": "rd3-soft-labels", "version": FORMAT, **stated, "temperature": 1.0}


def row_bytes(views: dict, classes: int, side: int, label_dtype: str) -> int:
    """Bytes of label and view of one image in one epoch; `views` as a recipe states them, `side` in pixels with border."""
    wide = 1 if side < 256 else 2
    label = 2 * classes if label_dtype == "fp16" else classes + 4
    return label + 9 + 8 * wide + sum(column.numbers(views) * BYTES[column.dtype] for column in COLUMNS)


def border_of(recipe: Recipe) -> int:
    """Pixels added on each side of an image before the crop."""
    return round(recipe.views.padding * recipe.image_size) if recipe.views.crop == "pad" else 0


def planned_bytes(recipe: Recipe, label_dtype: str) -> int:
    """Bytes of a store of the labels and views of a Recipe, without headers."""
    return recipe.label_epochs * epoch_bytes(recipe, label_dtype)


def epoch_bytes(recipe: Recipe, label_dtype: str) -> int:
    """The same of one epoch."""
    side = recipe.image_size + 2 * border_of(recipe)
    return recipe.images * row_bytes(stated(recipe.views), recipe.classes, side, label_dtype)


def store_folder(root: Path | str, images: "ImageSet", teachers_id: str, recipe: Recipe, views_seed: int) -> Path:
    """Where the store for these images, teachers and views lies under `root`."""
    return Path(root) / images.identity / f"{teachers_id[:8]}-{recipe.views_digest}-s{views_seed}"


def candidates(root: Path | str, identity: str, recipe: Recipe, views_seed: int) -> list[Path]:
    """Folders of finished stores under `root` for the images of `identity` and their views, whoever the teachers are."""
    return sorted(p.parent for p in (Path(root) / identity).glob(f"*-{recipe.views_digest}-s{views_seed}/index.json"))


def known_sha256(where: Path) -> dict[str, str]:
    """{file name: SHA-256} that the index in `where` states, or {} without one."""
    if not (where / "index.json").is_file():
        return {}
    return {entry["file"]: entry["sha256"] for entry in read_index(where)["shards"]}


def is_written(path: Path, plan: StorePlan, first: int, stop: int, known: Mapping[str, str] | None = None) -> bool:
    """Whether `path` is the complete shard of `plan` for epochs first..stop: its own header says so.

    If `known` ({file name: SHA-256}) names it, its bytes must also be those.
    """
    if not path.is_file() or (known and path.name in known and file_sha256(path) != known[path.name]):
        return False
    try:
        with safe_open(path, "pt") as shard:
            return json.loads((shard.metadata() or {}).get("rd3", "null")) == shard_metadata(plan, first, stop)
    except (SafetensorError, ValueError, OSError, RecursionError):
        return False


def shard_metadata(plan: StorePlan, first: int, stop: int) -> dict:
    """Plain data, as JSON gives it back. Where weights came from stays out: a moved teacher is the same teacher."""
    teachers = [{key: t[key] for key in ("architecture", "sha256", "top1")} for t in plan.teachers]
    return json.loads(json.dumps({**plan.header, "teachers": teachers, "first_epoch": first, "stop_epoch": stop}))


def write_shard(path: Path, plan: StorePlan, first: int, stop: int, views: "Sequence[Views]", logits: torch.Tensor) -> None:
    """Write epochs first..stop: `views` a list of Views, `logits` float32 [K, N, C]. The final name appears when it is whole.

    UserError where logits cannot be stored.
    """
    columns = [view_tensors(one, plan.image_size, plan.border) for one in views]
    tensors = packed(logits, plan, first, stop) | {key: torch.stack([one[key] for one in columns]) for key in columns[0]}
    with files.whole_file(path, failures=(SafetensorError,)) as partial:
        save_file(tensors, partial, metadata={"rd3": json.dumps(shard_metadata(plan, first, stop))})
        partial.chmod(0o644)  # safetensors 0.8 writes 0600


def view_tensors(views: "Views", size: int, border: int) -> dict[str, torch.Tensor]:
    """{key in a shard: what it holds of one epoch of `views`} of images of `size` pixels with `border` more on each side."""
    pixels = torch.uint8 if size + 2 * border < 256 else torch.uint16
    box = views.box + torch.tensor([border, border, 0, 0])
    tensors = {
        "box": box.to(pixels),
        "flip": views.flip.to(torch.uint8),
        "mix_partner": views.mix_partner.to(torch.uint32),
        "mix_box": views.mix_box.to(pixels),
        "order": views.order.to(torch.uint32),
    }
    if views.patch_order.shape[2] > 1:
        tensors["patch_order"] = views.patch_order.to(torch.uint8)
    for column in COLUMNS:
        if column.key != "patch_order" and (numbers := getattr(views, column.name)) is not None:
            tensors[column.key] = numbers.to(getattr(torch, column.dtype))
    return tensors


def label_layout(rows: int, classes: int, label_dtype: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """{key in a shard: (type, shape)} of one epoch's labels, as `packed` writes them."""
    if label_dtype == "fp16":
        return {"logits": (torch.float16, (rows, classes))}
    lows = {key: (torch.float16, (rows,)) for key in ("logits_lo", "logits_scale")}
    return {"logits_q": (torch.uint8, (rows, classes)), **lows}


def packed(logits: torch.Tensor, plan: StorePlan, first: int, stop: int) -> dict[str, torch.Tensor]:
    """The tensors that hold `logits` float32 [K, N, C] of epochs first..stop on disk.

    UserError where they are not finite or too large for half precision: such labels would train nothing.
    """
    limit = torch.finfo(torch.float16).max
    if not bool(torch.isfinite(logits).all()) or float(logits.abs().max()) > limit:
        raise UserError(f"the teacher's logits for epochs {first}..{stop - 1} are not finite or exceed {limit:.0f}.")
    return {"logits": logits.to(torch.float16)} if plan.label_dtype == "fp16" else quantised(logits)


def unpacked(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits float32 [..., N, C] of `packed` tensors."""
    if "logits" in tensors:
        return tensors["logits"].float()
    return tensors["logits_lo"].float()[..., None] + tensors["logits_scale"].float()[..., None] * tensors["logits_q"].float()


def quantised(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """8 bits per logit: z = lo + scale * q, lo the row's minimum, scale a 255th of its range."""
    lo = logits.amin(-1).to(torch.float16)
    scale = ((logits.amax(-1) - lo.float()) / 255).clamp(min=1e-4).to(torch.float16)
    q = ((logits - lo.float()[..., None]) / scale.float()[..., None]).round().clamp(0, 255).to(torch.uint8)
    return {"logits_q": q, "logits_lo": lo, "logits_scale": scale}


def write_imported(where: Path, plan: StorePlan, epochs: "Iterable[tuple[Views, torch.Tensor]]") -> None:
    """Write a whole store of labels that another tool made: of each epoch of `plan` its Views and logits float32 [N, C].

    The views are that tool's own, so students train on those that are stored and every output says imported.
    """
    plan, each = dataclasses.replace(plan, views_from="store"), iter(epochs)
    for name, first, stop in plan.shards:
        views, logits = zip(*(next(each) for _ in range(first, stop)))
        write_shard(where / name, plan, first, stop, views, torch.stack(logits))
    finish(where, plan, {})


def is_imported(index: dict) -> bool:
    """Whether another tool made the labels and the views, which are then read from the store and not drawn."""
    return index.get("views_from", "recipe") != "recipe"


def finish(where: Path, plan: StorePlan, recognised: dict) -> None:
    """Write index.json over the shards of `plan`, with the SHA-256 of each; UserError if one is missing.

    `recognised` is what teachers make of the images, as labelling.recognition gives it; {} where nobody looked.

    Shards of an earlier, shorter store in the same folder are then removed.
    """
    shards = []
    for name, first, stop in plan.shards:
        path = where / name
        if not is_written(path, plan, first, stop):
            raise UserError(f"{path} is missing or not what was planned; run generate_soft_labels.py again.")
        entry = {"file": name, "epochs": [first, stop], "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        shards.append({**entry, "tensors": offsets(path)})
    index = {**plan.header, **recognised, "epochs_per_shard": plan.epochs_per_shard, "shards": shards}
    files.write_whole(where / "index.json", json.dumps(index, indent=1) + "\n")
    mine = {name for name, _, _ in plan.shards}
    for stale in where.glob("labels-*.safetensors"):
        if stale.name not in mine:
            stale.unlink(missing_ok=True)
    files.remove_abandoned(where)


def offsets(path: Path) -> dict[str, list]:
    """{tensor: [dtype, shape, first byte in the file]}: enough to read one epoch by an HTTP range."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: [entry["dtype"], entry["shape"], 8 + length + entry["data_offsets"][0]]
        for name, entry in sorted(header.items())
        if name != "__metadata__"
    }


def read_index(where: Path | Folder | HubFolder) -> dict:
    """index.json of the store in `where` (a path, Folder or HubFolder); UserError if it is not there or is not one."""
    path = where.index() if isinstance(where, (Folder, HubFolder)) else where / "index.json"
    if not path.is_file():
        where = path.parent
        written = len(list(where.glob("labels-*.safetensors"))) if where.is_dir() else 0
        if written:
            raise UserError(
                f"{where} is half-written: {written} shards but no index.json, which is written last; "
                "run the same generate_soft_labels.py command again, it makes what is missing."
            )
        raise UserError(f"no soft labels in '{where}': index.json is not there.")
    try:
        index = bounded.read_json(path, limits.MOST_INDEX_BYTES, "an index of labels")
        form = (index["format"], index["version"])
    except (bounded.Refused, KeyError, TypeError) as error:
        raise UserError(f"{path} is no index of soft labels, or it is damaged ({error}); make the labels again.") from error
    needed = [field.name for field in dataclasses.fields(StorePlan) if field.default is dataclasses.MISSING]
    lacking = [name for name in needed if name not in index]
    lacking += [key for key in ("epochs_per_shard", "shards") if key not in index]
    if form != ("rd3-soft-labels", FORMAT):
        stated = " version ".join(map(bounded.shown, form))
        raise UserError(f"{path} has format {stated}, wanted rd3-soft-labels version {FORMAT}.")
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking)}; make the labels again.")
    return index


def teacher_scores(index: dict) -> list[tuple[str, float]]:
    """[(source, top-1 on the benchmark's test split)] of the teachers of a finished store."""
    return [(teacher["source"], teacher["top1"]) for teacher in index["teachers"]]


def recognised(index: dict) -> dict:
    """{"recognised": share of the images that the teachers put into their own class}; {} of an older store."""
    share: Any = index.get("recognised")
    return {"recognised": share} if type(share) in (int, float) and 0 <= share <= 1 else {}


def mistaken(index: dict) -> dict:
    """{"mistaken": classes that look swapped to the teachers}, as labelling.recognition gives it; {} where there are none."""
    return {"mistaken": index["mistaken"]} if index.get("mistaken") else {}
