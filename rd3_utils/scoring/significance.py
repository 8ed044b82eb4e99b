"""Is one image set better than another? A paired bootstrap of the difference, and groups of ties for a list of entries.

A *sample* is {draw: {seed: top1}}: what one student under one protocol got from one image set, the key of a set that is not
drawn at random being None. Only what training and the draw of random images vary is judged; the test split is taken as given.
"""

import numpy as np
from scipy import special

from rd3_utils.errors import UserError
from rd3_utils.scoring import bootstrap, scores
from rd3_utils.scoring import runs as run_files

LEVEL = 1 - bootstrap.CONFIDENCE
SAME = {  # what the Runs of a comparison must share, as people call it
    "benchmark": lambda run: run["benchmark"],
    "protocol digest": lambda run: run["protocol"]["digest"],
    "kind of labels": lambda run: run["arm"].partition("-")[2],
    "student": lambda run: run["student"],
    "precision": lambda run: run["environment"]["precision"],
    "test split": lambda run: run["test"]["fingerprint"],
}


def sample(runs):
    """The sample of `runs`, all of one arm; UserError for one that is there twice or whose top-1 is no fraction."""
    found = {}
    for run in runs:
        draw, seed = run_files.draw_of(run), run["seed"]
        scores.check(**{f"top-1 of {run['arm']}, seed {seed},": run["top1"]})
        if seed in found.setdefault(draw, {}):
            of_draw = "" if draw is None else f" of draw {draw}"
            raise UserError(f"{run['arm']} has two runs of seed {seed}{of_draw}; a comparison needs each once.")
        found[draw][seed] = run["top1"]
    return found


def difference(a, b):
    """How much better sample `a` is than sample `b`, in fractions of top-1: {"difference", "low", "high", "p", ...}.

    "difference": mean of a less mean of b, over all runs. "low", "high": its 95 % interval; "p": the two-sided p-value, the
    smallest level whose interval excludes 0. It is a bootstrap of what `parts` names: seeds, in pairs where both have the same,
    and draws of random images. "decidable" is False, p and interval None and "why" a sentence, where a side has fewer than 2
    runs or nothing varies.

    Few seeds: a percentile bootstrap of n values is too narrow, of 3 very much (Hesterberg, What Teachers Should Know about
    the Bootstrap, The American Statistician 2015). So each part's resamples are spread by sqrt(n / (n - 1)), which makes their
    variance the unbiased one, and the interval's ends are moved away from the difference by t / z, as Student's interval is
    wider than the normal one, with the degrees of freedom of Welch and Satterthwaite (Biometrika 1947).
    """
    counts, means = [sum(map(len, side.values())) for side in (a, b)], [mean_of(side) for side in (a, b)]
    paired = len({frozenset(seeds) for side in (a, b) for seeds in side.values()}) == 1
    found = {"difference": means[0] - means[1], "low": None, "high": None, "p": None, "decidable": False, "paired": paired,
             "means": means, "n": counts, "draws": [draws_of(side) for side in (a, b)]}  # fmt: skip
    if min(counts) < 2:
        return {**found, "why": f"not decidable: a side has {min(counts)} run, and one run shows no spread; add seeds"}
    varying = {name: values for name, values in parts(a, b, paired).items() if len(values) > 1}
    variances = {name: values.var(ddof=1) / len(values) for name, values in varying.items()}
    total = sum(variances.values())
    if total < 1e-20:
        return {**found, "why": "not decidable: all seeds differ by the same, which shows no spread; add seeds"}
    freedom = total**2 / sum(variances[name] ** 2 / (len(values) - 1) for name, values in varying.items())
    deviations = sum(deviation(name, values) for name, values in varying.items())  # [R]
    low, high = (found["difference"] + end for end in ends(deviations, freedom, LEVEL))
    p = p_value(found["difference"], deviations, freedom)
    return {**found, "low": low, "high": high, "p": p, "decidable": True, "why": None}


def parts(a, b, paired):
    """{name: values} whose means vary independently and add up to the difference, but for a constant.

    Paired: the differences seed by seed, each the mean over draws, and the draws' means of either side. Otherwise each side
    alone: the draws' means where there are several (whole draws are then resampled, with their seeds), else the seeds.
    """
    of_draws = {name: sign * draw_means(side) for name, sign, side in (("draws of a", 1, a), ("draws of b", -1, b))}
    if paired:
        return {"seeds": by_seed(a) - by_seed(b), **of_draws}
    of_seeds = {"seeds of a": by_seed(a) if len(a) == 1 else (), "seeds of b": -by_seed(b) if len(b) == 1 else ()}
    return of_draws | of_seeds


def draw_means(side):
    """[D]: a value per draw whose mean is that of all runs: the draw's mean, its distance from all weighed by its runs."""
    overall, groups = mean_of(side), [list(side[draw].values()) for draw in in_order(side)]
    share = len(groups) / sum(map(len, groups))
    return np.array([overall + share * sum(value - overall for value in group) for group in groups])


def by_seed(side):
    """[S]: the mean over draws of every seed, all draws having the same seeds."""
    draws = in_order(side)
    return np.array([[side[draw][seed] for seed in sorted(side[draw])] for draw in draws]).mean(0)


