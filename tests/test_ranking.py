"""Variance decomposition, its intervals, Kendall's tau and spread against closed forms, textbook sums of squares and SciPy."""

import numpy as np
import pytest
from scipy import special, stats

from rd3_utils.errors import UserError
from rd3_utils.scoring import bootstrap
from rd3_utils.studies import ranking
from rd3_utils.studies.ranking import TableCell

M, P = ["a", "b", "c"], ["x", "y"]


def grid(value, rows=M, columns=P, n=3):
    """{(row, column): Cell of value(i, j, k)}."""
    return {(r, c): TableCell([value(i, j, k) for k in range(n)]) for i, r in enumerate(rows) for j, c in enumerate(columns)}


def share_of(found):
    return {part: found["parts"][part]["share"] for part in ranking.PARTS}


def noisy(seed=1, rows=M, columns=P, n=3):
    generator = np.random.default_rng(seed)
    return grid(lambda i, j, k: 0.4 + 0.1 * i - 0.05 * j + 0.02 * generator.standard_normal(), rows, columns, n)


def test_an_additive_design_has_the_shares_of_its_closed_form():
    """m_ij = a_i + b_j with a = 0, .1, .2 (variance 2/300), b = 0, .3 (9/400), replicates -d, 0, d (2 d^2 / 3)."""
    found = ranking.decomposition(grid(lambda i, j, k: 0.1 * i + 0.3 * j + 0.01 * (k - 1)))
    wanted = {"method": 0.02 / 3, "protocol": 0.0225, "interaction": 0, "seed": 2e-4 / 3}
    total = sum(wanted.values())
    assert share_of(found) == pytest.approx({part: value / total for part, value in wanted.items()}, abs=1e-12)
    assert found["variance"] == pytest.approx(total)


def test_a_pure_interaction_has_no_main_effect():
    found = ranking.decomposition(grid(lambda i, j, k: 0.5 + 0.1 * (-1) ** (i + j), ["a", "b"]))
    assert share_of(found) == pytest.approx({"method": 0, "protocol": 0, "interaction": 1, "seed": 0}, abs=1e-12)


def test_shares_are_the_sums_of_squares_of_two_way_anova():
    cells, (i, j, n) = noisy(), (3, 2, 3)
    y = np.array([[cells[r, c].values for c in P] for r in M])
    total = ((y - y.mean()) ** 2).sum()
    rows = n * j * ((y.mean((1, 2)) - y.mean()) ** 2).sum()
    columns = n * i * ((y.mean((0, 2)) - y.mean()) ** 2).sum()
    between = n * ((y.mean(2) - y.mean()) ** 2).sum()
    error = ((y - y.mean(2, keepdims=True)) ** 2).sum()
    wanted = dict(zip(ranking.PARTS, np.array([rows, columns, between - rows - columns, error]) / total))
    found = share_of(ranking.decomposition(cells))
    assert found == pytest.approx(wanted) and sum(found.values()) == pytest.approx(1, abs=1e-12)


def test_two_cells_agree_with_one_way_anova_of_scipy():
    """F = MS_between / MS_within of all cells as one factor: (1 - seed) / seed * df_within / df_between."""
    cells = noisy()
    seed = ranking.decomposition(cells)["parts"]["seed"]["share"]
    assert (1 - seed) / seed * 12 / 5 == pytest.approx(stats.f_oneway(*(cell.values for cell in cells.values())).statistic)


