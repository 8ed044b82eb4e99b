"""ImageSet: distilled, random, full and test sets alike are N images as uint8 with hard labels and class names in order.

A set is read from wherever it is published (`tables`), decoded exactly, and fingerprinted. Large sets are decoded once and
mapped from disk (`decoded`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from rd3_utils import files, limits, progress, units
from rd3_utils.data import decoded, embedded, provenance, sources, tables
from rd3_utils.data.sources import Source
from rd3_utils.data.tables import Table
from rd3_utils.errors import UserError
from rd3_utils.protocols.benchmark import Benchmark

MAPPED = 0.2e9  # bytes of pixels from which a set is mapped from disk instead of held in memory
HASHED = 16_000_000  # bytes of pixels that a bar moves by


@dataclass(frozen=True)
class ImageSet:
    """N images: `images` uint8 [N, 3, S, S], `labels` int64 [N] indices into `class_names`.

    `fingerprint` is the SHA-256 of pixels, labels and class names, and of what else is learned from: two sets with the same
    one are the same data whatever file they came from. `commit` is the Hub commit, or None for local files.
    Some distilled sets bring `soft_labels` float32 [N, C], logits that were learned with the images (DATM), or `weights`
    float32 [N] of the images (WMDD); else None.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple
    source: str
    commit: str | None
    fingerprint: str
    soft_labels: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    train: dict | None = None  # {"fingerprint", "images"} of the train split that random real images were drawn from
    checks: dict | None = None  # what it shares with the test split, as overlap.Overlap counts it; None: not looked at

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ipc(self) -> int | None:
        """Images per class, or None where classes have different numbers of images."""
        counts = torch.bincount(self.labels, minlength=len(self.class_names))
        return int(counts[0]) if bool((counts == counts[0]).all()) else None

    @property
    def nominal_ipc(self) -> int:
        """What a protocol's rules by IPC are asked with: `ipc`, or the mean rounded down."""
        return self.ipc or len(self) // len(self.class_names)

    @property
    def identity(self) -> str:
        """NAME@FINGERPRINT8: how paths name this set."""
        return f"{self.name}@{self.fingerprint[:8]}"

    @property
    def origin(self) -> Source:
        """Where the images came from."""
        return sources.recorded(self.source, self.commit)

    def describe(self) -> dict:
        """What a Run records of the images."""
        return {
            "name": self.name,
            "source": self.source,
            "commit": self.commit,
            "fingerprint": self.fingerprint,
            "ipc": self.ipc,
            "images": len(self),
            **({} if self.train is None else {"train": self.train}),
            **({} if self.checks is None else {"checks": self.checks}),
        }


def make(
    name: str,
    images: torch.Tensor | np.ndarray,
    labels: torch.Tensor | np.ndarray | Sequence[int],
    class_names: Sequence[str],
    source: str,
    *,
    commit: str | None = None,
    soft_labels: torch.Tensor | np.ndarray | None = None,
    weights: torch.Tensor | np.ndarray | None = None,
    known: str | None = None,
) -> ImageSet:
    """An ImageSet with its fingerprint computed; `images` uint8 [N, 3, S, S], `labels` [N].

    `known` is the fingerprint of images, labels and class names where it was computed before.
    """
    images = torch.as_tensor(images).contiguous()
    labels = torch.as_tensor(labels, dtype=torch.int64)
    own: dict = {"soft_labels": soft_labels, "weights": weights}
    own = {key: torch.as_tensor(value, dtype=torch.float32).contiguous() for key, value in own.items() if value is not None}
    complete = with_own(known or fingerprint(images, labels, class_names), own)
    return ImageSet(name, images, labels, tuple(class_names), source, commit, complete, **own)


def fingerprint(images: torch.Tensor, labels: torch.Tensor, class_names: Sequence[str]) -> str:
    """Hex SHA-256 over shape, class names, pixels and labels."""
    sha = hashlib.sha256(json.dumps({"shape": list(images.shape), "classes": list(class_names)}).encode())
    for block in hashed(images):
        sha.update(block.numpy().data)
    sha.update(labels.numpy().astype("<i8").data)
    return sha.hexdigest()


