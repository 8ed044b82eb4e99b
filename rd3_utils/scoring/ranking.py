"""How much of an accuracy is recipe, and whether two recipes rank methods alike: pure functions over fractions.

Everywhere `cells` is {(row, column): [accuracies of its replicates]}, such as {("rded", "rd3-v1"): [0.51, 0.52, 0.52]}.
Intervals are those of scoring/bootstrap.py: the replicates of each cell are drawn again, and their deviations from the cell's
mean are scaled by sqrt(n / (n - 1)), without which n = 3 would show two thirds of the noise (the rescaling bootstrap, Rao & Wu,
JASA 1988). With three replicates they are rough; of a single one there is no interval (None).
"""

import itertools

import numpy as np
from scipy import stats

from rd3_utils.errors import UserError
from rd3_utils.scoring import bootstrap

SIDE = 16  # the shorter side of a table with holes: its 2^16 subsets are tried
PARTS = ("method", "protocol", "interaction", "seed")


def decomposition(cells):
    """What share of the variance of accuracies is method, protocol, their interaction and seed; None without a 2 x 2 table.

    Two-way analysis of variance with replication (Fisher, Statistical Methods for Research Workers, 1925; Montgomery, Design
    and Analysis of Experiments, sec. 5.3), every cell weighing the same. With cell means m_ij, their averages m_i., m_.j, m..
    over the other index, and v_ij the variance (divisor n) within a cell:

        method       mean_i  (m_i. - m..)^2                    seed   mean_ij v_ij
        protocol     mean_j  (m_.j - m..)^2                    all four add up to the variance of a replicate of a cell, both
        interaction  mean_ij (m_ij - m_i. - m_.j + m..)^2      drawn evenly; for equal n they are eta^2 = SS / SS_total

    Cells need not have equally many replicates. Of a table with holes only `complete` is used; "left_out" says what is not.
    With one replicate everywhere, seed is None and hidden in the interaction.

    "corrected" takes out what the noise of the cell means adds to the first three, as expected mean squares do (Montgomery,
    sec. 5.3.2): with s^2 pooled over cells and w = s^2 mean_ij(1 / n_ij), it is w (I-1)/IJ, w (J-1)/IJ and w (I-1)(J-1)/IJ;
    seed is s^2 itself; what falls below 0 counts as 0, and shares are of the new sum.
    """
    rows, columns = complete(cells)
    if len(rows) < 2 or len(columns) < 2:
        return None
    table = [[np.asarray(cells[row, column], float) for column in columns] for row in rows]
    counts = np.array([[len(values) for values in line] for line in table])  # [I, J]
    point = parts(*moments(table))
    total = float(point.sum())
    single = counts.max() == 1
    samples = None if single else shares(parts(*resampled(table)))  # [R, 4]
    found = shares(point)
    adjusted = None if single else shares(corrected(table, counts, point))
    result = {}
    for k, part in enumerate(PARTS):
        unknown = total == 0 or (single and part == "seed")
        low, high = (None, None) if unknown or samples is None else bootstrap.interval(samples[:, k])
        share = None if unknown else float(found[k])
        result[part] = {"share": share, "low": low, "high": high}
        result[part]["corrected"] = None if unknown or adjusted is None or np.isnan(adjusted[k]) else float(adjusted[k])
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
    """(means, variances with divisor n), both [I, J], of a table of arrays."""
    return np.array([[v.mean() for v in line] for line in table]), np.array([[v.var() for v in line] for line in table])


def parts(means, variances):
    """[..., 4] of PARTS as variances, from means and variances [..., I, J]."""
    of_row, of_column = means.mean(-1, keepdims=True), means.mean(-2, keepdims=True)
    overall = of_row.mean(-2, keepdims=True)
    effects = of_row - overall, of_column - overall, means - of_row - of_column + overall
    return np.stack([*((effect**2).mean((-2, -1)) for effect in effects), variances.mean((-2, -1))], -1)


def corrected(table, counts, point):
    """[4]: `point` without what noise adds; see `decomposition`."""
    pooled = sum(((v - v.mean()) ** 2).sum() for line in table for v in line) / (counts - 1).sum()
    noise, (i, j) = pooled * (1 / counts).mean(), counts.shape
    added = noise * np.array([i - 1, j - 1, (i - 1) * (j - 1)]) / (i * j)
    return np.append((point[:3] - added).clip(min=0), pooled)


def shares(values):
    """`values` [..., 4] as shares of their sum; NaN where all are 0."""
    total = values.sum(-1, keepdims=True)
    return np.divide(values, total, out=np.full_like(values, np.nan), where=total > 0)


def resampled(table):
    """(means, variances), each [R, I, J]: the replicates of every cell drawn again with replacement, and scaled.

    Over resamples, a mean has variance s^2 / n and expectation m, a variance (divisor n) has the cell's own as expectation.
    """
    generator = np.random.default_rng(0)

    def again(v):
        return v.mean() + bootstrap.widening(len(v)) * (v[bootstrap.drawn(len(v), generator)] - v.mean())

    drawn = [[again(v) for v in line] for line in table]
    means, variances = ([[f(v, axis=1) for v in line] for line in drawn] for f in (np.mean, np.var))
    return np.moveaxis(np.array(means), -1, 0), np.moveaxis(np.array(variances), -1, 0)


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
    table = [[np.asarray(cells[row, column], float) for column in (first, second)] for row in rows]
    means, _ = moments(table)
    tau = round(float(stats.kendalltau(means[:, 0], means[:, 1], variant="b").statistic), 12)
    if np.isnan(tau):
        return found
    low = high = None
    if any(len(values) > 1 for line in table for values in line):
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
