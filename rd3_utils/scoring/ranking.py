"""How much of an accuracy is recipe, and whether two recipes rank methods alike: pure functions over fractions.

Everywhere `cells` is {(row, column): Cell}, such as {("rded", "rd3-v1"): Cell([0.51, 0.52, 0.52])}. Intervals are those of
scoring/bootstrap.py, of what a Cell calls its units drawn again. Deviations of units from the cell's mean are scaled by
sqrt(n / (n - 1)), without which n = 3 would show two thirds of the noise (the rescaling bootstrap, Rao & Wu, JASA 1988). With
three units they are rough; where no cell has more than one there is no interval (None).
"""

import itertools
import statistics
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from rd3_utils.errors import UserError
from rd3_utils.scoring import bootstrap

SIDE = 16  # the shorter side of a table with holes: its 2^16 subsets are tried
PARTS = ("method", "protocol", "interaction", "seed")


@dataclass(frozen=True)
class Cell:
    """Accuracies of one cell's replicates; `sets` says which image set each trained on, None that all did on one.

    Units are what is drawn again: where there are several image sets (draws of random images), each with its replicates, and
    else each replicate. Cells of a row that have the same sets hold the same ones in a resample: a lucky draw is lucky under
    every recipe.
    """

    values: list
    sets: list | None = None

    @cached_property
    def names(self):
        """Of the image sets, sorted; () where there is one."""
        found = tuple(sorted(set(self.sets or ())))
        return found if len(found) > 1 else ()

    @cached_property
    def units(self):
        """[K] of arrays, in the order of `names`."""
        if not self.names:
            return [np.array([value]) for value in self.values]
        return [np.array([value for value, of in zip(self.values, self.sets) if of == name]) for name in self.names]

    @property
    def mean(self):
        """Of all replicates."""
        return statistics.fmean(self.values)

    @property
    def variance(self):
        """Of a replicate, unbiased for equal units: within them (divisor n) plus between their means (divisor K - 1)."""
        sizes, means, within = self.moments
        return ((sizes * within).sum() + bootstrap.widening(len(sizes)) ** 2 * (sizes * means**2).sum()) / sizes.sum()

    @cached_property
    def moments(self):
        """(sizes, means less the cell's, variances of divisor n) of the units, [K] each."""
        found = [(len(unit), unit.mean() - self.mean, unit.var()) for unit in self.units]
        return np.array(found, float).T

    @property
    def influence(self):
        """[K]: each unit's part of the noise of the cell's mean, which has the sum of their squares as its variance."""
        sizes, means, _ = self.moments
        return bootstrap.widening(len(sizes)) * sizes * means / sizes.sum()

    def again(self, chosen):
        """(means, variances of divisor n) [R] of the cell with the units `chosen` [R, K], deviations of their means scaled."""
        sizes, means, within = (of[chosen] for of in self.moments)  # [R, K]
        n, scale = sizes.sum(1), bootstrap.widening(len(self.units))
        mean = (sizes * means).sum(1) / n
        between = (sizes * (means - mean[:, None]) ** 2).sum(1) / n
        return self.mean + scale * mean, (sizes * within).sum(1) / n + scale**2 * between


