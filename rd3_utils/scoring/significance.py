"""Is one image set better than another? A t-test of the difference, and groups of ties for a list of entries.

A *sample* is {draw: {seed: top1}}: what one student under one protocol got from one image set, the key of a set that is not
drawn at random being None. Only what training and the draw of random images vary is judged; the test split is taken as given.
How often equal sets are called different, and how often better ones are found: docs/statistics.md.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import special

from rd3_utils.errors import UserError
from rd3_utils.scoring import bootstrap, measure, scores, simultaneous
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.runs import Run

LEVEL = 1 - bootstrap.CONFIDENCE
Sample = dict[int | None, dict[int, float]]  # {draw: {seed: top1}}


def sample(runs: Iterable[Run]) -> Sample:
    """The sample of `runs`, all of one arm; UserError for one that is there twice or whose top-1 is no fraction."""
    accuracies: Sample = {}
    for run in runs:
        draw, seed = run.draw, run.seed
        scores.check(**{f"top-1 of {run.arm}, seed {seed},": run.top1})
        if seed in accuracies.setdefault(draw, {}):
            of_draw = "" if draw is None else f" of draw {draw}"
            raise UserError(f"{run.arm} has two runs of seed {seed}{of_draw}; a comparison needs each once.")
        accuracies[draw][seed] = run.top1
    return accuracies


def difference(a: Sample, b: Sample) -> dict:
    """How much better sample `a` is than sample `b`, in fractions of top-1: {"difference", "low", "high", "p", ...}.

    "difference": mean of a less mean of b, a draw of random images weighing the same however many seeds it has. "low", "high":
    its 95 % interval; "p": the two-sided p-value, the smallest level whose interval excludes 0. Both are Student's, of what
    `parts` names: seeds, in pairs where both have the same, and draws. "decidable" is False, p and interval None and "why" a
    sentence, where a side has fewer than 2 runs or nothing varies.

    Draws are clusters: their means are the values. As these weigh the same, draws of 9, 1 and 1 seeds are as good as three of
    one: the t-test of values that vary unequally errs less often than it says, never more (Ibragimov & Mueller, Journal of
    Business & Economic Statistics 2010). Degrees of freedom of several parts are simultaneous.cautious, and 1 where a part has
    two values, for nothing more is safe then (Mickey & Brown, Annals of Mathematical Statistics 1966).
    """
    counts, means = [runs_of(side) for side in (a, b)], [mean_of(side) for side in (a, b)]
    paired = len({frozenset(seeds) for side in (a, b) for seeds in side.values()}) == 1
    known: dict = {"difference": means[0] - means[1], "low": None, "high": None, "p": None, "decidable": False,
                   "paired": paired, "means": means, "n": counts, "draws": [draws_of(side) for side in (a, b)]}  # fmt: skip
    if min(counts) < 2:
        return {**known, "why": f"not decidable: a side has {min(counts)} run, and one run shows no spread; add seeds"}
    varying = [values for values in parts(a, b, paired) if len(values) > 1]
    variances, degrees = zip(*((values.var(ddof=1) / len(values), len(values) - 1) for values in varying))
    error = sum(variances) ** 0.5
    if error < simultaneous.TINY:
        return {**known, "why": "not decidable: all seeds differ by the same, which shows no spread; add seeds"}
    freedom = degrees[0] if len(degrees) == 1 else 1 if min(degrees) == 1 else simultaneous.cautious(variances, degrees)
    low, high = (known["difference"] + error * special.stdtrit(freedom, q) for q in (LEVEL / 2, 1 - LEVEL / 2))
    p = 2 * special.stdtr(freedom, -abs(known["difference"]) / error)
    return {**known, "low": float(low), "high": float(high), "p": float(p), "decidable": True, "why": None}


def parts(a: Sample, b: Sample, paired: bool) -> list[np.ndarray]:
    """[values, ...] whose means vary independently and add up to the difference, but for a constant.

    Paired: the differences seed by seed, each the mean over draws, and the draws' means of either side. Otherwise each side
    alone: the draws' means where there are several, else the seeds.
    """
    if paired:
        return [by_seed(a) - by_seed(b), draw_means(a), -draw_means(b)]
    return [sign * units(side) for sign, side in ((1, a), (-1, b))]


def units(side: Sample) -> np.ndarray:
    """What varies independently in a sample: the draws' means where there are several, else the values of its seeds."""
    return draw_means(side) if len(side) > 1 else by_seed(side)


def draw_means(side: Sample) -> np.ndarray:
    """[D]: the mean of every draw."""
    return np.array([np.mean(list(side[draw].values())) for draw in in_order(side)])


def by_seed(side: Sample) -> np.ndarray:
    """[S]: the mean over draws of every seed, all draws having the same seeds."""
    draws = in_order(side)
    return np.array([[side[draw][seed] for seed in sorted(side[draw])] for draw in draws]).mean(0)


def in_order(side: Sample) -> list[int | None]:
    """The draws of a sample, sorted; the one of a set that is not drawn is None."""
    return sorted(side, key=lambda draw: -1 if draw is None else draw)


def draws_of(side: Sample) -> int | None:
    """How many draws of random images a sample has; None for a set that is not drawn."""
    return None if None in side else len(side)


