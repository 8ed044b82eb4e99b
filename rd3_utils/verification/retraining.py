"""--retrain: the command of a Run, run again in a temporary place and compared with what the Run states."""

from collections.abc import Iterator

from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.checks import Check
from rd3_utils.verification.evidence import Evidence


def of_retraining(evident: Evidence, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of Runs that were trained again; of all others the one that says so."""
    yield from ()
