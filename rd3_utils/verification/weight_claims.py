"""Students' networks: their weights scored again on the test split, and their files against the Run.

A score that comes out again says that *these weights score this*; never that they were trained as the Run says.
"""

from collections.abc import Iterator
from pathlib import Path

from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.scoring import report as reports
from rd3_utils.scoring.runs import Run
from rd3_utils.verification import rescoring
from rd3_utils.verification.at_hand import AtHand, NotAtHand
from rd3_utils.verification.checks import Check, confirmed, contradicted, unchecked
from rd3_utils.verification.evidence import RunFile
from rd3_utils.verification.rescoring import Misfit, Rescored

NOT_KEPT = "the weights are not kept beside it; train_student.py --keep-weights all keeps those of every seed"
WHITENED = "its images are whitened, and no network of such a recipe is kept: nobody could use it without the matrix"
READ = "read and compared"


def of_weights(file: RunFile, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of the network that is kept of one Run."""
    run = file.run
    if run is None:
        return  # what is no Run states no score
    try:
        benchmark, test = needed(run, file.network, at_hand)
    except NotAtHand as missing:
        yield unchecked(file.name, "these weights score", str(missing), value=score_text(run))
        return
    assert file.network is not None  # `needed` asks for it
    yield of_config(file.name, run, file.network, benchmark)
    how = f"scored again on {test.name}, {len(test):,} images, in {run.environment.precision}"
    try:
        again = rescoring.rescored(run, file.network, test, benchmark, at_hand.accelerator)
    except (Misfit, UserError) as error:
        yield contradicted(file.name, f"these weights score {score_text(run)}", how, str(error), score=True)
        return
    yield from of_digest(file.name, run, again)
    yield of_score(file.name, run, again, how)


def score_text(run: Run) -> str:
    """The score that a Run states."""
    return f"top-1 {reports.percent(run.top1)} %, top-5 {reports.percent(run.top5)} %"


def rescored_text(again: Rescored) -> str:
    """The score that was found, and how far it may be off elsewhere."""
    first, five = again.first, again.five
    shares = (reports.percent(answers.right / again.images) for answers in (first, five))
    return "top-1 {} %, top-5 {} % ({} and {} near ties)".format(*shares, first.near, five.near)


def needed(run: Run, network: Path | None, at_hand: AtHand) -> tuple[Benchmark, ImageSet]:
    """(Benchmark, test split) to score a Run's network on; NotAtHand says why that cannot be done here."""
    if run.recipe["views"].get("zca"):
        raise NotAtHand(WHITENED)
    if network is None:
        raise NotAtHand(NOT_KEPT)
    if run.environment.precision not in rescoring.TOLERANCES:
        raise NotAtHand(f"nothing here computes in {run.environment.precision}")
    benchmark = at_hand.benchmark(run.benchmark)
    test = at_hand.test(run.benchmark, run.recipe["training"].get("test_resize", 0))
    if test.fingerprint != run.test.fingerprint:
        raise NotAtHand(
            f"it was scored on test images {run.test.fingerprint[:8]}, those here are {test.fingerprint[:8]}: another split "
            "or another decoder; give --data-dir DIR with those"
        )
    return benchmark, test


def of_config(place: str, run: Run, network: Path, benchmark: Benchmark) -> Check:
    """Whether config.json is that of the student on its benchmark: classes, normalisation, size."""
    claim = f"{rescoring.CONFIG} is that of a {run.student} on {benchmark.name}"
    try:
        faults = list(rescoring.config_faults(run, network, benchmark))
    except Misfit as misfit:
        return contradicted(place, claim, READ, str(misfit))
    return contradicted(place, claim, READ, "; ".join(faults[:3])) if faults else confirmed(place, claim, READ)


def of_digest(place: str, run: Run, again: Rescored) -> Iterator[Check]:
    """Whether the weights are those that the Run states; a Run until November 2026 states none."""
    if run.weights is None:
        return
    claim = f"the weights have SHA-256 {run.weights.sha256[:12]}"
    if run.weights.sha256 == again.sha256:
        yield confirmed(place, claim, READ)
    else:
        yield contradicted(place, claim, READ, f"SHA-256 {again.sha256[:12]}")


def of_score(place: str, run: Run, again: Rescored, how: str) -> Check:
    """Whether weights score what the Run states, near ties aside."""
    claim, here = f"these weights score {score_text(run)}", rescored_text(again)
    if run.images_scored != again.images:
        return contradicted(place, f"{run.images_scored:,} test images were scored", how, f"{again.images:,}", score=True)
    if not again.allows(run):
        return contradicted(place, claim, how, here, score=True)
    stated = [round(share * again.images) for share in (run.top1, run.top5)]
    apart = abs(stated[0] - again.first.right), abs(stated[1] - again.five.right)
    near = f"{again.first.near} and {again.five.near} near ties"
    remark = f"to the image ({near})" if not any(apart) else f"{apart[0]} and {apart[1]} images apart: {here}"
    return confirmed(place, claim, how, remark, score=True)