def mean_of(side: Sample) -> float:
    """The mean of a sample, every draw weighing the same."""
    return float(draw_means(side).mean())


def runs_of(side: Sample) -> int:
    """How many runs a sample has."""
    return sum(map(len, side.values()))


def ties(samples: Sequence[Sample]) -> tuple[list[list[int]], list[dict]]:
    """Groups of entries that cannot be told apart: [[index, ...], ...], and what was compared; the best first.

    `samples` are those of entries that may be compared: one benchmark, IPC, protocol, labels, student, precision, test split.
    The rule: entries are put in the order of their means over all runs, as tables show them. The first one with at least 2
    runs leads the first group. A leader is compared with every entry below it, and the group ends before the first one that
    is different with an adjusted p below 0.05 (simultaneous.adjusted), which leads the next group. That p counts all pairs of
    entries, for the leader was picked among them. An entry that is not decidable (fewer than 2 runs) never leads: it stays in
    the group into which its mean falls.

    Returns (groups, [{"leader", "entry", "difference", "adjusted", "decidable"}]), the latter with one item per entry that was
    compared with the leader of its group, or that ended a group. Two entries of one group are not shown to be equal, and one
    far below a leader may still be indistinguishable from it when it has few runs or draws.
    """
    order = sorted(range(len(samples)), key=lambda k: -mean_of_runs(samples[k]))
    known = [k for k in order if runs_of(samples[k]) > 1]
    clustered = [len(samples[k]) > 1 for k in known]
    judged = simultaneous.adjusted([units(samples[k]) for k in known], clustered) if known else np.ones((0, 0))
    place, means = {k: row for row, k in enumerate(known)}, [mean_of(one) for one in samples]
    groups: list[list[int]] = []
    compared: list[dict] = []
    while order:
        leader = next((k for k in order if k in place), None)
        if leader is None:
            return [*groups, order], compared
        above, below = order[: order.index(leader)], order[order.index(leader) + 1 :]
        p = {k: float(judged[place[leader], place[k]]) for k in below if k in place}
        gap = {k: means[leader] - means[k] for k in below}
        end = next((row for row, k in enumerate(below) if p.get(k, 1) < LEVEL and gap[k] > 0), len(below))
        compared += [{"leader": leader, "entry": k, "difference": gap[k], "adjusted": p.get(k), "decidable": k in place}
                     for k in below[: end + 1]]  # fmt: skip
        groups.append([*above, leader, *below[:end]])
        order = below[end:]
    return groups, compared


def mean_of_runs(side: Sample) -> float:
    """The mean over all runs of a sample, which weighs draws by their seeds."""
    values = [value for seeds in side.values() for value in seeds.values()]
    return sum(values) / len(values)


def comparison(runs: Sequence[Run], others: Sequence[Run]) -> dict:
    """`difference` of two lists of Runs, with what a reader must know; UserError where they may not be compared.

    A side is one arm of one image set, draws of random images aside; the sides differ in their images, teachers and arm's side.
    """
    for side in (runs, others):
        one_image_set(side)
    same = measure.same_measure(runs[0], others[0], but=BETWEEN)
    if same and runs[0].labels_of_arm != others[0].labels_of_arm:
        same = measure.Verdict("kind of labels", runs[0].labels_of_arm, others[0].labels_of_arm)
    if not same:
        raise UserError(f"the sides differ in {same}; only runs that share it can be compared.")
    samples = sample(runs), sample(others)
    result = difference(*samples)
    notes = [] if result["why"] is None else [result["why"]]
    if runs[0].images.ipc != others[0].images.ipc:
        notes.append("the sides have different numbers of images per class")
    if runs[0].teacher_weights != others[0].teacher_weights:
        notes.append("the soft labels come from different teachers")
    if runs[0].views_seed != others[0].views_seed and runs[0].views == "shared":
        notes.append("the views of the sides were drawn from different seeds")
    if any(len({len(seeds) for seeds in side.values()}) > 1 for side in samples):
        notes.append("draws have unequal numbers of seeds: each draw weighs the same, so that means are not those of all runs")
    if any(count == 1 for count in result["draws"]):
        notes.append("random images of a single draw: other draws may differ")
    return {**result, "significant": result["decidable"] and result["p"] < LEVEL, "notes": notes}


BETWEEN = {  # in what the sides of a comparison may differ
    "arm", "number of images per class", "recipe", "views digest", "views digest of students", "views seed", "teachers",
    "label dtype", "views per teacher pass", *measure.OF_IMAGES,
}  # fmt: skip


def one_image_set(side: Sequence[Run]) -> None:
    """UserError where the Runs of one side of a comparison did not measure the same."""
    same = measure.odd_one(side)
    if not same:
        raise UserError(f"one side mixes runs that differ in {same}; give one.")
    for draw, mine in run_files.grouped(side, lambda run: run.draw).items():
        if len({run.images.fingerprint for run in mine}) > 1:
            of_draw = "" if draw is None else f" of draw {draw}"
            raise UserError(f"one side mixes image sets{of_draw}: {', '.join({r.images.name for r in mine})}; give one.")