def hashed(images: torch.Tensor) -> Iterable[torch.Tensor]:
    """`images` in blocks of some MB, with a bar."""
    blocks = images.split(max(1, HASHED * len(images) // max(1, images.numel())))
    return progress.shown(blocks, name="hashing pixels", unit="block", total=len(blocks))


def with_own(fingerprint: str, own: Mapping[str, torch.Tensor]) -> str:
    """`fingerprint`, or the SHA-256 over it and the tensors `own` {field: float32} where there are any."""
    if not own:
        return fingerprint
    sha = hashlib.sha256(fingerprint.encode())
    for key, value in sorted(own.items()):
        sha.update(f"{key} {tuple(value.shape)}".encode())
        sha.update(value.numpy().astype("<f4").data)
    return sha.hexdigest()


def of_table(table: Table, picked: np.ndarray | None = None, name: str | None = None, source: str | None = None) -> ImageSet:
    """The ImageSet of the rows `picked` of a Table (all by default), in that order; a large one is mapped from disk."""
    picked = np.arange(len(table)) if picked is None else picked
    labels = torch.from_numpy(table.labels[picked])
    about = table.class_names, source or table.source
    own = {"commit": table.commit, **{key: value[picked] for key, value in table.own.items()}}
    if len(picked) * table.image_bytes < MAPPED:
        pixels = np.empty((len(picked), 3, table.size, table.size), np.uint8)
        table.decode(picked, pixels)
        return make(name or table.name, pixels, labels, *about, **own)
    images, known = decoded.cache_entry(table, picked, lambda pixels: fingerprint(pixels, labels, table.class_names))
    return make(name or table.name, images, labels, *about, **own, known=known)


def check_size(count: int, benchmark: Benchmark) -> None:
    """UserError where `count` images of the benchmark would take more than any machine here should hold."""
    size = count * 3 * benchmark.image.size**2
    if size > limits.MOST_SET_BYTES:
        raise UserError(
            f"{count} images of {benchmark.name} are {units.size(size)} as 8-bit pixels, more than "
            f"{units.size(limits.MOST_SET_BYTES)}: "
            "they are not trained on here. A teacher of the full data is a pretrained network (--teacher default)."
        )


def test_split(
    benchmark: Benchmark, data_dir: Path | str | None = None, workers: int | None = None, resize: int = 0
) -> ImageSet:
    """The whole official test split of `benchmark`; `data_dir` reads it from local files.

    `resize` is a recipe's training.test_resize: the shorter side in pixels before the centre crop, 0 as the benchmark states.
    """
    if resize:
        benchmark = dataclasses.replace(benchmark, image=dataclasses.replace(benchmark.image, shorter_side=resize))
    return of_table(tables.real(benchmark, "test", data_dir, workers))


def read(source: Source | str, benchmark: Benchmark, workers: int | None = None) -> ImageSet:
    """The ImageSet at `source`: an existing path, an embedded set's name, or OWNER/REPO[@REVISION][:CONFIG].

    Checked against `benchmark`: image size, class names (an other order is mapped by name), every class present, the same
    number of images in each class. UserError names what was found, what was wanted and what to do. The same where the set has
    another fingerprint than the distilled.json beside it says.
    """
    images, about = with_provenance(source, benchmark, workers)
    provenance.check_stated(about, images.fingerprint, str(source), benchmark.name)
    return images


def place_of(source: Source) -> Path | None:
    """Where the image set at `source` lies on this machine, None for a repo; UserError where there is none."""
    path = {"path": Path(source.name), "name": embedded.EMBEDDED / source.name}.get(source.kind)
    if source.repo is None and not (path and sources.exists(path)):
        raise UserError(
            f"no folder or file {source.text!r}, and no embedded set of that name ({', '.join(embedded.image_sets())}); "
            "give a path, a selection such as random:ipc=10,seed=0, or OWNER/REPO."
        )
    return path


def with_provenance(source: Source | str, benchmark: Benchmark, workers: int | None = None) -> tuple[ImageSet, dict[str, Any]]:
    """(the ImageSet as `read` gives it, whatever its distilled.json says; that file, {} where there is none)."""
    source = sources.parse(source)
    path = place_of(source)
    table = tables.published(source, benchmark, path, workers)
    check_size(len(table), benchmark)
    counts = np.bincount(table.labels, minlength=len(table.class_names))
    if counts.min() != counts.max() or counts.min() == 0:
        few, many = counts.argmin(), counts.argmax()
        raise UserError(
            f"{source}: class '{table.class_names[few]}' has {counts[few]} images and class "
            f"'{table.class_names[many]}' has {counts[many]}; a distilled set has the same number in every class."
        )
    return of_table(table), provenance.stated_by(source, table.commit)


def save(images: ImageSet, folder: Path) -> Path:
    """Write `images` as `train-00000-of-00001.parquet` into `folder`; the file's path.

    PNG bytes, class names kept, and columns `soft_label` and `weight` where the set has them.
    """
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(images.class_names))}
    columns: dict = {
        "image": [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.images],
        "label": images.labels.tolist(),
    }
    if images.soft_labels is not None:
        kinds["soft_label"] = datasets.Sequence(datasets.Value("float32"), length=len(images.class_names))
        columns["soft_label"] = images.soft_labels.numpy()
    if images.weights is not None:
        kinds["weight"], columns["weight"] = datasets.Value("float32"), images.weights.numpy()
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    path = folder / provenance.SAVED
    with files.whole_file(path) as partial:
        table.to_parquet(str(partial))
    return path


def save_new(images: ImageSet, out: Path, about: dict) -> None:
    """Write `images` and distilled.json, which says `about` (plain data) how they came about, into the new folder `out`."""
    files.check_new(out)
    with files.whole_folder(out, last=provenance.NAME) as partial:
        save(images, partial)
        files.write_whole(partial / provenance.NAME, json.dumps(about, indent=1) + "\n")
