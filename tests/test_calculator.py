"""The calculator on the command line: its JSON, its one-line refusals, and that it needs no torch."""

import json
import subprocess
import sys

import pytest
from conftest import PROJECT
from test_scores import CASES

from rd3_utils.cli import score as calculator

OPTIONS = {
    "acc_real_hard": "--full-hard", "acc_syn_hard": "--distilled-hard", "acc_rdm_hard": "--random-hard",
    "acc_syn_soft": "--distilled-soft", "acc_rdm_soft": "--random-soft", "acc_syn_aug": "--distilled-aug",
    "acc_rdm_aug": "--random-aug", "acc_syn_noaug": "--distilled-plain", "acc_rdm_noaug": "--random-plain",
}  # fmt: skip
GOOD = "--full-hard 0.85 --distilled-hard 0.45 --distilled-soft 0.60 --random-soft 0.55".split()
MEASURED = "measured/cifar10/rd3-v1-*"


def alone(*arguments, python=()):
    """The finished process of python -m rd3_utils score ARGUMENTS."""
    command = [sys.executable, *python, "-m", "rd3_utils", "score", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


def test_the_calculator_answers_in_json_without_importing_torch():
    done = alone("lrs", *GOOD, python=("-X", "importtime"))
    found = json.loads(done.stdout)
    assert found.keys() == {"hlr", "ior", "alpha", "lrs", "weight", "labels"} and found["weight"] == 0.5
    assert [found[key] for key in ("hlr", "ior", "alpha", "lrs")] == pytest.approx([0.4, 0.05, -0.175, 0.2006369556754795])
    assert "rd3_utils.cli.score" in done.stderr and "torch" not in done.stderr and "scipy.stats" not in done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("as_coded", [False, True])
def test_it_says_what_the_published_cases_say(script, case, as_coded):
    kind, weight = ("ars", "--gamma") if case["kind"] == "ars" else ("lrs", "--weight")
    words = [word for name, value in zip(case["input_names"], case["runs_fraction"][0]) for word in (OPTIONS[name], value)]
    done = script("rd3_utils", "score", kind, *words, weight, case["weight"], *(["--as-coded"] if as_coded else []))
    found = json.loads(done.out)
    published = case["as_coded_percent" if as_coded else "expected_fraction"]["per_run"].values()
    *parts, score = (column[0] for column in published)
    assert found[kind] == pytest.approx(score, rel=1e-12, abs=1e-15)
    if kind == "lrs":
        assert [found["hlr"], found["ior"]] == pytest.approx(parts, rel=1e-12, abs=1e-12)
    assert ("as_coded" in found) == as_coded


BAD = {
    "percent": (["lrs", *GOOD[:1], "85", *GOOD[2:]], "--full-hard is 85: percent, it seems; wanted a fraction from 0 to 1"),
    "a little percent": (["lrs", *GOOD[:-1], "1.5"], "--random-soft is 1.5: percent, it seems"),
    "negative": (["lrs", *GOOD[:-1], "-0.5"], "--random-soft is -0.5, wanted a fraction"),
    "no number": (["lrs", *GOOD[:-1], "nan"], "--random-soft is nan, wanted a fraction"),
    "weight": (["lrs", *GOOD, "--weight", "50"], "--weight is 50: percent, it seems"),
    "gamma": (["ars", *"--distilled-aug .5 --random-aug .4 --distilled-plain .3 --random-plain .2 --gamma nan".split()],
              "--gamma is nan"),
    "half": (["lrs", *GOOD[:-2]], "give --distilled-soft and --random-soft, or --random-hard alone"),
    "both": (["lrs", *GOOD, "--random-hard", "0.2"], "give --distilled-soft and --random-soft, or --random-hard alone"),
    "none": (["compare", "nowhere", "nothing"], "no seed*.json in 'nowhere'"),
    "protocols": (["compare", f"{MEASURED}/rded-ipc10@*/convnet3/distilled-soft",
                   "measured/cifar10/hard-label-v1-*/random-ipc10-*/convnet3/random-hard"],
                  "differ in protocol: rd3-v1 and hard-label-v1"),
    "two sets": (["compare", *2 * [f"{MEASURED}/rded-*/convnet3/distilled-soft"]], "number of images per class: 10 and 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_scored_is_refused_in_one_line(case):
    arguments, wanted = BAD[case]
    done = alone(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and wanted in line


def test_the_command_is_the_same_alone_and_among_the_others(script):
    assert alone("lrs", *GOOD).stdout == script("rd3_utils", "score", "lrs", *GOOD).out


def test_measured_runs_are_compared_over_all_draws():
    """RDED and random images at one image per class, as README has them: 3 seeds against 3 draws x 3 seeds."""
    sets = [f"{MEASURED}/{name}/convnet3/{arm}" for name, arm in
            (("rded-ipc1@*", "distilled-soft"), ("random-ipc1-*", "random-soft"))]  # fmt: skip
    found = json.loads(alone("compare", *sets).stdout)
    assert found["n"] == [3, 9] and found["draws"] == [None, 3] and found["paired"]
    assert found["significant"] and 0 < found["low"] < found["difference"] == pytest.approx(0.0373, abs=1e-4)
    folder = next(PROJECT.glob(sets[0]))
    same = json.loads(alone("compare", folder, folder).stdout)
    assert not same["significant"] and same["difference"] == 0 and "not decidable" in same["notes"][0]


@pytest.mark.parametrize(
    "change", [lambda run: run.pop("test"), lambda run: run.update(top1="0.5"), lambda run: run.update(images=3)]
)
def test_a_file_that_is_no_complete_run_is_named(tmp_path, change):
    path = next(PROJECT.glob(f"{MEASURED}/rded-ipc1@*/convnet3/distilled-soft/seed0.json"))
    run = json.loads(path.read_text())
    change(run)
    (tmp_path / "seed0.json").write_text(json.dumps(run))
    done = alone("compare", tmp_path, path.parent)
    assert done.returncode == 2 and "seed0.json is no whole Run" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_pattern_names_several_folders(monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert len(calculator.runs_in(f"{MEASURED}/random-ipc1-*/convnet3/random-soft")) == 9
