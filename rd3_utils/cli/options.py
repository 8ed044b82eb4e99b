"""Options that several commands share, what is read from them, and how a mistyped one is told: before torch is imported."""

import argparse
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from rd3_utils import limits
from rd3_utils.errors import UserError, nearest, shortened, stop, unknown
from rd3_utils.options import PUBLISH, LabelOptions, Options, TrainOptions
from rd3_utils.protocols import benchmark, knobs, protocol

if TYPE_CHECKING:
    from rd3_utils.pushing import Target


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, for an option added later must not change a command, and tells the nearest name."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(
            *arguments, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **named, "allow_abbrev": False}
        )

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if too_long := [word for word in words if len(word) > limits.LONGEST_WORD]:
            self.error(f"'{shortened(too_long[0])}' has {len(too_long[0])} characters, wanted at most {limits.LONGEST_WORD}")
        parsed, unread = self.parse_known_args(words, namespace)
        if unread:
            self.error(f"unknown {unread[0]}{meant(unread[0], self.known(parsed))}")
        for name, value in vars(parsed).items():
            if value == "" or (isinstance(value, list) and "" in value):
                option = f"--{name.replace('_', '-')}"
                name = option if option in self.known(parsed) else name.upper()
                self.error(f"{name} is empty: leave it out, or give a value")
        return parsed

    def known(self, parsed: argparse.Namespace) -> set[str]:
        """The names of the options of this command and of the subcommand that was parsed."""
        names = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and getattr(parsed, action.dest, None) in action.choices:
                names |= action.choices[getattr(parsed, action.dest)].known(parsed)
        return names

    def error(self, message: str) -> NoReturn:
        choice = re.match(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            message = str(unknown(choice[1].lower(), choice[2], choice[3].replace("'", "").split(", "))).rstrip(".")
        stop(UserError(f"{message}. See {self.prog} --help."))


def meant(word: str, options: Collection[str]) -> str:
    """What a mistyped option may have meant: a knob by its own name, or the nearest option."""
    name = word.partition("=")[0].lstrip("-").replace("-", "_")
    same = [knob for knob in knobs.all_knobs() if knob.rpartition(".")[2] == name]
    if same and "--set" in options:
        return f": a knob is set with --set {same[0]}=VALUE"
    near = nearest(word.partition("=")[0], options)
    return f": did you mean {near}" if near else ""


def parse_alone(
    kind: type[Options],
    add_options: Callable[[argparse.ArgumentParser], None],
    description: str | None,
    arguments: Iterable[str] | None = None,
) -> Options:
    """The options of a command line of a script of its own, checked for their form alone."""
    parser = Parser(description=description)
    add_options(parser)
    return frozen(kind, parser.parse_args(arguments))


def frozen(kind: type[Options], parsed: argparse.Namespace) -> Options:
    """What was parsed, as the frozen data of a script: lists are tuples, and an option that repeats and was not given is ()."""
    given: dict[str, Any] = {field.name: getattr(parsed, field.name) for field in fields(kind)}
    repeating = {field.name for field in fields(kind) if isinstance(field.default, tuple)}
    given |= {name: tuple(given[name] or ()) for name in repeating}
    return kind(**given)


def take_defaults(parser: argparse.ArgumentParser, kind: type[Options]) -> None:
    """Give every option of a parser the default that the dataclass `kind` states; lists that are appended to start as None."""
    parser.set_defaults(**{field.name: None if field.default == () else field.default for field in fields(kind)})


def add_what(parser: argparse.ArgumentParser, each: bool = False) -> argparse._ArgumentGroup:
    """Options that say what is measured: they may change a score and are recorded in every output.

    With `each`, every student may have views of its own.
    """
    group = parser.add_argument_group("what is measured")
    group.add_argument("--benchmark", help="the real data (default: %(default)s, embedded)")
    group.add_argument("--protocol", help="every knob of the recipe (default: %(default)s), or a .toml file")
    group.add_argument("--distilled", metavar="SOURCE", help="the images: a path, random:ipc=K,seed=S, full, an embedded set "
                      "or OWNER/REPO[@REVISION][:CONFIG] (default: the benchmark's)")  # fmt: skip
    group.add_argument("--teacher", metavar="SOURCE", action="append", help="labels soft views: a timm name, hf-hub:, "
                      "local-dir:, torchvision:NAME, or 'default' for the benchmark's; repeat for an ensemble")  # fmt: skip
    own = ", or 'each': every student its own, drawn from its seed" if each else ""
    group.add_argument("--views-seed", type=seed_or_each if each else seed, metavar="K|each" if each else "K",
                      help=f"seed of the random views, which all students share{own} (default: %(default)s)")  # fmt: skip
    group.add_argument("--set", metavar="KEY=VALUE", action="append", help="override a knob, such as "
                      "training.epochs=10; outputs then say custom; repeatable")  # fmt: skip
    return group


def add_where(parser: argparse.ArgumentParser, out: str, dry_run: str) -> argparse._ArgumentGroup:
    """Options that say where a script reads and writes; `out` and `dry_run` say what it does there."""
    where = parser.add_argument_group("where it runs")
    add_data_dir(where)
    where.add_argument("--out", metavar="DIR", help=f"{out} (default: %(default)s)")
    where.add_argument("--workers", type=workers, help="threads that decode images (default: one per core)")
    where.add_argument("--dry-run", action="store_true", help=dry_run)
    return where


def add_data_dir(parser: argparse._ActionsContainer, purpose: str = "") -> None:
    """--data-dir of a command for one benchmark."""
    parser.add_argument("--data-dir", metavar="DIR", help=f"read the benchmark's real data from here{purpose}")


def add_labels(group: argparse._ArgumentGroup) -> None:
    """Options that shape a soft-label store; they change at most the rounding of labels."""
    group.add_argument("--forward-batch", type=forward_batch, help="views per teacher pass (default: %(default)s)")
    group.add_argument("--label-dtype", choices=("fp16", "u8"), help="how logits are stored")
    group.add_argument("--shard-mb", type=positive, help="size of a label shard in MB (default: %(default)s)")


def add_publish(parser: argparse.ArgumentParser, pushed: str) -> argparse._ArgumentGroup:
    """Options that push what `pushed` says to the Hub; never a part of what a card tells to repeat."""
    publish = parser.add_argument_group("publish")
    publish.add_argument(
        "--push-to", metavar="OWNER/REPO", help=f"push {pushed} to this repo of the Hub, which is made if missing"
    )
    add_how(publish)
    return publish


def add_how(group: argparse._ActionsContainer) -> None:
    """Options that say how to push."""
    group.add_argument("--private", action="store_true", help="make a repo that is missing private")
    group.add_argument("--create-pr", action="store_true", help="open a pull request instead of a commit")
    group.add_argument("--tag", help="tag the commit, for --distilled and --soft-labels OWNER/REPO@TAG")


def push_target(options: TrainOptions | LabelOptions, kind: str) -> "Target | None":
    """The Target of a script, or None without --push-to; UserError for options that contradict each other."""
    given = [name for name in PUBLISH[1:] if getattr(options, name, None)]
    if options.push_to is None and given:
        raise UserError(f"--{given[0].replace('_', '-')} needs --push-to OWNER/REPO.")
    if options.push_to and isinstance(options, TrainOptions) and options.runs_only:
        raise UserError("--runs-only writes neither weights nor a card, so there is nothing to push: leave out --push-to.")
    if options.push_to is None:
        return None
    return target(options.push_to, kind, options.private, options.create_pr, options.tag)


def target(repo: str, kind: str, private: bool, create_pr: bool, tag: str | None) -> "Target":
    """The Target `repo`; UserError for a pull request with a tag."""
    if create_pr and tag:
        raise UserError("a pull request cannot be tagged: leave out --tag, or --create-pr.")
    from rd3_utils.pushing import Target

    return Target(repo, kind, private, create_pr, tag)


def add_data_dirs(command: argparse.ArgumentParser) -> None:
    """--data-dir of a command for several benchmarks."""
    command.add_argument("--data-dir", action="append", default=[], metavar="[NAME=]DIR", help="read a benchmark's real data "
                         "from here; repeatable")  # fmt: skip


def whole_number(text: str, wanted: str) -> int:
    """The whole number that `text` is; else argparse says that it is `wanted`."""
    if not re.fullmatch("-?[0-9]{1,25}", text):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' {wanted}")
    return int(text)


def positive(text: str, most: int = limits.MOST_NUMBER) -> int:
    """A whole number of at least 1, and at most `most`."""
    value = whole_number(text, "is no whole number of at least 1")
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    if value > most:
        raise argparse.ArgumentTypeError(f"{value} is too large, wanted at most {most}")
    return value


def workers(text: str) -> int:
    """A number of threads, or of cells at a time."""
    return positive(text, limits.MOST_WORKERS)


def draws(text: str) -> int:
    """A number of draws of random images."""
    return positive(text, limits.MOST_DRAWS)


def forward_batch(text: str) -> int:
    """A number of views in one pass of a teacher, which are padded to it."""
    return positive(text, limits.MOST_FORWARD_BATCH)


def batches(text: str) -> int:
    """A whole number from 0."""
    value = whole_number(text, "is no number of forward batches")
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def gigabytes(text: str) -> float:
    """A finite number from 0: as little as can be."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is no number of gigabytes")
    return value


def read_what(options: TrainOptions | LabelOptions) -> tuple[benchmark.Benchmark, protocol.Protocol]:
    """(Benchmark, Protocol with overrides) of parsed options."""
    bench = benchmark.load(options.benchmark)
    return bench, protocol.load(options.protocol).override(options.set)


def seed(text: str, wanted: str = "is no seed, a whole number from 0") -> int:
    """A whole number from 0 to below 2^63."""
    value = whole_number(text, wanted)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is no seed from 0 to below 2^63")
    return value


def seed_or_each(text: str) -> int | str:
    """A seed, or "each"."""
    return text if text == "each" else seed(text, "is neither a seed nor each")


def numbers(text: str) -> list[int]:
    """[0, 1, 2] of "0,1,2", without repeats."""
    parts = text.split(",")
    if len(parts) > limits.MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{len(parts)} numbers are too many, wanted at most {limits.MOST_SEEDS}")
    try:
        return list(dict.fromkeys(map(seed, parts)))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"'{shortened(text)}' is not a list of whole numbers such as 0,1,2") from error