def test_the_corrected_shares_are_those_of_expected_mean_squares():
    """E MS_method = s^2 + n J S_a with S_a = sum a_i^2 / (I - 1), and so on; here S_a (I-1)/I is the part."""
    cells, (i, j, n) = noisy(3), (3, 2, 3)
    y = np.array([[cells[r, c].values for c in P] for r in M])
    error = ((y - y.mean(2, keepdims=True)) ** 2).sum() / (i * j * (n - 1))
    rows = n * j * ((y.mean((1, 2)) - y.mean()) ** 2).sum() / (i - 1)
    columns = n * i * ((y.mean((0, 2)) - y.mean()) ** 2).sum() / (j - 1)
    inner = y.mean(2) - y.mean((1, 2))[:, None] - y.mean((0, 2)) + y.mean()
    both = n * (inner**2).sum() / ((i - 1) * (j - 1))
    parts = [(rows - error) / (n * j) * (i - 1) / i, (columns - error) / (n * i) * (j - 1) / j]
    parts += [(both - error) / n * (i - 1) * (j - 1) / (i * j)]
    parts = np.array([max(0, part) for part in parts] + [error])
    found = ranking.decomposition(cells)["parts"]
    assert [found[part]["corrected"] for part in ranking.PARTS] == pytest.approx(list(parts / parts.sum()))


def test_the_correction_finds_no_interaction_where_there_is_none():
    """Noise alone makes the plain interaction share positive; on average the corrected variances hit the truth."""
    generator, excess = np.random.default_rng(0), []
    for _ in range(400):
        table = [[TableCell(0.1 * i + 0.2 * j + 0.05 * generator.standard_normal(4)) for j in range(3)] for i in range(4)]
        point = ranking.variance_parts(*ranking.moments(table))
        pooled = np.mean([cell.values.var(ddof=1) for line in table for cell in line])
        added, spread = ranking.noise_of_parts(table)
        assert added == pytest.approx(pooled / 4 * np.array([3, 2, 6]) / 12) and spread == pytest.approx(pooled)
        excess.append(point[:3] - added)
    truth = [0.1**2 * np.var(range(4)), 0.2**2 * np.var(range(3)), 0]
    assert np.mean(excess, 0) == pytest.approx(truth, abs=4e-4)


def test_unequal_replicates_add_up_to_the_variance_of_a_fair_draw():
    """Cells drawn evenly, then a replicate of the cell evenly: each replicate weighs 1 / (cells * n of its cell)."""
    cells = noisy()
    cells["a", "x"].values.extend([0.7, 0.6])
    found = ranking.decomposition(cells)
    values = np.concatenate([cell.values for cell in cells.values()])
    weights = np.concatenate([np.full(len(cell.values), 1 / (6 * len(cell.values))) for cell in cells.values()])
    mean = (weights * values).sum()
    assert found["variance"] == pytest.approx((weights * (values - mean) ** 2).sum())
    assert sum(share_of(found).values()) == pytest.approx(1) and found["replicates"] == [3, 5]


def test_holes_leave_the_largest_full_table_and_are_named():
    cells = noisy(rows=["a", "b", "c", "d"], columns=["x", "y", "z"])
    for hole in (("d", "y"), ("d", "z"), ("a", "z")):
        del cells[hole]
    found = ranking.decomposition(cells)
    assert (found["methods"], found["protocols"], found["left_out"]) == (["a", "b", "c"], ["x", "y"], ["d", "z"])
    part = {key: cells[key] for key in cells if key[0] != "d" and key[1] != "z"}
    assert share_of(found) == share_of(ranking.decomposition(part))
    turned = ranking.complete({(c, r): v for (r, c), v in cells.items()})
    assert turned == (["x", "y"], ["a", "b", "c"])


def test_the_full_part_is_the_one_that_brute_force_finds():
    generator = np.random.default_rng(5)
    for _ in range(30):
        keys = [(r, c) for r in range(5) for c in range(4) if generator.random() < 0.7]
        rows, columns = ranking.complete(dict.fromkeys(keys, TableCell([1.0])))
        assert all((r, c) in keys for r in rows for c in columns)
        best = 0
        for mask in range(1, 32):
            chosen = [r for r in range(5) if mask >> r & 1]
            shared = [c for c in range(4) if all((r, c) in keys for r in chosen)]
            if len(chosen) >= 2 and len(shared) >= 2:
                best = max(best, len(chosen) * len(shared))
        assert len(rows) * len(columns) == best or best == 0


