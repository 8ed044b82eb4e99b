"""Students' networks: their weights scored again on the test split."""

from collections.abc import Iterator

from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.checks import Check
from rd3_utils.verification.evidence import RunFile


def of_weights(file: RunFile, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of the network that is kept of one Run."""
    yield from ()
