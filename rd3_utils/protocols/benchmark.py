"""A benchmark: the real data that students are tested on, stated in one TOML file of `benchmarks/`."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from rd3_utils.bounded import read_toml
from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.strict import build

BENCHMARKS = Path(__file__).parent / "benchmarks"


@dataclass(frozen=True)
class Data:
    """Where the real images are, and how many there must be."""

    repo: str  # Hub dataset repo, or sklearn:digits
    revision: str  # tag, branch or commit; resolved to a commit when read
    config: str
    train: str  # split names in the repo
    test: str
    image_column: str
    label_column: str
    train_images: int  # in the whole split; 0: not stated anywhere, so not checked
    test_images: int
    part_of: str = ""  # the benchmark whose classes the repo holds, where this one uses only some of them
    renames: dict = field(default_factory=dict, hash=False)  # where the repo names a class wrongly: its name -> the class

    @property
    def on_hub(self) -> bool:
        """Whether `repo` is one of the Hub."""
        return "/" in self.repo

    @property
    def carried(self) -> bool:
        """Whether the images come with scikit-learn and need no file."""
        return self.repo == "sklearn:digits"


@dataclass(frozen=True)
class Pixels:
    """How an image becomes pixels; `mean` and `std` are per channel of values in [0, 1]."""

    size: int  # height and width that networks see
    shorter_side: int  # resize the shorter side to this, then centre-crop; 0: images must already be size x size
    mirror: bool  # whether a mirrored image still shows its class
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Defaults:
    """What a command uses when it is not told otherwise."""

    student: str
    teacher: str
    teacher_floor: float  # top-1 (fraction) a teacher must reach on the test split before it may label
    distilled: str


@dataclass(frozen=True)
class Citation:
    """A full-data accuracy that somebody published; `top1` is a fraction."""

    student: str
    top1: float
    source: str


@dataclass(frozen=True)
class Benchmark:
    """The real data: train and test splits, class names in order, pixels, defaults, cited accuracies."""

    name: str
    title: str
    description: str
    data: Data
    image: Pixels
    classes: tuple[str, ...]
    defaults: Defaults
    full_data: tuple[Citation, ...]
    titles: tuple[str, ...] = ()  # of the classes, in the same order, where `classes` are WordNet ids: files may carry either


def load(name: str) -> Benchmark:
    """The benchmark called `name`; UserError with the nearest name when there is none."""
    if name not in names():
        raise unknown("benchmark", name, names())
    return read(BENCHMARKS / f"{name}.toml")


def read(path: Path) -> Benchmark:
    """The benchmark that the TOML file at `path` states."""
    table = read_toml(path)
    where = f"benchmark {path.stem}"
    parts = {"data": Data, "image": Pixels, "defaults": Defaults}
    for part, cls in parts.items():
        if part in table:
            table[part] = build(cls, table[part], f"{where} [{part}]")
    table["full_data"] = tuple(build(Citation, row, f"{where} [[full_data]]") for row in table.get("full_data", []))
    benchmark = build(Benchmark, table, where)
    if len(set(benchmark.classes)) != len(benchmark.classes):
        raise UserError(f"{where}: class names repeat; give every class its own name.")
    if not re.fullmatch(r"\w[\w.-]*", benchmark.name):
        raise UserError(
            f"{where}: its name is '{benchmark.name}', wanted letters, digits, dots and dashes: folders are called so."
        )
    strange = sorted({str(name) for name in benchmark.data.renames.values()} - set(benchmark.classes))
    if strange:
        raise UserError(f"{where} [data.renames]: '{strange[0]}' is none of its classes.")
    if benchmark.titles and len(set(benchmark.titles)) != len(benchmark.classes):
        raise UserError(f"{where}: {len(set(benchmark.titles))} different titles for {len(benchmark.classes)} classes.")
    return benchmark


def names() -> list[str]:
    """The names of all benchmarks, sorted."""
    return sorted(path.stem for path in BENCHMARKS.glob("*.toml"))
