"""Mean accuracies and scores of one student's Runs, with 95 % bootstrap intervals: fractions, plain data.

Resampled are the draws of random images, each with its seeds; of one draw and of a set that is not drawn, the seeds. Arms on
the same draws share which draws a resample holds. No interval (None, None) where an arm has a single Run or nothing varies, for
nothing is then known of the spread. What bootstrap intervals of few Runs are worth stands in scoring/bootstrap.py.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rd3_utils.protocols.benchmark import Citation
from rd3_utils.scoring import bootstrap, scores
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.runs import Run

ENOUGH_DRAWS = 3  # of random images; a score of fewer says so


def of_arm(runs: Sequence[Run]) -> dict:
    """The summary of `runs` (runs.summary), all of one arm, with the interval of their mean: {..., "low", "high"}."""
    low, high = interval_of(resampled_means(runs))
    return {**run_files.summary(runs), "low": low, "high": high}


def resampled_means(runs: Sequence[Run]) -> np.ndarray | None:
    """[R]: the mean top-1 in every resample of `runs`, all of one arm; None of a single Run.

    Widening can carry a mean near 0 or 1 beyond it; there it ends, as accuracies do.
    """
    if len(runs) < 2:
        return None
    by_draw = run_files.grouped(sorted(runs, key=lambda run: run.seed), lambda run: run.draw)
    draws = sorted(by_draw, key=lambda draw: -1 if draw is None else draw)
    chosen = bootstrap.resample_indices(len(draws), bootstrap.generator("draws", *draws)) if len(draws) > 1 else None  # [R, D]
    clusters = [[run.top1 for run in by_draw[draw]] for draw in draws]
    return bootstrap.means(clusters, bootstrap.generator("seeds", runs[0].arm), chosen).clip(0, 1)


def interval_of(samples: np.ndarray | None) -> tuple[float | None, float | None]:
    """(low, high) of `samples` [R] or None; None, None also where nothing varies: equal values say nothing of their spread."""
    low, high = (None, None) if samples is None else bootstrap.interval(samples)
    return (None, None) if low == high else (low, high)


def of_scores(arms: dict[str, list[Run]], cited: Citation | None = None) -> dict:
    """HLR, IOR, LRS and ARS as far as the arms are there: {"hlr": estimate, ...}; `arms` is {arm: Runs}.

    An estimate is {"value", "low", "high", "n", "per_run_mean", "std", "arms", "draws", ...}:

        value         the score of the arms' mean accuracies, so that the table of arms gives it again
        low, high     its 95 % interval: of every resample of all arms, the score of its means
        n, per_run_mean, std   over runs as DD-Ranking has them (a seed, with each draw of random images): of their n scores
                      the mean and the sample standard deviation (n - 1). Where all arms have all runs, per_run_mean of HLR
                      and IOR is value; of LRS and ARS it is above value, exp being convex, by less than the variance of
                      alpha or beta: by 0.0001 where that varies by 0.01.
        arms          what it is computed from; "draws": how many draws of random images, None where none are
        weight, gamma of LRS and ARS; "cited": the source where full-hard is not measured, which no interval then covers

    `cited` is the Citation that takes the place of full-hard, or None.
    """
    estimates, there = {}, {*arms, *(["full-hard"] if cited else [])}
    kind = "soft" if {"distilled-soft", "random-soft"} <= there else "hard"
    pair = [f"distilled-{kind}", f"random-{kind}"]
    recovery = ["full-hard", "distilled-hard"]
    four = ["distilled-soft", "random-soft", "distilled-plain", "random-plain"]

    wanted: dict[str, tuple[list[str], Callable[..., Any], dict]] = {
        "hlr": (recovery, scores.hlr, {}),
        "ior": (pair, scores.ior, {}),
        "lrs": (
            [*recovery, *pair],
            lambda a, b, c, d: scores.lrs(scores.hlr(a, b), scores.ior(c, d)),
            {"weight": scores.WEIGHT},
        ),
        "ars": (four, scores.ars, {"gamma": scores.WEIGHT}),
    }
    samples = {arm: resampled_means(runs) for arm, runs in arms.items()}
    for name, (needed, score, stated) in wanted.items():
        if set(needed) <= there:
            estimates[name] = {**estimate(needed, score, arms, samples, cited if "full-hard" in needed else None), **stated}
    return estimates


def estimate(
    needed: list[str],
    score: Callable[..., Any],
    arms: dict[str, list[Run]],
    samples: dict[str, np.ndarray | None],
    cited: Citation | None,
) -> dict:
    """One estimate: `score` of the arms `needed`; see `of_scores`."""
    measured = [arm for arm in dict.fromkeys(needed) if not (cited and arm == "full-hard")]

    def score_of(values: dict) -> Any:
        return score(*(values.get(arm, cited and cited.top1) for arm in needed))

    value = score_of({arm: statistics.fmean(run.top1 for run in arms[arm]) for arm in measured})
    known = all(samples[arm] is not None for arm in measured)
    low, high = interval_of(score_of({arm: samples[arm] for arm in measured}) if known else None)
    single = [float(score_of(values)) for values in joined({arm: arms[arm] for arm in measured})]
    draws = [len({run.draw for run in arms[arm]}) for arm in measured if arm.startswith("random-")]
    return {
        "value": float(value),
        "low": low,
        "high": high,
        "n": len(single),
        "per_run_mean": statistics.fmean(single) if single else None,
        "std": run_files.spread(single),
        "arms": needed,
        "draws": min(draws, default=None),
        "cited": cited.source if cited else None,
    }


def joined(arms: dict[str, list[Run]]) -> list[dict]:
    """[{arm: top1}] of every seed, and every draw of random images, that all of `arms` {arm: Runs} have.

    Random images may be given as --distilled, too: one draw of them is then one set, beside every draw of a random arm.
    """
    one_set = {arm for arm, runs in arms.items() if not arm.startswith("random-") and len({run.draw for run in runs}) == 1}
    top1 = {arm: {(None if arm in one_set else run.draw, run.seed): run.top1 for run in runs} for arm, runs in arms.items()}
    every = {key for accuracies in top1.values() for key in accuracies}
    keys = {(draw, seed) for draw, seed in every if draw is not None} or every
    rows = []
    for draw, seed in sorted(keys, key=str):
        values = {arm: accuracies.get((draw, seed), accuracies.get((None, seed))) for arm, accuracies in top1.items()}
        rows += [values] if None not in values.values() else []
    return rows


def few_draws(estimate: dict) -> bool:
    """Whether an estimate rests on fewer draws of random images than it should."""
    return estimate["draws"] is not None and estimate["draws"] < ENOUGH_DRAWS


def across(arms: dict[str, dict[str, dict]]) -> dict | None:
    """Students x arms: {"best": {arm: student}, "drop": {student: {arm: how far its mean is below the best's}}}; None for one.

    `arms` is {student: {arm: summary}}; an arm that a single student has is left out.
    """
    means: dict[str, dict[str, float]] = {}
    for student, summaries in arms.items():
        for arm, summary in summaries.items():
            means.setdefault(arm, {})[student] = summary["mean"]
    means = {arm: by_student for arm, by_student in means.items() if len(by_student) > 1}
    best = {arm: max(by_student, key=by_student.__getitem__) for arm, by_student in means.items()}
    drop = {
        student: {
            arm: by_student[best[arm]] - by_student[student] for arm, by_student in means.items() if student in by_student
        }
        for student in arms
    }
    return {"best": best, "drop": drop} if means else None
