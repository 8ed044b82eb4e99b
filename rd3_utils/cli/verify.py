"""python -m rd3_utils verify SOURCE: what an output claims, recomputed; one table, and an exit code.

0: nothing contradicted, a score recomputed. 1: something contradicted. 3: no score could be recomputed. 2: no such SOURCE.
"""

import os
import sys
from argparse import ArgumentParser, Namespace

from rd3_utils.cli import options as shared
from rd3_utils.errors import UserError
from rd3_utils.options import VerifyOptions


def add_options(parser: ArgumentParser) -> None:
    """Options of `verify`."""
    parser.add_argument("source", metavar="SOURCE", help="a results folder, a card's or student's folder, a Run, a label "
                        "store, an image set, or OWNER/REPO[@REVISION]")  # fmt: skip
    shared.add_data_dirs(parser)
    parser.add_argument("--distilled", metavar="SOURCE", help="images of a label store or of --retrain (default: those "
                        "of the name that it states)")  # fmt: skip
    parser.add_argument("--teacher", action="append", default=[], metavar="SOURCE", help="teacher of a label store "
                        "or of --retrain (default: those that it names)")  # fmt: skip
    parser.add_argument("--check-labels", type=shared.positive, default=1, metavar="N", help="forward batches of each shard "
                        "that the teachers label again (default: %(default)s)")  # fmt: skip
    parser.add_argument("--retrain", nargs="?", const="first", type=seed_or_first, metavar="SEED", help="run the command of a "
                        "Run again and compare (default: its first seed)")  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit code 3 if any claim could not be checked")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--workers", type=shared.workers, help="threads that decode images (default: one per core)")


def seed_or_first(text: str) -> int | str:
    """A seed, or "first"."""
    return text if text == "first" else shared.seed(text)


def run(options: Namespace) -> None:
    """Print the Verification and end with its exit code."""
    wanted = shared.frozen(VerifyOptions, options)
    try:
        from rd3_utils.verification import table, verifying

        verification = verifying.verify(wanted)
    except KeyboardInterrupt:
        print("stopped: nothing is left behind.", file=sys.stderr, flush=True)
        sys.exit(130)
    write_out(verification.as_json() if wanted.json else table.text(verification))
    sys.exit(verification.exit_code(wanted.strict))


def write_out(text: str) -> None:
    """Print `text` in what the terminal can show; a reader that wants no more of it changes no exit code."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
        if not isinstance(error, BrokenPipeError):
            raise UserError(f"the table cannot be written: {error.strerror}; give another place for it.") from error
