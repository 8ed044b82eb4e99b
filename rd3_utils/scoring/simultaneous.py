"""Many means at once: all pairs of them judged together, and how well few values know a spread. Pure functions.

Error rates and power, simulated: docs/statistics.md.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from rd3_utils.scoring import bootstrap

BOARDS = 10_000  # of equal entries, simulated for every design
TINY = 1e-10  # a standard error that is rounding
OWN_WEIGHT = 2  # degrees of freedom that the pooled variance counts for beside an entry's own: as much as three seeds
RATIOS = 1 / 3, 1, 4, 16, 1e4  # of the variance of draws' means to that of seeds, between which a board may lie


def shrunk(variance: float | np.ndarray, freedom: float | np.ndarray, common: float | np.ndarray) -> Any:
    """A variance of few degrees of freedom, pulled towards the `common` one.

    (OWN common + freedom variance) / (OWN + freedom), as moderated t-statistics do (Smyth, Statistical Applications in Genetics
    and Molecular Biology 2004, sec. 3). The common one alone would be best if all were equal, and calls a noisy entry's luck a
    difference if they are not.
    """
    return (OWN_WEIGHT * common + freedom * variance) / (OWN_WEIGHT + freedom)


def freedom(variances: Sequence[float] | np.ndarray, degrees: Sequence[float] | np.ndarray) -> float:
    """Degrees of freedom of a sum of independent estimates of variance (Satterthwaite, Biometrics Bulletin 1946)."""
    variances, degrees = np.asarray(variances, float), np.asarray(degrees, float)
    squares = (variances**2 / degrees).sum()
    return variances.sum() ** 2 / squares if squares > 0 else degrees.sum()


def cautious(variances: Sequence[float] | np.ndarray, degrees: Sequence[float] | np.ndarray) -> float:
    """`freedom`, where an estimate of few degrees counts 1 + 8 / degrees times.

    Satterthwaite's takes estimates for the truth. Where the one that is known worst came out small by chance, its few degrees
    are forgotten: two equal sets, of 3 and of 10 seeds, are then called different in up to 7 % of cases instead of 5.
    """
    return freedom(np.asarray(variances, float) * (1 + 8 / np.asarray(degrees, float)), degrees)


def known(units: Sequence[Sequence[float] | np.ndarray], clustered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(means, their squared standard errors, degrees of freedom of these), [k] each, of entries as `adjusted` takes them.

    Variances are `shrunk` towards those of the entries of the same kind; where there is only one, its own is all there is.
    """
    sizes, means = np.array([len(values) for values in units]), np.array([np.mean(values) for values in units])
    variances, degrees = np.array([np.var(values, ddof=1) for values in units]), sizes - 1
    for kind in (clustered, ~clustered):
        if kind.sum() > 1:
            free = sizes[kind] - 1
            common = (free * variances[kind]).sum() / free.sum()
            variances[kind], degrees[kind] = shrunk(variances[kind], free, common), free + OWN_WEIGHT
    return means, variances / sizes, degrees


def pairwise(units: Sequence[Sequence[float] | np.ndarray], clustered: Sequence[bool] | np.ndarray) -> np.ndarray:
    """[k, k]: the p-values of Student's t of all pairs of entries as `adjusted` takes them, each as if it was the only one.

    Without a spread every gap counts.
    """
    means, squares, degrees = known(units, np.asarray(clustered, bool))
    p_values, most = np.ones((len(means), len(means))), sum(len(values) - 1 for values in units)
    for i, j in zip(*np.triu_indices(len(means), 1)):
        both = squares[[i, j]]
        steps = abs(means[i] - means[j]) / max(both.sum() ** 0.5, TINY)
        p_values[i, j] = p_values[j, i] = 2 * special.stdtr(min(most, cautious(both, degrees[[i, j]])), -steps)
    return p_values


