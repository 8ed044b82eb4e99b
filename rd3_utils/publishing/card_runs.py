"""Which Runs a card speaks of: all under --out of its images and protocol that measured the same, whoever made them."""

from rd3_utils.arms.planned_runs import PlannedRun
from rd3_utils.options import TrainOptions
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.protocol import TEACHER_PROTOCOL, Protocol
from rd3_utils.scoring import measure
from rd3_utils.scoring import report as reports
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.results import Results
from rd3_utils.scoring.runs import Run


def gathered_runs(finished: list[Run], cell: PlannedRun, options: TrainOptions) -> tuple[list[Run], list[Run], list[str]]:
    """(Runs the card of `cell` speaks of, all Runs of its benchmark and precision, [what was left out and why]), in order.

    To the card belong the arms of `cell`'s protocol on the same images or random ones of the same IPC, and full-hard of
    the students that have such arms, unless it is cited. Those that did not measure the same as the `finished` are left out.
    """
    results = Results(options.out)
    paths = {results.path_of(run) for run in finished}
    others = [run for run in results.related(finished[0]) if results.path_of(run) not in paths]
    once = sorted([*finished, *others], key=identity)
    mine, left_out = of_card(
        once, finished, (cell.images.fingerprint, cell.images.nominal_ipc), cell.protocol, options.full_hard
    )
    return mine, once, left_out


def of_card(
    once: list[Run], finished: list[Run], images: tuple[str, int], own: Protocol, full_hard: str
) -> tuple[list[Run], list[str]]:
    """(those of `once` that belong to the card of the `images`, (fingerprint, IPC), under `own`, what was left out and why)."""
    full = own if own.name == TEACHER_PROTOCOL else protocols.load(TEACHER_PROTOCOL)
    fingerprint, ipc = images

    def belongs(run: Run) -> bool:
        if run.arm == "full-hard":
            return run.protocol.digest == full.digest and full_hard == "trained"
        drawn = run.arm.startswith("random-") and run.draw is not None and run.images.ipc == ipc
        return run.protocol.digest == own.digest and (run.images.fingerprint == fingerprint or drawn)

    mine, left_out = comparable([run for run in once if belongs(run)], finished)
    students = {run.student for run in mine if run.arm != "full-hard"} or {run.student for run in mine}
    return [run for run in mine if run.student in students], left_out


def comparable(runs: list[Run], finished: list[Run]) -> tuple[list[Run], list[str]]:
    """(those of `runs` that may stand on one card with the `finished`, [a line for every kind that may not]).

    Arms may differ in images and kind of labels, full-hard in its protocol, students in their networks; the Runs of one arm in
    nothing. Arms with one kind of labels had the same teachers and views seed: only their images are set against each other.
    """
    own, groups = set(map(id, finished)), run_files.grouped(runs, lambda run: (run.student, run.arm))
    left_out: dict[tuple[str, str, str], list[Run]] = {}
    kept: list[Run] = []
    for (student, arm), mine in groups.items():
        mate = next((run for run in finished if run.student == student), finished[0])
        but = measure.OF_ARMS | (measure.PROTOCOLS if "full-hard" in (arm, mate.arm) else set())
        but |= measure.NETWORK if mate.student != student else measure.DROPPING

        def belongs(run: Run, mate: Run = mate, but: frozenset[str] = but) -> measure.Verdict:
            return measure.same_measure(mate, run, but) and measure.same_labels(labelled_as(run, [*finished, *kept]), run)

        first = next((run for run in mine if id(run) in own), None) or next(filter(belongs, mine), mine[0])
        for run in mine:
            same = measure.same_measure(first, run) and belongs(run)
            if same:
                kept.append(run)
            else:
                left_out.setdefault((student, arm, str(same)), []).append(run)
    return kept, [
        f"left out of the card: {len(mine)} Runs of {student}, {arm}, that did not measure the same ({why}); give another "
        "--out to keep them apart."
        for (student, arm, why), mine in left_out.items()
    ]


def labelled_as(run: Run, others: list[Run]) -> Run:
    """Of Runs that come first on a card the one that must have the labels of `run`: their kind, best its student; or `run`."""
    mine = [other for other in others if "full-hard" not in (run.arm, other.arm) and other.labels_of_arm == run.labels_of_arm]
    return next((other for other in mine if other.student == run.student), next(iter(mine), run))


def identity(run: Run) -> tuple:
    """What makes a Run another one, in the order of tables; images count by their pixels, under whatever name."""
    arm, draw = reports.order_of(run.arm), run.draw or 0
    return run.student, arm, draw, run.seed, run.images.fingerprint, run.protocol.digest, run.views, run.protocol.name
