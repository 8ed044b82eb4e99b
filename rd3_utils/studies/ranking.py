"""How much of an accuracy is recipe, and whether two recipes rank methods alike: pure functions over fractions.

Everywhere `cells` is {(row, column): TableCell}, such as {("rded", "rd3-v1"): TableCell([0.51, 0.52, 0.52])}. What varies by
chance is what a TableCell calls its units; where no cell has more than one there is no interval (None). How often intervals
hold what they speak of, in simulated studies: docs/statistics.md.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from rd3_utils.errors import UserError
from rd3_utils.scoring import bootstrap, simultaneous

SIDE = 16  # the shorter side of a table with holes: its 2^16 subsets are tried
PARTS = ("method", "protocol", "interaction", "seed")


@dataclass(frozen=True)
class TableCell:
    """Accuracies of one cell's replicates; `sets` says which image set each trained on, None that all did on one.

    Units are what varies: where there are several image sets (draws of random images), each with its replicates, and else each
    replicate. Cells of a row that have the same sets share their luck: a lucky draw may be lucky under every recipe.
    """

    values: list[float]
    sets: list[str] | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the image sets, sorted; () where there is one."""
        sets = tuple(sorted(set(self.sets or ())))
        return sets if len(sets) > 1 else ()

    @cached_property
    def units(self) -> list[np.ndarray]:
        """[K] of arrays, in the order of `names`."""
        if not self.names:
            return [np.array([value]) for value in self.values]
        sets = self.sets or ()
        return [np.array([value for value, own in zip(self.values, sets) if own == name]) for name in self.names]

    @property
    def mean(self) -> float:
        """Of all replicates."""
        return statistics.fmean(self.values)

    @property
    def variance(self) -> float:
        """Of a replicate, unbiased for equal units: within them (divisor n) plus between their means (divisor K - 1)."""
        sizes, means, within = self.moments
        return ((sizes * within).sum() + bootstrap.widening(len(sizes)) ** 2 * (sizes * means**2).sum()) / sizes.sum()

    @cached_property
    def moments(self) -> np.ndarray:
        """(sizes, means less the cell's, variances of divisor n) of the units, [K] each."""
        rows = [(len(unit), unit.mean() - self.mean, unit.var()) for unit in self.units]
        return np.array(rows, float).T

    @property
    def influence(self) -> np.ndarray:
        """[K]: each unit's part of the noise of the cell's mean, which has the sum of their squares as its variance."""
        sizes, means, _ = self.moments
        return bootstrap.widening(len(sizes)) * sizes * means / sizes.sum()

    @property
    def inner(self) -> tuple[float, float]:
        """(part of `variance` that lies within the units, its degrees of freedom)."""
        sizes, _, within = self.moments
        return (sizes * within).sum() / sizes.sum(), sizes.sum() - len(sizes)


@dataclass(frozen=True)
class Noise:
    """A part of what chance does to a table of cell means, independent of the other parts."""

    columns: np.ndarray  # [Q, I, J]: columns of an L with L L^T = its covariance
    freedom: float  # degrees of freedom with which its size is known
    variance: float  # what it adds to the variance of a replicate, summed over cells


