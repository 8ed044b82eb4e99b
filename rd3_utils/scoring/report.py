"""Report: what the card, the terminal and a leaderboard all show of the Runs of one command.

Statistics per arm, the scores that the arms allow, students side by side, and how much of the accuracy is recipe and how much
is data where another protocol was run on the same images.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.benchmark import Citation
from rd3_utils.scoring import bootstrap, estimates, measure
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.runs import Run


def report(runs: Sequence[Run], others: Sequence[Run] = (), cited: dict[str, list[Citation]] | None = None) -> dict:
    """What is known of `runs`, by student: plain data, accuracies and differences as fractions.

        arms        {student: {arm: estimates.of_arm}}
        scores      {student: {"hlr" | "ior" | "lrs" | "ars": estimates.of_scores}}, as far as the arms are there
        cited       {student: [{"student", "top1", "source"}]}: published full-data accuracies; the first is taken for full-hard
        students    estimates.across, where there are several
        comparison  {student: recipe or data, see `recipe_or_data`}
        interval    how all the intervals are made

    `others` are further Runs of the same benchmark and students (Results.related), for the comparison. `cited` is
    {student: [Citation]} or None.
    """
    students, cited = sorted({run.student for run in runs}), cited or {}
    by_arm: dict[str, dict[str, list[Run]]] = {}
    for student in students:
        mine = run_files.grouped((run for run in runs if run.student == student), lambda run: run.arm)
        by_arm[student] = {arm: mine[arm] for arm in sorted(mine, key=order_of)}
    arms = {student: {arm: estimates.of_arm(of_one_arm) for arm, of_one_arm in by_arm[student].items()} for student in students}
    return {
        "arms": arms,
        "scores": {student: estimates.of_scores(by_arm[student], *cited.get(student, [])[:1]) for student in students},
        "cited": {student: [dataclasses.asdict(one) for one in cited[student]] for student in students if student in cited},
        "students": estimates.across(arms),
        "comparison": {
            student: recipe_or_data([r for r in runs if r.student == student], [r for r in others if r.student == student])
            for student in students
        },
        "interval": {"confidence": bootstrap.CONFIDENCE, "method": bootstrap.METHOD, "resamples": bootstrap.RESAMPLES},
    }


ORDER = "distilled-soft random-soft distilled-hard random-hard distilled-plain random-plain full-hard".split()


def order_of(arm: str) -> tuple[int, str]:
    """Arms as people read them: distilled before random, soft before hard."""
    return (ORDER.index(arm), arm) if arm in ORDER else (len(ORDER), arm)


def recipe_or_data(runs: Sequence[Run], others: Iterable[Run]) -> dict | None:
    """How much is recipe and how much is data, as differences of means in a table images x protocols; None without one.

    {"protocols": [a, b], "cells": {"distilled": {a: mean, b: mean}, "random": {...}}, "recipe", "data"}: `recipe` is the
    mean gain from a to b over both image sets, `data` the mean gain from random to distilled images over both protocols.
    One is the protocol of `runs` (full-hard aside, which always follows teacher-v1), one the other protocol with the most
    Runs on the same images, a released one if there is one. Of the two, a is the one with hard labels, else the first by name:
    whichever was trained last. Only Runs that measured the same but for the protocol are taken.
    """
    mine = recipe_key(next((run for run in runs if run.arm != "full-hard"), runs[0]))
    sides = {(run.arm.partition("-")[0], run.images.fingerprint): run for run in runs}
    by_recipe: dict[RecipeKey, list[Run]] = {}
    for run in [*runs, *(other for other in others if recipe_key(other) != mine)]:
        side, _, labels = run.arm.partition("-")
        counterpart = sides.get((side, run.images.fingerprint))
        if counterpart is None or side not in ("distilled", "random") or labels != run.protocol.main_labels:
            continue
        if measure.same_measure(counterpart, run, but={"arm", *measure.PROTOCOLS}):
            by_recipe.setdefault(recipe_key(run), []).append(run)
    full = {key: cells for key, alternatives in by_recipe.items() if (cells := both_sides(alternatives))}
    rest = sorted((key for key in full if key != mine), key=lambda key: (key.own, -sum(map(len, full[key].values())), key))
    if mine not in full or not rest:
        return None
    pair = sorted((rest[0], mine))
    a, b = (key.label(by_recipe) for key in pair)
    mean = {side: {key.label(by_recipe): statistics.fmean(full[key][side]) for key in pair} for side in ("distilled", "random")}
    return {
        "protocols": [a, b],
        "cells": mean,
        "recipe": statistics.fmean([mean[side][b] - mean[side][a] for side in mean]),
        "data": statistics.fmean([mean["distilled"][p] - mean["random"][p] for p in (a, b)]),
    }


def both_sides(runs: Iterable[Run]) -> dict[str, list[float]] | None:
    """{"distilled": [top1], "random": [top1]} of those of `runs`, of one protocol, that were told the same; None without both.

    Labels of other teachers or views seeds are another measurement: of several the one with the most Runs counts.
    """
    tables = []
    for same in measure.alike(runs, measure.OF_ARMS - measure.TOLD):
        sides = run_files.grouped(same, lambda run: run.arm.partition("-")[0])
        if len(sides) == 2:
            tables.append((len(same), min(map(measure.kind, same)), {side: [r.top1 for r in sides[side]] for side in sides}))
    return max(tables)[-1] if tables else None


@dataclass(frozen=True, order=True)
class RecipeKey:
    """A protocol of a comparison, in the order in which they are named: hard labels, released ones, then by name."""

    soft: bool
    own: bool  # not a released protocol as it is
    name: str
    changed: bool  # with --set
    digest: str

    def label(self, others: Iterable["RecipeKey"]) -> str:
        """How outputs name it; with its digest where it is custom, or another one has its name: an own file that was edited."""
        if self.changed:
            return f"{self.name} (custom {self.digest})"
        edited = any((other.name, other.changed) == (self.name, False) and other != self for other in others)
        return f"{self.name} ({self.digest})" if edited else self.name


def recipe_key(run: Run) -> RecipeKey:
    protocol, changed = run.protocol, bool(run.protocol.overrides)
    own = changed or protocol.name not in protocols.names()
    return RecipeKey(protocol.main_labels != "hard", own, protocol.name, changed, protocol.digest)


def protocol_text(run: Run) -> str:
    """The protocol as outputs name it; a custom one carries its digest."""
    return recipe_key(run).label(())


def sentence(comparison: dict) -> str:
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


def named_scores(scores: dict) -> list[tuple[str, str, str, str, str, str]]:
    """[(name, value with its unit, interval, std, n, meaning)] of one student's scores, as text for people."""
    rows = []
    for key, (name, factor, unit, meaning) in SCORES.items():
        if key in scores:
            estimate, digits = scores[key], 2 if unit else 3
            value, std = (shown_value(estimate[part], factor, digits) for part in ("value", "std"))
            rows.append((name, f"{value}{unit}", interval_text(estimate, factor, digits), std, str(estimate["n"]), meaning))
    return rows


