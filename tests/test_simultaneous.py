"""Many means at once: all pairs of a board against SciPy's studentized range, Student's t and plain loops."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rd3_utils.scoring import significance, simultaneous


def seeds(k, n=3, spread=0.01, seed=0):
    """[k, n] of accuracies of k equal entries."""
    return 0.5 + spread * np.random.default_rng(seed).standard_normal((k, n))


@pytest.mark.parametrize("k, n", [(3, 3), (10, 3), (50, 3), (20, 10)])
def test_with_pooled_variances_the_largest_step_is_the_studentized_range(k, n, monkeypatch):
    """Tukey: the range of k means over their standard error, sqrt(2) of the steps here."""
    monkeypatch.setattr(simultaneous, "OWN_WEIGHT", 1e9)
    steps, with_draws = simultaneous.largest.__wrapped__((n,) * k, ())
    wanted = stats.studentized_range.isf([0.1, 0.05], k, k * (n - 1)) / 2**0.5
    assert with_draws is None and np.quantile(steps, [0.9, 0.95]) == pytest.approx(wanted, rel=0.015)


def test_two_entries_are_judged_by_students_t():
    a, b = seeds(2)
    for gap in (0.0, 0.02, 0.04):
        wanted = stats.ttest_ind(a + gap, b).pvalue
        units = [a + gap, b]
        assert simultaneous.pairwise(units, [False, False])[0, 1] == pytest.approx(wanted)
        assert simultaneous.adjusted(units, [False, False])[0, 1] == pytest.approx(wanted, abs=0.015)


def test_one_entry_of_draws_among_many_is_judged_by_what_three_draws_tell():
    """Far noisier than seeds, it is worth no more than Student's t of two degrees of freedom, at half of the 5 %."""
    _, with_draws = simultaneous.largest((3,) * 9, (3,))
    limit = max(np.quantile(steps, 0.975) for steps in with_draws)
    assert limit == pytest.approx(stats.t.isf(0.0125, 2), rel=0.06)
    three = np.array([0.40, 0.45, 0.50])
    se, others = (three.var(ddof=1) / 3) ** 0.5, seeds(9, spread=1e-4)
    for steps, different in ((5, False), (8, True)):
        units = [*others, three - three.mean() + others.mean() - steps * se]
        judged = simultaneous.adjusted(units, [False] * 9 + [True])
        assert (judged[:9, 9] < 0.05).all() == different and (judged[:9, 9] < 0.05).any() == different
        assert judged[:9, :9].min() > 0.05


def test_all_pairs_are_looked_at_by_a_plain_loop():
    generator = np.random.default_rng(1)
    means, errors = generator.standard_normal((20, 6)), generator.random((20, 6)) + 0.1
    wanted = [
        max(abs(m[i] - m[j]) / (e[i] + e[j]) ** 0.5 for i, j in itertools.combinations(range(6), 2))
        for m, e in zip(means, errors)
    ]
    np.testing.assert_allclose(simultaneous.steps_within(means, errors), wanted)
    first, rest = (means[:, :2], errors[:, :2]), (means[:, 2:], errors[:, 2:])
    wanted = [max(abs(m[i] - m[j]) / (e[i] + e[j]) ** 0.5 for i in (0, 1) for j in range(2, 6)) for m, e in zip(means, errors)]
    np.testing.assert_allclose(simultaneous.steps_between(*first, *rest), wanted)


def test_what_is_found_does_not_depend_on_the_order_of_entries():
    units = [*seeds(6), *seeds(2, 5, seed=1), *(0.5 + 0.03 * np.random.default_rng(2).standard_normal((2, 3)))]
    clustered = [False] * 8 + [True] * 2
    found, order = simultaneous.adjusted(units, clustered), np.random.default_rng(3).permutation(10)
    again = simultaneous.adjusted([units[k] for k in order], [clustered[k] for k in order])
    assert (again == found[np.ix_(order, order)]).all() and (found == found.T).all()
    assert (np.diag(found) == 1).all() and (found > 0).all() and (found <= 1).all()


def test_a_noisy_entry_keeps_half_of_its_own_variance():
    """Three seeds: its two degrees of freedom against OWN = 2; the means of all stay what they were."""
    units = [*seeds(4), 10 * (seeds(1, seed=1)[0] - 0.5) + 0.5]
    own = np.var(units, axis=1, ddof=1)
    means, squares, degrees = simultaneous.known(units, np.zeros(5, bool))
    np.testing.assert_allclose(squares, (own + own.mean()) / 2 / 3)
    np.testing.assert_allclose(means, np.mean(units, 1))
    assert (degrees == 4).all() and simultaneous.shrunk(1.0, 2, 3.0) == 2.0


def test_an_entry_of_draws_has_its_own_variance_and_several_share_theirs():
    three = np.array([[0.4, 0.5, 0.45], [0.41, 0.42, 0.40]])
    one = simultaneous.known([*seeds(3), three[0]], np.array([False] * 3 + [True]))
    assert one[1][3] == pytest.approx(three[0].var(ddof=1) / 3) and one[2][3] == 2
    two = simultaneous.known([*seeds(3), *three], np.array([False] * 3 + [True] * 2))
    own = three.var(1, ddof=1)
    np.testing.assert_allclose(two[1][3:], (own + own.mean()) / 2 / 3)
    np.testing.assert_allclose(two[1][:3], one[1][:3])


def test_degrees_of_freedom_are_satterthwaites_and_cautious_ones_lean_to_the_fewest():
    a, b = seeds(1, 4, 0.02)[0], seeds(1, 9, 0.01, seed=1)[0]
    variances, degrees = [a.var(ddof=1) / 4, b.var(ddof=1) / 9], [3, 8]
    wanted = stats.ttest_ind(a, b, equal_var=False).df
    assert simultaneous.freedom(variances, degrees) == pytest.approx(wanted)
    assert 3 <= simultaneous.cautious(variances, degrees) < wanted
    assert simultaneous.cautious([1, 2, 3], [2, 2, 2]) == pytest.approx(simultaneous.freedom([1, 2, 3], [2, 2, 2]))
    assert simultaneous.cautious([1e-9, 5], [2, 7]) == pytest.approx(7) and simultaneous.freedom([0, 0], [2, 7]) == 9


def test_nothing_is_known_of_entries_without_a_spread():
    units = [np.full(3, 0.1), np.full(3, 0.7), np.full(3, 0.3)]
    assert (simultaneous.adjusted(units, [False] * 3) == 1).all()


def test_every_entry_of_a_board_of_fifty_has_one_rank():
    board = [{None: dict(enumerate(values))} for values in seeds(47)]
    board += [{k: {0: value} for k, value in enumerate(values)} for values in seeds(3, seed=1)]
    groups, _ = significance.ties(board)
    assert sorted(k for group in groups for k in group) == list(range(50))
