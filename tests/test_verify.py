"""verify: what an output claims is recomputed; an honest one is never contradicted, one that was changed in any file is."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import warm
from conftest import PROJECT, run_script

from rd3_utils.data.sources import parse
from rd3_utils.errors import UserError
from rd3_utils.options import VerifyOptions
from rd3_utils.publishing import card as cards
from rd3_utils.publishing import student_repo
from rd3_utils.scoring import results as results_files
from rd3_utils.verification import card_claims, differences, evidence, run_claims, table, verifying
from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.checks import Verification

HARD = "train_student", "--protocol", "hard-label-v1", "--set", "training.epochs=3", "--student", "convnet1", "--seeds", "0,1"


def verified(source):
    """The Verification of `source` by its Runs and cards alone."""
    evident, at_hand = evidence.gathered_evidence(parse(str(source))), AtHand(VerifyOptions(str(source)))
    checks = [check for file in evident.runs for check in run_claims.of_run(file, at_hand)]
    checks += run_claims.of_head(evident)
    checks += [check for card in evident.cards for check in card_claims.of_card(card)]
    return Verification(str(source), evident.kind, tuple(checks), evident.not_read, 1.0)


def contradicted(source):
    return {check.place: check for check in verified(source).checks if check.outcome == "contradicted"}


def honest(source):
    verification = verified(source)
    assert [check for check in verification.checks if check.outcome == "contradicted"] == []
    return verification


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder: ten distilled digits and random ones, two seeds each, one command."""
    folder = tmp_path_factory.mktemp("results")
    done = run_script(folder, *HARD, "--arms", "distilled-hard,random-hard", "--draws", "2")
    assert done.code == 0, done.err
    return folder / "results"


@pytest.fixture
def copy(results, tmp_path):
    """(root, folder of the card) of a copy that a test may change."""
    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results", next((tmp_path / "results").glob("*/*/digits-dm*"))


@pytest.fixture(scope="module")
def pushed(results, tmp_path_factory):
    """A clone of the repo that a push of that student makes, but for its pictures."""
    folder = tmp_path_factory.mktemp("pushed") / "student"
    evident = evidence.gathered_evidence(parse(str(results)))
    (card,) = evident.cards
    made = card_claims.remade(card, None, None)
    first = next(file for file in card.runs if file.run.seed == 0 and file.run.arm == "distilled-hard")
    head, runs = first.run, made.subject.runs
    for file in evident.runs:
        target = folder / "runs" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, target)
    shutil.copytree(first.network, folder, dirs_exist_ok=True)
    shutil.copyfile(first.path, folder / "run.json")
    weights = student_repo.repo_weights_section("bench/student", runs, head)
    subject = cards.CardSubject(runs, runs, head, weights, head.images, made.subject.protocol, made.subject.benchmark,
                                made.subject.options)  # fmt: skip
    report = cards.report_of(subject)
    (folder / "report.json").write_text(json.dumps(report))
    pictures = {"Scores": [("plots/scores.png", "x")], "Images and labels": [], "Learning curves": []}
    (folder / "README.md").write_text(cards.card(subject, report, pictures))
    name, text = student_repo.eval_result("bench/student", report, head, made.subject.benchmark)
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / f"{name}.yaml").write_text(text)
    return folder


def change(path, old, new, count=1):
    text = path.read_text()
    assert re.search(old, text), (path, old)
    path.write_text(re.sub(old, new, text, count=count))


def edit(path, **changes):
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | changes))


# --- honest outputs


def test_the_committed_runs_are_all_what_they_say():
    verification = honest(PROJECT / "measured")
    per_kind = {check.claim: 0 for check in verification.checks}
    for check in verification.checks:
        per_kind[check.claim] += check.outcome == "confirmed"
    files = len(list((PROJECT / "measured").glob("*/*/*/*/*/seed*.json")))
    for claim in (run_claims.WHOLE, "recipe, steps and labels", "history", "lies where it belongs"):
        assert per_kind[claim] == files, claim
    assert any(line.startswith("study/cifar10-cpu/") for line in verification.not_read)
    assert any(check.place.endswith("report.json") and check.outcome == "confirmed" for check in verification.checks)
    assert len(table.text(verification)) < 10_000


