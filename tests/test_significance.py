"""Significance: the paired bootstrap against enumeration, closed forms and its error rate; groups of ties by their rule."""

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats
from test_scores import run

from rd3_utils.errors import UserError
from rd3_utils.scoring import bootstrap, significance

RANDOM = np.random.default_rng(0)


def one(values, first=0):
    """The sample of a set that is not drawn at random, seeds from `first`."""
    return {None: dict(enumerate(values, start=first))}


def drawn(table):
    """The sample of random images: a row per draw, a column per seed."""
    return {draw: dict(enumerate(row)) for draw, row in enumerate(table)}


def normal(*shape, spread=0.01):
    return 0.5 + spread * RANDOM.standard_normal(shape)


@pytest.mark.parametrize(
    "a, b", [((0.52, 0.50, 0.51), (0.50, 0.51, 0.48)), ((0.60, 0.61, 0.63, 0.66), (0.61, 0.60, 0.60, 0.59))]
)
def test_the_interval_of_few_pairs_is_that_of_all_resamples(a, b):
    """All n^n resamples enumerated; Student's factor written out by its definition."""
    pairs = np.subtract(a, b)
    n, mean = len(pairs), pairs.mean()
    every = np.array([pairs[list(rows)].mean() for rows in itertools.product(range(n), repeat=n)])
    factor = math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975)
    wanted = mean + factor * (np.quantile(every, [0.025, 0.975], method="inverted_cdf") - mean)
    found = significance.difference(one(a), one(b))
    assert found["paired"] and found["difference"] == pytest.approx(mean, abs=1e-15)
    assert [found["low"], found["high"]] == pytest.approx(wanted, abs=0.05 * (wanted[1] - wanted[0]))


def test_with_many_seeds_it_is_the_paired_t_test():
    a, b = normal(60), normal(60)
    shared = 0.03 * RANDOM.standard_normal(60)  # a seed's luck, common to both sets: pairing takes it out
    found = significance.difference(one(a + shared), one(b + shared))
    wanted = stats.ttest_rel(a, b)
    assert found["p"] == pytest.approx(wanted.pvalue, abs=0.03)
    assert [found["low"], found["high"]] == pytest.approx(list(wanted.confidence_interval()), abs=5e-4)


def test_with_other_seeds_it_is_welchs_t_test():
    a, b = normal(50), normal(40, spread=0.03)
    found, wanted = significance.difference(one(a), one(b, first=100)), stats.ttest_ind(a, b, equal_var=False)
    assert not found["paired"] and found["p"] == pytest.approx(wanted.pvalue, abs=0.03)
    assert [found["low"], found["high"]] == pytest.approx(list(wanted.confidence_interval()), abs=1e-3)


def test_the_p_value_is_the_level_whose_interval_ends_at_0():
    a, b = (0.521, 0.502, 0.514, 0.52, 0.509), (0.505, 0.5, 0.502, 0.513, 0.501)
    found = significance.difference(one(a), one(b))
    pairs = np.subtract(a, b)
    deviations = significance.deviation("seeds", pairs)
    low, _ = significance.ends(deviations, len(pairs) - 1, found["p"])
    assert found["difference"] + low == pytest.approx(0, abs=1e-4)
    assert (found["p"] < 0.05) == (found["low"] > 0)


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("kind", ["paired", "unpaired", "draws"])
def test_equal_sets_are_called_different_about_one_time_in_twenty(n, kind):
    called, times = 0, 300
    for _ in range(times):
        random = drawn(normal(3, 1, spread=0.02) + normal(3, n) - 0.5)
        b = random if kind == "draws" else one(normal(n), first=0 if kind == "paired" else n)
        called += significance.difference(one(normal(n)), b)["p"] < 0.05
    assert called / times < 0.1 and (n == 2 or called / times > 0.01)


def test_swapping_the_sides_swaps_the_sign():
    a, b = one(normal(5)), one(normal(5))
    there, back = significance.difference(a, b), significance.difference(b, a)
    assert there["difference"] == -back["difference"]
    assert there["p"] == pytest.approx(back["p"], abs=0.02)


def test_the_choice_of_random_images_widens_the_interval():
    """Three draws far apart, many seeds close together: three things vary, not sixty."""
    b = drawn(np.array([[0.40], [0.45], [0.50]]) + normal(3, 20, spread=0.001) - 0.5)
    found = significance.difference(one(normal(20, spread=0.001)), b)
    half = stats.t.ppf(0.975, 2) * 0.05 / math.sqrt(3)
    assert found["draws"] == [None, 3] and found["high"] - found["low"] == pytest.approx(2 * half, rel=0.25)
    assert significance.difference(one(normal(20, spread=0.001)), {None: b[1]})["high"] < 0.06


def test_draws_of_unequal_size_weigh_by_their_runs():
    side = {0: {0: 0.1, 1: 0.2, 2: 0.3}, 1: {0: 0.8}}
    found = significance.difference(side, one((0.1, 0.2), first=7))
    assert found["means"][0] == pytest.approx(0.35) and significance.draw_means(side).mean() == pytest.approx(0.35)


def test_one_run_on_a_side_is_not_decidable():
    for a, b in (((0.9,), (0.1, 0.2)), ((0.9, 0.8), (0.1,))):
        found = significance.difference(one(a), one(b))
        assert (found["decidable"], found["p"], found["low"], found["high"]) == (False, None, None, None)
        assert "one run shows no spread" in found["why"]


def test_the_same_difference_for_every_seed_is_no_proof():
    found = significance.difference(one((0.51, 0.61)), one((0.50, 0.60)))
    assert not found["decidable"] and "shows no spread" in found["why"] and found["p"] is None


