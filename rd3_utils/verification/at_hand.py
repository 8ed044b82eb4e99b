"""What a verification has to recompute with: the real data of each benchmark, where it can be had here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from accelerate import Accelerator

from rd3_utils import launch, limits
from rd3_utils.data import images as image_sets
from rd3_utils.data import tables
from rd3_utils.data.images import ImageSet
from rd3_utils.data.tables import Table
from rd3_utils.errors import UserError
from rd3_utils.options import VerifyOptions
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.benchmark import Benchmark

T = TypeVar("T")


class NotAtHand(Exception):
    """What is needed cannot be had here; the text says what would make it so."""


@dataclass(eq=False)
class AtHand:
    """Real data, read once and only when asked for. NotAtHand where a benchmark is unknown or its data cannot be had."""

    options: VerifyOptions
    splits: dict[tuple[str, int], ImageSet] = field(default_factory=dict)
    trains: dict[str, Table] = field(default_factory=dict)
    refused: dict[tuple, str] = field(default_factory=dict)  # why, so that a dead Hub is asked once

    @cached_property
    def accelerator(self) -> Accelerator:
        """That of this command: float32 unless the launch says otherwise."""
        return launch.accelerator()

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark of this name."""
        if name not in benchmarks.names():
            raise NotAtHand(f"this project has no benchmark {name[:60]!r}")
        return benchmarks.load(name)

    def test(self, name: str, resize: int = 0) -> ImageSet:
        """The test split of a benchmark, resized as a recipe says."""
        if resize > limits.MOST_TEST_SIDE:
            raise NotAtHand(
                f"its recipe makes test images {resize} pixels large, more than {limits.MOST_TEST_SIDE}; none of ours does"
            )
        key = name, resize
        if key not in self.splits:
            self.splits[key] = self.had((name, "test"), lambda: image_sets.test_split(
                self.benchmark(name), self.data_dir(name), self.options.workers, resize))  # fmt: skip
        return self.splits[key]

    def train(self, name: str) -> Table:
        """The train split of a benchmark."""
        if name not in self.trains:
            self.trains[name] = self.had((name, "train"), lambda: tables.real(
                self.benchmark(name), "train", self.data_dir(name), self.options.workers))  # fmt: skip
        return self.trains[name]

    def data_dir(self, name: str) -> str | None:
        """The folder with the real data of a benchmark, if one was given for it."""
        pairs = [text.partition("=") for text in self.options.data_dir]
        mine = [folder for whose, _, folder in pairs if whose == name]
        others = ["".join(pair) for pair in pairs if not pair[1] or pair[0] not in benchmarks.names()]
        return next(iter([*mine, *others]), None)

    def had(self, key: tuple, read: Callable[[], T]) -> T:
        """What `read()` returns; NotAtHand with its reason where it raises one, now and each time it is asked again."""
        if key in self.refused:
            raise NotAtHand(self.refused[key])
        try:
            return read()
        except UserError as error:
            self.refused[key] = f"{error} Give --data-dir DIR with the real data."
            raise NotAtHand(self.refused[key]) from error