def test_a_results_folder_its_card_a_student_a_run_and_a_pushed_repo_are_what_they_say(results, pushed):
    folder = next(results.glob("*/*/digits-dm*"))
    student = folder / "convnet1/distilled-hard/seed0"
    kinds = {source: honest(source) for source in (results, folder, student, student.with_suffix(".json"), pushed)}
    assert [one.kind for one in kinds.values()] == ["results folder", "card", "student", "Run", "pushed repo"]
    for source in (results, folder, pushed):
        confirmed = {(c.place.rpartition("/")[2], c.claim) for c in kinds[source].checks if c.outcome == "confirmed"}
        claims = {"report.json", "README.md"} | ({"digits-ipc1-hard-label-v1"} if source == pushed else set())
        assert claims <= {place if ".yaml" not in place else place.partition("-custom")[0] for place, _ in confirmed}
        assert ("README.md", "commands that make it again") in confirmed and ("README.md", "model-index") in confirmed
        for check in kinds[source].checks:  # nothing else is left open
            assert check.outcome == "confirmed" or "only training it again" in check.why, check


def test_a_file_stands_for_its_folder_and_a_folder_may_be_called_by_a_dot(results, monkeypatch):
    (card,) = evidence.gathered_evidence(parse(str(results))).cards
    network = next(file.network for file in card.runs if file.network)
    for file, kind in ((card.folder / "README.md", "card"), (card.folder / "report.json", "card"),
                       (network / "config.json", "student"), (network / "model.safetensors", "student")):  # fmt: skip
        assert honest(file).kind == kind
    monkeypatch.chdir(network)
    assert {check.place for check in honest(".").checks} == {f"{network.name}.json"}


