"""Scores and statistics against the published cases, closed forms and their bounds."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from making_runs import run, table
from scipy import stats

from rd3_utils.errors import UserError
from rd3_utils.protocols.benchmark import Citation
from rd3_utils.scoring import bootstrap, estimates, report, runs, scores
from rd3_utils.scoring.results import Results

CASES = json.loads((Path(__file__).parent / "data" / "ddranking_cases.json").read_text())["cases"]


NAMES = {  # of the arms in the published cases
    "acc_real_hard": "full-hard", "acc_syn_hard": "distilled-hard", "acc_rdm_hard": "random-hard",
    "acc_syn_soft": "distilled-soft", "acc_rdm_soft": "random-soft", "acc_syn_aug": "distilled-soft",
    "acc_rdm_aug": "random-soft", "acc_syn_noaug": "distilled-plain", "acc_rdm_noaug": "random-plain",
}  # fmt: skip


def parts_of(case, row):
    """[HLR, IOR] or [gain with augmentation, without], the exponent and the score of one run of a case."""
    a = {NAMES[name]: value for name, value in zip(case["input_names"], row)}
    if case["kind"] == "ars":
        four = [a[arm] for arm in ("distilled-soft", "random-soft", "distilled-plain", "random-plain")]
        gains = [scores.ior(*four[:2]), scores.ior(*four[2:])]
        return gains, scores.beta(*four, case["weight"]), scores.ars(*four, case["weight"])
    kind = case["kind"].removeprefix("lrs_")
    both = scores.hlr(a["full-hard"], a["distilled-hard"]), scores.ior(a[f"distilled-{kind}"], a[f"random-{kind}"])
    return list(both), scores.alpha(*both, case["weight"]), scores.lrs(*both, case["weight"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_scores_are_those_of_the_published_formulas(case):
    found = [parts_of(case, row) for row in case["runs_fraction"]]
    columns = [list(column) for column in zip(*(parts for parts, _, _ in found))] + [[score for *_, score in found]]
    for ours, published in zip(columns, case["expected_fraction"]["per_run"].values()):
        assert ours == pytest.approx(published, abs=1e-12)
    means = [v for k, v in case["expected_fraction"]["returned"].items() if k.endswith("_mean")]
    assert [statistics.fmean(column) for column in columns] == pytest.approx(means, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_alpha_and_beta_are_what_the_published_score_undoes(case):
    """The exponent by hand from the parts, and by the logarithm of the published score."""
    w, published = case["weight"], list(case["expected_fraction"]["per_run"].values())
    for row, score in zip(case["runs_fraction"], published[2]):
        (first, second), exponent, _ = parts_of(case, row)
        by_hand = w * first + (1 - w) * second if case["kind"] == "ars" else w * second - (1 - w) * first
        assert exponent == pytest.approx(by_hand, abs=1e-12)
        assert exponent == pytest.approx(math.log(score * (math.e - 1 / math.e) + 1 / math.e), abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_public_codes_numbers_are_told_too(case):
    n = len(case["runs_fraction"])
    columns = [column[:: len(column) // n] for column in case["as_coded_percent"]["per_run"].values()]  # LRS is there twice
    for row, published in zip(case["runs_fraction"], zip(*columns)):
        (first, second), exponent, _ = parts_of(case, row)
        assert [100 * first, 100 * second, scores.as_coded(exponent)] == pytest.approx(published, rel=1e-12)


def test_scores_stay_between_0_and_1_and_rise_with_every_gain():
    grid = [k / 4 for k in range(5)]
    values = {(a, b, c, d): scores.ars(a, b, c, d) for a in grid for b in grid for c in grid for d in grid}
    assert min(values.values()) == 0 and max(values.values()) == pytest.approx(1)
    for (a, b, c, d), value in values.items():
        assert a == 1 or values[a + 0.25, b, c, d] > value
        assert b == 1 or values[a, b + 0.25, c, d] < value
        assert c == 1 or values[a, b, c + 0.25, d] > value
        assert d == 1 or values[a, b, c, d + 0.25] < value
    assert scores.lrs(0, 0) == pytest.approx(0.26894142136999516, abs=1e-15)


def test_lrs_rises_with_ior_falls_with_hlr_and_stays_in_its_bounds():
    """At random accuracies and weights; both ends are reached."""
    generator = np.random.default_rng(0)
    full, hard, soft, random, weight = generator.uniform(0, 1, (5, 2000))
    for f, h, s, r, w in zip(full, hard, soft, random, weight):
        value = scores.lrs(scores.hlr(f, h), scores.ior(s, r), w)
        assert 0 <= value <= 1
        assert scores.lrs(scores.hlr(f, h), scores.ior(min(1, s + 0.01), r), w) >= value
        assert scores.lrs(scores.hlr(f, h), scores.ior(s, min(1, r + 0.01)), w) <= value
        assert scores.lrs(scores.hlr(min(1, f + 0.01), h), scores.ior(s, r), w) <= value
        assert scores.lrs(scores.hlr(f, min(1, h + 0.01)), scores.ior(s, r), w) >= value
    assert scores.lrs(scores.hlr(0, 1), scores.ior(1, 0)) == pytest.approx(1)
    assert scores.lrs(scores.hlr(1, 0), scores.ior(0, 1)) == pytest.approx(0)


def test_scores_of_arrays_are_those_of_their_elements():
    four = np.random.default_rng(1).uniform(0, 1, (4, 20))
    assert list(scores.ars(*four)) == [scores.ars(*row) for row in four.T]


@pytest.mark.parametrize("call", [lambda: scores.hlr(84.8, 0.4), lambda: scores.ior(0.5, 1.01), lambda: scores.lrs(0, 0, 2)])
def test_percent_given_for_a_fraction_is_refused(call):
    with pytest.raises(UserError, match="percent, it seems; wanted a fraction from 0 to 1, so divide it by 100"):
        call()


@pytest.mark.parametrize("value", [-0.1, math.nan, -math.inf])
def test_what_is_no_fraction_is_refused(value):
    for call in (lambda: scores.hlr(value, 0.5), lambda: scores.ior(0.5, value), lambda: scores.lrs(0, 0, value)):
        with pytest.raises(UserError, match="wanted a fraction from 0 to 1"):
            call()


def test_spread_over_seeds_and_over_draws_are_kept_apart():
    rows = [run(v, seed, draw) for draw, row in enumerate([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]]) for seed, v in enumerate(row)]
    s = runs.summary(rows)
    assert s["std_seeds"] == pytest.approx(0.1) and s["std_draws"] == pytest.approx(math.sqrt(0.4**2 / 2))
    assert s["std"] == pytest.approx(statistics.stdev([0.1, 0.2, 0.3, 0.5, 0.6, 0.7]))
    assert (s["n"], s["seeds"], s["draws"]) == (6, [0, 1, 2], [0, 1])


def test_one_value_has_no_spread():
    s = runs.summary([run(0.5, 0)])
    assert (s["mean"], s["std"], s["std_seeds"], s["std_draws"], s["n"]) == (0.5, None, None, None, 1)


def test_a_report_has_the_scores_its_arms_allow():
    arms = {"full-hard": 0.848, "distilled-hard": 0.489, "distilled-soft": 0.42, "random-soft": 0.40}
    rows = [run(v, 0, 0 if arm.startswith("random") else None, arm) for arm, v in arms.items()]
    found = report.report(rows)["scores"]["convnet3"]
    assert found["lrs"]["value"] == pytest.approx(scores.lrs(0.848 - 0.489, 0.02)) and "ars" not in found
    plain = [run(0.30, 0, None, "distilled-plain"), run(0.25, 0, 0, "random-plain")]
    found = report.report(rows + plain)["scores"]["convnet3"]
    assert found["ars"]["value"] == pytest.approx(scores.ars(0.42, 0.40, 0.30, 0.25))


@pytest.mark.parametrize("case", [c for c in CASES if c["weight"] == 0.5], ids=lambda case: case["name"])
def test_a_report_of_the_published_cases_has_their_means_and_spread(case):
    """Run k is seed k, with draw k of random images; their std has divisor n."""
    rows = []
    for k, accuracies in enumerate(case["runs_fraction"]):
        for name, value in zip(case["input_names"], accuracies):
            arm = NAMES[name]
            rows.append(run(value, k, k if arm.startswith("random") else None, arm))
    found, n = report.report(rows)["scores"]["convnet3"], len(case["runs_fraction"])
    returned = case["expected_fraction"]["returned"]
    for key, name in {"hlr": "hard_label_recovery", "ior": "improvement_over_random", "lrs": "label_robust_score",
                      "ars": "augmentation_robust_score"}.items():  # fmt: skip
        if f"{name}_mean" in returned:
            of = found[key]
            assert of["n"] == n and of["per_run_mean"] == pytest.approx(returned[f"{name}_mean"], abs=1e-12)
            assert (of["std"] or 0) * math.sqrt((n - 1) / n) == pytest.approx(returned[f"{name}_std"], abs=1e-12)
            exponents = [parts_of(case, accuracies)[1] for accuracies in case["runs_fraction"]]
            assert of["value"] == pytest.approx(of["per_run_mean"], abs=statistics.pvariance(exponents) + 1e-12)


def arm_of(table, arm):
    """Runs of a table [draws, seeds], or of a list of seeds of a set that is not drawn."""
    if np.ndim(table) == 1:
        return [run(value, seed, None, arm) for seed, value in enumerate(table)]
    return [run(value, seed, draw, arm) for draw, row in enumerate(table) for seed, value in enumerate(row)]


def test_one_run_has_no_interval_anywhere():
    arms = {"full-hard": [0.9], "distilled-hard": [0.4, 0.5], "distilled-soft": [0.5, 0.6], "random-soft": [[0.4]]}
    rows = [one for arm, values in arms.items() for one in arm_of(values, arm)]
    found = report.report(rows)
    for arm, s in found["arms"]["convnet3"].items():
        assert (s["low"] is None) == (s["high"] is None) == (arm in ("full-hard", "random-soft"))
    assert all(of["low"] is None for of in found["scores"]["convnet3"].values())
    assert report.scores_table(found)[-1][3] == "-" and report.named_scores(found["scores"]["convnet3"])[0][2] == "-"


def test_equal_runs_have_no_interval_of_width_0():
    found = estimates.of_arm(arm_of([0.5, 0.5, 0.5], "distilled-soft"))
    assert (found["low"], found["high"], found["std"]) == (None, None, 0)
    rows = [*arm_of([0.9, 0.9], "full-hard"), *arm_of([0.4, 0.5], "distilled-hard")]
    hlr = report.report(rows)["scores"]["convnet3"]["hlr"]
    assert hlr["low"] == pytest.approx(0.45 - 0.05 * 2**0.5) and hlr["high"] == pytest.approx(0.45 + 0.05 * 2**0.5)


def test_the_interval_of_seeds_is_scipys_percentile_bootstrap_of_widened_values():
    values = np.random.default_rng(2).normal(0.5, 0.02, 12)
    found = estimates.of_arm(arm_of(list(values), "distilled-soft"))
    wide = values.mean() + (12 / 11) ** 0.5 * (values - values.mean())
    wanted = stats.bootstrap((wide,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(3))
    assert [found["low"], found["high"]] == pytest.approx(list(wanted.confidence_interval), abs=5e-4)


def test_resamples_of_draws_vary_without_bias():
    """Closed form: the variance of the draws' means with divisor D - 1, over D; it holds what the seeds within them vary by."""
    table = np.random.default_rng(4).normal(0.5, 0.02, (4, 5)) + np.random.default_rng(5).normal(0, 0.03, (4, 1))
    samples = estimates.resampled_means(arm_of(table.tolist(), "random-soft"))
    wanted = table.mean(1).var(ddof=1) / 4
    assert samples.var() == pytest.approx(wanted, rel=0.05) and samples.mean() == pytest.approx(table.mean(), abs=1e-3)