def test_no_table_no_shares():
    assert ranking.decomposition({}) is None
    assert ranking.decomposition({("a", "x"): TableCell([0.1]), ("b", "y"): TableCell([0.2])}) is None
    assert ranking.decomposition(grid(lambda i, j, k: 0.1 * i, columns=["x"])) is None
    wide = {(i, j): TableCell([0.0]) for i in range(20) for j in range(20) if i != j}
    with pytest.raises(UserError, match="20 x 20 with holes"):
        ranking.decomposition(wide)


def test_one_seed_hides_the_noise_in_the_interaction():
    found = ranking.decomposition(noisy(n=1))
    assert found["parts"]["seed"] == {"share": None, "low": None, "high": None, "corrected": None}
    others = [found["parts"][part] for part in ranking.PARTS[:3]]
    assert sum(part["share"] for part in others) == pytest.approx(1)
    assert all(part["low"] is part["high"] is part["corrected"] is None for part in others)


def test_constant_data_have_no_shares():
    found = ranking.decomposition(grid(lambda i, j, k: 0.5))
    assert found["variance"] == 0 and all(part["share"] is None for part in found["parts"].values())


def test_intervals_hold_the_share_are_repeatable_and_shrink_with_replicates():
    few, many = (ranking.decomposition(noisy(2, n=n))["parts"]["method"] for n in (3, 60))
    assert few == ranking.decomposition(noisy(2))["parts"]["method"]
    assert few["low"] < few["corrected"] < few["high"] and many["high"] - many["low"] < 0.5 * (few["high"] - few["low"])


def test_the_intervals_of_equal_cells_are_those_of_noncentral_chi_square():
    """Another way, by a generator of its own: sums of squares over the noise have that distribution; invert it."""
    effects = np.array([[0.30, 0.36, 0.33], [0.31, 0.35, 0.37], [0.36, 0.37, 0.39], [0.30, 0.40, 0.38]])
    cells = {(i, j): TableCell([effects[i, j] + k for k in (-0.01, 0, 0.01)]) for i in range(4) for j in range(3)}
    table = [[cells[i, j] for j in range(3)] for i in range(4)]
    generator, count, (rows, columns, n) = np.random.default_rng(5), 4000, effects.shape + (3,)
    free, s2 = rows * columns * (n - 1), 0.01**2
    true = []
    for part, degrees in zip(
        ranking.variance_parts(*ranking.moments(table)), (rows - 1, columns - 1, (rows - 1) * (columns - 1))
    ):
        sigma2 = s2 * free / generator.chisquare(free, count)
        x, level = part * rows * columns * n / sigma2, generator.random(count)
        beyond = special.chndtrinc(x, degrees, level.clip(1e-4, 1 - 1e-4))
        true.append(np.where(special.chdtr(degrees, x) > level, beyond, 0) * sigma2 / (rows * columns * n))
    true = np.transpose([*true, s2 * free / generator.chisquare(free, count)])
    wanted = np.quantile(true / true.sum(1, keepdims=True), [0.025, 0.975], axis=0)
    np.testing.assert_allclose(ranking.intervals(table), wanted, atol=0.012)


def test_what_lies_behind_the_effects_that_are_seen_undoes_the_noise():
    """Whatever true effects and noise gave them, along one direction and across it."""
    generator, noise = np.random.default_rng(6), np.zeros((50, 3, 2))
    noise[:, 0, 0], noise[:, 2, 1] = generator.standard_normal((2, 50))
    true = np.abs(generator.standard_normal(50)) + 5
    for k in range(50):
        seen = np.zeros((3, 2))
        seen[0, 0] = np.hypot(true[k] + noise[k, 0, 0], noise[k, 2, 1])  # the same sum of squares, its direction is known
        assert ranking.behind(seen, noise)[k] == pytest.approx(true[k])
    assert (ranking.behind(0.01 * np.eye(3, 2), 10 * noise + 1) == 0).mean() > 0.9
    assert (ranking.behind(np.zeros((3, 2)), noise) == 0).all()