def test_what_is_no_output_of_ours_is_refused_in_one_line(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for source, says in ((tmp_path / "other.json", "is no Run"), ("digits-dm-ipc2", "no embedded set of that name"),
                         (tmp_path / "empty", "holds neither")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            verifying.verify(VerifyOptions(str(source)))


def test_a_card_folder_may_be_moved_and_no_run_to_another_card(copy):
    root, folder = copy
    shutil.move(folder, folder.with_name("mine"))
    assert "was renamed or moved" in " ".join(check.why for check in honest(root).checks)
    shutil.move(folder.with_name("mine"), folder.with_name("others@01234567"))
    assert "belongs at" in " ".join(check.why for check in contradicted(root).values())


def test_a_file_that_goes_away_meanwhile_is_named(results, monkeypatch):
    def gone(*_):
        raise FileNotFoundError(2, "No such file or directory", "seed0.json")

    monkeypatch.setattr(run_claims, "of_run", gone)
    with pytest.raises(UserError, match=r"^'seed0.json' changed while it was read"):
        verifying.verify(VerifyOptions(str(results)))


def test_no_folder_lies_above_the_topmost_one():
    assert results_files.root_of(Path("/card")) == results_files.card_folder(Path("/seed0.json")) == Path("/")
    assert results_files.root_of(Path("/out/digits/rd3-v1/ten")) == Path("/out")


def test_a_run_of_another_command_makes_no_card_untrue(results, script, tmp_path):
    """Runs that came later are told; so are those without which a card cannot be computed."""
    shutil.copytree(results, tmp_path / "results")
    assert script(*HARD[:-1], "2", "--arms", "distilled-hard", "--runs-only").code == 0
    checks = honest(tmp_path / "results").checks
    assert any(check.claim == "speaks of all Runs that it should" and check.why.startswith("1 more") for check in checks)
    for folder in (tmp_path / "results").glob("*/*/random-*"):
        shutil.rmtree(folder)
    checks = honest(tmp_path / "results").checks
    assert any("random-hard: 4 students stated, 0 fit here" in check.why for check in checks)


def test_what_an_owner_adds_to_a_card_is_shown_and_not_contradicted(pushed, tmp_path):
    shutil.copytree(pushed, tmp_path / "repo")
    change(tmp_path / "repo/README.md", "---\n", "---\nlicense: mit\n")
    with open(tmp_path / "repo/README.md", "a") as file:
        file.write("\nOur best: 99.9 %\n")
    checks = honest(tmp_path / "repo").checks
    assert any("Our best: 99.9 %" in check.why and check.outcome == "not checkable" for check in checks)


# --- forged ones, each in one file


NUMBER = r"(\| distilled-hard \| )[\d.]+"


@pytest.mark.parametrize(
    "name, forge, value",
    [
        ("README.md", lambda path: change(path, NUMBER, r"\g<1>97.00"), "97.00"),
        ("README.md", lambda path: change(path, r"value: 0\.\d+", "value: 0.97"), "0.97"),
        ("README.md", lambda path: change(path, r"gets [\d.]+ %", "gets 97.00 %"), "97.00"),
        (
            "README.md",
            lambda path: change(path, "- ipc-1\n", "- ipc-50\n"),
            "ipc",
        ),
        ("README.md", lambda path: change(path, "--seeds 0,1", "--seeds 0"), "--seeds 0"),
        ("report.json", lambda path: change(path, r'"mean": 0\.\d+', '"mean": 0.97'), "0.97"),
        ("report.json", lambda path: change(path, r'"n": 2', '"n": 20'), "20 students"),
        ("report.json", lambda path: path.write_text("[1]"), "no table"),
    ],
)
def test_a_card_with_another_number_is_contradicted(copy, name, forge, value):
    _, folder = copy
    forge(folder / name)
    found = contradicted(folder)
    assert name in found and value in found[name].claim + found[name].why, found
    assert verified(folder).exit_code() == 1


@pytest.mark.parametrize(
    "key, forged, claim",
    [
        ("top1", 0.97777, "top-1 and top-5"),
        ("top5", 0.01, "top-1 and top-5"),
        ("seed", 7, "lies where it belongs"),
        ("recipe", lambda recipe: {**recipe, "steps": 9}, "recipe"),
        ("recipe", lambda recipe: {**recipe, "training": {**recipe["training"], "epochs": 30}}, "recipe"),
        ("history", lambda history: history[:-1], "history"),
        ("history", lambda history: [{**entry, "learning_rate": 0.1} for entry in history], "history"),
        ("protocol", lambda protocol: {**protocol, "digest": "0" * 12}, "protocol"),
        ("protocol", lambda protocol: {**protocol, "overrides": {}}, "protocol"),
        ("network", lambda network: {**network, "architecture": "convnet2"}, "recipe"),
        ("schema", 9, run_claims.WHOLE),
    ],
)
def test_a_run_with_another_value_is_contradicted(copy, key, forged, claim):
    root, folder = copy
    path = folder / "convnet1/distilled-hard/seed0.json"
    edit(path, **{key: forged(json.loads(path.read_text())[key]) if callable(forged) else forged})
    for source in (root, path):
        rows = [c for c in verified(source).checks if c.outcome == "contradicted" and c.place.endswith("seed0.json")]
        assert any(check.claim.startswith(claim) for check in rows), rows
        assert verified(source).exit_code() == 1


def test_a_run_with_a_plausible_score_is_contradicted_by_its_card(copy):
    """0.5 of 500 images can be counted; what was averaged was another number."""
    root, folder = copy
    edit(folder / "convnet1/distilled-hard/seed0.json", top1=0.97, top5=1.0)
    assert {"README.md", "report.json"} == {place.rpartition("/")[2] for place in contradicted(root)}


def test_each_file_of_a_pushed_repo_that_was_changed_is_named(pushed, tmp_path):
    shutil.copytree(pushed, tmp_path / "repo")
    (result,) = (tmp_path / "repo/.eval_results").glob("*.yaml")
    (run,) = (tmp_path / "repo/runs").glob("**/distilled-hard/seed0.json")
    for path, forge in (
        (result, lambda: change(result, r"value: [\d.]+", "value: 97.0")),
        (run, lambda: edit(run, images_scored=400)),
        (tmp_path / "repo/run.json", lambda: edit(tmp_path / "repo/run.json", top1=0.97)),
        (tmp_path / "repo/run.json", lambda: edit(tmp_path / "repo/run.json", seconds=0.5)),
        (
            tmp_path / "repo/README.md",
            lambda: change(tmp_path / "repo/README.md", r"score: top-1 [\d.]+", "score: top-1 97.00"),
        ),
        (tmp_path / "repo/report.json", lambda: change(tmp_path / "repo/report.json", r'"mean": 0\.\d+', '"mean": 0.97')),
    ):
        kept = path.read_bytes()
        forge()
        assert path.relative_to(tmp_path / "repo").as_posix() in contradicted(tmp_path / "repo"), path
        path.write_bytes(kept)
    honest(tmp_path / "repo")


@pytest.mark.parametrize("text", [b"\xff", b"---\na: &a [1]\nb: *a\n---\n", b"---\n" + b"[" * 5000, b"---\n- 1\n---\nx"])
def test_a_hostile_front_matter_is_one_row(copy, text):
    _, folder = copy
    (folder / "README.md").write_bytes(text)
    assert any(check.place == "README.md" and check.outcome != "confirmed" for check in verified(folder).checks)


# --- what is compared


def test_a_word_without_end_is_compared_in_no_time():
    endless = "[" * 200_000
    started = time.process_time()
    assert differences.masked(f"{endless} 97.3 | - |") == f"{endless} # | # |"
    assert time.process_time() - started < 1


def test_only_numbers_contradict():
    made = ["# A set", "| arm | 84.00 | - |", "One sentence.", "the end"]
    kinds = lambda stated: [one.kind for one in differences.in_lines(stated, made)]  # noqa: E731
    assert kinds(made) == []
    assert kinds([made[0], "| arm | 97.00 | - |", *made[2:]]) == ["number"]
    assert kinds([made[0], "| arm | 84.00 | 3 |", *made[2:]]) == ["number"]
    assert kinds([*made, "| arm | 97.00 | - |"]) == ["only stated"]
    assert kinds(made[:2] + made[3:]) == ["not stated"]
    assert sorted(kinds([made[0], made[1], "Another sentence.", made[3]])) == ["not stated", "only stated"]
    assert [(one.at, one.kind) for one in differences.in_data({"a": [1, 2.5], "b": "x"}, {"a": [1, 2.6], "c": None})] == [
        ("a[1]", "number"), ("c", "not stated"), ("b", "only stated")]  # fmt: skip


@pytest.mark.parametrize("columns", [80, 140])
def test_the_table_fits_the_terminal(results, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = table.text(verified(results)).splitlines()
    assert max(map(len, lines)) <= columns and len(lines) < 60
    assert re.fullmatch(r"\d+ claims: \d+ confirmed, 0 contradicted, \d+ unchecked\. 1(\.0+)? s\.", lines[-1]), lines[-1]


def test_the_command_ends_with_a_code_and_json_says_the_same(copy):
    root, folder = copy
    path = folder / "convnet1/distilled-hard/seed1.json"
    assert run_script(root, "rd3_utils", "verify", path).code == 3  # no score could be recomputed
    edit(path, top1=0.97777)
    done = run_script(root, "rd3_utils", "verify", path, "--json")
    assert done.code == 1 and json.loads(done.out)["counts"]["contradicted"] >= 1
    assert run_script(root, "rd3_utils", "verify", path, "--strict").code == 1
    done = run_script(root, "rd3_utils", "verify", root / "nothing")
    assert done.code == 2 and done.err.count("error:") == 1


def test_a_reader_that_wants_no_more_changes_no_exit_code(results, tmp_path):
    words = "-m", "rd3_utils", "verify", str(results), "--strict"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([warm.python(), *words], stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (3, "")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run([warm.python(), *words], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "error: the table cannot be written" in done.stderr


def test_a_name_of_a_file_writes_no_command_to_the_terminal(copy, tmp_path):
    root, folder = copy
    odd = tmp_path / "\x1b[31mred\udcff"
    shutil.copytree(folder, odd)
    text = table.text(verified(tmp_path))
    assert "?[31mred?" in text and all(line.isprintable() for line in text.splitlines())


def test_of_a_repo_only_the_files_that_we_write_are_fetched():
    ours = "README.md", "run.json", ".eval_results/a.yaml", "runs/digits/rd3-v1-0/x@1/convnet1/full-hard/seed0.json"
    others = "x.py", "runs/../../seed0.json/x", "pytorch_model.bin", "plots/scores.png", "runs/seed0.json.py", "a/README.md"
    assert [path for path in (*ours, *others) if evidence.READ_FILE.fullmatch(path)] == list(ours)
