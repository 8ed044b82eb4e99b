"""Report: what the card, the terminal and a leaderboard all show of the Runs of one command.

Statistics per arm, the scores that the arms allow, and how much of the accuracy is recipe and how much is data where
another protocol was run on the same images.
"""

import statistics

from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring import scores


def report(runs, others=()):
    """{"arms": {student: {arm: summary}}, "scores": {student: {...}}, "comparison": {student: {...}}} over `runs`.

    `others` are further Runs of the same benchmark and students (run_files.related), for the comparison.
    """
    students = sorted({run["student"] for run in runs})
    arms = {}
    for student in students:
        mine = [run for run in runs if run["student"] == student]
        names = sorted({run["arm"] for run in mine}, key=order_of)
        arms[student] = {arm: run_files.summary([run for run in mine if run["arm"] == arm]) for arm in names}
    return {
        "arms": arms,
        "scores": {student: score(arms[student]) for student in students},
        "comparison": {
            student: comparison([r for r in runs if r["student"] == student], [r for r in others if r["student"] == student])
            for student in students
        },
    }


ORDER = "distilled-soft random-soft distilled-hard random-hard distilled-plain random-plain full-hard".split()


def order_of(arm):
    """Arms as people read them: distilled before random, soft before hard."""
    return (ORDER.index(arm), arm) if arm in ORDER else (len(ORDER), arm)


def score(arms):
    """HLR, IOR, LRS and ARS of mean accuracies, as far as the arms are there: {"hlr": ..., "lrs": ...}."""
    mean = {arm: summary["mean"] for arm, summary in arms.items()}
    found = {}
    kind = "soft" if {"distilled-soft", "random-soft"} <= mean.keys() else "hard"
    if {"full-hard", "distilled-hard"} <= mean.keys():
        found["hlr"] = scores.hlr(mean["full-hard"], mean["distilled-hard"])
    if {f"distilled-{kind}", f"random-{kind}"} <= mean.keys():
        found["ior"] = scores.ior(mean[f"distilled-{kind}"], mean[f"random-{kind}"])
    if {"hlr", "ior"} <= found.keys():
        found["lrs"] = scores.lrs(found["hlr"], found["ior"])
    four = ("distilled-soft", "random-soft", "distilled-plain", "random-plain")
    if set(four) <= mean.keys():
        found["ars"] = scores.ars(*(mean[arm] for arm in four))
    return found


def comparison(runs, others):
    """How much is recipe and how much is data, as differences of means in a table images x protocols; None without one.

    {"protocols": [a, b], "cells": {"distilled": {a: mean, b: mean}, "random": {...}}, "recipe", "data"}: `recipe` is the
    mean gain from a to b over both image sets, `data` the mean gain from random to distilled images over both protocols.
    b is the protocol of `runs` (full-hard aside, which always follows teacher-v1); a the other protocol with the most
    runs on the same images, a released one if there is one.
    """
    mine = protocol_of(next((run for run in runs if run["arm"] != "full-hard"), runs[0]))
    images = {(run["arm"].partition("-")[0], run["images"]["fingerprint"]) for run in runs}
    cells = {}
    for run in [*runs, *(other for other in others if protocol_of(other) != mine)]:
        side, _, labels = run["arm"].partition("-")
        if (side, run["images"]["fingerprint"]) not in images:
            continue
        if side in ("distilled", "random") and labels == run["protocol"]["main_labels"]:
            cells.setdefault(protocol_of(run), {}).setdefault(side, []).append(run["top1"])
    full = {p: c for p, c in cells.items() if set(c) == {"distilled", "random"}}
    rest = sorted((p for p in full if p != mine), key=lambda p: ("custom" in p, -sum(len(v) for v in full[p].values()), p))
    if mine not in full or not rest:
        return None
    a, b = rest[0], mine
    mean = {side: {p: statistics.fmean(full[p][side]) for p in (a, b)} for side in ("distilled", "random")}
    return {
        "protocols": [a, b],
        "cells": mean,
        "recipe": statistics.fmean([mean[side][b] - mean[side][a] for side in mean]),
        "data": statistics.fmean([mean["distilled"][p] - mean["random"][p] for p in (a, b)]),
    }


def protocol_of(run):
    """The protocol as outputs name it; a custom one carries its digest."""
    protocol = run["protocol"]
    return protocol["name"] if not protocol["overrides"] else f"{protocol['name']} (custom {protocol['digest']})"


def sentence(comparison):
    """ "The recipe adds X points, the data Y": one sentence for people, in percentage points."""
    a, b = comparison["protocols"]
    return (
        f"The recipe adds {points(comparison['recipe'])} points ({b} instead of {a}, mean over both image sets), "
        f"the data {points(comparison['data'])} (distilled instead of random images, mean over both recipes)."
    )


SCORES = {  # key -> name, factor and unit for people, meaning
    "hlr": ("HLR", 100, " points", "hard label recovery: top-1 of full-hard (all real images, always under teacher-v1) "
            "less that of distilled-hard; smaller is better"),
    "ior": ("IOR", 100, " points", "improvement over random: top-1 of the distilled images less that of as many random "
            "real images with the same recipe and labels; larger is better"),
    "lrs": ("LRS", 1, "", "label robust score in [0, 1], from HLR and IOR as in DD-Ranking (arXiv 2505.13300), computed "
            "on fractions: 0.269 where neither gains nor loses; larger is better"),
    "ars": ("ARS", 1, "", "augmentation robust score in [0, 1], from the gains over random images with and without "
            "augmentation as in DD-Ranking (arXiv 2505.13300), computed on fractions: 0.269 without a gain; larger is "
            "better"),
}  # fmt: skip


def named_scores(scores):
    """[(name, value with its unit, meaning)] of one student's scores, for people."""
    found = [(*SCORES[key], scores[key]) for key in SCORES if key in scores]
    return [(name, f"{factor * x:.{2 if unit else 3}f}{unit}", meaning) for name, factor, unit, meaning, x in found]


def points(fraction):
    """A difference of fractions in percentage points, one decimal, with its sign only where negative."""
    return f"{100 * fraction:.1f}"


def percent(fraction, digits=2):
    """A fraction as percent for a person, or a dash."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def duration(seconds):
    """Seconds as a person says them."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def table(report):
    """The score table as rows of text: header, then one row per student and arm; accuracies in percent."""
    rows = [["student", "arm", "top-1 %", "std", "n", "std over seeds", "std over draws"]]
    for student, arms in report["arms"].items():
        for arm, s in arms.items():
            values = [s["mean"], s["std"]], s["n"], [s["std_seeds"], s["std_draws"]]
            rows.append([student, arm, *map(percent, values[0]), str(values[1]), *map(percent, values[2])])
    return rows
