"""python -m rd3_utils synthesize METHOD: make a distilled image set."""

from argparse import ArgumentParser, Namespace
from typing import Any

from rd3_utils import command_lines
from rd3_utils.cli.options import add_data_dir, positive, seed
from rd3_utils.options import TrainOptions
from rd3_utils.protocols import benchmark
from rd3_utils.synthesis import settings

RECOVERY: dict[
    str, dict[str, Any]
] = {  # options of sre2l and cda; those without a default follow the image size, see synthesis/recovery.py
    "--teacher": dict(metavar="SOURCE", default="default", help="network with batch norm (default: the benchmark's)"),
    "--init": dict(choices=settings.STARTS, default="noise", help="what images start from (default: noise)"),
    "--iterations": dict(type=positive, help="steps per image (default: 1000 up to 32 px, 4000 above)"),
    "--batch": dict(type=positive, default=settings.CLASSES, help="classes optimised together (default: %(default)s)"),
    "--learning-rate": dict(type=float, help="of Adam at the start"),
    "--bn-weight": dict(type=float, help="of the distance from the teacher's batch-norm statistics"),
    "--jitter": dict(type=int, metavar="PIXELS", help="largest shift of a step"),
    "--min-crop": dict(type=float, metavar="SHARE", help="least share of the area that a step may see; 1: no crops"),
}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {  # options of each method of `synthesize`
    "dm": {
        "--iterations": dict(type=positive, default=1000),
        "--student": dict(help="network that embeds the images (default: the benchmark's)"),
        "--dsa": dict(
            metavar="OPERATIONS",
            default="none",
            help="change real and synthetic images alike, such as "
            "color_crop_cutout_flip_scale_rotate, the original's (default: none)",
        ),
    },
    "rded": {
        "--teacher": dict(metavar="SOURCE", default="default", help="network that scores patches (default: the benchmark's)"),
        "--candidates": dict(type=positive, default=300, help="real images of each class to choose from (default: 300)"),
        "--crops": dict(type=positive, default=5, help="random crops of each (default: 5)"),
        "--factor": dict(type=positive, help="patches per side of an image (default: 1 up to 64 px, 2 above)"),
    },
    "sre2l": RECOVERY,
    "cda": {
        **RECOVERY,
        "--curriculum": dict(choices=settings.CURRICULA, help="how the crops' lower bound falls (default: cosine)"),
        "--milestone": dict(type=float, metavar="SHARE", help="of the iterations in which it falls (default: 1)"),
    },
}


def add_options(parser: ArgumentParser) -> None:
    """Options of `synthesize`: one subcommand for each method, with its own."""
    methods = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    for name, (_, text) in settings.METHODS.items():
        make = methods.add_parser(name, help=text)
        make.add_argument("--benchmark", default="digits")
        make.add_argument("--ipc", type=positive, required=True, help="images per class")
        make.add_argument("--out", metavar="DIR", required=True, help="new folder; its name is the set's")
        make.add_argument("--seed", type=seed, default=0)
        add_data_dir(make)
        for option, arguments in SETTINGS[name].items():
            make.add_argument(option, **arguments)


def run(options: Namespace) -> None:
    """Make a distilled set and say where it lies."""
    from rd3_utils.synthesis import methods

    bench = benchmark.load(options.benchmark)
    own = {key: getattr(options, key) for key in (name[2:].replace("-", "_") for name in SETTINGS[options.method])}
    made = methods.synthesize(options.method, bench, options.ipc, options.out, options.seed, options.data_dir, **own)
    teacher = (own.get("teacher", "default"),)
    train = TrainOptions(benchmark=bench.name, distilled=options.out, teacher=teacher, data_dir=options.data_dir)
    print(f"{made.identity}: {len(made)} images in {options.out}. Train on it with: "
          f"{command_lines.launch(train, stated=['benchmark'])}")  # fmt: skip
