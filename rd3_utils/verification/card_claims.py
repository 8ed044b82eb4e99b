"""What a card, report.json, the model-index and .eval_results say, against the Runs that they speak of."""

from collections.abc import Iterator

from rd3_utils.verification.checks import Check
from rd3_utils.verification.evidence import CardFiles


def of_card(card: CardFiles) -> Iterator[Check]:
    """The Checks of one card."""
    yield from ()
