"""Scores and statistics against the published cases, closed forms and their bounds."""

import json
import math
import statistics
from pathlib import Path

import pytest

from rd3_utils.errors import UserError
from rd3_utils.scoring import report, runs, scores

CASES = json.loads((Path(__file__).parent / "data" / "ddranking_cases.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_scores_are_those_of_the_published_formulas(case):
    found = []
    for row in case["runs_fraction"]:
        a = dict(zip(case["input_names"], row))
        if case["kind"] == "ars":
            four = a["acc_syn_aug"], a["acc_rdm_aug"], a["acc_syn_noaug"], a["acc_rdm_noaug"]
            found.append((scores.ior(*four[:2]), scores.ior(*four[2:]), scores.ars(*four, gamma=case["weight"])))
        else:
            hlr = scores.hlr(a["acc_real_hard"], a["acc_syn_hard"])
            kind = "soft" if case["kind"] == "lrs_soft" else "hard"
            ior = scores.ior(a[f"acc_syn_{kind}"], a[f"acc_rdm_{kind}"])
            found.append((hlr, ior, scores.lrs(hlr, ior, case["weight"])))
    for ours, published in zip(zip(*found), case["expected_fraction"]["per_run"].values()):
        assert list(ours) == pytest.approx(published, abs=1e-12)
    means = [v for k, v in case["expected_fraction"]["returned"].items() if k.endswith("_mean")]
    assert [statistics.fmean(column) for column in zip(*found)] == pytest.approx(means, abs=1e-12)


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
    assert scores.lrs(0.1, 0.2) > scores.lrs(0.2, 0.2) and scores.lrs(0.1, 0.3) > scores.lrs(0.1, 0.2)


@pytest.mark.parametrize("call", [lambda: scores.hlr(84.8, 0.4), lambda: scores.ior(0.5, -0.1), lambda: scores.lrs(0, 0, 2)])
def test_percent_given_for_a_fraction_is_refused(call):
    with pytest.raises(UserError, match="wanted a fraction from 0 to 1"):
        call()


def run(top1, seed, draw=None, arm="distilled-soft", protocol="rd3-v1", fingerprint="f", student="convnet3"):
    source = "set" if draw is None else f"random:ipc=1,seed={draw}"
    return {
        "schema": 1, "benchmark": "digits", "student": student, "arm": arm, "seed": seed, "top1": top1,
        "images": {"source": source, "fingerprint": fingerprint if draw is None else f"random{draw}", "ipc": 1},
        "protocol": {"name": protocol, "digest": "d", "overrides": {},
                     "main_labels": "soft" if protocol == "rd3-v1" else "hard"},
        "environment": {"precision": "fp32"},
    }  # fmt: skip


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
    assert found["lrs"] == pytest.approx(scores.lrs(0.848 - 0.489, 0.02)) and "ars" not in found
    plain = [run(0.30, 0, None, "distilled-plain"), run(0.25, 0, 0, "random-plain")]
    assert report.report(rows + plain)["scores"]["convnet3"]["ars"] == pytest.approx(scores.ars(0.42, 0.40, 0.30, 0.25))


def test_recipe_and_data_are_told_apart_in_a_two_by_two_table():
    rd3 = [run(0.89, 0), run(0.84, 0, 0, "random-soft")]
    hard = [run(0.80, 0, None, "distilled-hard", "hard-label-v1"), run(0.64, 0, 0, "random-hard", "hard-label-v1")]
    c = report.report(rd3, rd3 + hard)["comparison"]["convnet3"]
    assert c["protocols"] == ["hard-label-v1", "rd3-v1"]
    assert c["recipe"] == pytest.approx((0.09 + 0.20) / 2) and c["data"] == pytest.approx((0.05 + 0.16) / 2)
    assert report.sentence(c).startswith("The recipe adds 14.5 points")
    assert report.report(rd3, rd3)["comparison"]["convnet3"] is None


def test_a_run_is_written_once_and_kept(tmp_path):
    where = runs.path(tmp_path, "digits", "rd3-v1", "d", "x@f", "convnet3", "distilled-soft", 0)
    runs.write(where, run(0.5, 0))
    runs.write(where, run(0.6, 0))
    assert runs.read(where)["top1"] == 0.5 and [p.name for p in where.parent.iterdir()] == ["seed0.json"]
    with pytest.raises(ValueError):
        runs.write(where.with_name("seed1.json"), run(float("nan"), 1))


def test_runs_in_another_precision_have_a_path_of_their_own(tmp_path):
    names = tmp_path, "digits", "rd3-v1", "d", "x@f", "convnet3", "distilled-soft", 0
    assert runs.path(*names, "bf16") != runs.path(*names)