def adjusted(units: Sequence[Sequence[float] | np.ndarray], clustered: Sequence[bool] | np.ndarray) -> np.ndarray:
    """[k, k]: how likely any two of k equal entries differ by as many standard errors as entries i and j do; 1 for i = j.

    `units` are the values of each entry, at least two: of seeds, or, where `clustered` says so, the means of draws. A pair is
    different if its value is below 0.05: of all pairs of equal entries none is then called so in about 95 % of boards, however
    they are picked, and so also if the best is compared with the rest. As Tukey's studentized range (The problem of multiple
    comparisons, 1953), which it is for equal variances that are pooled, but simulated, so that an entry keeps half of its own
    variance (`shrunk`) and entries of draws have theirs. Where there are both kinds, pairs of seeds get one half of the 5 %
    and pairs with draws the other: three draws know their spread badly, and all pairs would have to pay for it.
    """
    clustered = np.asarray(clustered, bool)
    means, squares, _ = known(units, clustered)
    sizes, errors = np.array([len(values) for values in units]), np.sqrt(np.add.outer(squares, squares))
    gaps = np.abs(np.subtract.outer(means, means))
    steps = np.divide(gaps, errors, out=np.zeros_like(gaps), where=errors > TINY)  # without a spread nothing is known
    of_seeds, of_draws = largest(*(tuple(sorted(sizes[kind].tolist())) for kind in (~clustered, clustered)))
    share = 1 if of_seeds is None or of_draws is None else 2
    mixed = clustered[:, None] | clustered
    chances = np.ones_like(gaps)
    if of_seeds is not None:
        chances[~mixed] = chance(of_seeds, steps[~mixed])
    if of_draws is not None:
        chances[mixed] = np.max([chance(largest_steps, steps[mixed]) for largest_steps in of_draws], 0)
    np.fill_diagonal(chances, 1)
    return np.where(steps > 0, (share * chances).clip(max=1), 1)


def chance(largest_steps: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The share of the sorted `largest_steps` [R] that reach `steps` [...]; never 0, as if one more had."""
    return (len(largest_steps) - np.searchsorted(largest_steps, steps) + 1) / (len(largest_steps) + 1)


@lru_cache(maxsize=256)
def largest(seeds: tuple[int, ...], draws: tuple[int, ...]) -> tuple[np.ndarray | None, list[np.ndarray] | None]:
    """(sorted [R] of pairs of seeds, [sorted [R] of pairs with draws, one per ratio]) of boards of equal entries; None without.

    The largest difference, in standard errors, among entries of as many seeds, and of as many draws, as the tuples `seeds` and
    `draws` say. How much more draws vary than seeds is not known well enough to use it: who judges takes the worst of RATIOS.
    """
    generator = bootstrap.generator("board", *seeds, "draws", *draws)
    of_seeds, of_draws = (null(sizes, generator) for sizes in (seeds, draws))
    plain = np.sort(steps_within(*of_seeds)) if len(seeds) > 1 else None
    if not draws or len(draws) + len(seeds) < 2:
        return plain, None
    mixed, (means, errors) = steps_within(*of_draws), of_draws
    if not seeds:
        return None, [np.sort(mixed)]
    scaled = [steps_between(means * ratio**0.5, errors * ratio, *of_seeds) for ratio in RATIOS]
    return plain, [np.sort(np.maximum(mixed, steps)) for steps in scaled]


def null(sizes: Sequence[int] | np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(means, their squared standard errors), [R, k] each, of equal entries of `sizes` units whose variance is 1."""
    sizes, shape = np.array(sizes, float), (BOARDS, len(sizes))
    free = sizes - 1
    means = generator.standard_normal(shape) / np.sqrt(sizes)
    variances = generator.chisquare(free, shape) / free
    common = (free * variances).sum(1, keepdims=True) / free.sum() if len(sizes) else variances
    return means, shrunk(variances, free, common) / sizes


def steps_within(means: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """[R]: the largest difference between two of `means` [R, k], in standard errors, whose squares are the sums of `errors`."""
    largest_step = np.zeros(len(means))
    for k in range(means.shape[1] - 1):
        one = slice(k, k + 1)
        largest_step = np.maximum(
            largest_step, steps_between(means[:, one], errors[:, one], means[:, k + 1 :], errors[:, k + 1 :])
        )
    return largest_step


def steps_between(means: np.ndarray, errors: np.ndarray, others: np.ndarray, of_others: np.ndarray) -> np.ndarray:
    """[R]: the largest difference between one of `means` [R, k] and one of `others` [R, l], in standard errors."""
    largest_step = np.zeros(len(means))
    for k in range(means.shape[1]):
        one = slice(k, k + 1)
        steps = (means[:, one] - others) ** 2 / (errors[:, one] + of_others)
        largest_step = np.maximum(largest_step, steps.max(1))
    return np.sqrt(largest_step)
