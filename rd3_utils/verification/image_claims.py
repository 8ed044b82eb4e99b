"""Image sets: their fingerprints, random images drawn again, and what they share with the test split."""

from collections.abc import Iterator

from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.checks import Check
from rd3_utils.verification.evidence import Evidence


def of_images(evident: Evidence, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of an image set, or of the image sets that Runs state."""
    yield from ()
