"""Results: a folder of results, and the one place that knows how it is laid out.

    <benchmark>/<protocol>-<digest>/<images>@<fingerprint8>/     README.md (the card), report.json, plots/
        <student>/<arm>/seed<K>.json                             a Run; seed<K>/ its network, where that is kept
        <student>/<arm>/seed<K>.claim, seed<K>-*.checkpoint      of a command that trains it now
    transfer/<benchmark>/<train images>-<digest>/                records of frozen networks, report.json
    study/<study>/                                               report, logs

<student> is followed by -<precision> where that is not fp32, <arm> by -each where every student has views of its own.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from rd3_utils.errors import UserError
from rd3_utils.scoring import runs
from rd3_utils.scoring.runs import Run

RUN_FILE = re.compile(r"seed\d{1,19}\.json")


@dataclass(frozen=True)
class Results:
    """A folder of results, as --out names it; nothing is read before it is asked for."""

    root: Path | str

    def path(
        self,
        *,
        benchmark: str,
        protocol: str,
        digest: str,
        images: str,
        student: str,
        arm: str,
        seed: int,
        precision: str = "fp32",
        views: str = "shared",
    ) -> Path:
        """Where the Run of one student lies; `images` is the identity of its image set, NAME@FINGERPRINT8."""
        student = student if precision == "fp32" else f"{student}-{precision}"
        arm = arm if views == "shared" else f"{arm}-{views}"
        return Path(self.root) / benchmark / f"{protocol}-{digest}" / images / student / arm / f"seed{seed}.json"

    def path_of(self, run: Run) -> Path:
        """Where `run` itself lies."""
        return self.path(
            benchmark=run.benchmark,
            protocol=run.protocol.name,
            digest=run.protocol.digest,
            images=run.images.identity,
            student=run.student,
            arm=run.arm,
            seed=run.seed,
            precision=run.environment.precision,
            views=run.views,
        )

    def runs_of(self, benchmark: str) -> tuple[list[tuple[Path, Run]], list[str]]:
        """([(path, Run)] of `benchmark`, [why a file was left out]), in order of paths.

        A Run that lies elsewhere than where it belongs is left out: a copy of another would count twice.
        """
        kept, left_out = [], []
        for file in sorted((Path(self.root) / benchmark).glob("*/*/*/*/seed*.json")):
            try:
                run = runs.read(file)
                if self.path_of(run) != file:
                    raise UserError(
                        f"{file} is the Run that belongs at {self.path_of(run)}; remove the file, or move it there."
                    )
                kept.append((file, run))
            except UserError as error:
                left_out.append(str(error))
        return kept, left_out

    def related(self, run: Run) -> list[Run]:
        """All Runs of the benchmark of `run`, in its precision; what is no Run is named on stderr and left out."""
        kept, left_out = self.runs_of(run.benchmark)
        for line in left_out:
            print(f"left out: {line}", file=sys.stderr)
        return [other for _, other in kept if other.environment.precision == run.environment.precision]

    def claims(self) -> list[Path]:
        """The claims of all students that somebody trains, or trained until killed (studies/jobs.py)."""
        return sorted(Path(self.root).glob("*/*/*/*/*/seed*.claim"))

    def study_folder(self, name: str) -> Path:
        """Where report, logs and notes of the study `name` lie."""
        return Path(self.root) / "study" / name

    def study_lock(self) -> Path:
        """The file that all studies of this folder lock."""
        return Path(self.root) / "study" / ".claims.lock"

    def transfer_folder(self, benchmark: str, images: str) -> Path:
        """Where records of transfers to `benchmark` lie; `images` names its train images and all else that may differ."""
        return Path(self.root) / "transfer" / benchmark / images

    def transfer_folders(self) -> list[Path]:
        """The folders of all transfers that have a report."""
        return sorted(path.parent for path in (Path(self.root) / "transfer").glob("*/*/report.json"))


# --- around the path of a Run


def is_run_file(name: str) -> bool:
    """Whether a file of this name is taken for a Run."""
    return RUN_FILE.fullmatch(name) is not None


def student_folder(path: Path) -> Path:
    """Where the network of the Run at `path` lies, if it is kept."""
    return path.with_suffix("")


def card_folder(path: Path) -> Path:
    """The folder of the card that speaks of the Run at `path`: one image set under one protocol."""
    return ancestor(path, 3)


def root_of(card: Path) -> Path:
    """The folder of results that the folder `card` of a card lies in."""
    return ancestor(card, 3)


def ancestor(path: Path, above: int) -> Path:
    """The folder so many levels above `path`, or the topmost one."""
    return [path, *path.parents][: above + 1][-1]


def seeds_in(folder: Path | str) -> list[Path]:
    """The files of the Runs in `folder`, which is that of one arm."""
    return sorted(Path(folder).glob("seed*.json"))


def random_networks_beside(path: Path) -> list[Path]:
    """The kept networks of random-images students under the protocol of the Run at `path`, of its kind of student."""
    student, protocol = path.parents[1].name, path.parents[3]
    folders = [file.parent for file in sorted(protocol.glob(f"random-ipc*/{student}/random-*/seed*/config.json"))]
    return [folder for folder in folders if folder.with_suffix(".json").is_file()]