def decomposition(cells: dict[tuple[str, str], TableCell]) -> dict | None:
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

    "corrected" takes out what noise of the cell means adds to the first three, and has a replicate's unbiased variance as
    seed; what falls below 0 counts as 0, and shares are of the new sum. "low", "high" belong to it: the 95 % interval of the
    share that endless replicates of these cells would have (`intervals`). There is none where nothing varies within cells.
    """
    rows, columns = complete(cells)
    if len(rows) < 2 or len(columns) < 2:
        return None
    table = [[cells[row, column] for column in columns] for row in rows]
    counts = np.array([[len(cell.values) for cell in line] for line in table])  # [I, J]
    point = variance_parts(*moments(table))
    total = float(point.sum())
    single = counts.max() == 1
    point_shares, low, high = shares(point), None, None
    if not single:
        added, spread = noise_of_parts(table)
        adjusted = shares(np.append((point[:3] - added).clip(min=0), spread))
        low, high = intervals(table) if spread > simultaneous.TINY**2 else (None, None)
    result = {}
    for k, part in enumerate(PARTS):
        unknown = total == 0 or (single and part == "seed")
        result[part] = {"share": None if unknown else float(point_shares[k])}
        result[part] |= {end: None if bound is None else float(bound[k]) for end, bound in (("low", low), ("high", high))}
        result[part]["corrected"] = None if unknown or single or np.isnan(adjusted[k]) else float(adjusted[k])
    return {
        "methods": rows,
        "protocols": columns,
        "left_out": sorted({row for row, _ in cells} - set(rows)) + sorted({column for _, column in cells} - set(columns)),
        "replicates": [int(counts.min()), int(counts.max())],
        "variance": total,
        "parts": result,
    }


def complete(cells: dict[tuple[str, str], TableCell]) -> tuple[list[str], list[str]]:
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
    best: tuple[list[str], list[str]] = [], []
    for size in range(len(columns), 0, -1):
        for chosen in itertools.combinations(columns, size):
            full = [row for row in rows if all((row, column) in cells for column in chosen)]
            if rank_of(full, chosen) > rank_of(*best):
                best = full, list(chosen)
    return best


def rank_of(rows: Sequence[str], columns: Sequence[str]) -> tuple[int, int, int]:
    """Tables of at least 2 x 2 before others, then the larger, then the one of more rows."""
    return min(len(rows), len(columns), 2), len(rows) * len(columns), len(rows)


def moments(table: list[list[TableCell]]) -> tuple[np.ndarray, ...]:
    """(means, variances with divisor n), both [I, J], of a table of TableCells."""
    return tuple(np.array([[f(cell.values) for cell in line] for line in table]) for f in (np.mean, np.var))


def variance_parts(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """[..., 4] of PARTS as variances, from means and variances [..., I, J]."""
    return np.stack([*((effect**2).mean((-2, -1)) for effect in effects(means)), variances.mean((-2, -1))], -1)


def effects(means: np.ndarray) -> np.ndarray:
    """[3, ..., I, J]: those of rows, of columns and of both together, which add up to the means less their mean."""
    of_row, of_column = means.mean(-1, keepdims=True), means.mean(-2, keepdims=True)
    overall, every = of_row.mean(-2, keepdims=True), np.zeros_like(means)
    return np.stack([of_row - overall + every, of_column - overall + every, means - of_row - of_column + overall])


def noise_of_parts(table: list[list[TableCell]]) -> tuple[np.ndarray, float]:
    """(what noise adds to the first three parts of a table of TableCells, [3]; the variance of a replicate, mean over cells).

    The noise e of cell means adds E parts(e), which is the sum of parts() over the columns of any L with L L^T = cov(e), for
    parts() is quadratic. Of independent replicates with variance s^2 that is, with w = s^2 mean_ij(1 / n_ij), w (I-1)/IJ,
    w (J-1)/IJ and w (I-1)(J-1)/IJ, as expected mean squares say (Montgomery, sec. 5.3.2).
    """
    sources = noises(table)
    columns = np.concatenate([one.columns for one in sources])
    count = len(table) * len(table[0])
    return variance_parts(columns, np.zeros_like(columns))[:, :3].sum(0), sum(one.variance for one in sources) / count


def noises(table: list[list[TableCell]]) -> list[Noise]:
    """[Noise] of a table of TableCells: one of all replicates, and up to three per set of cells that share draws of images.

    A cell's replicates have its own variance and the pooled one in equal parts (simultaneous.shrunk). The pooled one leaves out
    cells of several draws, unless no other has two replicates, and is all that a cell of one replicate has. The draws' luck
    is split into what all protocols share and what they do not, as between and within whole plots (Montgomery, sec. 14.5), for
    of the former three draws say little.
    """
    sources: list[Noise] = []
    columns: list[np.ndarray] = []
    variances: list[tuple[float, float, int]] = []
    shape = len(table), len(table[0])
    cells = [cell for line in table for cell in line]
    several = [cell for cell in cells if len(cell.units) > 1]
    kind = [cell for cell in several if not cell.names] or several
    s2, free = pooled(kind), sum(len(cell.units) - 1 for cell in kind)
    for i, line in enumerate(table):
        for where in together(line):
            if line[where[0]].names:
                sources += noises_of_draws([line[j] for j in where], i, where, shape)
                continue
            cell, column = line[where[0]], np.zeros(shape)
            freedom = len(cell.units) - 1
            mine = float(simultaneous.shrunk(cell.variance, freedom, s2)) if freedom else s2
            column[i, where] = np.sqrt(mine / len(cell.values))
            columns.append(column)
            variances.append((cell.variance if freedom else s2, mine, freedom))
    if columns:
        total, mine, freedom = np.array(variances, float).T
        known = freedom > 0
        weights = mine[known] * (1 + (~known).sum() * freedom[known] / free)  # s2 stands in for cells of one replicate
        size = simultaneous.freedom(weights, freedom[known]) if known.any() else free
        sources.append(Noise(np.array(columns), size, total.sum()))
    return sources


def noises_of_draws(cells: list[TableCell], i: int, where: list[int], shape: tuple[int, int]) -> list[Noise]:
    """[Noise] of the `cells` in row `i` and columns `where` of a table of `shape`, which have the same image sets."""
    spread = np.transpose([cell.influence for cell in cells])  # [K, len(where)]
    shared, freedom = spread.mean(1, keepdims=True), len(spread) - 1

    def at(values: np.ndarray) -> np.ndarray:
        columns = np.zeros((len(values), *shape))
        columns[:, i, where] = values
        return columns

    inner, free = np.transpose([cell.inner for cell in cells])
    parted = [shared + 0 * spread, spread - shared]
    sizes = [len(spread) * (part**2).sum() for part in parted]
    sources = [Noise(at(parted[0]), freedom, sizes[0])]
    sources += [Noise(at(parted[1]), freedom * (len(where) - 1), sizes[1])] if len(where) > 1 else []
    return sources + ([Noise(at(spread[:0]), free.sum(), inner.sum())] if free.sum() else [])


def intervals(table: list[list[TableCell]]) -> np.ndarray:
    """(low, high), [4] each: 95 % intervals of the shares of PARTS that the true cell means and spread of a table have.

    Generalised confidence intervals (Weerahandi, JASA 1993): the truth, had each of RESAMPLES possible noises made the means
    that are seen (`behind`). How large noise is, is known as a chi^2 is of simultaneous.cautious degrees of freedom: of effects
    those of the parts that reach them, of a replicate's variance those of all. Three draws may decide either.
    """
    sources, generator = noises(table), bootstrap.generator("noise")
    variances, freedom = np.array([(one.variance, one.freedom) for one in sources], float).T

    def chi(known: float) -> np.ndarray:
        return known / generator.chisquare(known, bootstrap.RESAMPLES)

    columns = np.concatenate([one.columns for one in sources])
    drawn = generator.standard_normal((bootstrap.RESAMPLES, len(columns)))
    every = effects(np.tensordot(drawn, columns, 1))  # [3, R, I, J]
    true = np.empty((bootstrap.RESAMPLES, 4))
    for k, measured in enumerate(effects(moments(table)[0])):  # [I, J]
        along = measured / (np.linalg.norm(measured) or 1)
        each = [effects(one.columns)[k] for one in sources]
        # as a whole, and where it tells most
        sizes = [(part**2).sum() + (np.tensordot(part, along) ** 2).sum() for part in each]
        true[:, k] = behind(measured, every[k] * np.sqrt(chi(simultaneous.cautious(sizes, freedom)))[:, None, None]) ** 2
    count = len(table) * len(table[0])
    true[:, :3] /= count
    true[:, 3] = variances.sum() / count * chi(simultaneous.cautious(variances, freedom))
    return np.quantile(shares(true), [(1 - bootstrap.CONFIDENCE) / 2, (1 + bootstrap.CONFIDENCE) / 2], axis=0)


def behind(measured: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """[R]: the size of the effects that gave the ones `measured` [I, J], for each `noise` [R, I, J] that may have been added.

    Sizes are roots of sums of squares, and x is that of true effects + noise: with a, the noise along the effects that are
    seen, and r, the sum of squares of the rest of it, the true one is sqrt(x^2 - r) - a, or 0 where that is none. For equal
    cells it has the confidence distribution of noncentral F (Steiger, Psychological Methods 2004).
    """
    size = np.linalg.norm(measured)
    a = np.tensordot(noise, measured / (size or 1))
    left = size**2 - (noise**2).sum((1, 2)) + a**2
    return np.where(left > 0, np.sqrt(left.clip(min=0)) - a, 0).clip(min=0)


def pooled(cells: list[TableCell]) -> float:
    """The variance of a replicate, pooled over cells by their degrees of freedom."""
    free = np.array([len(cell.units) - 1 for cell in cells])
    return (free * [cell.variance for cell in cells]).sum() / free.sum()


def together(line: list[TableCell]) -> list[list[int]]:
    """[[column, ...]]: which Cells of a row are drawn again together, those of the same image sets; others alone."""
    groups: dict[tuple[str, ...] | int, list[int]] = {}
    for j, cell in enumerate(line):
        groups.setdefault(cell.names or j, []).append(j)
    return list(groups.values())


def shares(values: np.ndarray) -> np.ndarray:
    """`values` [..., 4] as shares of their sum; NaN where all are 0."""
    total = values.sum(-1, keepdims=True)
    return np.divide(values, total, out=np.full_like(values, np.nan), where=total > 0)


def agreement(cells: dict[tuple[str, str], TableCell], first: str, second: str) -> dict:
    """Kendall's tau-b between the ranks of the rows' means in column `first` and in `second`, over rows that have both.

    {"tau", "low", "high", "methods": the rows}. 1: the same order, 0: no relation, -1: reversed. tau is None for fewer than two
    rows and where one column's means are all equal. tau-b (Kendall, The treatment of ties in ranking problems, Biometrika
    1945), as scipy.stats.kendalltau computes it. low, high: what tau of the true means may be if every pair that `order_of`
    leaves open may lie either way. They hold it at least as often as they say (95 %), mostly more often.
    """
    rows = [row for row in dict.fromkeys(row for row, _ in cells) if (row, first) in cells and (row, second) in cells]
    result = {"tau": None, "low": None, "high": None, "methods": rows}
    if len(rows) < 2:
        return result
    table = [[cells[row, column] for column in (first, second)] for row in rows]
    means, _ = moments(table)
    tau = round(float(stats.kendalltau(means[:, 0], means[:, 1], variant="b").statistic), 12)
    if np.isnan(tau):
        return result
    low = high = None
    if any(len(cell.units) > 1 for line in table for cell in line):
        both = np.prod([order_of([line[k] for line in table]) for k in range(2)], 0)[np.triu_indices(len(rows), 1)]
        sure, open_pairs = both.sum(), (both == 0).sum()
        low, high = (float((sure + sign * open_pairs) / len(both)) for sign in (-1, 1))
    return {**result, "tau": tau, "low": low, "high": high}


def order_of(column: list[TableCell]) -> np.ndarray:
    """[M, M]: the sign of Cell i's mean less Cell j's, 0 where it is open: p of Student's t above 0.05, or a single unit.

    That is 5 % for every pair, not for all: an interval of tau misses only if errors outnumber the open pairs that lie well.
    """
    known = [k for k, cell in enumerate(column) if len(cell.units) > 1]
    units = [[unit.mean() for unit in column[k].units] for k in known]
    decided, means = np.zeros((len(column), len(column))), np.array([cell.mean for cell in column])
    if len(known) > 1:
        p = simultaneous.pairwise(units, [bool(column[k].names) for k in known])
        decided[np.ix_(known, known)] = p < 1 - bootstrap.CONFIDENCE
    return decided * np.sign(means[:, None] - means)


def tau_b(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b [...] of many x, y [..., M] at once; NaN where one of them is constant.

    (concordant - discordant) / sqrt(pairs not tied in x * pairs not tied in y), by all pairs.
    """
    one, other = np.triu_indices(x.shape[-1], 1)
    dx, dy = (np.sign(v[..., one] - v[..., other]) for v in (x, y))
    untied = np.sqrt((dx != 0).sum(-1) * (dy != 0).sum(-1))
    return np.divide((dx * dy).sum(-1), untied, out=np.full(untied.shape, np.nan), where=untied > 0)


def spread(means: dict[str, float]) -> dict | None:
    """Largest minus smallest of {method: mean}, with the methods that have them: {"spread", "best", "worst"}; None of fewer
    than two.
    """
    if len(means) < 2:
        return None
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return {"spread": means[best] - means[worst], "best": best, "worst": worst}