def score_sentences(report: dict, student: str) -> list[str]:
    """One plain sentence per score of `student` that combines others: what its number says about the images."""
    scores, arms = report["scores"][student], report["arms"][student]
    sentences = []
    if "lrs" in scores:
        lrs, (_, hard, distilled, _) = scores["lrs"], scores["lrs"]["arms"]
        full = report["cited"][student][0]["top1"] if lrs["cited"] else arms["full-hard"]["mean"]
        text = (
            f"{named_score(scores, 'lrs')}: with {WITH[distilled.split('-')[1]]} the set is {gain(scores['ior']['value'])} "
            f"than as many random real images; with plain classes it reaches {percent(arms[hard]['mean'])} % where all real "
            f"images reach {percent(full)} %."
        )
        text += f" The latter is cited ({lrs['cited']}), not measured here, and no interval covers it." if lrs["cited"] else ""
        sentences.append(text + few(lrs))
    if "ars" in scores:
        mean = {arm: arms[arm]["mean"] for arm in scores["ars"]["arms"]}
        sentences.append(
            f"{named_score(scores, 'ars')}: with the recipe's augmentation the set is "
            f"{gain(mean['distilled-soft'] - mean['random-soft'])} than as many random real images, without any "
            f"{gain(mean['distilled-plain'] - mean['random-plain'])}.{few(scores['ars'])}"
        )
    if not sentences and "ior" in scores and few(scores["ior"]):
        sentences.append(f"IOR:{few(scores['ior'])}")
    return sentences