def test_draws_of_unequal_size_are_resampled_whole():
    """Every resample by a plain loop with another generator."""
    clusters = [[0.1, 0.2, 0.3], [0.8], [0.5, 0.6]]
    generator, found = np.random.default_rng(6), []
    for _ in range(4000):
        drawn = np.mean([v for k in generator.integers(3, size=3) for v in clusters[k]])
        found.append(2.5 / 6 + 1.5**0.5 * (drawn - 2.5 / 6))
    ours = bootstrap.means(clusters, bootstrap.generator("x"))
    assert np.quantile(ours, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(found, [0.1, 0.5, 0.9]), abs=0.02)


@pytest.mark.parametrize("tops", [[1.0, 1.0, 0.99], [0.0, 0.01]])
def test_an_interval_ends_where_accuracies_do(tops):
    """Widening carries resampled means beyond 0 and 1, where no score is defined."""
    arms = {"full-hard": tops, "distilled-hard": tops, "distilled-soft": tops, "random-soft": [tops, tops[::-1]]}
    found = report.report([one for arm, values in arms.items() for one in arm_of(values, arm)])
    low, high = (found["arms"]["convnet3"]["distilled-soft"][end] for end in ("low", "high"))
    assert (high == 1 and low < 1) if tops[0] else (low == 0 and high > 0)
    lrs = found["scores"]["convnet3"]["lrs"]
    assert 0 <= lrs["low"] < lrs["value"] < lrs["high"] <= 1