def test_holm_is_the_step_down_rule():
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.9, 0.6]) == [1.0, 1.0] and significance.holm([]) == []


def test_ties_are_grouped_and_gaps_are_not():
    samples = [one(normal(5, spread=0.004) - gap) for gap in (0.1, 0.0, 0.3, 0.001, 0.101)]
    groups, compared = significance.ties(samples)
    assert [sorted(group) for group in groups] == [[1, 3], [0, 4], [2]]
    means = [statistics.fmean(samples[k][None].values()) for group in groups for k in group]
    assert means == sorted(means, reverse=True)
    assert all(one["adjusted"] >= one["p"] for one in compared)


def test_ties_follow_their_rule_by_a_plain_loop():
    samples = [one(normal(4, spread=0.01) + 0.004 * k) for k in range(12)]
    groups, _ = significance.ties(samples)
    order = [k for group in groups for k in group]
    assert sorted(order) == list(range(12))
    while order:
        found = [significance.difference(samples[order[0]], samples[k])["p"] for k in order[1:]]
        ranks = [sum(p < q for p in found) for q in found]
        adjusted = [max(min(1, (len(found) - r) * p) for r, p in zip(ranks, found) if p <= q) for q in found]
        end = 1 + next((k for k, p in enumerate(adjusted) if p < 0.05), len(found))
        assert groups.pop(0) == order[:end]
        order = order[end:]


def test_more_comparisons_ask_for_more():
    """The same gap, alone and among many others: the number of comparisons is corrected for."""
    best, other = one((0.530, 0.520, 0.528, 0.522)), one((0.512, 0.515, 0.511, 0.514))
    assert len(significance.ties([best, other])[0]) == 2
    crowd = [one(0.5199 + 0.02 * np.random.default_rng(k).permutation([-1, -0.5, 0.5, 1])) for k in range(30)]
    assert significance.ties([best, other, *crowd])[0][0][0] == 0
    assert 1 in significance.ties([best, other, *crowd])[0][0]


def test_a_single_run_never_leads_and_never_ends_a_group():
    lucky, good, bad = one((0.9,)), one((0.520, 0.521, 0.519)), one((0.420, 0.422, 0.419))
    middle = one((0.47,))
    groups, compared = significance.ties([bad, lucky, middle, good])
    assert groups == [[1, 3, 2], [0]]
    assert [item["decidable"] for item in compared if item["entry"] == 2] == [False]
    assert significance.ties([one((0.5,)), one((0.6,))]) == ([[1, 0]], [])
    assert significance.ties([]) == ([], [])


def complete(top1, seed, draw=None):
    """A Run as `comparison` needs it."""
    found = run(top1, seed, draw, "distilled-soft" if draw is None else "random-soft")
    found |= {"test": {"fingerprint": "t"}, "teachers": []}
    found["images"]["name"] = "set"
    return found


def test_runs_are_compared_with_what_a_reader_must_know():
    ours, random = (
        [complete(v, k) for k, v in enumerate((0.52, 0.53, 0.51))],
        [complete(0.4 + 0.01 * k, k, 0) for k in range(3)],
    )
    found = significance.comparison(ours, random)
    assert found["difference"] == pytest.approx(0.11) and found["n"] == [3, 3] and found["significant"]
    assert found["notes"] == ["random images of a single draw: other draws may differ"]
    lone = significance.comparison(ours, random[:1])
    assert not lone["significant"] and "not decidable" in lone["notes"][0]


BAD = [
    ({"student": "resnet18"}, "the sides differ in student: convnet3 and resnet18"),
    ({"benchmark": "cifar10"}, "the sides differ in benchmark"),
    ({"protocol": {"digest": "e"}}, "the sides differ in protocol digest"),
    ({"arm": "distilled-hard"}, "the sides differ in kind of labels: soft and hard"),
    ({"environment": {"precision": "bf16"}}, "the sides differ in precision"),
    ({"test": {"fingerprint": "u"}}, "the sides differ in test split"),
    ({"top1": 1.7}, "wanted a fraction"),
    ({"top1": math.nan}, "wanted a fraction"),
]


@pytest.mark.parametrize("changes, words", BAD)
def test_runs_that_may_not_be_compared_are_refused(changes, words):
    ours = [complete(0.5 + 0.01 * k, k) for k in range(3)]
    with pytest.raises(UserError, match=words):
        significance.comparison(ours, [complete(0.4, k) | changes for k in range(3)])


def test_a_side_is_one_image_set():
    ours = [complete(0.5, k) for k in range(2)]
    other = complete(0.5, 2) | {"images": {**ours[0]["images"], "fingerprint": "g"}}
    with pytest.raises(UserError, match="mixes image sets"):
        significance.comparison([*ours, other], ours)
    with pytest.raises(UserError, match="two runs of seed 1"):
        significance.comparison([*ours, ours[1]], ours)
    with pytest.raises(UserError, match="different arm: distilled-soft, random-soft"):
        significance.comparison([*ours, complete(0.5, 2, 0)], ours)


def test_an_interval_is_repeatable():
    a, b = one(normal(4)), one(normal(4))
    assert significance.difference(a, b) == significance.difference(a, b)
    assert (bootstrap.drawn(3, bootstrap.generator("x", 1)) == bootstrap.drawn(3, bootstrap.generator("x", 1))).all()
    assert (bootstrap.drawn(3, bootstrap.generator("x", 1)) != bootstrap.drawn(3, bootstrap.generator("y", 1))).any()
