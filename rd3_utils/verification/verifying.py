"""verify: SOURCE -> Evidence -> Checks. Which kind of claim is looked at by which module is said here alone."""

import errno
import time
from collections.abc import Iterator

from rd3_utils.bounded import Refused
from rd3_utils.data import sources
from rd3_utils.errors import UserError
from rd3_utils.options import VerifyOptions
from rd3_utils.verification import (
    card_claims,
    evidence,
    image_claims,
    label_claims,
    repository,
    retraining,
    run_claims,
    twins,
    weight_claims,
)
from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.checks import Check, Verification
from rd3_utils.verification.evidence import Evidence

GONE = errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ESTALE


def verify(options: VerifyOptions) -> Verification:
    """The Verification of `options.source`; UserError where that holds nothing that claims anything."""
    try:
        return verified(options)
    except Refused as refused:
        raise UserError(f"a file of {options.source} changed while it was read ({refused}); run verify again.") from refused
    except OSError as error:
        if error.filename is None or error.errno not in GONE:
            raise
        raise UserError(f"'{error.filename}' changed while it was read ({error.strerror}); run verify again.") from error


def verified(options: VerifyOptions) -> Verification:
    """The work of `verify`; raises what the system says of files that go away meanwhile."""
    started = time.monotonic()
    source = sources.parse(options.source)
    evident = repository.gathered_repository(source) if source.kind == "repo" else evidence.gathered_evidence(source)
    retraining.check_seed(evident, options.retrain)
    checks = tuple(all_checks(evident, AtHand(options)))
    at = f" at {evident.commit}" if evident.commit else ""
    return Verification(f"{source}{at}", evident.kind, checks, evident.not_read, time.monotonic() - started)


def all_checks(evident: Evidence, at_hand: AtHand) -> Iterator[Check]:
    """The Checks of all that was found, the cheap ones first."""
    yield from repository.of_files(evident)
    for file in evident.runs:
        yield from run_claims.of_run(file, at_hand)
    yield from twins.of_twins(evident.runs)
    yield from run_claims.of_head(evident)
    for card in evident.cards:
        yield from card_claims.of_card(card)
    yield from image_claims.of_images(evident, at_hand)
    yield from label_claims.of_labels(evident, at_hand)
    for file in evident.runs:
        yield from weight_claims.of_weights(file, at_hand)
    yield from retraining.of_retraining(evident, at_hand)
