"""Significance: t-tests against SciPy, closed forms and their error rate; groups of ties by their rule."""

import math
import statistics

import numpy as np
import pytest
from making_runs import drawn as images_of_draw
from making_runs import made, run, table
from scipy import stats

from rd3_utils.errors import UserError
from rd3_utils.scoring import bootstrap, runs, significance, simultaneous
from rd3_utils.scoring.shapes import Refused

RANDOM = np.random.default_rng(0)


def one(values, first=0):
    """The sample of a set that is not drawn at random, seeds from `first`."""
    return {None: dict(enumerate(values, start=first))}


def drawn(table):
    """The sample of random images: a row per draw, a column per seed."""
    return {draw: dict(enumerate(row)) for draw, row in enumerate(table)}


def normal(*shape, spread=0.01):
    return 0.5 + spread * RANDOM.standard_normal(shape)


def told(found):
    return [found["p"], found["low"], found["high"]]


@pytest.mark.parametrize("n", [2, 3, 60])
def test_seeds_in_pairs_are_the_paired_t_test(n):
    a, b = normal(n), normal(n)
    shared = 0.03 * RANDOM.standard_normal(n)  # a seed's luck, common to both sets: pairing takes it out
    found, wanted = significance.difference(one(a + shared), one(b + shared)), stats.ttest_rel(a, b)
    assert found["paired"] and told(found) == pytest.approx([wanted.pvalue, *wanted.confidence_interval()])


@pytest.mark.parametrize("n", [3, 40])
def test_as_many_other_seeds_are_welchs_t_test(n):
    a, b = normal(n), normal(n, spread=0.03)
    found, wanted = significance.difference(one(a), one(b, first=100)), stats.ttest_ind(a, b, equal_var=False)
    assert not found["paired"] and told(found) == pytest.approx([wanted.pvalue, *wanted.confidence_interval()])


def test_of_unequally_many_the_fewer_decide_how_sure_it_is():
    """Welch's t with degrees of freedom between those of the smaller side and Satterthwaite's; 1 beside a side of two."""
    a, b = normal(3, spread=0.02), normal(10)
    found, wanted = significance.difference(one(a), one(b, first=100)), stats.ttest_ind(a, b, equal_var=False)
    steps = abs(wanted.statistic)
    assert wanted.pvalue < found["p"] < 2 * stats.t.sf(steps, 2)
    two = significance.difference(one(a[:2]), one(b, first=100))
    steps = stats.ttest_ind(a[:2], b, equal_var=False).statistic
    assert two["p"] == pytest.approx(2 * stats.t.sf(abs(steps), 1))


def test_the_p_value_is_the_level_whose_interval_ends_at_0():
    a, b = (0.521, 0.502, 0.514, 0.52, 0.509), (0.505, 0.5, 0.502, 0.513, 0.501)
    found, pairs = significance.difference(one(a), one(b)), np.subtract(a, b)
    half = stats.t.isf(found["p"] / 2, 4) * pairs.std(ddof=1) / 5**0.5
    assert found["difference"] == pytest.approx(half) and (found["p"] < 0.05) == (found["low"] > 0)


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("kind", ["paired", "unpaired", "draws"])
def test_equal_sets_are_called_different_about_one_time_in_twenty(n, kind):
    called, times = 0, 1000
    for _ in range(times):
        random = drawn(normal(3, 1, spread=0.02) + normal(3, n) - 0.5)
        b = random if kind == "draws" else one(normal(n), first=0 if kind == "paired" else n)
        called += significance.difference(one(normal(n)), b)["p"] < 0.05
    assert called / times < 0.065 and (n == 2 or called / times > 0.01)


def test_swapping_the_sides_swaps_the_sign():
    a, b = one(normal(5)), one(normal(5))
    there, back = significance.difference(a, b), significance.difference(b, a)
    assert there["difference"] == -back["difference"]
    assert there["p"] == pytest.approx(back["p"])


def test_the_choice_of_random_images_widens_the_interval():
    """Three draws far apart, many seeds close together: three things vary, not sixty."""
    b = drawn(np.array([[0.40], [0.45], [0.50]]) + normal(3, 20, spread=0.001) - 0.5)
    found = significance.difference(one(normal(20, spread=0.001)), b)
    half = stats.t.ppf(0.975, 2) * 0.05 / math.sqrt(3)
    assert found["draws"] == [None, 3] and found["high"] - found["low"] == pytest.approx(2 * half, rel=0.01)
    assert significance.difference(one(normal(20, spread=0.001)), {None: b[1]})["high"] < 0.06