def decomposition(cells):
    """What share of the variance of accuracies is method, protocol, their interaction and seed; None without a 2 x 2 table.

    Two-way analysis of variance with replication (Fisher, Statistical Methods for Research Workers, 1925; Montgomery, Design
    and Analysis of Experiments, sec. 5.3), every cell weighing the same. With cell means m_ij, their averages m_i., m_.j, m..
    over the other index, and v_ij the variance (divisor n) within a cell:

        method       mean_i  (m_i. - m..)^2                    seed   mean_ij v_ij
        protocol     mean_j  (m_.j - m..)^2                    all four add up to the variance of a replicate of a cell, both
        interaction  mean_ij (m_ij - m_i. - m_.j + m..)^2      drawn evenly; for equal n they are eta^2 = SS / SS_total

    seed is what varies within a cell: seeds, and image sets where a cell has several (draws of random images). Cells need not
    have equally many replicates. Of a table with holes only `complete` is used; "left_out" says what is not. With one
    replicate everywhere, seed is None and hidden in the interaction.

    "corrected" takes out what `noise` of the cell means adds to the first three, and has a replicate's unbiased variance as
    seed; what falls below 0 counts as 0, and shares are of the new sum.
    """
    rows, columns = complete(cells)
    if len(rows) < 2 or len(columns) < 2:
        return None
    table = [[cells[row, column] for column in columns] for row in rows]
    counts = np.array([[len(cell.values) for cell in line] for line in table])  # [I, J]
    point = parts(*moments(table))
    total = float(point.sum())
    single = counts.max() == 1
    samples = None if single else shares(parts(*resampled(table)))  # [R, 4]
    found = shares(point)
    if not single:
        added, spread = noise(table)
        adjusted = shares(np.append((point[:3] - added).clip(min=0), spread))
    result = {}
    for k, part in enumerate(PARTS):
        unknown = total == 0 or (single and part == "seed")
        low, high = (None, None) if unknown or samples is None else bootstrap.interval(samples[:, k])
        share = None if unknown else float(found[k])
        result[part] = {"share": share, "low": low, "high": high}
        result[part]["corrected"] = None if unknown or single or np.isnan(adjusted[k]) else float(adjusted[k])
    return {
        "methods": rows,
        "protocols": columns,
        "left_out": sorted({row for row, _ in cells} - set(rows)) + sorted({column for _, column in cells} - set(columns)),
        "replicates": [int(counts.min()), int(counts.max())],
        "variance": total,
        "parts": result,
    }


def complete(cells):
    """(rows, columns) of the largest full table within `cells`, in order of appearance; of equal ones that of more rows."""
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    if all((row, column) in cells for row in rows for column in columns):
        return rows, columns
    if len(columns) > len(rows):
        columns, rows = complete({(column, row): values for (row, column), values in cells.items()})
        return rows, columns
    if len(columns) > SIDE:
        raise UserError(f"a table of {len(rows)} x {len(columns)} with holes is too large to find its largest full part.")
    best = [], []
    for size in range(len(columns), 0, -1):
        for chosen in itertools.combinations(columns, size):
            full = [row for row in rows if all((row, column) in cells for column in chosen)]
            if rank_of(full, chosen) > rank_of(*best):
                best = full, list(chosen)
    return best


def rank_of(rows, columns):
    """Tables of at least 2 x 2 before others, then the larger, then the one of more rows."""
    return min(len(rows), len(columns), 2), len(rows) * len(columns), len(rows)


def moments(table):
    """(means, variances with divisor n), both [I, J], of a table of Cells."""
    return tuple(np.array([[f(cell.values) for cell in line] for line in table]) for f in (np.mean, np.var))


def parts(means, variances):
    """[..., 4] of PARTS as variances, from means and variances [..., I, J]."""
    of_row, of_column = means.mean(-1, keepdims=True), means.mean(-2, keepdims=True)
    overall = of_row.mean(-2, keepdims=True)
    effects = of_row - overall, of_column - overall, means - of_row - of_column + overall
    return np.stack([*((effect**2).mean((-2, -1)) for effect in effects), variances.mean((-2, -1))], -1)


def noise(table):
    """(what noise adds to the first three parts of a table of Cells, [3]; the variance of a replicate, mean over cells).

    The noise e of cell means adds E parts(e), which is the sum of parts() over the columns of any L with L L^T = cov(e), for
    parts() is quadratic. e of n independent replicates has the variance s^2 / n, s^2 pooled over cells: with
    w = s^2 mean_ij(1 / n_ij) they add w (I-1)/IJ, w (J-1)/IJ and w (I-1)(J-1)/IJ, as expected mean squares say (Montgomery,
    sec. 5.3.2). e of K image sets has the covariance of the sets' means across the row, over K. As these vary more, s^2 is
    pooled without them, unless no other cell has two replicates.
    """
    cells = [cell for line in table for cell in line]
    several = [cell for cell in cells if len(cell.units) > 1]
    s2 = pooled([cell for cell in several if not cell.names] or several)
    columns = []  # of L, each [I, J]
    for i, line in enumerate(table):
        for where in together(line):
            first = line[where[0]]
            if first.names:
                spread = np.transpose([line[j].influence for j in where])  # [K, len(where)]
            else:
                spread = [[np.sqrt(s2 / len(first.values))]]
            for values in spread:
                columns.append(np.zeros((len(table), len(line))))
                columns[-1][i, where] = values
    columns = np.array(columns)
    replicate = np.mean([cell.variance if len(cell.units) > 1 else s2 for cell in cells])
    return parts(columns, np.zeros_like(columns))[:, :3].sum(0), replicate


