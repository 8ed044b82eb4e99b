"""Image folders: one folder per class, listed once per machine and kept by the folders' state.

A list of a million files is one array of bytes, not a million objects. What is kept of a class is believed while its folder
has the times and inode it had: a file that comes, goes or is renamed changes them.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import datasets
import numpy as np
from huggingface_hub import constants

from rd3_utils import hub, progress
from rd3_utils.data import stamps
from rd3_utils.errors import UserError

LISTINGS = Path(constants.HF_HOME) / "rd3" / "listings"
LISTING_VERSION = 1  # of which files count, and of what is kept of them
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LISTERS = 16  # folders at once: over a network each answer is waited for
CHUNK = 64  # files at a time


class ListedFiles:
    """Files of images and their classes, listed here; it reads like a `datasets.Dataset` of columns image and label."""

    classes: tuple[str, ...]
    column_names = ("image", "label")

    def file(self, row: int) -> Path:
        """The file of row `row`."""
        raise NotImplementedError

    @property
    def features(self) -> datasets.Features:
        """Of an image and its class, one of `classes`."""
        return datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(self.classes))})

    def images(self, column: str) -> Self:
        """The files themselves; see `batches`."""
        assert column == "image"
        return self

    def batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Sequence[Path]]]:
        """(places in `rows`, the files of these rows), some at a time."""
        for places in np.array_split(np.arange(len(rows)), range(CHUNK, len(rows), CHUNK)):
            yield places, [self.file(int(row)) for row in rows[places]]

    def state(self, rows: np.ndarray) -> bytes | None:
        """Names the files of `rows` as they are now; None where that is too early to say."""
        return stamps.files_state(self.file(int(row)) for row in rows)


@dataclass(frozen=True, eq=False)
class ImageFolder(ListedFiles):
    """One folder per class below `path`, class names sorted; files in sorted order class by class, once it is `listed`.

    `counts` int64 [K] files per class; `names` uint8, all file names, each closed by a zero byte; `ends` int64 [N], where.
    """

    path: Path
    classes: tuple[str, ...]
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, column: str) -> np.ndarray:
        """Column label, int64 [N]."""
        assert column == "label"
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def listed(self, wanted: np.ndarray) -> "ImageFolder":
        """With the files of those classes for which `wanted` [K] is true, and no others."""
        chosen = [name for name, own in zip(self.classes, wanted) if own]
        try:
            by_class = listing(self.path, chosen)
        except OSError as error:
            raise UserError(f"'{self.path}' cannot be read: {hub.one_line(error)}") from error
        joined = [by_class.get(name, b"") for name in self.classes]
        counts = np.array([names.count(b"\0") for names in joined], np.int64)
        names = np.frombuffer(b"".join(joined), np.uint8)
        return dataclasses.replace(self, counts=counts, names=names, ends=np.flatnonzero(names == 0))

    @cached_property
    def stops(self) -> np.ndarray:
        """int64 [K]: the row after the last of each class."""
        return np.cumsum(self.counts)

    def file(self, row: int) -> Path:
        """The file of row `row`."""
        start = self.ends[row - 1] + 1 if row else 0
        name = os.fsdecode(self.names[start : self.ends[row]].tobytes())
        k = int(np.searchsorted(self.stops, row, "right"))
        return self.path / self.classes[k] / name


@dataclass(frozen=True, eq=False)
class ImageFiles(ListedFiles):
    """Images that lie anywhere, as a Hub cache has them: `files` and their `labels` int64 [N], numbers of `classes`."""

    files: tuple[Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, column: str) -> np.ndarray:
        """Column label, int64 [N]."""
        assert column == "label"
        return self.labels

    def file(self, row: int) -> Path:
        """The file of row `row`."""
        return self.files[row]


def image_folder(path: Path, split: str) -> ImageFolder:
    """The ImageFolder at `path`, not listed yet; UserError where none of its folders holds an image."""
    try:
        classes = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
        if any(has_image(path / name) for name in classes):
            return ImageFolder(path, tuple(classes))
        there = sorted(entry.name for entry in os.scandir(path))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {hub.one_line(error)}") from error
    raise UserError(
        f"'{path}' holds neither {split}*.parquet nor one folder of images per class; found "
        f"{', '.join(there[:5]) or 'nothing'}."
    )


def has_image(folder: Path) -> bool:
    """Whether a class folder holds an image; looks no further than the first."""
    with os.scandir(folder) as entries:
        return any(is_image(entry) for entry in entries)


def is_image(entry: os.DirEntry) -> bool:
    """Whether a file of an image folder counts: a known ending, and not one that the system hides."""
    return entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".") and entry.is_file()


def listing(path: Path, classes: Sequence[str]) -> dict[str, bytes]:
    """{class: names of its images, sorted, each closed by a zero byte}; only folders that have changed are looked into."""
    kept_at = LISTINGS / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    with stamps.one_at_a_time(kept_at):
        kept = kept_listing(kept_at)
        states = {name: stamps.stat_of(path / name) for name in classes}
        changed = [name for name in classes if name not in kept or kept[name][0] != states[name]]
        if changed:
            now = time.time_ns()
            with ThreadPoolExecutor(LISTERS) as pool:
                todo = pool.map(lambda name: names_in(path / name), changed)
                bar = progress.shown(todo, name=f"listing {path.name}", unit="folder", total=len(changed))
                for name, (names, lasting) in zip(changed, bar):
                    settled = lasting and stamps.is_settled(states[name], now)
                    kept[name] = (states[name] if settled else [], names)
            keep_listing(kept_at, {name: one for name, one in kept.items() if one[0]})
    return {name: kept[name][1] for name in classes}


def names_in(folder: Path) -> tuple[bytes, bool]:
    """(names of the images in a folder, whether its state decides them: links may lead elsewhere while it stays)."""
    with os.scandir(folder) as entries:
        images = [(entry.name, entry.is_symlink()) for entry in entries if is_image(entry)]
    names = sorted(name for name, _ in images)
    return b"".join(os.fsencode(name) + b"\0" for name in names), not any(link for _, link in images)


def kept_listing(file: Path) -> dict[str, tuple[list[int], bytes]]:
    """{class: (state of its folder, its names)} as kept; empty where nothing is, or it is damaged."""
    data = stamps.read_sealed(file) or b""
    head, _, names = data.partition(b"\n")
    kept, at = {}, 0
    with contextlib.suppress(ValueError, TypeError, KeyError):
        about = json.loads(head or "{}")
        if about.get("version") == LISTING_VERSION:
            for name, state, size in about["classes"]:
                kept[name] = (state, names[at : at + size])
                at += size
    return kept


def keep_listing(file: Path, kept: Mapping[str, tuple[list[int], bytes]]) -> None:
    """Write what `kept_listing` reads."""
    about = {"version": LISTING_VERSION, "classes": [[name, state, len(names)] for name, (state, names) in kept.items()]}
    if kept:
        stamps.write_sealed(file, json.dumps(about).encode() + b"\n" + b"".join(names for _, names in kept.values()))
