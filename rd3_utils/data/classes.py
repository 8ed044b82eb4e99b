"""Whose class is whose: labels of a table as indices into the benchmark's classes, by name, title or number."""

import re
from collections.abc import Sequence

import datasets
import numpy as np

from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.benchmark import Benchmark


def benchmark_labels(table: datasets.Dataset, column: str, benchmark: Benchmark, source: str, photographs: bool) -> np.ndarray:
    """Labels int64 [N] as indices into the benchmark's classes, mapped by name (or title) where the file has names.

    Names that the benchmark's repo is known to use wrongly (data.renames) are mapped; where some of them are names of other
    classes, only in real data whose whole list of names is that of the repo.
    Of a benchmark that is part of another one, real images of the other's classes get -1: they are not its own.
    """
    feature = table.features[column]
    dtype = getattr(feature, "dtype", None)
    if dtype not in ("string", *INTEGER_TYPES):
        raise UserError(f"{source}: column '{column}' holds {dtype or feature}, wanted class names or whole numbers.")
    values = table[column][:]
    if None in values:
        raise UserError(f"{source}: row {values.index(None)} has no label in column '{column}'; every image needs a class.")
    whole = benchmarks.load(benchmark.data.part_of) if photographs and benchmark.data.part_of else benchmark
    if dtype == "string":
        distinct, values = np.unique(values, return_inverse=True)
        names = distinct.tolist()
    elif isinstance(feature, datasets.ClassLabel):
        names, values = feature.names, np.asarray(values, np.int64)
        if values.min(initial=0) < 0:
            raise UserError(f"{source}: row {values.argmin()} has label {values.min()}, which means unlabelled.")
        if values.max(initial=0) >= len(names):
            raise UserError(
                f"{source}: row {values.argmax()} has label {values.max()}, and only {len(names)} classes have names."
            )
    else:
        names, values = whole.classes, np.asarray(values, np.int64)
        if not 0 <= values.min(initial=0) <= values.max(initial=0) < len(names):
            raise UserError(
                f"{source} has labels {values.min()}..{values.max()}, wanted 0..{len(names) - 1} for {benchmark.name}."
            )
    index = class_index(names, benchmark, source, photographs)
    return index[values] if len(values) else np.empty(0, np.int64)


def class_index(names: Sequence[str], benchmark: Benchmark, source: str, photographs: bool) -> np.ndarray:
    """For each of a file's class `names` its index in the benchmark, int64; -1 for one of a benchmark that this is part of.

    A distilled set may number its classes in the benchmark's order instead: new007 or 00007, as released code writes folders.
    """
    whole = benchmarks.load(benchmark.data.part_of) if photographs and benchmark.data.part_of else benchmark
    count, renames = len(benchmark.classes), benchmark.data.renames
    renamed = [renames.get(name, name) for name in names]
    ambiguous = set(renames) & {*benchmark.classes, *benchmark.titles}
    names = renamed if not ambiguous or (photographs and renamed == list(benchmark.classes)) else names
    meaning = {**dict(zip(benchmark.titles, range(count))), **dict(zip(benchmark.classes, range(count)))}
    if not photographs and not set(names) & set(meaning):
        names = numbered(names, benchmark.classes) or names
    stray = sorted(set(names) - set(meaning) - set(whole.classes) - set(whole.titles))
    if stray:
        others = (benchmarks.load(name) for name in benchmarks.names())
        fitting = [other for other in others if set(names) <= {*other.classes, *other.titles}]
        nearest = min(fitting, key=lambda other: len(other.classes), default=None)
        raise UserError(
            f"{source} has class '{stray[0]}' ({len(stray)} such of {len(names)}), which {benchmark.name} has "
            f"not: its classes are {', '.join(benchmark.classes[:3])} ... {benchmark.classes[-1]}; "
            + (f"give --benchmark {nearest.name}." if nearest else "rename the classes.")
        )
    index = np.array([meaning.get(name, -1) for name in names], np.int64)
    own, times = np.unique(index[index >= 0], return_counts=True)
    if (times > 1).any():
        twice = benchmark.classes[own[times.argmax()]]
        raise UserError(f"{source} has two classes that both mean '{twice}'; merge them.")
    return index


def numbered(names: Sequence[str], classes: Sequence[str]) -> list[str] | None:
    """The classes that `names` mean by their numbers; None unless every one of them is the number of a class."""
    matches = [re.fullmatch(r"(?:new)?([0-9]{1,9})", name) for name in names]
    numbers = [int(one[1]) for one in matches if one]
    if len(numbers) == len(matches) and all(number < len(classes) for number in numbers):
        return [classes[number] for number in numbers]
    return None


INTEGER_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