def cited_sentences(report: dict, student: str) -> list[tuple[float, str]]:
    """[(top1, source)] of the published full-data accuracies of `student`, the one that is taken for full-hard first."""
    return [(one["top1"], one["source"]) for one in report["cited"].get(student, [])]


WITH = {"soft": "the soft labels of the recipe", "hard": "plain classes as labels"}


def named_score(scores: dict, key: str) -> str:
    """ "LRS 0.312 (95 % 0.301 to 0.322)" """
    ((name, value, between, *_),) = named_scores({key: scores[key]})
    none = "no interval: an arm has a single student, or none differ"
    return f"{name} {value} ({none if between == '-' else f'95 % {between}'})"


def gain(difference: float) -> str:
    """ "4.0 points better", or worse."""
    return f"{points(abs(difference))} points {'better' if difference >= 0 else 'worse'}"


def few(estimate: dict) -> str:
    """What to say of a score on fewer draws of random images than it should have."""
    if not estimates.few_draws(estimate):
        return ""
    draws = "a single draw" if estimate["draws"] == 1 else f"{estimate['draws']} draws"
    return f" It rests on {draws} of random images; a score should have at least {estimates.ENOUGH_DRAWS}."


def interval_text(estimate: dict, factor: float = 100, digits: int = 2) -> str:
    """ "25.13 to 26.02", or a dash where there is none."""
    low, high = estimate["low"], estimate["high"]
    return "-" if low is None else f"{shown_value(low, factor, digits)} to {shown_value(high, factor, digits)}"


def shown_value(value: float | None, factor: float = 100, digits: int = 2) -> str:
    """A number times `factor` for a person, or a dash."""
    return "-" if value is None else f"{factor * value:.{digits}f}"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, one decimal, with its sign only where negative."""
    return f"{100 * fraction:.1f}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as percent for a person, or a dash."""
    return shown_value(fraction, 100, digits)


def scores_table(report: dict) -> list[list[str]]:
    """The arms as rows of text: header, then one row per student and arm; accuracies in percent."""
    rows = [["student", "arm", "top-1 %", "95 % interval", "std", "n", "std over seeds", "std over draws"]]
    for student, arms in report["arms"].items():
        for arm, s in arms.items():
            spreads = percent(s["std"]), str(s["n"]), percent(s["std_seeds"]), percent(s["std_draws"])
            rows.append([student, arm, percent(s["mean"]), interval_text(s), *spreads])
        if student in report["cited"]:
            rows.append([student, "full-hard, cited", percent(report["cited"][student][0]["top1"]), *["-"] * 5])
    return rows


def students_table(report: dict) -> list[list[str]]:
    """Students x arms as rows of text: mean top-1 in percent, and how many points below the best student of the arm."""
    compared = report["students"]
    rows = [["student", *compared["best"]]]
    for student, drop in compared["drop"].items():
        cells = {
            arm: "best" if compared["best"][arm] == student else f"-{points(difference)}" for arm, difference in drop.items()
        }
        means = {arm: percent(report["arms"][student][arm]["mean"]) for arm in cells}
        rows.append([student, *(f"{means[arm]} ({cells[arm]})" if arm in cells else "-" for arm in compared["best"])])
    return rows