def deviation(name, values):
    """[R]: how far the mean of `values` [n], drawn again, lies from their mean, with unbiased variance."""
    samples = values[bootstrap.drawn(len(values), bootstrap.generator(name))].mean(1)
    return bootstrap.widening(len(values)) * (samples - values.mean())


def ends(deviations, freedom, level):
    """[low, high] of the deviations at confidence 1 - `level`, widened as few seeds ask for."""
    factor = special.stdtrit(freedom, level / 2) / special.ndtri(level / 2)
    return [float(factor * q) for q in np.quantile(deviations, [level / 2, 1 - level / 2])]


def p_value(difference, deviations, freedom):
    """The smallest level whose interval excludes 0, by bisection; 1 where none does."""

    def excludes(log_level):
        low, high = ends(deviations, freedom, np.exp(log_level))
        return difference + low > 0 or difference + high < 0

    low, high = np.log(1e-12), np.log(0.999)
    if not excludes(high):
        return 1.0
    for _ in range(25):  # to a millionth of the level
        middle = (low + high) / 2
        low, high = (low, middle) if excludes(middle) else (middle, high)
    return float(np.exp(high))


def in_order(side):
    """The draws of a sample, sorted; the one of a set that is not drawn is None."""
    return sorted(side, key=lambda draw: -1 if draw is None else draw)


def draws_of(side):
    """How many draws of random images a sample has; None for a set that is not drawn."""
    return None if None in side else len(side)


def mean_of(side):
    """The mean over all runs of a sample."""
    values = [value for seeds in side.values() for value in seeds.values()]
    return sum(values) / len(values)


def holm(p_values):
    """The p-values adjusted for their number, in their order (Holm, Scandinavian Journal of Statistics 1979)."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = worst
    return adjusted


def ties(samples):
    """Groups of entries that cannot be told apart: [[index, ...], ...], and what was compared; the best first.

    `samples` are those of entries that may be compared: one benchmark, IPC, protocol, labels, student, precision, test split.
    The rule: entries are put in the order of their means. The first one with at least 2 runs leads the first group. A leader is
    compared with every entry below it (`difference`), the p-values are Holm-adjusted over these comparisons, and the group ends
    before the first entry that is worse with an adjusted p below 0.05, which leads the next group. An entry that is not
    decidable (fewer than 2 runs) never leads: it stays in the group into which its mean falls.

    Returns (groups, [{"leader", "entry", "adjusted", **difference}]), the latter with one item per entry that was compared with
    the leader of its group, or that ended a group. Two entries of one group are not shown to be equal, and one far below
    a leader may still be indistinguishable from it when it has few runs.
    """
    order = sorted(range(len(samples)), key=lambda k: -mean_of(samples[k]))
    groups, compared = [], []
    while order:
        leader = next((k for k in order if sum(map(len, samples[k].values())) > 1), None)
        if leader is None:
            return [*groups, order], compared
        above, below = order[: order.index(leader)], order[order.index(leader) + 1 :]
        found = [difference(samples[leader], samples[k]) for k in below]
        tested = [place for place, one in enumerate(found) if one["decidable"]]
        adjusted = dict(zip(tested, holm([found[place]["p"] for place in tested])))
        end = next((place for place in range(len(below)) if adjusted.get(place, 1) < LEVEL), len(below))
        for place, k in enumerate(below[: end + 1]):
            compared.append({"leader": leader, "entry": k, "adjusted": adjusted.get(place), **found[place]})
        groups.append([*above, leader, *below[:end]])
        order = below[end:]
    return groups, compared


def comparison(runs, others):
    """`difference` of two lists of Runs, with what a reader must know; UserError where they may not be compared."""
    for side in (runs, others):
        one_image_set(side)
    for what, of in SAME.items():
        (a, *more), (b, *others_of) = ({of(run) for run in side} for side in (runs, others))
        if more or others_of:
            raise UserError(f"one side mixes runs of different {what}; give one.")
        if a != b:
            raise UserError(f"the sides differ in {what}: {a} and {b}; only runs that share it can be compared.")
    found = difference(sample(runs), sample(others))
    notes = [] if found["why"] is None else [found["why"]]
    ipc = [{run["images"]["ipc"] for run in side} for side in (runs, others)]
    if ipc[0] != ipc[1]:
        notes.append("the sides have different numbers of images per class")
    if len({str([teacher["sha256"] for teacher in run["teachers"]]) for run in [*runs, *others]}) > 1:
        notes.append("the soft labels come from different teachers")
    if any(count == 1 for count in found["draws"]):
        notes.append("random images of a single draw: other draws may differ")
    return {**found, "significant": found["decidable"] and found["p"] < LEVEL, "notes": notes}


def one_image_set(side):
    """UserError where the Runs of one side of a comparison are of several arms or image sets, draws aside."""
    for what, of in {"arm": lambda run: run["arm"], "number of images per class": lambda run: run["images"]["ipc"]}.items():
        found = sorted({str(of(run)) for run in side})
        if len(found) > 1:
            raise UserError(f"one side mixes runs of different {what}: {', '.join(found)}; give one.")
    for draw, mine in run_files.grouped(side, run_files.draw_of).items():
        if len({run["images"]["fingerprint"] for run in mine}) > 1:
            of_draw = "" if draw is None else f" of draw {draw}"
            raise UserError(f"one side mixes image sets{of_draw}: {', '.join({r['images']['name'] for r in mine})}; give one.")