def test_draws_weigh_the_same_however_many_seeds_they_have():
    side = {0: {0: 0.1, 1: 0.2, 2: 0.3}, 1: {0: 0.8}, 2: {5: 0.5}}
    found, wanted = significance.difference(side, one((0.1, 0.2, 0.4), first=7)), significance.difference(
        drawn([[0.2], [0.8], [0.5]]), one((0.1, 0.2, 0.4), first=7)
    )  # fmt: skip
    assert found["means"][0] == pytest.approx(0.5) and found["n"] == [5, 3]
    assert told(found) == pytest.approx(told(wanted))


@pytest.mark.parametrize("sizes", [(3, 1, 1), (5, 1, 1), (9, 1, 1)])
def test_equal_sets_are_not_called_different_for_draws_of_unequal_size(sizes):
    """Draws twice as far apart as seeds; one with nine seeds says no more of the others' luck."""
    generator, called, times = np.random.default_rng(sizes[0]), 0, 1500
    for _ in range(times):
        centres = 0.5 + 0.02 * generator.standard_normal(3)
        a = {k: dict(enumerate(c + 0.01 * generator.standard_normal(n))) for k, (n, c) in enumerate(zip(sizes, centres))}
        called += significance.difference(a, one(0.5 + 0.01 * generator.standard_normal(3)))["p"] < 0.05
    assert called / times <= 0.06


def test_one_run_on_a_side_is_not_decidable():
    for a, b in (((0.9,), (0.1, 0.2)), ((0.9, 0.8), (0.1,))):
        found = significance.difference(one(a), one(b))
        assert (found["decidable"], found["p"], found["low"], found["high"]) == (False, None, None, None)
        assert "one run shows no spread" in found["why"]


def test_the_same_difference_for_every_seed_is_no_proof():
    found = significance.difference(one((0.51, 0.61)), one((0.50, 0.60)))
    assert not found["decidable"] and "shows no spread" in found["why"] and found["p"] is None


def test_ties_are_grouped_and_gaps_are_not():
    samples = [one(normal(5, spread=0.004) - gap) for gap in (0.1, 0.0, 0.3, 0.001, 0.101)]
    groups, compared = significance.ties(samples)
    assert [sorted(group) for group in groups] == [[1, 3], [0, 4], [2]]
    means = [statistics.fmean(samples[k][None].values()) for group in groups for k in group]
    assert means == sorted(means, reverse=True)
    assert [item["adjusted"] < 0.05 for item in compared] == [False, True, False, True]
    assert all(item["difference"] >= 0 and item["decidable"] for item in compared)


def test_ties_follow_their_rule_by_a_plain_loop():
    samples = [one(normal(4, spread=0.01) + 0.01 * k) for k in range(12)]
    groups, _ = significance.ties(samples)
    judged = simultaneous.adjusted([list(of[None].values()) for of in samples], [False] * 12)
    order = sorted(range(12), key=lambda k: -np.mean(list(samples[k][None].values())))
    assert len(groups) > 2
    while order:
        end = next((place for place, k in enumerate(order) if judged[order[0], k] < 0.05), len(order))
        assert groups.pop(0) == order[:end]
        order = order[end:]


def test_more_comparisons_ask_for_more():
    """The same gap, alone and among many others: the choice of the leader is corrected for."""
    best, other = one((0.534, 0.524, 0.532, 0.526)), one((0.512, 0.505, 0.508, 0.514))
    assert len(significance.ties([best, other])[0]) == 2
    crowd = [one(0.5199 + 0.01 * np.random.default_rng(k).permutation([-1, -0.5, 0.5, 1])) for k in range(30)]
    assert significance.ties([best, other, *crowd])[0][0][0] == 0
    assert 1 in significance.ties([best, other, *crowd])[0][0]


@pytest.mark.parametrize("k, draws", [(10, 0), (30, 0), (27, 3)])
def test_boards_of_equal_entries_are_seldom_split(k, draws):
    """The leader is the luckiest of all, and not better for that."""
    generator, split, times = np.random.default_rng(k), 0, 300
    for _ in range(times):
        board = [one(values) for values in 0.5 + 0.01 * generator.standard_normal((k, 3))]
        board += [drawn(0.5 + 0.02 * generator.standard_normal((3, 1))) for _ in range(draws)]
        split += len(significance.ties(board)[0]) > 1
    assert split / times <= 0.07


