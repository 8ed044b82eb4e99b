"""python -m rd3_utils transfer STUDENT ... --to NAME: what frozen features of students tell about other benchmarks."""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path

from rd3_utils.cli.options import add_data_dirs, positive, seed
from rd3_utils.protocols import benchmark


def add_options(parser: ArgumentParser) -> None:
    """Options of `transfer`."""
    parser.add_argument("students", nargs="+", metavar="STUDENT", help="a seed folder of results, or hf-hub:OWNER/REPO")
    parser.add_argument("--to", required=True, metavar="NAME[,NAME]", help="benchmarks, or .toml files that state one")
    parser.add_argument("--against", nargs="+", default=[], metavar="STUDENT", help="random-images students of the same recipe "
                       "(default: those kept beside a student by --keep-weights all)")  # fmt: skip
    add_data_dirs(parser)
    parser.add_argument("--train-per-class", type=positive, metavar="N", help="train images of each class (default: all)")
    parser.add_argument("--neighbours", type=positive, default=5, metavar="K", help="of k-NN (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the train and held-out images (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", default="results", help="folder of results (default: %(default)s)")


def run(options: Namespace) -> None:
    """Score frozen features on other benchmarks and print what they gain."""
    from rd3_utils.data import tables
    from rd3_utils.transfer import records as transfer
    from rd3_utils.transfer import report as transfer_report

    texts = list(dict.fromkeys(options.to.split(",")))
    to = [benchmark.read(Path(text)) if text.endswith(".toml") else benchmark.load(text) for text in texts]
    folders = tables.data_dirs(options.data_dir, [bench.name for bench in to])
    settings = options.train_per_class, options.neighbours, options.seed
    targets = [partial(transfer.target, bench, folders.get(bench.name), *settings) for bench in to]
    for reported in transfer.transfer(options.students, options.against, targets, options.out):
        transfer_report.say_transfer(*reported)
