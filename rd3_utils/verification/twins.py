"""Twins: two Runs that say they are different students and have the same losses, which no two students have."""

from collections.abc import Iterable, Iterator

from rd3_utils.scoring.runs import Run
from rd3_utils.verification.checks import Check, contradicted
from rd3_utils.verification.evidence import RunFile

LEAST_EPOCHS = 3  # of losses that are compared to the last digit


def of_twins(files: Iterable[RunFile]) -> Iterator[Check]:
    """A Check of every Run of `files` whose losses are those of a Run before it of another seed, student or image set."""
    first: dict[tuple, tuple[RunFile, Run]] = {}
    for file in files:
        if file.run is None or len(file.run.history) < LEAST_EPOCHS:
            continue
        losses = tuple(entry["loss"] for entry in file.run.history)
        other, known = first.setdefault(losses, (file, file.run))
        if whose(known) != whose(file.run):
            yield contradicted(
                file.name,
                f"a student of its own: {file.run.arm}, seed {file.run.seed}",
                "losses compared with those of the other Runs",
                f"the losses of another student to the last digit: {other.name}",
            )


def whose(run: Run) -> tuple:
    """What makes one student another one than the next; arms may share one, such as those of one selection of real images."""
    return run.benchmark, run.student, run.seed, run.images.fingerprint