@pytest.mark.parametrize("interaction, seed", [(0.01, 0.01), (0, 0.02)])
def test_intervals_hold_the_true_shares_about_as_often_as_they_say(interaction, seed, monkeypatch):
    """Five methods, four protocols, three seeds; the percentile bootstrap held interaction and seed in 0 to 60 %."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator, held, times = np.random.default_rng(11), np.zeros(4), 150
    for _ in range(times):
        effects = 0.02 * generator.standard_normal((5, 1)) + 0.02 * generator.standard_normal(4)
        effects = effects + interaction * generator.standard_normal((5, 4))
        true = ranking.variance_parts(effects, np.full_like(effects, seed**2))
        cells = {(i, j): TableCell(effects[i, j] + seed * generator.standard_normal(3)) for i in range(5) for j in range(4)}
        found = ranking.decomposition(cells)["parts"]
        wanted = zip(ranking.PARTS, true / true.sum())
        held += [found[part]["low"] - 1e-9 <= share <= found[part]["high"] for part, share in wanted]
    assert (held / times >= 0.9).all() and (held / times <= 0.99).all()


def test_three_draws_of_images_widen_every_interval():
    """What they say of luck is little: its variance may be 39 times as large as theirs (chi^2 of 2 degrees, 2.5 %)."""
    widths = []
    for sets in (None, [0, 1, 2]):
        cells = {key: TableCell(one.values, sets if key[0] == "a" else None) for key, one in noisy(4).items()}
        parts = ranking.decomposition(cells)["parts"]
        widths.append([parts[part]["high"] - parts[part]["low"] for part in ranking.PARTS])
    assert (np.array(widths[1]) > widths[0]).all()


def test_tau_of_many_is_scipys_tau_also_with_ties():
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, (200, 6)).astype(float), generator.integers(0, 4, (200, 6)).astype(float)
    x[0] = 2.0
    wanted = [stats.kendalltau(a, b).statistic for a, b in zip(x, y)]
    assert np.isnan(wanted[0])
    np.testing.assert_allclose(ranking.tau_b(x, y), wanted, atol=1e-12)


def test_agreement_is_the_tau_of_means_with_an_interval():
    generator = np.random.default_rng(7)
    cells = grid(lambda i, j, k: 0.4 + 0.01 * i + 0.02 * generator.standard_normal(), list("abcde"))
    means = np.array([[cells[r, c].mean for c in P] for r in "abcde"])
    found = ranking.agreement(cells, "x", "y")
    assert found["tau"] == pytest.approx(stats.kendalltau(*means.T).statistic)
    assert found["low"] < found["tau"] < found["high"] and found["methods"] == list("abcde")


def test_the_interval_of_tau_leaves_open_what_seeds_do_not_tell():
    """Means of a, b, c under x and y: c is clearly the best under both, a and b are clear under x only."""
    means, noise = np.array([[0.1, 0.20], [0.2, 0.21], [0.5, 0.50]]), np.array([-0.02, 0, 0.02])
    found = ranking.agreement(
        {(m, p): TableCell(means[i, j] + noise) for i, m in enumerate(M) for j, p in enumerate(P)}, "x", "y"
    )
    assert found == {"tau": 1.0, "low": pytest.approx(1 / 3), "high": 1.0, "methods": M}
    at = [(i, j, m, p) for i, m in enumerate(M) for j, p in enumerate(P)]
    single = {(m, p): TableCell(means[i, j] + (noise if p == "x" or m != "c" else [0])) for i, j, m, p in at}
    assert ranking.agreement(single, "x", "y")["low"] == -1  # of c nothing is known under y


@pytest.mark.parametrize("methods, spread", [(5, 0.02), (8, 0.02), (8, 0.05)])
def test_the_interval_of_tau_holds_that_of_the_true_means(methods, spread):
    """Both protocols rank alike, methods lie close: a bootstrap of tau, whose noise is seen twice, held this in 0 to 80 %."""
    generator, held = np.random.default_rng(methods), 0
    for _ in range(100):
        means = spread * generator.standard_normal(methods)
        cells = {(i, j): TableCell(means[i] + 0.02 * generator.standard_normal(3)) for i in range(methods) for j in range(2)}
        held += ranking.agreement(cells, 0, 1)["high"] == 1
    assert held >= 95


def test_the_same_order_has_tau_1_and_the_reversed_one_minus_1():
    same = grid(lambda i, j, k: 0.1 * i + 0.3 * j)
    back = grid(lambda i, j, k: 0.1 * i * (1 - 2 * j) + 0.3)
    assert ranking.agreement(same, "x", "y") == {"tau": 1.0, "low": 1.0, "high": 1.0, "methods": M}
    assert ranking.agreement(back, "x", "y")["tau"] == -1


def test_tau_is_over_methods_that_both_columns_have():
    cells = noisy()
    del cells["b", "y"]
    assert ranking.agreement(cells, "x", "y")["methods"] == ["a", "c"]
    assert ranking.agreement({("a", "x"): TableCell([0.1]), ("a", "y"): TableCell([0.1])}, "x", "y")["tau"] is None


def test_tau_of_ties_of_one_seed_and_of_constants():
    tied = dict(zip([(r, c) for c in P for r in M], map(TableCell, ([0.1], [0.1], [0.2], [0.1], [0.2], [0.3]))))
    found = ranking.agreement(tied, "x", "y")
    assert found["tau"] == pytest.approx(2 / np.sqrt(2 * 3)) and found["low"] is found["high"] is None
    assert ranking.agreement(grid(lambda i, j, k: 0.5 + 0.1 * i * j), "x", "y")["tau"] is None


def test_the_spread_of_the_papers_table_is_27_3_before_and_6_7_after():
    """RD^3, ImageNet-1K, 10 images per class, ResNet-18, as public summaries print it (arXiv 2509.19743)."""
    names = "sre2l cda gvbsm dwa edc minimax d4m rded".split()
    before = dict(zip(names, (0.213, 0.335, 0.314, 0.379, 0.486, 0.443, 0.279, 0.420)))
    after = dict(zip(names, (0.402, 0.412, 0.415, 0.425, 0.469, 0.459, 0.454, 0.463)))
    assert ranking.spread(before) == {"spread": pytest.approx(0.273), "best": "edc", "worst": "sre2l"}
    assert ranking.spread(after)["spread"] == pytest.approx(0.067)
    assert ranking.spread({"a": 0.1}) is None and ranking.spread({"a": 0.1, "b": 0.1})["spread"] == 0


def drawn(seed=0, methods=3, protocols=2, draws=4, seeds=3, luck=0.05, noise=0.01):
    """{cell: Cell}: method 0 has `draws` image sets, each with a luck that all protocols share; all others have one."""
    generator = np.random.default_rng(seed)
    lucky, cells = luck * generator.standard_normal(draws), {}
    for i in range(methods):
        for j in range(protocols):
            which = [draw for draw in range(draws if i == 0 else 1) for _ in range(seeds)]
            tops = 0.3 + 0.1 * j + noise * generator.standard_normal(len(which))
            cells[i, j] = TableCell(tops + (lucky[which] if i == 0 else 0), which)
    return cells


def test_a_cell_draws_image_sets_again_where_it_has_several_and_else_replicates():
    assert [list(unit) for unit in TableCell([0.1, 0.2, 0.3], ["b", "a", "b"]).units] == [[0.2], [0.1, 0.3]]
    assert [list(unit) for unit in TableCell([0.1, 0.2], ["a", "a"]).units] == [[0.1], [0.2]]
    assert TableCell([0.1, 0.2]).names == TableCell([0.1, 0.2], ["a", "a"]).names == () and TableCell(
        [1, 2], ["b", "a"]
    ).names == ("a", "b")


def test_the_variance_of_sets_of_one_replicate_each_is_that_of_replicates():
    values = [0.31, 0.35, 0.32]
    assert (
        TableCell(values, [0, 1, 2]).variance
        == pytest.approx(np.var(values, ddof=1))
        == pytest.approx(TableCell(values).variance)
    )


def covariance(noises, shape):
    """[I J, I J] of the cell means that a list of Noise makes."""
    columns = np.concatenate([one.columns for one in noises]).reshape(-1, np.prod(shape))
    return columns.T @ columns


def test_noise_of_replicates_is_half_their_own_variance_and_half_the_pooled_one():
    cells = noisy(3)
    table = [[cells[r, c] for c in P] for r in M]
    own = np.array([cell.variance for line in table for cell in line])
    (noise,) = ranking.noises(table)
    np.testing.assert_allclose(covariance([noise], (3, 2)), np.diag((own + own.mean()) / 2 / 3), atol=1e-12)
    assert noise.variance == pytest.approx(own.sum())
    assert noise.freedom == pytest.approx(((own + own.mean()) ** 2).sum() ** -1 * 4 * own.sum() ** 2 * 2)


def test_luck_of_draws_is_what_all_protocols_share_and_what_they_do_not():
    """By hand: the covariance of the draws' means over their number is that of the row, but for what links both parts."""
    cells = drawn()
    table = [[cells[i, j] for j in range(2)] for i in range(3)]
    shared, apart, within, replicates = ranking.noises(table)
    means = np.array([[unit.mean() for unit in cells[0, j].units] for j in range(2)])  # [J, D]
    row, every = covariance([shared, apart], (3, 2))[:2, :2], np.cov(means) / 4
    one, other = np.array([1, 1]) / 2, np.array([1, -1]) / 2
    assert one @ row @ one == pytest.approx(one @ every @ one) and other @ row @ other == pytest.approx(other @ every @ other)
    assert [shared.freedom, apart.freedom, within.freedom] == [3, 3, 2 * 4 * 2] and len(within.columns) == 0
    assert shared.variance + apart.variance + within.variance == pytest.approx(sum(cells[0, j].variance for j in range(2)))
    assert replicates.variance == pytest.approx(sum(cells[i, j].variance for i in (1, 2) for j in range(2)))


