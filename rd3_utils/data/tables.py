"""Tables: images that are still files, with their labels, as parquet, image folders and Hub repos publish them.

A Table knows its rows' classes without opening an image, so that ten images per class of a million cost ten decodings per
class. Everything that a file may get wrong is checked here, at the border.
"""

import collections
import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
from huggingface_hub import constants
from PIL import Image

from rd3_utils import hub, progress
from rd3_utils.data import folders, hub_tables, parquet_files, sources, stamps
from rd3_utils.data.classes import benchmark_labels, class_index
from rd3_utils.data.decoding import DECODER, DECODING_VERSION, content, picture, pixels
from rd3_utils.data.folders import ImageFiles, ImageFolder
from rd3_utils.data.parquet_files import ParquetFiles, ParquetImages
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.protocols.benchmark import Benchmark

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "class_id", "labels")
TEST_NAMES = ("validation", "valid", "val", "test")  # how local copies call the split that a benchmark tests on
PROBED = 1_000  # images of a large split whose pixels are part of its fingerprint
PROBED_BYTES = 2e7
CHUNK = 64  # images at a time


Columns: TypeAlias = (
    datasets.Dataset | ImageFolder | ImageFiles | ParquetFiles
)  # tables whose classes are still those of their files


@dataclass(frozen=True)
class TableOrigin:
    """Where a Table is read from, and how: real images are `photographs`, distilled ones are taken as they are."""

    name: str
    source: str
    commit: str | None
    photographs: bool
    workers: int | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """N undecoded images and their labels int64 [N] as indices into `class_names`.

    Row `rows[i]` of `files` is image i: a cell as `datasets` has it (bytes or a path), a Path of an image folder, or uint8
    [3, S, S] where data comes as arrays.
    `shorter_side` resizes and centre-crops to `size`; 0: images must be `size` x `size`.
    """

    name: str
    source: str
    commit: str | None
    class_names: tuple
    labels: np.ndarray
    rows: np.ndarray
    files: datasets.Dataset | ImageFolder | ImageFiles | ParquetImages | np.ndarray
    roots: tuple  # folders in which a cell's path may lie
    size: int
    shorter_side: int
    photographs: bool  # real images: CMYK is converted as every loader does
    workers: int | None
    own: dict = field(default_factory=dict)  # what a distilled set brings of "soft_labels" [N, C] and "weights" [N], float32

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def split_fingerprint(self) -> str:
        """Hex SHA-256 that tells this split from others: of class names, all labels in order, and pixels of PROBED rows.

        Those rows lie evenly over the split; of one whose pixels are less than PROBED_BYTES all are read.
        """
        whole = len(self) * self.image_bytes <= PROBED_BYTES
        probed = np.arange(len(self)) if whole else np.linspace(0, len(self) - 1, PROBED).astype(np.int64)
        labels = self.labels.astype("<i8").data

        def compute() -> tuple[str, bool]:
            pixels = np.empty((len(probed), 3, self.size, self.size), np.uint8)
            decided = self.decode(probed, pixels)
            sha = hashlib.sha256(json.dumps({"images": len(self), "classes": list(self.class_names)}).encode())
            sha.update(labels)
            sha.update(pixels.data)
            return sha.hexdigest(), decided

        state = self.state(probed)
        return stamps.once(state and b"split" + state + hashlib.sha256(labels).digest(), compute)

    @property
    def image_bytes(self) -> int:
        """Bytes of one decoded image."""
        return 3 * self.size**2

    @property
    def rule(self) -> dict:
        """How files become pixels here, and in which classes."""
        return {"version": DECODING_VERSION, "decoder": DECODER, "size": self.size, "shorter_side": self.shorter_side,
                "classes": list(self.class_names)}  # fmt: skip

    def state(self, picked: np.ndarray) -> bytes | None:
        """Names the files of rows `picked`, as they are now, and what is made of them; None where the files cannot tell.

        It says nothing of files that a cell names instead of holding: `chunks` tells of those.
        """
        if isinstance(self.files, np.ndarray):
            return None
        if isinstance(self.files, datasets.Dataset):
            paths = [entry["filename"] for entry in self.files.cache_files]
            files = (stamps.files_state(paths) if paths else None, self.rows[picked].astype("<i8").tobytes())
            state = files[0] and files[0] + files[1]
        else:
            state = self.files.state(self.rows[picked])
        about = {**self.rule, "photographs": self.photographs, "images": len(self)}
        return state and json.dumps(about).encode() + self.labels[picked].astype("<i8").tobytes() + state

    def chunks(self, picked: np.ndarray, function: Callable[[np.ndarray, Sequence], None], name: str = "") -> bool:
        """Call `function(places, cells)` for all rows `picked`, some at a time, in several threads; `places` in `picked`.

        True unless a cell names a file that is not a part of the table. `name` is what a progress bar says of it.
        """
        workers, whole = self.workers or os.cpu_count() or 1, True
        waiting: collections.deque = collections.deque()
        bar = progress.shown(name=f"{name or 'reading'} {self.name}", unit="image", total=len(picked))
        with ThreadPoolExecutor(workers) as pool, bar:
            for places, cells in batches(self.files, self.rows[picked]):
                whole = whole and not any(isinstance(cell, dict) and cell.get("bytes") is None for cell in cells)
                waiting.append((pool.submit(function, places, cells), len(places)))
                if len(waiting) > 2 * workers:  # so that what is read and not yet worked on stays little
                    finish(waiting, bar)
            while waiting:
                finish(waiting, bar)
        return whole

    def decode(self, picked: np.ndarray, into: np.ndarray) -> bool:
        """Write the pixels of rows `picked` into `into`, uint8 [len(picked), 3, S, S]; what `chunks` says."""

        def write(places: np.ndarray, cells: Sequence) -> None:
            for place, cell in zip(places, cells):
                into[place] = self.pixels(cell, picked[place])

        return self.chunks(picked, write)

    def pixels(self, cell: Any, row: int) -> np.ndarray:
        """One file's pixels under the benchmark's resize rule, uint8 [3, S, S]."""
        if isinstance(cell, np.ndarray):
            return cell
        only = None if self.shorter_side else self.size
        return pixels(self.picture(cell, row, only), self.size, self.shorter_side, self.where(cell, row))

    def picture(self, cell: Any, row: int, size: int | None = None) -> Image.Image:
        """One file as an RGB PIL image of its own size; UserError where that must be `size` and is not."""
        if isinstance(cell, np.ndarray):
            return Image.fromarray(cell.transpose(1, 2, 0))
        return picture(self.content(cell, row), self.where(cell, row), self.photographs, size)

    def content(self, cell: Any, row: int) -> bytes:
        """One file's bytes."""
        return content(cell, self.where(cell, row), self.roots)

    def where(self, cell: Any, row: int) -> str:
        """How messages name a file: by the row in its table, and by its name if it is not inside it."""
        path = cell.get("path") if isinstance(cell, dict) and cell.get("bytes") is None else cell
        named = f" ({'/'.join(Path(path).parts[-2:])})" if isinstance(path, str | Path) else ""
        return f"{self.source}: image {self.rows[row]}{named}"


