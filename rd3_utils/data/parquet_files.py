"""Parquet files, read where they lie: a column of labels whole, images row group by row group, and only where rows are wanted.

Columns mean what `datasets` says they do: class names and images stand in the files' own metadata.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.table import table_cast
from pyarrow import parquet

from rd3_utils import hub, limits, units
from rd3_utils.data import stamps
from rd3_utils.errors import UserError

CHUNK = 64  # rows at a time
BUFFER = 1 << 20  # bytes of a column that are read at once: a row group may be the whole file


@dataclass(frozen=True, eq=False)
class ParquetFiles:
    """The rows of parquet files of the same columns, one file after the other; it reads like a `datasets.Dataset`."""

    files: tuple[Path, ...]
    footers: tuple[parquet.FileMetaData, ...]
    features: datasets.Features

    def __len__(self) -> int:
        return sum(footer.num_rows for footer in self.footers)

    @property
    def column_names(self) -> list[str]:
        """In the files' order."""
        return list(self.features)

    def __getitem__(self, column: str) -> np.ndarray | list:
        """All values of a column, as numbers [N] or as a list of what is no number."""
        schema = datasets.Features({column: self.features[column]}).arrow_schema
        parts = []
        for file in self.files:
            try:
                parts.append(table_cast(parquet.ParquetFile(file).read([column]), schema).column(column))
            except Exception as error:  # pyarrow and datasets raise many kinds
                raise unreadable(file, error) from error
        values = pa.chunked_array([chunk for part in parts for chunk in part.chunks], schema.field(column).type)
        numbers = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        return values.to_numpy() if numbers and not values.null_count else values.to_pylist()

    def images(self, column: str) -> "ParquetImages":
        """The cells of a column of images, undecoded."""
        groups = [
            (k, group, footer.row_group(group).num_rows)
            for k, footer in enumerate(self.footers)
            for group in range(footer.num_row_groups)
        ]
        ends = np.cumsum([rows for *_, rows in groups])
        return ParquetImages(self, column, [(k, group) for k, group, _ in groups], np.append(0, ends).astype(np.int64))


@dataclass(frozen=True, eq=False)
class ParquetImages:
    """A column of images: row group `groups[i]` (file, group in it) holds rows `bounds[i]` to `bounds[i + 1]`."""

    table: ParquetFiles
    column: str
    groups: list[tuple[int, int]]
    bounds: np.ndarray

    def batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Sequence[Any]]]:
        """(places in `rows`, the cells of these rows: dicts of bytes and path), in the order of the files."""
        order = np.argsort(rows, kind="stable")
        starts = np.searchsorted(rows[order], self.bounds)
        for i, (k, group) in enumerate(self.groups):
            places = order[starts[i] : starts[i + 1]]
            if len(places):
                file = self.table.files[k]
                try:
                    yield from self.of_group(file, self.table.footers[k], group, places, rows[places] - self.bounds[i])
                except (pa.ArrowException, OSError, ValueError, TypeError) as error:
                    raise unreadable(file, error) from error

    def of_group(
        self, file: Path, footer: parquet.FileMetaData, group: int, places: np.ndarray, within: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Sequence[Any]]]:
        """`batches` of one row group, of whose rows those `within` are wanted, in this order."""
        schema = datasets.Features({self.column: self.table.features[self.column]}).arrow_schema
        with parquet.ParquetFile(file, metadata=footer, buffer_size=BUFFER, pre_buffer=False) as reader:
            at = 0
            for batch in reader.iter_batches(rows_at_once(footer, group), row_groups=[group], columns=[self.column]):
                here = slice(*np.searchsorted(within, [at, at + len(batch)]))
                if here.start < here.stop:
                    taken = pa.Table.from_batches([batch]).take(within[here] - at)
                    cells = table_cast(taken, schema).column(self.column).combine_chunks()
                    yield places[here], datasets.Image(decode=False).cast_storage(cells).to_pylist()
                at += len(batch)
                if here.stop == len(within):
                    return

    def state(self, rows: np.ndarray) -> bytes | None:
        """Names the files of `rows` as they are now, and the rows; None where that is too early to say."""
        files = {self.groups[i][0] for i in np.unique(np.searchsorted(self.bounds, rows, "right") - 1)}
        state = stamps.files_state(self.table.files[k] for k in sorted(files))
        return state and state + rows.astype("<i8").tobytes()


def parquet_files(files: Sequence[Path], features: datasets.Features | None = None) -> ParquetFiles:
    """The ParquetFiles `files`, their columns as `features` say, or else the first file.

    UserError where one is not parquet, has other columns, or is too large.
    """
    footers = []
    for file in files:
        try:
            footers.append(parquet.read_metadata(file))
            own = datasets.Features.from_arrow_schema(parquet.read_schema(file))
        except Exception as error:  # pyarrow and datasets raise many kinds for a file that is not parquet
            raise unreadable(file, error) from error
        features = features or own
        if set(own) != set(features):
            raise UserError(f"{file} has columns {', '.join(own)}, wanted {', '.join(features)} as in the files before it.")
    check_footers(files, footers)
    return ParquetFiles(tuple(files), tuple(footers), features or datasets.Features())


def rows_at_once(footer: parquet.FileMetaData, group: int) -> int:
    """How many rows of a row group are unpacked at a time: at most CHUNK, less where they could be too large.

    One cell has at most the bytes of the group; several may be references to one, or have a beginning in common.
    """
    return max(1, min(CHUNK, limits.MOST_UNPACKED_AT_ONCE // max(1, footer.row_group(group).total_byte_size)))


def unreadable(file: Path, error: Exception) -> UserError:
    """One line for whatever a library raises of a file."""
    return UserError(f"{file} cannot be read as parquet: {hub.one_line(error)}")


def check_footers(files: Sequence[Path], footers: Sequence[parquet.FileMetaData]) -> None:
    """UserError where parquet `files` state, in their footers, more rows or bytes than anybody's: before they are unpacked."""
    rows = sum(footer.num_rows for footer in footers)
    if rows > limits.MOST_ROWS:
        raise UserError(f"{files[0].parent} holds {rows:,} rows, wanted at most {limits.MOST_ROWS:,}.")
    for file, footer in zip(files, footers):
        unpacked = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        packed = file.stat().st_size
        if unpacked > max(limits.MOST_FREELY_PACKED, limits.MOST_EXPANSION * packed):
            raise UserError(
                f"{file} has {units.size(packed)} and would have {units.size(unpacked)} unpacked: images do not pack so well."
            )
