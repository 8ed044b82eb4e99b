"""verify --retrain: the command of a Run, run again; to the bit here, within the arm's interval elsewhere, never in silence."""

import dataclasses
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from conftest import run_script
from scipy import stats

from rd3_utils import launch
from rd3_utils.data import embedded, sources
from rd3_utils.errors import UserError
from rd3_utils.options import VerifyOptions
from rd3_utils.scoring import runs
from rd3_utils.verification import evidence, rerun, retraining
from rd3_utils.verification.at_hand import AtHand, NotAtHand

TRAINED = "--teacher", "default", "--set", "training.epochs=2", "--seeds", "0,1,2", "--student", "convnet1", "--runs-only"


@pytest.fixture(scope="module")
def arm_folder(tmp_path_factory):
    """The folder of three students of two epochs, told by the embedded teacher."""
    folder = tmp_path_factory.mktemp("trained")
    made = run_script(folder, "train_student", *TRAINED)
    assert made.code == 0, made.err
    return next(folder.glob("results/digits/*/*/convnet1/distilled-soft"))


@pytest.fixture
def arm(arm_folder, tmp_path):
    """A copy of that folder, for a test to change."""
    return Path(shutil.copytree(arm_folder, tmp_path / "results" / Path(*arm_folder.parts[-5:])))


@pytest.fixture
def started(monkeypatch):
    """Every launch is forked from a process that has torch."""
    words = rerun.Launch.words.fget
    monkeypatch.setattr(rerun.Launch, "words", property(lambda self: [warm.python(), *words(self)[1:]]))


@pytest.fixture
def known(monkeypatch, arm_folder):
    """In place of training: what training made, `known.runs` of it; the seeds that were asked for are `known.asked`."""

    class Known:
        asked: list = []
        runs = {run.seed: run for run in map(runs.read, sorted(arm_folder.glob("seed*.json")))}

    known = Known()
    known.asked = []

    def trained(launch, options, folder):
        known.asked.append(options.seeds[0])
        return known.runs[options.seeds[0]]

    monkeypatch.setattr(rerun, "trained_again", trained)
    return known


def change(path, edit):
    """Write the Run at `path` as `edit(table)` leaves it."""
    table = json.loads(path.read_text())
    edit(table)
    path.write_text(json.dumps(table))


def elsewhere(table, **environment):
    """The Run says that another machine made it, so other losses are no wonder."""
    table["environment"] |= environment or {"processor": "Another CPU"}
    table["history"][-1]["loss"] *= 1.0001


def checks_of(path, retrain="first", **options):
    wanted = VerifyOptions(str(path), retrain=retrain, **options)
    return list(retraining.of_retraining(evidence.gathered_evidence(sources.parse(str(path))), AtHand(wanted)))


def check_of(path, **options):
    """The Check of the one Run at `path`."""
    (check,) = checks_of(path, **options)
    return check