def batches(files: Any, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Sequence]]:
    """(places in `rows`, the cells of these rows of a Table's `files`), some at a time, in an order that is cheap to read."""
    if not isinstance(files, datasets.Dataset | np.ndarray):
        yield from files.batches(rows)
        return
    order = np.argsort(rows, kind="stable")
    for places in np.array_split(order, range(CHUNK, len(order), CHUNK)):
        cells = files[rows[places]]
        yield places, next(iter(cells.values())) if isinstance(cells, dict) else cells


def finish(waiting: collections.deque, bar: Any) -> None:
    """Wait for the first of `waiting` (future, images); raises what it raised."""
    future, count = waiting.popleft()
    future.result()
    bar.update(count)


def real(benchmark: Benchmark, split: str, data_dir: Path | str | None = None, workers: int | None = None) -> Table:
    """The Table of the benchmark's "train" or "test" split, its classes and size checked against the benchmark file.

    `data_dir` reads a local copy: parquet files, or one folder of images per class.
    """
    data = benchmark.data
    if data_dir is None and data.carried:
        arrays, labels = sklearn_digits(split)
        return Table(f"{benchmark.name}-{split}", data.repo, None, benchmark.classes, labels, np.arange(len(labels)), arrays,
                     (), benchmark.image.size, 0, True, workers)  # fmt: skip
    if data_dir is not None:
        source, commit = str(data_dir), None
        dataset = local(Path(data_dir), (getattr(data, split), *(TEST_NAMES if split == "test" else ("train",))), named=True)
    else:
        source, commit = data.repo, benchmark_commit(data.repo, data.revision)
        dataset = on_hub(data.repo, commit, data.config, getattr(data, split), data.revision)
    # the columns as the Hub has them; local copies may call them otherwise
    columns = (
        pick((data.image_column, *IMAGE_COLUMNS), dataset, source),
        pick((data.label_column, *LABEL_COLUMNS), dataset, source),
    )
    table = of_dataset(dataset, columns, benchmark, TableOrigin(f"{benchmark.name}-{split}", source, commit, True, workers))
    absent = sorted(set(range(len(benchmark.classes))) - set(np.unique(table.labels).tolist()))
    if absent:
        raise UserError(
            f"{table.source}: the {split} split has no image of class '{benchmark.classes[absent[0]]}' ({len(absent)} such "
            f"of {len(benchmark.classes)} classes of {benchmark.name}); give the whole split."
        )
    wanted = getattr(data, f"{split}_images")
    if wanted and len(table) != wanted:
        raise UserError(
            f"{table.source}: the {split} split of {benchmark.name} has {len(table)} images, "
            f"wanted the official {wanted}; scores need the whole split."
        )
    return table