def pooled(cells):
    """The variance of a replicate, pooled over cells by their degrees of freedom."""
    free = np.array([len(cell.units) - 1 for cell in cells])
    return (free * [cell.variance for cell in cells]).sum() / free.sum()


def together(line):
    """[[column, ...]]: which Cells of a row are drawn again together, those of the same image sets; others alone."""
    found = {}
    for j, cell in enumerate(line):
        found.setdefault(cell.names or j, []).append(j)
    return list(found.values())


def shares(values):
    """`values` [..., 4] as shares of their sum; NaN where all are 0."""
    total = values.sum(-1, keepdims=True)
    return np.divide(values, total, out=np.full_like(values, np.nan), where=total > 0)


def resampled(table):
    """(means, variances), each [R, I, J]: the units of every Cell drawn again with replacement, their deviations scaled.

    Over resamples, a mean of n equal units has variance s^2 / n and expectation m, a variance (divisor n) has the cell's own as
    expectation.
    """
    generator = np.random.default_rng(0)
    means, variances = np.empty((2, bootstrap.RESAMPLES, len(table), len(table[0])))
    for i, line in enumerate(table):
        for where in together(line):
            chosen = bootstrap.drawn(len(line[where[0]].units), generator)  # [R, K]
            for j in where:
                means[:, i, j], variances[:, i, j] = line[j].again(chosen)
    return means, variances


def agreement(cells, first, second):
    """Kendall's tau-b between the ranks of the rows' means in column `first` and in `second`, over rows that have both.

    {"tau", "low", "high", "methods": the rows}. 1: the same order, 0: no relation, -1: reversed. tau is None for fewer than two
    rows and where one column's means are all equal. tau-b (Kendall, The treatment of ties in ranking problems, Biometrika
    1945), as scipy.stats.kendalltau computes it.
    """
    rows = [row for row in dict.fromkeys(row for row, _ in cells) if (row, first) in cells and (row, second) in cells]
    found = {"tau": None, "low": None, "high": None, "methods": rows}
    if len(rows) < 2:
        return found
    table = [[cells[row, column] for column in (first, second)] for row in rows]
    means, _ = moments(table)
    tau = round(float(stats.kendalltau(means[:, 0], means[:, 1], variant="b").statistic), 12)
    if np.isnan(tau):
        return found
    low = high = None
    if any(len(cell.units) > 1 for line in table for cell in line):
        samples, _ = resampled(table)
        low, high = bootstrap.interval(tau_b(samples[..., 0], samples[..., 1]))
    return {**found, "tau": tau, "low": low, "high": high}


def tau_b(x, y):
    """Kendall's tau-b [...] of many x, y [..., M] at once; NaN where one of them is constant.

    (concordant - discordant) / sqrt(pairs not tied in x * pairs not tied in y), by all pairs.
    """
    one, other = np.triu_indices(x.shape[-1], 1)
    dx, dy = (np.sign(v[..., one] - v[..., other]) for v in (x, y))
    untied = np.sqrt((dx != 0).sum(-1) * (dy != 0).sum(-1))
    return np.divide((dx * dy).sum(-1), untied, out=np.full(untied.shape, np.nan), where=untied > 0)


def spread(means):
    """Largest minus smallest of {method: mean}, with the methods that have them: {"spread", "best", "worst"}; None of fewer
    than two.
    """
    if len(means) < 2:
        return None
    best, worst = max(means, key=means.get), min(means, key=means.get)
    return {"spread": means[best] - means[worst], "best": best, "worst": worst}