def test_luck_that_all_protocols_share_cancels_in_their_difference():
    cells = drawn(noise=1e-6)
    noise = ranking.noises([[cells[i, j] for j in range(2)] for i in range(3)])
    of_rows, of_columns, _ = np.sum([ranking.variance_parts(one.columns, one.columns)[:, :3].sum(0) for one in noise], 0)
    assert of_rows > 1e-5 and of_columns < 1e-10


def test_luck_of_draws_is_taken_out_of_the_method():
    """No method differs: luck adds its variance / 4 draws to a row's mean, so (I - 1) / I^2 of that to the method's part."""
    raw, left = [], []
    for cells in map(drawn, range(400)):
        table = [[cells[i, j] for j in range(2)] for i in range(3)]
        raw.append(ranking.variance_parts(*ranking.moments(table))[:3])
        left.append(raw[-1] - ranking.noise_of_parts(table)[0])
    error = np.std(left, 0) / 400**0.5
    assert np.mean(raw, 0)[0] == pytest.approx(0.05**2 / 4 * 2 / 9, rel=0.2)
    assert (np.abs(np.mean(left, 0) - [0, 0.05**2, 0]) < 4 * error).all() and 8 * error[0] < np.mean(raw, 0)[0]


def test_a_replicates_variance_is_the_mean_over_cells_whatever_their_degrees_of_freedom():
    many, few = TableCell([0.1, 0.3, 0.2, 0.5, 0.4], [0, 1, 2, 3, 4]), TableCell([0.30, 0.31, 0.33])
    _, replicate = ranking.noise_of_parts([[many, many], [few, few]])
    assert replicate == pytest.approx((np.var(many.values, ddof=1) + np.var(few.values, ddof=1)) / 2)
    _, replicate = ranking.noise_of_parts([[many, many], [few, TableCell([0.3])]])  # of a single one: as the others of its kind
    assert replicate == pytest.approx((np.var(many.values, ddof=1) + np.var(few.values, ddof=1)) / 2)
