"""Image sets that need no file of their own: `random:ipc=K,seed=S` real images, and `full`, the whole train split."""

import dataclasses
from collections.abc import Callable

import numpy as np

from rd3_utils.data import catalogue, images, sources
from rd3_utils.data.images import ImageSet
from rd3_utils.data.sources import Source
from rd3_utils.data.tables import Table
from rd3_utils.errors import UserError
from rd3_utils.protocols.benchmark import Benchmark


def select(source: Source | str, benchmark: Benchmark, train: Callable[[], Table]) -> ImageSet:
    """The ImageSet that a selection takes from the train split; `train` is a function that returns its Table."""
    source = sources.parse(source)
    return SELECTORS[source.name](source, benchmark, train)


def random_images(source: Source, benchmark: Benchmark, train: Callable[[], Table]) -> ImageSet:
    """K = `ipc` real images of every class, without replacement; a larger ipc of the same seed contains the smaller one.

    Row i of the train split gets the i-th number of a Philox stream keyed by `seed`; a class keeps its `ipc` smallest.
    """
    assert source.draw is not None  # a selection of another kind
    ipc, seed = source.draw
    images.check_size(ipc * len(benchmark.classes), benchmark)
    table = train()
    rows = []
    for class_name, mine in zip(table.class_names, shuffled(table, seed)):
        if len(mine) < ipc:
            raise UserError(f"class '{class_name}' has {len(mine)} images, ipc={ipc} asks for more; use ipc <= {len(mine)}.")
        rows.append(mine[:ipc])
    drawn = images.of_table(table, np.concatenate(rows), source.set_name, source.text)
    return dataclasses.replace(drawn, train={"fingerprint": table.split_fingerprint, "images": len(table)})


def shuffled(train: Table, seed: int) -> list[np.ndarray]:
    """For every class of a Table its rows, int64, in the random order of `seed`."""
    key = np.random.Philox(key=seed).random_raw(len(train))
    rows_of = [np.flatnonzero(train.labels == k) for k in range(len(train.class_names))]
    return [rows[np.argsort(key[rows])] for rows in rows_of]


def full(source: Source, benchmark: Benchmark, train: Callable[[], Table]) -> ImageSet:
    """The whole train split."""
    images.check_size(benchmark.data.train_images, benchmark)
    table = train()
    images.check_size(len(table), benchmark)
    return images.of_table(table, name=source.set_name, source=source.text)


SELECTORS: dict[str, Callable[..., ImageSet]] = {"random": random_images, "full": full}


def image_set(source: Source | str, benchmark: Benchmark, train: Callable[[], Table], workers: int | None = None) -> ImageSet:
    """The ImageSet that SOURCE names: an existing path, a selection, METHOD:ipc=K (embedded or of the catalogue), a Hub repo.

    `train` is a function that returns the Table of the train split; it is called only for a selection.
    """
    source = sources.parse(source)
    if source.is_selection:
        return select(source, benchmark, train)
    return images.read(catalogue.located(source, benchmark), benchmark, workers)