def data_dirs(texts: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """{benchmark: folder} of options NAME=DIR; a DIR alone is that of the only benchmark."""
    folders: dict[str, str] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or name not in names:
            if len(names) > 1 or (separator and not Path(text).exists()):
                raise UserError(f"--data-dir {text} is of none of the benchmarks {', '.join(names)}; write NAME=DIR.")
            name, path = names[0], text
        if name in folders:
            raise UserError(f"--data-dir names two folders for {name}: {folders[name]} and {path}; give one.")
        folders[name] = path
    return folders


def published(source: Source, benchmark: Benchmark, path: Path | None, workers: int | None = None) -> Table:
    """The Table of the image set at `source`: what lies at `path`, or in a repo of the Hub where that is None."""
    if path is not None:
        dataset, commit = local(path, ("train",)), None
    else:
        commit = hub.commit(source.name, source.revision)
        dataset = on_hub(source.name, commit, source.config, "train", source.revision)
    columns = (pick(IMAGE_COLUMNS, dataset, source.text), pick(LABEL_COLUMNS, dataset, source.text))
    origin = TableOrigin(source.set_name, source.text, commit, False, workers)
    return of_dataset(dataset, columns, benchmark, origin)


def of_dataset(dataset: Columns, columns: tuple[str, str], benchmark: Benchmark, origin: TableOrigin) -> Table:
    """The Table of a `datasets.Dataset`, or what reads like one, with (image, label) columns: labels in benchmark order.

    Rows of other classes are left out where they may be; their folders are not looked into.
    """
    (image_column, label_column), source, photographs = columns, origin.source, origin.photographs
    if isinstance(dataset, ImageFolder):
        dataset = dataset.listed(class_index(dataset.classes, benchmark, source, photographs) >= 0)
    labels = benchmark_labels(dataset, label_column, benchmark, source, photographs)
    rows = np.flatnonzero(labels >= 0)
    kind = dataset.features[image_column]
    if not isinstance(kind, datasets.Image) and not (isinstance(kind, dict) and {"bytes", "path"} <= set(kind)):
        raise UserError(f"{source}: column '{image_column}' holds {getattr(kind, 'dtype', kind)}, wanted images.")
    if isinstance(dataset, datasets.Dataset):
        files: Any = dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    else:
        files = dataset.images(image_column)
    # where an image folder's files may lie: the caches for one on the Hub, else the folder itself
    roots = tuple(Path(p).resolve() for p in (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, source))
    resize = benchmark.image.shorter_side if photographs else 0
    own = {} if photographs else own_columns(dataset, label_column, benchmark, source)
    stated = source if origin.commit else sources.folder(source).stated.text
    return Table(origin.name, stated, origin.commit, benchmark.classes, labels[rows], rows, files, roots,
                 benchmark.image.size, resize, photographs, origin.workers, own)  # fmt: skip


def own_columns(table: Columns, label_column: str, benchmark: Benchmark, source: str) -> dict[str, np.ndarray]:
    """{field of ImageSet: float32 [N, C] or [N]} of the columns `soft_label` and `weight` of a distilled set, as far as there.

    A soft label has a number for each class, in the order of the file's class names, or else of the benchmark's.
    """
    own = {}
    if "soft_label" in table.column_names:
        own["soft_labels"] = number_column(table, "soft_label", (len(benchmark.classes),), source)
        feature = table.features[label_column]
        if isinstance(feature, datasets.ClassLabel):
            place = class_index(feature.names, benchmark, source, False)
            if len(place) != len(benchmark.classes):
                raise UserError(
                    f"{source} has soft labels and names {len(place)} classes, wanted all {len(benchmark.classes)} of "
                    f"{benchmark.name}: which number is of which class?"
                )
            own["soft_labels"] = own["soft_labels"][:, np.argsort(place)]
    if "weight" in table.column_names:
        own["weights"] = number_column(table, "weight", (), source)
        if own["weights"].min(initial=0) < 0 or not own["weights"].any():
            raise UserError(f"{source}: column 'weight' holds {own['weights'].min()}, wanted at least 0, and not only 0.")
    return own


def number_column(table: Columns, column: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    """float32 [N, *shape] of a column; UserError unless every row holds as many finite numbers."""
    wanted = f"{shape[0]} finite numbers" if shape else "a finite number"
    try:
        values = np.asarray(table[column][:], np.float32)
    except (ValueError, TypeError) as error:  # lists of different lengths, or no numbers
        raise UserError(f"{source}: column '{column}' does not hold {wanted} per row ({hub.one_line(error)}).") from error
    if values.shape != (len(table), *shape) or not np.isfinite(values).all():
        raise UserError(f"{source}: column '{column}' does not hold {wanted} per row (shape {values.shape}).")
    return values


def local(path: Path, splits: Sequence[str], named: bool = False) -> Columns:
    """The parquet file, parquet folder or image folder at `path`, undecoded.

    `splits` are the names the wanted split may have, the first that is there counts. Where a split must be `named`, one
    file or folder of classes is not taken for it unless it is called so: it would be the train and the test split at once.
    """
    if path.is_file():
        files = [path] if not named or path.name.startswith(tuple(splits)) else []
    elif path.is_dir():
        patterns = [f"{folder}{split}*.parquet" for split in splits for folder in ("", "*/")]
        files = next(filter(None, (sorted(path.glob(pattern)) for pattern in patterns)), [])
    else:
        raise UserError(f"no folder or file '{path}'; give the folder that holds parquet files or one folder per class.")
    holding = sorted({str(file.parent) for file in files})
    if len(holding) > 1:
        raise UserError(f"'{path}' holds {len(holding)} sets ({', '.join(holding[:3])}); give one of these folders.")
    if files:
        return parquet_files.parquet_files(files)
    folder = next((path / split for split in splits if (path / split).is_dir()), None)
    if folder is None and named and path.name not in splits:
        there = [path.name] if path.is_file() else sorted(entry.name for entry in os.scandir(path))
        raise UserError(
            f"'{path}' holds no {splits[0]} split: wanted {splits[0]}*.parquet or a folder {splits[0]} with one folder of "
            f"images per class; found {', '.join(there[:5]) or 'nothing'}."
        )
    return folders.image_folder(folder or path, splits[0])


def on_hub(repo: str, commit: str, config: str | None, split: str, revision: str | None) -> Columns:
    """Split `split` of a Hub dataset repo at `commit`: its files are fetched, no others, and read as `local` reads them."""
    of_split = hub_tables.split_on_hub(repo, commit, config, split, revision)
    files = hub.downloads(repo, commit, of_split.files)
    if of_split.kind == "parquet":
        return parquet_files.parquet_files(files, of_split.features)
    names = of_split.class_names
    number = dict(zip(names, range(len(names))))
    labels = np.array([number[hub_tables.class_of(path)] for path in of_split.files])
    return folders.ImageFiles(tuple(files), labels, tuple(names))


@functools.cache
def benchmark_commit(repo: str, revision: str) -> str:
    """The commit of a benchmark's repo, for as long as this process runs: train and test split are of one."""
    return hub.commit(repo, revision)


def pick(names: Sequence[str], table: Columns, source: str) -> str:
    """The first of `names` that is a column of `table`."""
    for name in names:
        if name in table.column_names:
            return name
    raise UserError(
        f"{source} has columns {', '.join(table.column_names)}; wanted one of {', '.join(dict.fromkeys(names))}: rename it."
    )


def sklearn_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits that scikit-learn carries: uint8 [N, 3, 8, 8] and labels [N] of the fixed stratified split.

    In every class the rows are put in the order of a Philox stream of key 0; the first 28 % (500 in all, shares
    rounded so that they sum to it) are the test split. They are read from its file: to import it takes a second.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.submodule_search_locations
    table = np.loadtxt(Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"), delimiter=",")
    labels = table[:, -1].astype(np.int64)  # the last column; before it the pixels, row by row, from 0 to 16
    counts = np.bincount(labels)
    exact = counts * 500 / counts.sum()
    share = np.floor(exact).astype(int)
    share[np.argsort(-(exact - share), kind="stable")[: 500 - share.sum()]] += 1
    key = np.random.Philox(key=0).random_raw(len(labels))
    test = np.concatenate(
        [(rows := np.flatnonzero(labels == k))[np.argsort(key[rows])][: share[k]] for k in range(len(counts))]
    )
    rows = np.sort(test) if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
    grey = np.floor(table[rows, :-1].reshape(-1, 8, 8) * 255 / 16 + 0.5).astype(np.uint8)  # [N, 8, 8]
    return np.repeat(grey[:, None], 3, axis=1), labels[rows]