def test_a_run_trained_again_is_the_same_to_the_bit(arm, started, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    check = check_of(arm / "seed1.json")
    assert check.outcome == "confirmed" and "to the bit" in check.how and check.score, check
    assert check.why.startswith("weights, top-1")
    assert not list(tmp_path.glob("rd3-retrain-*"))
    assert "train_student.py" in (err := capfd.readouterr().err) and "--seeds 1" in err and str(tmp_path) not in err


@pytest.mark.slow
def test_a_run_of_a_real_launch_of_two_processes_is_the_same_to_the_bit(launched, tmp_path):
    words = "--teacher", "default", "--set", "training.epochs=2", "--runs-only"
    assert launched("cpu_2_processes.yaml", "train_student.py", *words, cold=True).code == 0
    (path,) = tmp_path.glob("results/digits/*/*/*/*/seed0.json")
    assert runs.read(path).environment.processes == 2
    verify = [sys.executable, "-m", "rd3_utils", "verify", str(path), "--retrain", "--json"]
    answer = json.loads(subprocess.run(verify, capture_output=True, text=True, cwd=embedded.PACKAGE.parent).stdout)
    check = next(check for check in answer["checks"] if check["claim"].startswith("trained under"))
    assert check["outcome"] == "confirmed" and "to the bit" in check["how"], check


def better(table):
    table["top1"] = table["top5"] = 1.0


def lower(table):
    table["history"] = [{**entry, "loss": entry["loss"] / 2} for entry in table["history"]]


@pytest.mark.parametrize("edits, says", [((better,), "100.0"), ((better, lower), "100.0"), ((lower,), "loss of epoch 0")])
def test_a_run_made_better_by_hand_is_contradicted_with_both_values(arm, known, edits, says):
    run = runs.read(arm / "seed0.json")
    for edit in edits:
        change(arm / "seed0.json", edit)
    check = check_of(arm / "seed0.json")
    assert check.outcome == "contradicted" and says in check.why, check
    here = f"{100 * run.top1:.1f}" if better in edits else f"{run.history[0]['loss']:.17g}"
    assert here in check.why


def test_the_losses_of_another_machine_cannot_have_another_score_at_the_same_bits(arm, known):
    change(arm / "seed0.json", better)
    change(arm / "seed0.json", lambda table: table["environment"].update(threads=99))
    check = check_of(arm / "seed0.json")
    assert check.outcome == "contradicted" and "same to the bit" in check.why


def test_weights_with_another_hash_are_contradicted(known):
    run = known.runs[0]
    stated, made = (dataclasses.replace(run, weights=runs.Weights(digit * 64)) for digit in "ab")
    check = retraining.compared("seed0.json", "trained", stated, made, [stated], 1)
    assert check.outcome == "contradicted" and "a" * 12 in check.why and "b" * 12 in check.why
    there = dataclasses.replace(stated, environment=dataclasses.replace(run.environment, threads=99))
    assert retraining.compared("seed0.json", "trained", there, made, [there], 1).outcome == "confirmed"  # rounded elsewhere


@pytest.mark.parametrize(
    "place, says",
    [
        ({"threads": 99}, "threads: 99 there"),
        ({"devices": "8 x cuda (Other)"}, "devices: 8 x cuda (Other) there"),
        ({"processor": "Other"}, "processor: Other there"),
        ({"versions": {}}, "torch: not recorded there"),
    ],
)
def test_a_run_of_another_machine_is_compared_within_the_interval(arm, known, place, says):
    for seed in range(3):
        change(arm / f"seed{seed}.json", lambda table: elsewhere(table, **place))
    check = check_of(arm / "seed0.json")
    assert check.outcome != "contradicted" and f"on another machine ({says}" in check.how and "99% of further" in check.why


def spread_over(arm, values):
    """Seeds of another machine with these top-1."""
    for seed, top1 in enumerate(values):
        change(arm / f"seed{seed}.json", elsewhere)
        change(arm / f"seed{seed}.json", lambda table, top1=top1: table.update(top1=top1 / table["images_scored"]))


def test_of_another_machine_one_raised_run_or_all_are_contradicted_and_a_near_one_is_confirmed(arm, known):
    n = known.runs[0].images_scored
    known.runs = {0: dataclasses.replace(known.runs[0], top1=200 / n)}
    for values, outcome in (
        ((201, 200, 202), "confirmed"),
        ((260, 201, 200), "contradicted"),
        ((260, 261, 259), "contradicted"),
    ):
        spread_over(arm, values)
        assert (check := check_of(arm / "seed0.json")).outcome == outcome, (values, check)
    spread_over(arm, (201, 150, 250))
    assert (check := check_of(arm / "seed0.json")).outcome == "not checkable" and "too wide" in check.why


def test_one_run_of_another_machine_is_unchecked_and_says_the_difference(arm, known):
    (arm / "seed1.json").unlink()
    (arm / "seed2.json").unlink()
    change(arm / "seed0.json", elsewhere)
    check = check_of(arm / "seed0.json")
    assert check.outcome == "not checkable" and "processor: Another CPU there" in check.how and "More seeds" in check.why


def test_labels_that_differ_in_rounding_are_no_contradiction(arm, known):
    change(arm / "seed0.json", lambda table: table["history"][0].update(loss=table["history"][0]["loss"] * (1 + 1e-6)))
    assert "rounding" in check_of(arm / "seed0.json").how
    (arm / "seed1.json").write_bytes((arm / "seed0.json").read_bytes())  # a loss of a store on the Hub has its bits
    run = known.runs[0]
    stored = dataclasses.replace(run, labels=dataclasses.replace(run.labels, source="o/r:part", commit="c" * 40))
    stated = dataclasses.replace(
        stored, history=[{**run.history[0], "loss": run.history[0]["loss"] * (1 + 1e-6)}, *run.history[1:]]
    )
    assert retraining.compared("seed0.json", "trained", stated, stored, [stated], 1).outcome == "contradicted"


def test_a_run_that_vetting_refuses_is_not_trained(arm, known):
    change(arm / "seed0.json", lambda table: table["recipe"]["training"].update(epochs=3))
    check = check_of(arm / "seed0.json")
    assert check.outcome == "not checkable" and "refused" in check.why and not known.asked


def test_images_of_their_publisher_are_given_or_the_run_is_not_trained(arm, known):
    change(arm / "seed0.json", lambda table: table["images"].update(source="/somewhere/else", name="else"))
    check = check_of(arm / "seed0.json")
    assert check.outcome == "not checkable" and "--distilled PATH" in check.why
    check = check_of(arm / "seed0.json", distilled="digits-dm-ipc10")
    assert check.outcome == "not checkable" and "fingerprint" in check.why and not known.asked
    assert check_of(arm / "seed0.json", distilled="digits-dm-ipc1").outcome == "confirmed" and known.asked == [0]


def test_a_local_teacher_is_given_or_the_run_is_not_trained(known, digits):
    run, hand = known.runs[0], AtHand(VerifyOptions("results"))
    other = dataclasses.replace(run.teachers[0], source="local-dir:/somewhere", sha256="0" * 64)
    run = dataclasses.replace(run, teachers=(other,))
    with pytest.raises(NotAtHand, match="--teacher SOURCE"):
        rerun.options_of(run, digits, hand, Path("t"))
    given = AtHand(VerifyOptions("results", teacher=("local-dir:mine",)))
    assert rerun.options_of(run, digits, given, Path("t")).teacher == ("local-dir:mine",)
    stored = dataclasses.replace(run, labels=dataclasses.replace(run.labels, source="o/r:part", commit="c" * 40))
    options = rerun.options_of(stored, digits, hand, Path("t"))
    assert options.teacher == () and options.soft_labels == f"o/r@{'c' * 40}:part"  # its labels are read, not made
    imported = dataclasses.replace(run, labels=dataclasses.replace(run.labels, kind="imported"))
    with pytest.raises(NotAtHand, match="another tool"):
        rerun.options_of(imported, digits, hand, Path("t"))


def test_a_protocol_of_its_own_is_written_from_its_knobs(tmp_path, known):
    run = known.runs[0]
    own = dataclasses.replace(run.protocol, name="mine", overrides={})
    path = tmp_path / "mine.toml"
    with pytest.raises(NotAtHand, match="another digest"):  # the digest of knobs with an override
        rerun.protocol_source(dataclasses.replace(run, protocol=dataclasses.replace(own, digest="0" * 12)), tmp_path)
    digest = rerun.protocols.load(path).digest
    assert rerun.protocol_source(dataclasses.replace(run, protocol=dataclasses.replace(own, digest=digest)), tmp_path) == str(
        path
    )


def test_a_student_that_starts_otherwise_today_is_said_once_and_not_trained(arm, known):
    for seed in range(2):
        change(arm / f"seed{seed}.json", lambda table: table["network"].update(initialisation=9))
    older, rest = checks_of(arm.parents[4], retrain=None)
    assert older.place == "2 Runs" and "the version that wrote it can" in older.why and rest.place.endswith("seed2.json")
    first, *others = checks_of(arm.parents[4])
    assert "the version that wrote it can" in first.why and not known.asked and len(others) == 2


def test_without_retrain_one_row_says_of_all_runs_how_long_it_would_take(arm):
    (check,) = checks_of(arm.parents[4], retrain=None)
    assert check.outcome == "not checkable" and check.place == "3 Runs" and "--retrain" in check.why
    assert retraining.units.duration(runs.read(arm / "seed0.json").seconds) in check.why


def test_retrain_takes_the_seed_that_is_asked_for_and_counts_the_others(arm, known):
    first, rest = checks_of(arm.parents[4], retrain=2)
    assert known.asked == [2] and "seed 2" in first.claim and first.outcome == "confirmed" and rest.place == "2 Runs"
    there = evidence.gathered_evidence(sources.parse(str(arm.parents[4])))
    with pytest.raises(UserError, match="no such seed; it has 0, 1, 2"):
        retraining.check_seed(there, 7)


def test_a_command_that_fails_is_said_with_its_last_line(arm, monkeypatch):
    monkeypatch.setattr(rerun.Launch, "words", property(lambda self: ["sh", "-c", "echo error: no such thing; exit 2"]))
    check = check_of(arm / "seed0.json")
    assert check.outcome == "not checkable" and check.why.endswith("without a Run: error: no such thing")


VERIFY = """
import signal, sys, tempfile
signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)  # not under nohup
tempfile.tempdir = None  # that of the process this one is forked from
from rd3_utils import __main__
from rd3_utils.verification import rerun
rerun.Launch.words = property(lambda self: ["sh", "-c", "echo $$ > " + sys.argv[2] + "; sleep 60 & sleep 60"])
__main__.run(["verify", sys.argv[1], "--retrain"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_no_folder_and_no_process(arm, tmp_path, number):
    place, pid = tmp_path / "temporary", tmp_path / "pid"
    place.mkdir()
    environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(embedded.PACKAGE.parent)}
    verify = subprocess.Popen([warm.python(), "-c", VERIFY, str(arm / "seed0.json"), str(pid)], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    for line in verify.stderr:
        if line.startswith("It took"):
            break
    while not (pid.exists() and pid.read_text().strip()):
        assert verify.poll() is None
    assert list(place.glob("rd3-retrain-*"))
    verify.send_signal(number)
    _, err = verify.communicate(timeout=30)
    assert verify.returncode == 130 and "Traceback" not in err, err
    assert not list(place.glob("rd3-retrain-*")) and not rerun.subprocesses.members(int(pid.read_text()))


def test_a_process_that_starts_while_it_is_interrupted_is_not_lost(known, monkeypatch, tmp_path, digits):
    started, popen = [], subprocess.Popen

    def interrupted(*words, **given):
        started.append(popen(*words, **given))
        os.kill(os.getpid(), signal.SIGTERM)
        return started[0]

    monkeypatch.undo()
    monkeypatch.setattr(rerun.Launch, "words", property(lambda self: ["sh", "-c", "sleep 60"]))
    monkeypatch.setattr(rerun.subprocess, "Popen", interrupted)
    options = rerun.options_of(known.runs[0], digits, AtHand(VerifyOptions("results")), tmp_path)
    with pytest.raises(KeyboardInterrupt), rerun.temporary_folder() as folder:
        rerun.trained_again(rerun.launch_of(known.runs[0]), options, folder)
    assert started[0].poll() is not None and not folder.exists()


def test_a_launch_is_that_of_the_run_as_far_as_this_machine_goes(known):
    run = known.runs[0]
    there = dataclasses.replace(run.environment, threads=10_000, processes=2, precision="bf16")
    launched = rerun.launch_of(dataclasses.replace(run, environment=there))
    assert launched.threads <= rerun.subprocesses.cores() and launched.environment["OMP_NUM_THREADS"] == str(launched.threads)
    assert launched.words[-2:] == ["--mixed_precision", "bf16"]
    with pytest.raises(NotAtHand, match="needs a GPU"):
        rerun.launch_of(dataclasses.replace(run, environment=dataclasses.replace(there, precision="fp8")))


def test_the_interval_is_that_of_one_more_student():
    top1 = [0.80, 0.81, 0.83, 0.82]
    low, high = retraining.interval(top1, 10_000)
    half = stats.t.ppf(0.995, 3) * statistics.stdev(top1) * math.sqrt(1 + 1 / 4)
    assert (low, high) == pytest.approx((statistics.fmean(top1) - half, statistics.fmean(top1) + half))
    low, high = retraining.interval([0.5, 0.5], 100)
    assert high - low > 0.01  # equal scores are not a spread of nothing


def test_a_run_states_the_processor_and_nothing_of_the_machine_else():
    processor = launch.processor()
    assert processor is None or (processor.isprintable() and os.uname().nodename not in processor)
