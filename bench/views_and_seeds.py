"""How much of a student's luck is its views, and how much its seed: the figure and the table of docs/statistics.md.

    python bench/views_and_seeds.py --benchmark cifar10 --data-dir DIR --distilled synthesized/cifar10/rded-ipc1

Trains --seeds students under each of --views draws of views, with soft and with hard labels of rd3-v1 and under hard-label-v1,
which has no random views, and writes docs/views-and-seeds.json and .png. What is there is kept. Without options it takes the
embedded digits. 54 students of CIFAR-10 at one image per class: half an hour of one CPU thread.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
from rd3_utils.publishing import plots  # noqa: E402
from rd3_utils.scoring.results import Results  # noqa: E402

RECIPES = ("rd3-v1", "distilled-soft"), ("rd3-v1", "distilled-hard"), ("hard-label-v1", "distilled-hard")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="digits")
    parser.add_argument("--data-dir", metavar="DIR")
    parser.add_argument("--distilled", metavar="SOURCE", default="digits-dm-ipc1")
    parser.add_argument("--views", type=int, default=6, help="draws of views (default: 6)")
    parser.add_argument("--seeds", type=int, default=3, help="students of each draw (default: 3)")
    parser.add_argument("--work", metavar="DIR", default="results/views-and-seeds", help="folder of Runs and labels")
    parser.add_argument("--out", metavar="STEM", default="docs/views-and-seeds")
    options = parser.parse_args()
    found = {
        f"{protocol}, {arm.partition('-')[2]} labels": [runs_of(options, protocol, arm, draw) for draw in range(options.views)]
        for protocol, arm in RECIPES
    }
    tables = {name: np.array([[run.top1 for run in runs] for runs in rows]) for name, rows in found.items()}
    first = next(iter(found.values()))[0][0]
    told = {"benchmark": first.benchmark, "images": first.images.identity, "student": first.student}
    told["top1"] = {name: values.tolist() for name, values in tables.items()}
    stem = Path(options.out)
    stem.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    draw_figure(tables, stem.with_suffix(".png"))
    for recipe, values in tables.items():
        print(recipe, *(f"{name} {100 * value:.2f}" for name, value in deviations(values).items()), sep="  ")


def runs_of(options, protocol, arm, draw):
    """The Runs of all seeds under draw `draw` of the views, trained where they are missing."""
    out = Path(options.work) / f"views{draw}"  # a folder of results holds one views seed
    where = ["--benchmark", options.benchmark, *(["--data-dir", options.data_dir] if options.data_dir else [])]
    what = ["--protocol", protocol, "--arms", arm, "--distilled", options.distilled, "--views-seed", str(draw)]
    what += ["--teacher", "default"] if arm.endswith("soft") else []
    seeds = ["--seeds", ",".join(map(str, range(options.seeds)))]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", PROJECT / "accelerate_configs/cpu.yaml"]
    labels = ["--soft-labels", Path(options.work) / "soft_labels"]
    command = [*launch, PROJECT / "train_student.py", *where, *what, *seeds, "--out", out, *labels, "--runs-only"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    found = [run for _, run in Results(out).runs_of(options.benchmark)[0] if (run.protocol.name, run.arm) == (protocol, arm)]
    return sorted(found, key=lambda run: run.seed)[: options.seeds]


def deviations(values):
    """Standard deviations of `values` [draws of views, seeds], in fractions of top-1.

    "within": of the students of one draw, pooled; "draws": of the draws' means; "all": of all students as one sample. Of the
    two-way table with random effects (Searle, Casella & McCulloch, Variance Components, 1992, chapter 4): "views", "seeds" and
    "rest", what a view adds to every seed, a seed to every draw, and both together beyond that.
    """
    draws, seeds = values.shape
    by_draw, by_seed = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = ((values - by_draw - by_seed + values.mean()) ** 2).sum() / ((draws - 1) * (seeds - 1))
    of_views, of_seeds = by_draw.var(ddof=1) - rest / seeds, by_seed.var(ddof=1) - rest / draws
    told = {"within": values.var(1, ddof=1).mean(), "draws": by_draw.var(ddof=1), "all": values.var(ddof=1)}
    told |= {"views": max(of_views, 0), "seeds": max(of_seeds, 0), "rest": rest}
    return {name: float(variance) ** 0.5 for name, variance in told.items()}


def draw_figure(tables, path):
    """One panel a recipe: a column per draw of views, a mark per student, each seed its own; lines are means of draws."""
    figure = plots.new_figure(10, 3.2, layout="constrained")
    for axes, (recipe, values) in zip(figure.subplots(1, len(tables)), tables.items()):
        for seed, column in enumerate(values.T):
            axes.plot(100 * column, "osD^v"[seed % 5], label=f"seed {seed}", color=list(plots.COLOURS.values())[seed % 7])
        axes.hlines(
            100 * values.mean(1), np.arange(len(values)) - 0.3, np.arange(len(values)) + 0.3, color="black", linewidth=1
        )
        told = deviations(values)
        axes.set_title(f"{recipe}\n{100 * told['within']:.2f} within a draw, {100 * told['all']:.2f} over all", fontsize=9)
        axes.set(xlabel="draw of views (--views-seed)", ylabel="top-1 (%)", xticks=range(len(values)))
    figure.axes[-1].legend(fontsize=8, frameon=False, loc="center")
    plots.save_figure(figure, path)


if __name__ == "__main__":
    main()
