"""Image sets that need no file of their own: `random:ipc=K,seed=S` real images, and `full`, the whole train split."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rd3_utils.data import catalogue, embedded, images, sources
from rd3_utils.data.images import ImageSet
from rd3_utils.data.tables import Table
from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.benchmark import Benchmark


def is_selection(source: str) -> bool:
    """Whether `source` reads as a selection: NAME or NAME:key=value,... with a name of SELECTIONS."""
    return source.partition(":")[0] in SELECTIONS


def select(source: str, benchmark: Benchmark, train: Callable[[], Table]) -> ImageSet:
    """The ImageSet that `source` selects from the train split; `train` is a function that returns its Table."""
    name, options = parsed(source)
    return SELECTIONS[name](benchmark, train, source, **options)


def parsed(source: str) -> tuple[str, dict]:
    """(name, {option: number}) of a selection as people write it, defaults included; UserError for what is none."""
    name, _, text = source.partition(":")
    if name not in SELECTIONS:
        raise unknown("selection", name, SELECTIONS)
    options = {}
    for pair in filter(None, text.split(",")):
        key, separator, value = pair.partition("=")
        if not separator or not re.fullmatch("[0-9]{1,18}", value):
            raise UserError(f"selection '{source}': '{pair}' is not KEY=NUMBER, as in random:ipc=10,seed=0.")
        options[key] = int(value)
    return name, check_options(name, options, source)


def check_options(name: str, options: dict, source: str) -> dict:
    """`options` of a selection with its defaults; UserError for one it does not have."""
    known: dict[str, int | None] = {"random": {"ipc": None, "seed": 0}, "full": {}}[name]
    for key in options:
        if key not in known:
            raise (
                unknown(f"option of selection '{source}'", key, known)
                if known
                else UserError(f"selection '{source}': {name} takes no options.")
            )
    missing = [key for key, value in {**known, **options}.items() if value is None]
    if missing:
        raise UserError(f"selection '{source}' lacks {missing[0]}; write for example random:ipc=10,seed=0.")
    return {**known, **options}


def random(benchmark: Benchmark, train: Callable[[], Table], source: str, ipc: int, seed: int) -> ImageSet:
    """`ipc` real images of every class, without replacement; a larger ipc of the same seed contains the smaller one.

    Row i of the train split gets the i-th number of a Philox stream keyed by `seed`; a class keeps its `ipc` smallest.
    """
    if ipc < 1:
        raise UserError(f"selection '{source}' asks for {ipc} images per class, wanted at least 1.")
    images.check_size(ipc * len(benchmark.classes), benchmark)
    table = train()
    rows = []
    for class_name, mine in zip(table.class_names, shuffled(table, seed)):
        if len(mine) < ipc:
            raise UserError(f"class '{class_name}' has {len(mine)} images, ipc={ipc} asks for more; use ipc <= {len(mine)}.")
        rows.append(mine[:ipc])
    drawn = images.of_table(table, np.concatenate(rows), f"random-ipc{ipc}-seed{seed}", sources.random(ipc, seed))
    return dataclasses.replace(drawn, train={"fingerprint": table.split_fingerprint, "images": len(table)})


def shuffled(train: Table, seed: int) -> list[np.ndarray]:
    """For every class of a Table its rows, int64, in the random order of `seed`."""
    key = np.random.Philox(key=seed).random_raw(len(train))
    rows_of = [np.flatnonzero(train.labels == k) for k in range(len(train.class_names))]
    return [rows[np.argsort(key[rows])] for rows in rows_of]


def full(benchmark: Benchmark, train: Callable[[], Table], source: str) -> ImageSet:
    """The whole train split."""
    images.check_size(benchmark.data.train_images, benchmark)
    table = train()
    images.check_size(len(table), benchmark)
    return images.of_table(table, name="full", source="full")


SELECTIONS: dict[str, Callable[..., ImageSet]] = {"random": random, "full": full}


def image_set(source: str, benchmark: Benchmark, train: Callable[[], Table], workers: int | None = None) -> ImageSet:
    """The ImageSet that SOURCE names: an existing path, a selection, METHOD:ipc=K (embedded or of the catalogue), a Hub repo.

    `train` is a function that returns the Table of the train split; it is called only for a selection.
    """
    if not Path(source).exists():
        if is_selection(source):
            return select(source, benchmark, train)
        match = re.fullmatch(r"(\w+):ipc=(\d+)", source)
        if match and (embedded.EMBEDDED / (own := f"{benchmark.name}-{match[1]}-ipc{match[2]}")).is_dir():
            source = own
        source = catalogue.repo(source, benchmark) or source
    return images.read(source, benchmark, workers)
