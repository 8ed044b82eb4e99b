"""Label stores: views drawn again, layout, agreement, and forward batches labelled again by the teachers."""

from collections.abc import Iterator

from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.checks import Check
from rd3_utils.verification.evidence import Evidence


def of_labels(evident: Evidence, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of a label store."""
    yield from ()
