"""python -m rd3_utils COMMAND, installed also as `rd3 COMMAND`: one module of rd3_utils/cli for each command.

What a command needs is imported when it runs: --help, list, score and a mistyped option answer at once.
"""

from argparse import Namespace
from collections.abc import Sequence

from rd3_utils import __version__, errors
from rd3_utils.cli import convert, label, leaderboard, listing, publish, score, study, synthesize, train, transfer, verify
from rd3_utils.cli.options import Parser

COMMANDS = {  # name: (module, what it does)
    "train": (train, "train students on an image set, score them, write a card: train_student.py"),
    "label": (label, "make the soft labels of an image set: generate_soft_labels.py"),
    "list": (listing, "benchmarks, protocols, image sets, students and losses, one line each"),
    "synthesize": (synthesize, "make a distilled image set"),
    "convert": (convert, "make an image set of images_best.pt, as MTT and DATM release it"),
    "publish": (publish, "put an image set on the Hub, with a card"),
    "study": (study, "image sets x protocols x students x seeds: plan, run what is missing, report"),
    "transfer": (transfer, "what frozen features of students tell about other benchmarks"),
    "leaderboard": (leaderboard, "a static site of Runs from folders and from the Hub, each checked"),
    "verify": (verify, "what an output claims, recomputed: confirmed, contradicted, or not checkable here"),
    "score": (score, "LRS or ARS of given accuracies, or a comparison of two sets of runs"),
}
LIGHT = "list", "score"  # need neither torch nor what `launch` prepares


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """The options of a command line, checked for their form alone; `options.command` is a name of COMMANDS."""
    parser = Parser(prog="python -m rd3_utils", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"rd3 {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        module.add_options(commands.add_parser(name, help=text, description=module.__doc__))
    return parser.parse_args(arguments)


def main(options: Namespace) -> None:
    COMMANDS[options.command][0].run(options)


def run(arguments: Sequence[str] | None = None) -> None:
    """The command line from its words to its end: a UserError is one line on stderr and exit code 2."""
    options = parse(arguments)
    if options.command in LIGHT:
        errors.run(main, options)
    else:
        from rd3_utils import launch

        launch.run(main, options)


if __name__ == "__main__":
    run()
