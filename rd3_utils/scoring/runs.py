"""Run: one arm, one seed, one student; one JSON file that is written once and kept. Report: statistics over Runs.

results/<benchmark>/<protocol>-<digest>/<images>@<fingerprint8>/<student>/<arm>/seed<K>.json
"""

import json
import math
import os
import re
import statistics
from pathlib import Path

from rd3_utils.errors import UserError

SCHEMA = 2
READABLE = 1, 2


def path(root, benchmark, protocol, digest, identity, student, arm, seed, precision="fp32"):
    """Where the Run lies under `root`; runs in another precision than fp32 lie in folders of their own."""
    student = student if precision == "fp32" else f"{student}-{precision}"
    return Path(root) / benchmark / f"{protocol}-{digest}" / identity / student / arm / f"seed{seed}.json"


def path_of(root, run):
    """Where `run` itself lies under `root`."""
    protocol = run["protocol"]
    names = run["benchmark"], protocol["name"], protocol["digest"], identity_of_images(run), run["student"], run["arm"]
    return path(root, *names, run["seed"], run["environment"]["precision"])


def identity_of_images(run):
    """NAME@FINGERPRINT8 of the images of `run`, as ImageSet.identity."""
    return f"{run['images']['name']}@{run['images']['fingerprint'][:8]}"


def write(where, run):
    """Write `run` (plain data) to `where`: temporary name, renamed; an existing file is kept."""
    if where.exists():
        return
    where.parent.mkdir(parents=True, exist_ok=True)
    temporary = where.with_suffix(".partial")
    temporary.write_text(json.dumps(run, indent=1, allow_nan=False) + "\n")
    os.replace(temporary, where)


def agreed(where, run):
    """`run`, or the Run that is at `where` already, if the student was trained once more; UserError if it scored otherwise."""
    kept = read(where)
    if kept is not None and kept["top1"] != run["top1"]:
        raise UserError(
            f"{where} has top-1 {kept['top1']:.4f}, and the same student trained again to keep its network has "
            f"{run['top1']:.4f} (another machine, or other processes or threads); give another --out."
        )
    return run if kept is None else kept


def read(where):
    """The Run at `where` as plain data, or None if the file is not there; UserError if it is none."""
    if not where.is_file():
        return None
    try:
        run = json.loads(where.read_text())
        if run["schema"] not in READABLE:
            raise ValueError(f"schema {run['schema']}, wanted {SCHEMA}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is no Run of this project ({type(error).__name__}: {error}); remove the file.") from error
    return run


def learning_rate_search(folder, views_seed):
    """The learning-rate search that a Run in `folder` (other seeds of one arm, images and student) records, or None."""
    found = (read(file) for file in sorted(folder.glob("seed*.json")))
    searches = [run.get("learning_rate_search") for run in found if run["views_seed"] == views_seed]
    return next(filter(None, searches), None)


def related(root, run):
    """All Runs under `root` for the benchmark of `run`, in its precision: any protocol, images, student, arm and seed."""
    found = []
    for file in sorted((Path(root) / run["benchmark"]).glob("*/*/*/*/seed*.json")):
        other = read(file)
        same = all(other.get(key) == run[key] for key in ("benchmark", "schema"))
        if same and other["environment"]["precision"] == run["environment"]["precision"]:
            found.append(other)
    return found


def draw_of(run):
    """The draw number of a Run on random images, else None."""
    match = re.match(r"random:ipc=\d+,seed=(\d+)", run["images"]["source"])
    return int(match[1]) if match else None


def summary(runs):
    """{"mean", "std", "n", "std_seeds", "std_draws", "seeds", "draws"} of the top-1 of `runs`, all of one arm.

    std is the sample standard deviation (n - 1) over all runs; std_seeds the pooled one over seeds within a draw;
    std_draws the one over the means of the draws (None where there is one draw). None where a single value has no spread.
    """
    by_draw = {}
    for run in runs:
        by_draw.setdefault(draw_of(run), []).append(run["top1"])
    values = [value for group in by_draw.values() for value in group]
    free = sum(len(group) - 1 for group in by_draw.values())
    within = sum(sum((v - statistics.fmean(group)) ** 2 for v in group) for group in by_draw.values())
    return {
        "mean": statistics.fmean(values),
        "std": spread(values),
        "n": len(values),
        "std_seeds": math.sqrt(within / free) if free else None,
        "std_draws": spread([statistics.fmean(group) for group in by_draw.values()]),
        "seeds": sorted({run["seed"] for run in runs}),
        "draws": sorted(draw for draw in by_draw if draw is not None),
    }


def spread(values):
    """Sample standard deviation, or None of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def grouped(items, key):
    """{key(item): [items]} in order of appearance: of Runs, and of what is made of them."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
