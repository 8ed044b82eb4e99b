"""--retrain: the command of a Run, run again in a temporary place and compared with what the Run states.

To the bit where a Run is of the same kind of machine as this one (MACHINE). Elsewhere rounding alone makes another student of
the same seed, so both top-1 are compared with where one more student of the arm lies (`interval`).
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scipy import special

from rd3_utils import bounded, command_lines, units
from rd3_utils.data import sources
from rd3_utils.errors import UserError
from rd3_utils.learning import initialisation
from rd3_utils.scoring import measure, results, runs, shapes
from rd3_utils.scoring.report import percent
from rd3_utils.scoring.runs import Run
from rd3_utils.verification import rerun, vetting
from rd3_utils.verification.at_hand import AtHand, NotAtHand
from rd3_utils.verification.checks import Check, confirmed, contradicted, unchecked
from rd3_utils.verification.evidence import Evidence, RunFile, run_file

TRAINED = "trained under this protocol"
LEVEL = 0.99  # of an interval
WIDEST = 0.05  # half an interval; a wider one would hold nearly any score
ROUNDING = 1e-3  # relative: labels that are made again on another device begin to differ by less
PACKAGES = "torch", "torchvision", "timm", "numpy"  # whose versions can change a last digit
MACHINE: dict[str, Callable[[Run], Any]] = {  # what decides the bits of a student, beside what is measured
    "processes": lambda run: run.environment.processes,
    "precision": lambda run: run.environment.precision,
    "devices": lambda run: run.environment.devices,
    "threads": lambda run: run.environment.threads,
    "processor": lambda run: run.environment.processor if " x cpu (" in run.environment.devices else "",
    "device of the labels": lambda run: run.labels.device,
}


@dataclass(frozen=True, eq=False)
class TrainedArm:
    """The Runs of one arm that differ in seed alone, the one to begin with first; `files` are in that order, too."""

    files: tuple[RunFile, ...]

    @property
    def runs(self) -> list[Run]:
        return [file.run for file in self.files if file.run is not None]


def of_retraining(evident: Evidence, at_hand: AtHand) -> Iterator[Check]:
    """The Check of the Run that was trained again; of all others the one that says so."""
    arm, asked = main_arm(evident), at_hand.options.retrain
    if arm is None:
        return
    files = {results.Results("").path_of(file.run): file for file in evident.runs if file.run is not None}
    first = arm.files[0]
    if asked is not None:
        again = of_seed(arm, asked)
        yield retrained(again, arm, at_hand)
        files = {place: file for place, file in files.items() if again.run and place != results.Results("").path_of(again.run)}
    seconds = units.duration(first.run.seconds) if first.run else ""
    how = (
        f"--retrain trains one again, about {seconds}"
        if asked is None
        else "--retrain SEED, or its file as SOURCE, trains another"
    )
    for older, alike in runs.grouped(files.values(), lambda file: older_start(file.run)).items():
        yield unchecked(
            f"{len(alike)} Runs" if len(alike) > 1 else alike[0].name,
            f"{TRAINED}; its losses, seconds and devices",
            older or how,
        )


def older_start(run: Run) -> str:
    """Why the student of `run` cannot be trained again: networks of its name start otherwise today; "" where they do not."""
    today = initialisation.version(run.student)
    if run.network and run.network.initialisation != today:
        rules = f"by rule {today}, the Run by {run.network.initialisation}"
        return f"this version draws {run.student} {rules}; the version that wrote it can"
    return ""


def check_seed(evident: Evidence, asked: int | str | None) -> None:
    """UserError where --retrain asks for a seed that is not there, before anything is looked at."""
    if asked is None:
        return
    arm = main_arm(evident)
    if arm is None:
        raise UserError(f"--retrain: {evident.source} holds no Run that could be trained again; leave it out.")
    of_seed(arm, asked)


def of_seed(arm: TrainedArm, asked: int | str) -> RunFile:
    """The RunFile of the arm with the seed that --retrain asks for, or its first."""
    if asked == "first":
        return arm.files[0]
    for file, run in zip(arm.files, arm.runs):
        if run.seed == asked:
            return file
    known = ", ".join(sorted({str(run.seed) for run in arm.runs}, key=int)[:20])
    raise UserError(f"--retrain {asked}: arm {arm.runs[0].arm} of {arm.runs[0].student} has no such seed; it has {known}.")


def main_arm(evident: Evidence) -> TrainedArm | None:
    """The arm that --retrain speaks of: of a repo its network's, else the protocol's own distilled arm, else the first."""
    readable = [file for file in evident.runs if file.run is not None]
    if not readable:
        return None
    own = (file for file in readable if file.run and file.run.arm == f"distilled-{file.run.protocol.main_labels}")
    first = readable[0] if evident.kind == "pushed repo" else next(own, readable[0])
    if evident.kind in ("Run", "student"):  # the others of its arm lie beside it
        around = [path for path in results.seeds_in(first.path.parent) if path != first.path and not path.is_symlink()]
        readable += [run_file(path, path.name) for path in around[:100] if results.is_run_file(path.name)]
    by_seed: dict[int, RunFile] = {}
    for file in sorted(readable, key=lambda file: file.run.seed if file.run else 0):
        if file.run and first.run and same_arm(first.run, file.run):
            by_seed.setdefault(file.run.seed, file)
    if evident.kind in ("Run", "student", "pushed repo") and first.run:  # the one that SOURCE is comes first
        by_seed = {first.run.seed: first} | {seed: file for seed, file in by_seed.items() if seed != first.run.seed}
    return TrainedArm(tuple(by_seed.values()))


def same_arm(a: Run, b: Run) -> bool:
    """Whether two Runs differ in seed alone."""
    return a.images.fingerprint == b.images.fingerprint and bool(measure.same_measure(a, b))


def retrained(file: RunFile, arm: TrainedArm, at_hand: AtHand) -> Check:
    """The Check of one Run that is trained again here."""
    run = file.run
    assert run is not None  # of an arm
    claim = f"{TRAINED}, with these losses; top-1 {percent(run.top1)} %, seed {run.seed}"
    if older := older_start(run):
        return unchecked(file.name, claim, older)
    try:
        vetting.vetted(bounded.contents(file.path), ranked=False)
        bench = at_hand.benchmark(run.benchmark)
        with rerun.temporary_folder() as folder:
            launch, options = rerun.launch_of(run), rerun.options_of(run, bench, at_hand, folder)
            rerun.check_same_images(run, options.distilled or "", bench, at_hand)
            announce(run, options, launch.precision)
            started = time.monotonic()
            made = rerun.trained_again(launch, options, folder)
    except shapes.Refused as refused:
        return unchecked(file.name, claim, f"not trained again, as its Run is refused: {refused}")
    except (NotAtHand, UserError) as reason:
        return unchecked(file.name, claim, str(reason))
    return compared(file.name, claim, run, made, arm.runs, time.monotonic() - started)


def announce(run: Run, options: rerun.TrainOptions, precision: str) -> None:
    """Say what is run now, and how long it took where the Run comes from."""
    command = command_lines.launch(options, spell=sources.without_machine, precision=precision)
    print(f"--retrain runs, in a temporary folder: {command}\nIt took {units.duration(run.seconds)} there.",
          file=sys.stderr, flush=True)  # fmt: skip


def compared(place: str, claim: str, run: Run, made: Run, arm: list[Run], seconds: float) -> Check:
    """The Check of `run` against `made`, which its command made here; `arm` are the Runs that differ in seed alone."""
    how = f"trained again, {units.duration(seconds)}"
    same = measure.same_measure(run, made)
    if not same:
        return unchecked(place, claim, f"its command makes another Run here, with another {same.fact}: "
                         f"{measure.short(same.b)}, the Run states {measure.short(same.a)}", how)  # fmt: skip
    elsewhere = other_machine(run, made)
    differs = first_difference(run, made) or ("" if elsewhere else other_weights(run, made))
    if not differs:
        weights = "weights, " if run.weights and run.weights == made.weights else ""
        remark = f"{weights}top-1, top-5 and {len(run.history)} losses are the same; its seconds stay as stated"
        return confirmed(place, claim, f"{how}: to the bit", remark, score=True)
    if history(run) == history(made):
        text = f"{differs}, though all {len(run.history)} losses are the same to the bit"
        return contradicted(place, claim, how, text, score=True)
    if elsewhere or begins_as_rounding(run, made):
        why = f"on another machine ({elsewhere})" if elsewhere else "on labels that differ in rounding, made elsewhere"
        return compared_roughly(place, claim, run, made, arm, f"{how}: {why}")
    return contradicted(place, claim, f"{how}: on the same kind of machine", differs, score=True)


def compared_roughly(place: str, claim: str, run: Run, made: Run, arm: list[Run], how: str) -> Check:
    """The Check of a student of another machine: whether the two may be students of one arm.

    The one made here must lie where the arm's Runs say, and the one that is stated where the others and the one made here say:
    the first fails where all Runs are made better, the second where one is.
    """
    here = f"top-1 {percent(made.top1)} % here, {percent(run.top1)} % stated"
    if len(arm) < 2:
        why = f"{here}; one Run does not say how far seeds differ. More seeds would, or the machine that it was trained on"
        return unchecked(place, claim, why, how)
    others = [one.top1 for one in arm if one.seed != run.seed]
    looks = (("the one here", made.top1, [*others, run.top1]), ("the stated one", run.top1, [*others, made.top1]))
    widest = 0.0
    for whose, top1, around in looks:
        low, high = interval(around, made.images_scored)
        widest = max(widest, (high - low) / 2)
        if not low <= top1 <= high:
            text = f"{here}: {whose} is outside of {percent(max(0.0, low))} to {percent(min(1.0, high))} %"
            return contradicted(place, claim, how, f"{text}, where {LEVEL:.0%} of further students of the arm lie", score=True)
    within = f"{here}: within {percent(widest)} points, where {LEVEL:.0%} of further students of the arm lie"
    if widest > WIDEST:
        return unchecked(
            place, claim, f"{within}, too wide to tell; more seeds would, or the machine that it was trained on", how
        )
    return confirmed(place, claim, how, within, score=True)


def interval(top1: list[float], images: int) -> tuple[float, float]:
    """(low, high) of the prediction interval of one more student beside those with these `top1`, at least 2.

    mean +- t * s * sqrt(1 + 1/n) with n - 1 degrees of freedom (Hahn & Meeker, Statistical Intervals, 1991, 4.8); s is the
    sample standard deviation, no less than one of the `images` that are scored: a score has no finer steps.
    """
    n, mean = len(top1), math.fsum(top1) / len(top1)
    s = max(runs.spread(top1) or 0.0, 1 / images)
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * s * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


HISTORY = {"epoch": "number", "loss": "loss", "learning_rate": "learning rate", "test_top1": "top-1 on the test split"}


def history(run: Run) -> list[tuple]:
    """What every epoch of a Run states that is computed."""
    return [tuple(entry.get(key) for key in HISTORY) for entry in run.history]


def first_difference(run: Run, made: Run) -> str:
    """The first value that is not the same to the bit, as made here and as stated; "" where there is none."""
    for name, a, b in (("top-1", run.top1, made.top1), ("top-5", run.top5, made.top5)):
        if a != b:
            return f"{name} is {percent(b)} % here, {percent(a)} % is stated"
    for k, (mine, theirs) in enumerate(zip(history(run), history(made))):
        for name, a, b in zip(HISTORY.values(), mine, theirs):
            if a != b:
                return f"{name} of epoch {k} is {digits(b)} here, {digits(a)} is stated"
    return "" if len(run.history) == len(made.history) else f"{len(made.history)} epochs here, {len(run.history)} are stated"


def other_weights(run: Run, made: Run) -> str:
    """Both SHA-256 of weights that are not the same; "" where they are, or a Run does not state them."""
    if run.weights is None or made.weights is None or run.weights == made.weights:
        return ""
    return f"its weights have SHA-256 {made.weights.sha256[:12]} here, {run.weights.sha256[:12]} is stated"


def digits(value: Any) -> str:
    """A number to its last digit."""
    return measure.short(value) if value is None else f"{value:.17g}"


def begins_as_rounding(run: Run, made: Run) -> bool:
    """Whether the first loss that differs does so in rounding, and teachers made the labels again here.

    A Run says what kind of device made its labels, not which one: they may be of elsewhere.
    """
    if not run.labels.of_teachers or rerun.stored_labels(run):
        return False
    for mine, theirs in zip(run.history, made.history):
        if mine["loss"] != theirs["loss"]:
            return math.isclose(mine["loss"], theirs["loss"], rel_tol=ROUNDING)
    return False


def other_machine(run: Run, made: Run) -> str:
    """What a Run says of its machine that is not so here; "" where they are of one kind. What is not recorded is another."""
    both = {name: (value_of(run), value_of(made)) for name, value_of in MACHINE.items()}
    versions = {name: (run.environment.versions.get(name), made.environment.versions.get(name)) for name in PACKAGES}
    for name, (there, here) in (both | versions).items():
        if there != here or (there is None and name != "device of the labels"):
            return f"{name}: {measure.short(there)} there, {measure.short(here)} here"
    return ""