def test_random_images_whose_draws_differ_are_not_called_worse_for_bad_luck():
    """One row of three draws, each far apart, below many rows of close seeds."""
    board = [one(0.5 + 0.001 * RANDOM.standard_normal(3)) for _ in range(9)] + [drawn([[0.45], [0.50], [0.52]])]
    groups, _ = significance.ties(board)
    assert len(groups) == 1
    groups, _ = significance.ties([*board[:9], drawn([[0.25], [0.30], [0.32]])])
    assert groups[-1] == [9]


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
    return run(top1, seed, draw, "distilled-soft" if draw is None else "random-soft")


def test_runs_are_compared_with_what_a_reader_must_know():
    ours, random = (
        [complete(v, k) for k, v in enumerate((0.52, 0.53, 0.51))],
        [complete(0.4 + 0.01 * k, k, 0) for k in range(3)],
    )
    found = significance.comparison(ours, random)
    assert found["difference"] == pytest.approx(0.11) and found["n"] == [3, 3] and found["significant"]
    assert found["notes"] == ["random images of a single draw: other draws may differ"]
    uneven = significance.comparison(ours, [*random, complete(0.4, 0, 1), complete(0.41, 0, 2)])
    assert uneven["n"] == [3, 5] and ["unequal numbers of seeds" in note for note in uneven["notes"]] == [True]
    lone = significance.comparison(ours, random[:1])
    assert not lone["significant"] and "not decidable" in lone["notes"][0]


BAD = [
    ({"student": "resnet18"}, "the sides differ in student: convnet3 and resnet18"),
    ({"benchmark": "cifar10"}, "the sides differ in benchmark"),
    ({"protocol": {"digest": "e" * 12}}, "the sides differ in protocol digest"),
    ({"arm": "distilled-hard"}, "the sides differ in kind of labels: soft and hard"),
    ({"environment": {"precision": "bf16"}}, "the sides differ in precision"),
    ({"test": {"fingerprint": "8" * 64}}, "the sides differ in test split: 77777777 and 88888888"),
    ({"network": {"initialisation": 2}}, "the sides differ in initialisation of the network: 1 and 2"),
    ({"views": "each"}, "the sides differ in kind of views: shared and each"),
]


@pytest.mark.parametrize("changes, words", BAD)
def test_runs_that_may_not_be_compared_are_refused(changes, words):
    ours = [made(top1=0.5 + 0.01 * k, seed=k) for k in range(3)]
    with pytest.raises(UserError, match=words):
        own = "views" in changes  # then the views of a student are those of its seed
        significance.comparison(
            ours, [made(top1=0.4, seed=k, **changes, **({"views_seed": k} if own else {})) for k in range(3)]
        )


@pytest.mark.parametrize("top1", [1.7, math.nan, -0.1, None, "0.5", True])
def test_a_run_whose_score_is_no_fraction_is_none(top1):
    with pytest.raises(Refused, match="top1 is .*, wanted a fraction"):
        runs.of(table(top1=top1))


def test_a_side_is_one_image_set():
    ours = [made(top1=0.5, seed=k) for k in range(2)]
    with pytest.raises(UserError, match="one side mixes runs that differ in images: ffffffff and eeeeeeee"):
        significance.comparison([*ours, made(seed=2, images={"fingerprint": "e" * 64})], ours)
    with pytest.raises(UserError, match="two runs of seed 1"):
        significance.comparison([*ours, ours[1]], ours)
    with pytest.raises(UserError, match="differ in arm: distilled-soft and random-hard"):
        significance.comparison([*ours, made(seed=2, arm="random-hard", images=images_of_draw(0))], ours)
    same, other = images_of_draw(0), {**images_of_draw(0), "fingerprint": "e" * 64}
    with pytest.raises(UserError, match="mixes image sets of draw 0"):
        significance.comparison([made(seed=k, arm="random-soft", images=of) for k, of in enumerate((same, other))], ours)


def test_an_interval_is_repeatable():
    a, b = one(normal(4)), one(normal(4))
    assert significance.difference(a, b) == significance.difference(a, b)
    assert (
        bootstrap.resample_indices(3, bootstrap.generator("x", 1)) == bootstrap.resample_indices(3, bootstrap.generator("x", 1))
    ).all()
    assert (
        bootstrap.resample_indices(3, bootstrap.generator("x", 1)) != bootstrap.resample_indices(3, bootstrap.generator("y", 1))
    ).any()
