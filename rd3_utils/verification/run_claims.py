"""What a Run states that its benchmark, protocol, student and images decide: recipe, digest, steps, rates, history."""

from collections.abc import Iterator

from rd3_utils.scoring.shapes import Refused
from rd3_utils.verification import vetting
from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.checks import Check, confirmed, contradicted
from rd3_utils.verification.evidence import RunFile

HOW = "made again from benchmark, protocol, student and images"


def of_run(file: RunFile, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of one Run file without any data."""
    try:
        vetting.vetted(file.path.read_bytes())
        yield confirmed(file.name, "recipe, digest and steps are the protocol's", HOW)
    except Refused as refused:
        yield contradicted(file.name, "recipe, digest and steps are the protocol's", HOW, str(refused))
