"""python -m rd3_utils score: LRS and ARS of accuracies that you know, and whether one image set beats another, as JSON.

    python -m rd3_utils score lrs --full-hard 0.85 --distilled-hard 0.45 --distilled-soft 0.60 --random-soft 0.55
    python -m rd3_utils score compare results/.../SET_A/convnet3/distilled-soft results/.../SET_B/convnet3/distilled-soft

Needs no network and no torch, so it answers at once.
"""

import glob
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rd3_utils.errors import UserError
from rd3_utils.scoring import results, scores, significance
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.runs import Run

LRS = "full-hard distilled-hard distilled-soft random-soft random-hard".split()
ARS = "distilled-aug random-aug distilled-plain random-plain".split()
AS_CODED = "DD-Ranking v0.2.0: percentage points inside exp(), so no score in [0, 1]"


def add_options(parser: ArgumentParser) -> None:
    """Options of `score`: one subcommand for each kind."""
    kinds = parser.add_subparsers(dest="score", required=True, metavar="lrs|ars|compare")
    lrs = kinds.add_parser("lrs", help="HLR, IOR, alpha and LRS; accuracies as fractions")
    for name in LRS:
        lrs.add_argument(f"--{name}", type=float, metavar="TOP1", required=name in LRS[:2])
    lrs.add_argument("--weight", type=float, default=scores.WEIGHT, help="of IOR (default: %(default)s)")
    ars = kinds.add_parser("ars", help="beta and ARS; accuracies as fractions")
    for name in ARS:
        ars.add_argument(f"--{name}", type=float, metavar="TOP1", required=True)
    ars.add_argument("--gamma", type=float, default=scores.WEIGHT, help="of the gain with augmentation (default: %(default)s)")
    for parser in (lrs, ars):
        parser.add_argument("--as-coded", action="store_true", help="what DD-Ranking's public code prints: percent into exp()")
    compare = kinds.add_parser("compare", help="t-test of the difference in top-1 between two sets of runs")
    for name in ("a", "b"):
        compare.add_argument(name, metavar=f"RUNS_DIR_{name.upper()}", help="folder that holds seed*.json; a quoted pattern "
                             "such as 'results/*/*/random-ipc1-*/convnet3/random-soft' names several draws")  # fmt: skip


def run(options: Namespace) -> None:
    """Print the score as JSON."""
    print(json.dumps(KINDS[options.score](options), indent=1, allow_nan=False))


def of_lrs(options: Namespace) -> dict:
    """{"hlr", "ior", "alpha", "lrs", ...} of the options of `score lrs`."""
    check_fractions(options, [name for name in LRS if value_of(options, name) is not None], "weight")
    soft, hard = (options.distilled_soft, options.random_soft), options.random_hard
    if (hard is None) == (None in soft) or (hard is not None and soft != (None, None)):
        raise UserError("give --distilled-soft and --random-soft, or --random-hard alone for a set with hard labels.")
    hlr = scores.hlr(options.full_hard, options.distilled_hard)
    ior = scores.ior(*soft) if hard is None else scores.ior(options.distilled_hard, hard)
    alpha = scores.alpha(hlr, ior, options.weight)
    labels = "soft" if hard is None else "hard"
    return as_json(
        {"hlr": hlr, "ior": ior, "alpha": alpha}, "lrs", alpha, {"weight": options.weight, "labels": labels}, options.as_coded
    )


def of_ars(options: Namespace) -> dict:
    """{"beta", "ars", ...} of the options of `score ars`."""
    check_fractions(options, ARS, "gamma")
    beta = scores.beta(options.distilled_aug, options.random_aug, options.distilled_plain, options.random_plain, options.gamma)
    return as_json({"beta": beta}, "ars", beta, {"gamma": options.gamma}, options.as_coded)


def as_json(parts: dict, name: str, exponent: scores.Values, stated: dict, as_coded: bool) -> dict:
    """The JSON of a score: fractions, or what the public code prints, in percentage points and without bounds."""
    if as_coded:
        parts = {key: 100 * value for key, value in parts.items()}
        return {**parts, name: scores.as_coded(exponent), **stated, "as_coded": AS_CODED}
    return {**parts, name: scores.normalised(exponent), **stated}


def check_fractions(options: Namespace, names: Iterable[str], weight: str) -> None:
    """UserError, in the words of the command line, for a value that is no fraction."""
    scores.check(**{f"--{name}": value_of(options, name) for name in (*names, weight)})


def value_of(options: Namespace, name: str) -> Any:
    return getattr(options, name.replace("-", "_"))


def of_compare(options: Namespace) -> dict:
    """significance.comparison of the Runs in two folders."""
    return significance.comparison(*(runs_in(where) for where in (options.a, options.b)))


def runs_in(where: str) -> list[Run]:
    """The Runs of the folder `where`, or of all folders that it matches as a pattern."""
    folders = [where] if Path(where).is_dir() else sorted(glob.glob(where))
    files = [file for folder in folders for file in results.seeds_in(folder)]
    if not files:
        raise UserError(f"no seed*.json in '{where}'; give the folder of an arm, such as results/.../convnet3/distilled-soft.")
    return [run_files.read(file) for file in files]


KINDS = {"lrs": of_lrs, "ars": of_ars, "compare": of_compare}
