"""What a Run states that its benchmark, protocol, student and images decide: digest, recipe, steps, rates, shares, place.

One Check for each kind of claim, so that a reader sees which one does not hold. Nothing but the file is needed.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rd3_utils import bounded
from rd3_utils.bounded import Refused, shown
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.scoring import report as reports
from rd3_utils.scoring import results
from rd3_utils.scoring.results import Results
from rd3_utils.scoring.runs import Run
from rd3_utils.verification import vetting
from rd3_utils.verification.as_trained import as_trained, check_as_trained
from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.checks import Check, confirmed, contradicted, unchecked
from rd3_utils.verification.evidence import Evidence, RunFile

WHOLE = "a Run, whole"
BELOW = 6  # parts of the path of a Run below its folder of results
OF_A_STUDENT = 3  # of them the last: student, arm and file, below the folder of the card
OUR_FOLDER = re.compile(r".+(@[0-9a-f]{8}|-[0-9a-f]{12})")  # NAME@FINGERPRINT8 of a card, PROTOCOL-DIGEST


def of_run(file: RunFile, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of one Run file without any data."""
    run, name = file.run, file.name
    if run is None:
        yield contradicted(name, WHOLE, "read strictly", file.refused)
        return
    if run.benchmark not in benchmarks.names():
        why = f"this version has no benchmark {shown(run.benchmark)}; the one that has it can"
        yield unchecked(name, "protocol, recipe, history and score", why)
        return
    yield confirmed(name, WHOLE, "read strictly")
    protocol = recipe = None
    try:
        protocol = vetting.stated_protocol(run)
        yield confirmed(name, f"protocol {run.protocol.name} ({run.protocol.digest})", *of_protocol(run))
        bench = vetting.bench_of(run.benchmark)
        made = vetting.checked_recipe(run, protocol, bench)
        check_as_trained(run, as_trained(run, protocol, made, bench))
        recipe = made
        how = "made again from protocol, benchmark, student and images"
        yield confirmed(name, "recipe, steps and labels", how, value=f"{run.arm}, {recipe.steps} steps")
        vetting.check_history(run, recipe)
        yield confirmed(name, "history", "each epoch once; every learning rate made again", value=f"{len(run.history)} epochs")
    except Refused as refused:
        claim = "history" if recipe else "recipe, steps and labels" if protocol else "protocol"
        yield contradicted(name, claim, "made again from what the Run states", str(refused))
        rest = ["history"] * (recipe is None) + ["recipe, steps and labels"] * (protocol is None)
        for claim in reversed(rest):
            yield unchecked(name, claim, "it rests on what is contradicted")
    yield of_score(file, run)
    yield from of_place(file, run)
    if run.labels.recognised is not None:
        why = "its label store would tell, with the teacher: verify STORE --teacher NETWORK"
        yield unchecked(
            name, "its teachers recognise the images", why, value=f"{reports.percent(run.labels.recognised)} % of them"
        )


def of_protocol(run: Run) -> tuple[str, str]:
    """(how its protocol was checked, a remark where it is none of the released ones as it is)."""
    own = run.protocol
    if not vetting.is_released(own.name):
        return "digest of its knobs", "its own: none of the released ones"
    changed = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(own.overrides.items()))
    return "digest of its knobs; knobs of the released file", f"custom: {changed}" if changed else ""


def of_score(file: RunFile, run: Run) -> Check:
    """Whether top-1 and top-5 can be what was counted on the benchmark's test split."""
    claim, how = "top-1 and top-5 are shares of the test images", "whole numbers of the test split"
    try:
        vetting.check_score(run, vetting.bench_of(run.benchmark))
    except Refused as refused:
        return contradicted(file.name, claim, how, str(refused))
    right = round(run.top1 * run.images_scored)
    value = f"{reports.percent(run.top1)} % is {right} of {run.images_scored}, {reports.percent(run.top5)} % top-5"
    return confirmed(file.name, claim, how, value=value)


def of_place(file: RunFile, run: Run) -> Iterator[Check]:
    """Whether a file of a folder of results lies where it belongs: as far up as SOURCE reaches."""
    if not results.is_run_file(Path(file.name).name):
        return
    wanted = Path(Results("").path_of(run)).parts
    parts = PurePosixPath(file.name).parts[-BELOW:]
    belongs = wanted[-len(parts) :]
    how = "path made from its fields"
    others = [i for i, (one, other) in enumerate(zip(parts, belongs)) if one != other]
    named = max(others, default=-1)  # the deepest folder of another name
    if not others:
        yield confirmed(file.name, "lies where it belongs", how)
    elif len(parts) - named > OF_A_STUDENT and not OUR_FOLDER.fullmatch(parts[named]):
        why = f"its folder {shown(parts[named])} was renamed or moved: it was {belongs[named]}"
        yield unchecked(file.name, "lies where it belongs", why, how)
    else:
        yield contradicted(file.name, "lies where it belongs", how, f"belongs at {'/'.join(belongs)}: a copy of another Run?")


def of_head(evident: Evidence) -> Iterator[Check]:
    """Whether run.json of a pushed repo, whose network the repo holds, is to the byte the Run in runs/ that it says."""
    head = evident.runs[0] if evident.kind == "pushed repo" else None
    if head is None or head.run is None or evident.root is None:
        return
    place = Path("runs") / Results("").path_of(head.run)
    claim, how = f"the Run at {place.as_posix()}", "compared byte by byte"
    copy = next((file for file in evident.runs[1:] if Path(file.name) == place), None)
    if copy is None:
        yield contradicted(head.name, claim, how, "there is no such file")
    elif bounded.contents(copy.path) == bounded.contents(head.path):
        yield confirmed(head.name, claim, how)
    else:
        same = copy.run is not None and (copy.run.top1, copy.run.top5) == (head.run.top1, head.run.top5)
        score = "" if same or copy.run is None else f": top-1 {copy.run.top1:.4f} there, {head.run.top1:.4f} here"
        yield contradicted(head.name, claim, how, f"they differ{score}")
