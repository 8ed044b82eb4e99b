"""python -m rd3_utils convert: make an image set of images_best.pt, as MTT and DATM release it."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from rd3_utils import command_lines
from rd3_utils.cli.options import add_data_dir
from rd3_utils.errors import UserError
from rd3_utils.options import TrainOptions
from rd3_utils.protocols import benchmark

if TYPE_CHECKING:
    from rd3_utils.data.images import ImageSet

MOST_CLIPPED = 0.05  # share of values that may lie outside of what 8 bits hold


def add_options(parser: ArgumentParser) -> None:
    """Options of `convert`."""
    parser.add_argument("source", metavar="SOURCE.pt", help="float tensor [N, 3, S, S]; labels_best.pt beside it is read, too")
    parser.add_argument("out", metavar="OUT_DIR", help="new folder; its name is the set's")
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--method", default="not stated", help="what to record as its method, such as datm")
    parser.add_argument("--mean", type=float, nargs=3, help="of the normalisation to undo (default: the benchmark's)")
    parser.add_argument("--std", type=float, nargs=3)
    parser.add_argument("--zca", type=float, default=0.0, metavar="EPS", help="undo ZCA whitening of images in [0, 1] instead")
    parser.add_argument("--most-clipped", type=float, default=MOST_CLIPPED, metavar="SHARE",
                         help="of values that 8 bits may clip (default: %(default)s)")  # fmt: skip
    add_data_dir(parser, " (for --zca)")


def run(options: Namespace) -> None:
    """Make an image set of a released tensor and say where it lies."""
    from rd3_utils.data import convert as conversion
    from rd3_utils.data import selections, sources, tables

    bench = benchmark.load(options.benchmark)
    if (options.mean is None) != (options.std is None):
        raise UserError("--mean and --std go together: give both, or neither for the benchmark's.")
    normalisation = (tuple(options.mean), tuple(options.std)) if options.mean else None

    def train() -> "ImageSet":
        return selections.select(sources.FULL, bench, lambda: tables.real(bench, "train", options.data_dir))

    preprocessing = conversion.Preprocessing(normalisation, options.zca, train)
    converted, about = conversion.convert(
        options.source, options.out, bench, preprocessing, options.method, options.most_clipped
    )
    learned = "with learned labels" if converted.soft_labels is not None else "without learned labels"
    command = command_lines.launch(TrainOptions(benchmark=bench.name, distilled=options.out), stated=["benchmark"])
    clipped = f"{100 * about['clipped']:.2f} % of the values clipped"
    print(f"{converted.identity}: {len(converted)} images {learned} in {options.out}, {clipped}. "
          f"Train on it with: {command}")  # fmt: skip
