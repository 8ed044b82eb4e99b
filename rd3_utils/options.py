"""Command-line options that both scripts share, and what is read from them."""

import argparse

from rd3_utils import hub
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark, protocol


def add_what(parser, each=False):
    """Options that say what is measured: they may change a score and are recorded in every output.

    With `each`, every student may have views of its own.
    """
    what = parser.add_argument_group("what is measured")
    what.add_argument("--benchmark", default="digits", help="the real data (default: %(default)s, embedded)")
    what.add_argument("--protocol", default="rd3-v1", help="every knob of the recipe (default: %(default)s), or a .toml file")
    what.add_argument("--distilled", metavar="SOURCE", help="the images: a path, random:ipc=K,seed=S, full, an embedded set "
                      "or OWNER/REPO[@REVISION][:CONFIG] (default: the benchmark's)")  # fmt: skip
    what.add_argument("--teacher", metavar="SOURCE", action="append", help="labels soft views: a timm name, hf-hub:, "
                      "local-dir:, torchvision:NAME, or 'default' for the benchmark's; repeat for an ensemble")  # fmt: skip
    own = ", or 'each': every student its own, drawn from its seed" if each else ""
    what.add_argument("--views-seed", type=seed_or_each if each else seed, metavar="K|each" if each else "K", default=0,
                      help=f"seed of the random views, which all students share{own} (default: %(default)s)")  # fmt: skip
    what.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a knob, such as "
                      "training.epochs=10; outputs then say custom; repeatable")  # fmt: skip
    return what


def add_labels(group):
    """Options that shape a soft-label store; they change at most the rounding of labels."""
    group.add_argument("--forward-batch", type=positive, default=100, help="views per teacher pass (default: %(default)s)")
    group.add_argument("--label-dtype", choices=("fp16", "u8"), default="fp16", help="how logits are stored")
    group.add_argument("--shard-mb", type=positive, default=256, help="size of a label shard in MB (default: %(default)s)")


def add_publish(parser, what):
    """Options that push `what` to the Hub; never a part of what a card tells to repeat."""
    publish = parser.add_argument_group("publish")
    publish.add_argument(
        "--push-to", metavar="OWNER/REPO", help=f"push {what} to this repo of the Hub, which is made if missing"
    )
    add_how(publish)
    return publish


def add_how(group):
    """Options that say how to push."""
    group.add_argument("--private", action="store_true", help="make a repo that is missing private")
    group.add_argument("--create-pr", action="store_true", help="open a pull request instead of a commit")
    group.add_argument("--tag", help="tag the commit, for --distilled and --soft-labels OWNER/REPO@TAG")


PUBLISH = ("push_to", "private", "create_pr", "tag", "push_only", "with_images")


def push_target(options, kind):
    """The hub.Target of parsed options, or None without --push-to; UserError for options that contradict each other."""
    given = [name for name in PUBLISH[1:] if getattr(options, name, None)]
    if options.push_to is None and given:
        raise UserError(f"--{given[0].replace('_', '-')} needs --push-to OWNER/REPO.")
    if options.push_to and getattr(options, "runs_only", False):
        raise UserError("--runs-only writes neither weights nor a card, so there is nothing to push: leave out --push-to.")
    if options.create_pr and options.tag:
        raise UserError("a pull request cannot be tagged: leave out --tag, or --create-pr.")
    if options.push_to is None:
        return None
    return hub.Target(options.push_to, kind, options.private, options.create_pr, options.tag)


def parse(parser):
    """The parsed options; `options.defaults` holds what each is when it is not given, for the command on a card.

    Options that publish are not among them.
    """
    options = parser.parse_args()
    options.defaults = {action.dest: action.default for action in parser._actions if action.dest not in PUBLISH}
    return options


def positive(text):
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def read_what(options):
    """(Benchmark, Protocol with overrides) of parsed options."""
    bench = benchmark.load(options.benchmark)
    return bench, protocol.load(options.protocol).override(options.set)


def seed(text):
    """A whole number from 0 to below 2^63."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is no seed from 0 to below 2^63")
    return value


def seed_or_each(text):
    """A seed, or "each"."""
    return text if text == "each" else seed(text)


def numbers(text):
    """[0, 1, 2] of "0,1,2", without repeats."""
    try:
        return list(dict.fromkeys(seed(part) for part in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers such as 0,1,2") from error
