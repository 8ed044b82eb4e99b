"""The one bootstrap behind every interval: what was measured is drawn again with replacement, RESAMPLES times.

Draws of random images are drawn again whole, each with its seeds: an arm's (scoring/estimates.py) and those of a study's cell
(studies/ranking.py).

Percentile intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13) from fixed generators, so that the
same Runs give the same interval. Means of n values drawn again have the variance of divisor n, which is too small: deviations
are scaled by sqrt(n / (n - 1)) everywhere. Of n normal values the 95 % interval then still holds the true mean less often than
it says: 4 of 5 times for n = 3, 9 of 10 for n = 10 (it has the normal's tails, not Student's); scoring/significance.py corrects
for that, too, before it decides anything.
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
METHOD = "percentile bootstrap of draws, each with its seeds, of a single one of seeds; deviations scaled by sqrt(n / (n - 1))"


def generator(*names: str | int | None) -> np.random.Generator:
    """A generator that is always the same for the same names (texts or whole numbers), and another one for others."""
    return np.random.default_rng([byte for name in names for byte in (*str(name).encode(), 0)])


def resample_indices(n: int, generator: np.random.Generator) -> np.ndarray:
    """[R, n]: which of n things each resample holds."""
    return generator.integers(n, size=(RESAMPLES, n))


def widening(n: int) -> float:
    """sqrt(n / (n - 1)): times this, deviations of n values drawn again have their unbiased variance; 1 of a single value."""
    return np.sqrt(n / max(1, n - 1))


def means(
    clusters: Sequence[Sequence[float] | np.ndarray], generator: np.random.Generator, chosen: np.ndarray | None = None
) -> np.ndarray:
    """[R]: the mean in every resample of `clusters`, a list of arrays, its deviation from the mean of all values widened.

    Of several clusters whole ones are drawn again, of one its values: what a cluster's mean varies by holds what its values do
    (Davison & Hinkley, Bootstrap Methods and their Application, 1997, sec. 3.8). `chosen` [R, clusters] says which of several
    clusters each resample holds, so that several samples can share that.
    """
    units = [np.asarray(values, float) for values in clusters] if len(clusters) > 1 else np.asarray(clusters[0], float)[:, None]
    sums, sizes = (np.array([f(values) for values in units], float) for f in (np.sum, len))
    chosen = resample_indices(len(units), generator) if chosen is None else chosen  # [R, units]
    mean = sums.sum() / sizes.sum()
    return mean + widening(len(units)) * (sums[chosen].sum(1) / sizes[chosen].sum(1) - mean)


def interval(samples: np.ndarray) -> list[float] | tuple[None, None]:
    """[low, high] of the middle CONFIDENCE of `samples` [R]; None, None where none is a number."""
    known = samples[~np.isnan(samples)]
    if not len(known):
        return None, None
    return [float(x) for x in np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]
