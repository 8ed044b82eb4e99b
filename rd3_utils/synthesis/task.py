"""What every method of synthesis is given: which real images, for which benchmark, how many per class, from which seed."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from rd3_utils.data.tables import Table
from rd3_utils.protocols.benchmark import Benchmark


@dataclass(frozen=True, eq=False)
class SynthesisTask:
    """One distilled set to make: `ipc` images per class of `benchmark` from its train split, all randomness from `seed`."""

    train: Table
    benchmark: Benchmark
    ipc: int
    seed: int
    accelerator: Accelerator
    data_dir: Path | str | None = None  # local files of the benchmark's real data