def test_several_values_that_are_no_fractions_are_told_as_one_is():
    with pytest.raises(UserError, match="full is 85: percent, it seems"):
        scores.check(full=np.array([0.5, 85.0]))
    with pytest.raises(UserError, match="full is -0.1, wanted a fraction"):
        scores.check(full=np.array([0.5, -0.1]))


def test_the_interval_of_lrs_is_that_of_a_loop():
    generator = np.random.default_rng(7)
    full, hard, soft = (generator.normal(mean, 0.01, 6) for mean in (0.85, 0.4, 0.6))
    random = generator.normal(0.5, 0.01, (4, 3)) + generator.normal(0, 0.02, (4, 1))
    rows = [*arm_of(list(full), "full-hard"), *arm_of(list(hard), "distilled-hard"), *arm_of(list(soft), "distilled-soft"),
            *arm_of(random.tolist(), "random-soft")]  # fmt: skip
    of, found = report.report(rows)["scores"]["convnet3"]["lrs"], []

    def wide(values, n):
        return values.mean() + (n / (n - 1)) ** 0.5 * (values - values.mean())

    random, full, hard, soft = wide(random.mean(1), 4), wide(full, 6), wide(hard, 6), wide(soft, 6)
    for _ in range(4000):
        drawn = generator.choice(random, 4).mean()
        f, h, s = (generator.choice(values, 6).mean() for values in (full, hard, soft))
        found.append(scores.lrs(f - h, s - drawn))
    assert [of["low"], of["high"]] == pytest.approx(list(np.quantile(found, [0.025, 0.975])), abs=5e-4)
    assert of["low"] < of["value"] < of["high"] and of["draws"] == 4


