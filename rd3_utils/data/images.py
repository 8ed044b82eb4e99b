"""ImageSet: distilled, random, full and test sets alike are N images as uint8 with hard labels and class names in order.

A set is read from wherever it is published (`tables`), decoded exactly, and fingerprinted. Large sets are decoded once and
mapped from disk (`decoded`).
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from rd3_utils.data import decoded, tables
from rd3_utils.errors import UserError

PACKAGE = Path(__file__).parents[1]
EMBEDDED = PACKAGE / "embedded"
MAPPED = 2e9  # bytes of pixels from which a set is mapped from disk instead of held in memory
LIMIT = 64e9  # bytes of pixels that no set may take


@dataclass(frozen=True)
class ImageSet:
    """N images: `images` uint8 [N, 3, S, S], `labels` int64 [N] indices into `class_names`.

    `fingerprint` is the SHA-256 of pixels, labels and class names: two sets with the same one are the same data whatever
    file they came from. `commit` is the Hub commit, or None for local files.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple
    source: str
    commit: str | None
    fingerprint: str

    def __len__(self):
        return len(self.labels)

    @property
    def ipc(self):
        """Images per class, or None where classes have different numbers of images."""
        counts = torch.bincount(self.labels, minlength=len(self.class_names))
        return int(counts[0]) if bool((counts == counts[0]).all()) else None

    @property
    def nominal_ipc(self):
        """What a protocol's rules by IPC are asked with: `ipc`, or the mean rounded down."""
        return self.ipc or len(self) // len(self.class_names)

    @property
    def identity(self):
        """NAME@FINGERPRINT8: how paths name this set."""
        return f"{self.name}@{self.fingerprint[:8]}"

    def describe(self):
        """What a Run records of the images."""
        return {
            "name": self.name,
            "source": self.source,
            "commit": self.commit,
            "fingerprint": self.fingerprint,
            "ipc": self.ipc,
            "images": len(self),
        }


def make(name, images, labels, class_names, source, commit=None):
    """An ImageSet with its fingerprint computed; `images` uint8 [N, 3, S, S], `labels` [N]."""
    images = torch.as_tensor(images).contiguous()
    labels = torch.as_tensor(labels, dtype=torch.int64)
    return ImageSet(name, images, labels, tuple(class_names), source, commit, fingerprint(images, labels, class_names))


def fingerprint(images, labels, class_names):
    """Hex SHA-256 over shape, class names, pixels and labels."""
    sha = hashlib.sha256(json.dumps({"shape": list(images.shape), "classes": list(class_names)}).encode())
    sha.update(images.numpy().data)
    sha.update(labels.numpy().astype("<i8").data)
    return sha.hexdigest()


def of_table(table, picked=None, name=None, source=None):
    """The ImageSet of the rows `picked` of a Table (all by default), in that order; a large one is mapped from disk."""
    picked = np.arange(len(table)) if picked is None else picked
    labels = torch.from_numpy(table.labels[picked])
    about = table.class_names, source or table.source, table.commit
    if len(picked) * table.image_bytes < MAPPED:
        images = np.empty((len(picked), 3, table.size, table.size), np.uint8)
        table.decode(picked, images)
        return make(name or table.name, images, labels, *about)
    images, found = decoded.entry(table, picked, lambda pixels: fingerprint(pixels, labels, table.class_names))
    return ImageSet(name or table.name, images, labels, *about, found)


def check_size(count, benchmark):
    """UserError where `count` images of the benchmark would take more than any machine here should hold."""
    size = count * 3 * benchmark.image.size**2
    if size > LIMIT:
        raise UserError(
            f"{count} images of {benchmark.name} are {size / 1e9:.0f} GB as 8-bit pixels, more than {LIMIT / 1e9:.0f} GB: "
            "they are not trained on here. A teacher of the full data is a pretrained network (--teacher default)."
        )


def test_split(benchmark, data_dir=None, workers=None):
    """The whole official test split of `benchmark`; `data_dir` reads it from local files."""
    return of_table(tables.real(benchmark, "test", data_dir, workers))


def read(source, benchmark, workers=None):
    """The ImageSet at `source`: an existing path, an embedded set's name, or OWNER/REPO[@REVISION][:CONFIG].

    Checked against `benchmark`: image size, class names (an other order is mapped by name), every class present, the same
    number of images in each class. UserError names what was found, what was wanted and what to do.
    """
    path = Path(source) if Path(source).exists() else None
    if path is None and "/" not in source and (EMBEDDED / source).is_dir():
        path = EMBEDDED / source
    if path is None and (source.startswith((".", "/", "~")) or "/" not in source):
        raise UserError(
            f"no folder or file '{source}', and no embedded set of that name ({', '.join(embedded_sets())}); "
            "give a path, a selection such as random:ipc=10,seed=0, or OWNER/REPO."
        )
    table = tables.published(source, benchmark, path, workers)
    check_size(len(table), benchmark)
    counts = np.bincount(table.labels, minlength=len(table.class_names))
    if counts.min() != counts.max() or counts.min() == 0:
        few, many = counts.argmin(), counts.argmax()
        raise UserError(
            f"{source}: class '{table.class_names[few]}' has {counts[few]} images and class "
            f"'{table.class_names[many]}' has {counts[many]}; a distilled set has the same number in every class."
        )
    return of_table(table)


def embedded_sets():
    """Names of the image sets that the package carries."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/train-*.parquet"))


def save(images, folder):
    """Write `images` as `train-00000-of-00001.parquet` (PNG bytes, class names kept) into `folder`; the file's path."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(images.class_names))})
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.images]
    table = datasets.Dataset.from_dict({"image": pictures, "label": images.labels.tolist()}, features=features)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train-00000-of-00001.parquet"
    temporary = path.with_suffix(".tmp")
    table.to_parquet(str(temporary))
    os.replace(temporary, path)
    return path