def test_arms_on_the_same_random_images_share_the_draws_of_a_resample():
    """A draw that is hard to learn from is so in both: their resamples rise and fall together."""
    table = np.array([[0.40], [0.45], [0.50]]) + np.random.default_rng(8).normal(0, 0.001, (3, 3))
    soft, plain = (estimates.resampled_means(arm_of(table.tolist(), f"random-{labels}")) for labels in ("soft", "plain"))
    assert np.corrcoef(soft, plain)[0, 1] > 0.95
    one = estimates.resampled_means(arm_of(table[0].tolist(), "distilled-soft"))
    other = estimates.resampled_means(arm_of(table[0].tolist(), "distilled-hard"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


@pytest.mark.parametrize("n, least, most", [(3, 0.78, 0.88), (10, 0.87, 0.96), (40, 0.9, 0.98)])
def test_an_interval_holds_the_true_mean_as_often_as_is_said(n, least, most):
    generator, hits, times = np.random.default_rng(9), 0, 300
    for _ in range(times):
        found = estimates.of_arm(arm_of(list(generator.normal(0.5, 0.02, n)), "distilled-soft"))
        hits += found["low"] <= 0.5 <= found["high"]
    assert least < hits / times < most


def test_an_interval_of_many_draws_covers_their_choice():
    generator, hits, times = np.random.default_rng(10), 0, 100
    for _ in range(times):
        table = generator.normal(0.5, 0.01, (15, 2)) + generator.normal(0, 0.02, (15, 1))
        found = estimates.of_arm(arm_of(table.tolist(), "random-soft"))
        hits += found["low"] <= 0.5 <= found["high"]
    assert 0.85 < hits / times < 0.99


def test_an_arms_interval_does_not_change_when_another_arm_comes():
    few = arm_of([0.5, 0.6, 0.7], "distilled-soft")
    more = few + arm_of([[0.4, 0.5], [0.3, 0.4]], "random-soft")
    found = [report.report(rows)["arms"]["convnet3"]["distilled-soft"] for rows in (few, more)]
    assert found[0] == found[1]


def test_a_score_on_few_draws_or_of_a_cited_accuracy_says_so():
    rows = [
        *arm_of([0.5, 0.52], "distilled-soft"),
        *arm_of([[0.4, 0.42]], "random-soft"),
        *arm_of([0.3, 0.31], "distilled-hard"),
    ]
    cited = {"convnet3": [Citation("convnet3", 0.85, "somebody, Table 1"), Citation("convnet3", 0.86, "another")]}
    found = report.report(rows, (), cited)
    lrs = found["scores"]["convnet3"]["lrs"]
    assert lrs["cited"] == "somebody, Table 1" and lrs["low"] < lrs["value"] < lrs["high"]
    assert lrs["value"] == pytest.approx(scores.lrs(0.85 - 0.305, 0.1)) and lrs["draws"] == 1
    (sentence,) = report.score_sentences(found, "convnet3")
    for part in ("10.0 points better", "reaches 30.50 %", "reach 85.00 %", "cited (somebody, Table 1)", "no interval covers it",
                 "a single draw of random images", "at least 3"):  # fmt: skip
        assert part in sentence
    assert report.cited_sentences(found, "convnet3")[1] == (0.86, "another")
    assert "full-hard, cited" in [row[1] for row in report.scores_table(found)]
    assert report.report(rows)["scores"]["convnet3"].keys() == {"ior"}


def test_a_score_that_loses_says_worse():
    arms = {"full-hard": [0.9, 0.91], "distilled-hard": [0.2, 0.3], "random-hard": [[0.4, 0.5], [0.4, 0.4], [0.3, 0.4]]}
    found = report.report([one for arm, values in arms.items() for one in arm_of(values, arm)])
    (sentence,) = report.score_sentences(found, "convnet3")
    assert "15.0 points worse than as many random" in sentence and "draw" not in sentence


def test_random_images_given_as_the_distilled_set_are_one_set():
    rows = [run(0.5 + seed / 100, seed, 0, "distilled-soft") for seed in range(2)]
    rows += arm_of([[0.4, 0.42], [0.41, 0.4], [0.4, 0.43]], "random-soft")
    assert report.report(rows)["scores"]["convnet3"]["ior"]["n"] == 6


def test_students_stand_side_by_side_with_their_drop_from_the_best():
    rows = [run(0.5, 0), run(0.4, 0, student="resnet18"), run(0.3, 0, 0, "random-soft"), run(0.35, 0, 0, "random-soft",
            student="resnet18"), run(0.2, 0, None, "distilled-hard")]  # fmt: skip
    found = report.report(rows)
    assert found["students"]["best"] == {"distilled-soft": "convnet3", "random-soft": "resnet18"}
    assert found["students"]["drop"]["resnet18"] == {"distilled-soft": pytest.approx(0.1), "random-soft": 0}
    rows = report.students_table(found)
    assert rows[0] == ["student", "distilled-soft", "random-soft"]
    assert ["resnet18", "40.00 (-10.0)", "35.00 (best)"] in rows
    assert report.report([run(0.5, 0)])["students"] is None


def test_recipe_and_data_are_told_apart_in_a_two_by_two_table():
    rd3 = [run(0.89, 0), run(0.84, 0, 0, "random-soft")]
    hard = [run(0.80, 0, None, "distilled-hard", "hard-label-v1"), run(0.64, 0, 0, "random-hard", "hard-label-v1")]
    c = report.report(rd3, rd3 + hard)["comparison"]["convnet3"]
    assert c["protocols"] == ["hard-label-v1", "rd3-v1"]
    assert c["recipe"] == pytest.approx((0.09 + 0.20) / 2) and c["data"] == pytest.approx((0.05 + 0.16) / 2)
    assert report.sentence(c).startswith("The recipe adds 14.5 points")
    assert report.report(rd3, rd3)["comparison"]["convnet3"] is None


def test_recipe_and_data_are_of_runs_that_were_told_the_same_by_the_same_teachers():
    def told(one, teachers, views_seed=0):
        labels = dataclasses.replace(one.labels, teachers_id=teachers * 64)
        return dataclasses.replace(one, views_seed=views_seed, labels=labels)

    def pair(distilled, random, *labels):
        both = run(distilled, 0, None, protocol="rded-v1"), run(random, 0, 0, "random-soft", "rded-v1")
        return [told(one, *labels) for one in both]

    rd3 = [run(0.89, 0), run(0.84, 0, 0, "random-soft")]
    ours, alone = pair(0.7, 0.6, "b"), pair(0.99, 0.01, "d")
    more = [*ours, dataclasses.replace(ours[0], seed=1)]
    for strange in (pair(0.1, 0.9, "c"), pair(0.1, 0.9, "b", 1), alone[:1], alone[1:]):
        for others in ([*more, *strange], [*strange, *more]):
            cells = report.recipe_or_data(rd3, [*rd3, *others])["cells"]
            assert (cells["distilled"]["rded-v1"], cells["random"]["rded-v1"]) == (0.7, 0.6)
    assert report.recipe_or_data(rd3, [alone[0], ours[1]]) is None


def test_the_recipe_adds_the_same_whichever_command_ran_last_and_in_whatever_order_files_are_read():
    """Hard labels first, then released protocols, then by name."""

    def pair(low, name, **changes):
        arms = ["distilled-hard", "random-hard"] if name == "hard-label-v1" else ["distilled-soft", "random-soft"]
        both = [run(low + 0.1, 0, None, arms[0], name), run(low, 0, 0, arms[1], name)]
        return [dataclasses.replace(one, protocol=dataclasses.replace(one.protocol, **changes)) for one in both]

    hard, rd3, rded = pair(0.5, "hard-label-v1"), pair(0.7, "rd3-v1"), pair(0.6, "rded-v1")
    own = pair(0.8, "hard-label-v1", overrides={"training.epochs": 3}, digest="e" * 12)
    file, misnamed = pair(0.4, "a-mine"), pair(0.3, "customs-v1")
    edited = pair(0.2, "a-mine", digest="e" * 12)
    for one, two, wanted in (
        (rd3, hard, ["hard-label-v1", "rd3-v1"]),
        (rded, rd3, ["rd3-v1", "rded-v1"]),
        (own, hard, ["hard-label-v1", f"hard-label-v1 (custom {'e' * 12})"]),
        (own, rd3, [f"hard-label-v1 (custom {'e' * 12})", "rd3-v1"]),
        (file, rd3, ["rd3-v1", "a-mine"]),
        (file, misnamed, ["a-mine", "customs-v1"]),
        (file, edited, [f"a-mine ({digest})" for digest in sorted((file[0].protocol.digest, "e" * 12))]),
    ):
        texts = set()
        for mine, other in ((one, two), (two, one)):
            for others in ([*mine, *other], [*other, *mine][::-1]):
                found = report.report(mine, others)["comparison"]["convnet3"]
                assert found["protocols"] == wanted
                texts.add(report.sentence(found))
        assert len(texts) == 1
    assert report.report(rd3, rd3 + file + rded)["comparison"]["convnet3"]["protocols"] == ["rd3-v1", "rded-v1"]


PLACE = {"benchmark": "digits", "protocol": "rd3-v1", "digest": "d", "images": "x@f", "student": "convnet3",
         "arm": "distilled-soft", "seed": 0}  # fmt: skip


def test_a_run_is_written_once_and_kept(tmp_path):
    where = Results(tmp_path).path(**PLACE)
    runs.write(where, table(top1=0.5))
    runs.write(where, table(top1=0.6))
    assert runs.read(where).top1 == 0.5 and [p.name for p in where.parent.iterdir()] == ["seed0.json"]
    with pytest.raises(ValueError):
        runs.write(where.with_name("seed1.json"), table(top1=float("nan")))


def test_runs_in_another_precision_have_a_path_of_their_own(tmp_path):
    results = Results(tmp_path)
    assert results.path(**PLACE, precision="bf16") != results.path(**PLACE)
