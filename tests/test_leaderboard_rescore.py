"""leaderboard --rescore: weights that lie with Runs are scored again, and a forged row stands apart whole."""

import json
import shutil

import pytest
import torch
from conftest import run_script
from safetensors.torch import load_file, save_file

from rd3_utils.data import embedded
from rd3_utils.leaderboard import entries, rescore
from rd3_utils.leaderboard import site as leaderboard
from rd3_utils.verification import rescoring

TEACHER = embedded.EMBEDDED / "digits-teacher-convnet3"
RUN = json.loads((TEACHER / "run.json").read_text())
PLACE = "digits/teacher-v1-bc77c0bb5e7f/full@0/convnet3/full-hard"


@pytest.fixture(scope="module")
def rescorer():
    return rescore.rescorer(())


@pytest.fixture
def forwards(monkeypatch, tmp_path):
    """[each network that was really scored]; nothing is kept from before."""
    scored, real = [], rescoring.rescored
    monkeypatch.setattr(rescore, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(rescoring, "rescored", lambda *given: scored.append(given[1]) or real(*given))
    return scored


@pytest.fixture
def folder(tmp_path):
    """Three seeds with one network each, as --keep-weights all leaves them."""
    place = tmp_path / "results" / PLACE
    for seed in range(3):
        shutil.copytree(TEACHER, place / f"seed{seed}")
        (place / f"seed{seed}" / "run.json").unlink()
        (place / f"seed{seed}.json").write_text(json.dumps({**RUN, "seed": seed}))
    return tmp_path / "results"


def forged(folder, seed, **changes):
    path = folder / PLACE / f"seed{seed}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rows(gathered):
    return [(entry.rescored, len(entry.runs)) for entry in gathered.entries]


def test_a_row_says_of_how_many_runs_the_weights_score_what_they_state(folder, rescorer, forwards):
    shutil.rmtree(folder / PLACE / "seed1")
    gathered = entries.gathered_entries([folder], mark=rescorer.mark)
    assert rows(gathered) == [(2, 3)] and not gathered.apart
    files = leaderboard.site_files(gathered)
    assert b">2 of 3</td>" in files["index.html"] and b"re-scored 2 of 3" in next(
        data for path, data in files.items() if path.startswith("tables/")
    )
    assert json.loads(files["data/entries-000.json"])[0]["rescored"] == 2
    stated = leaderboard.site_files(entries.gathered_entries([folder]))
    assert b">stated</td>" in stated["index.html"] and json.loads(stated["data/entries-000.json"])[0]["rescored"] is None


def test_equal_weights_are_scored_once_and_what_is_kept_serves_the_next_board(folder, rescorer, forwards):
    for _ in range(2):
        assert rows(entries.gathered_entries([folder], mark=rescorer.mark)) == [(3, 3)]
        assert len(forwards) == 1
    (kept,) = rescore.KEPT.iterdir()
    kept.write_text("{")
    assert rows(entries.gathered_entries([folder], mark=rescorer.mark)) == [(3, 3)]
    assert len(forwards) == 2


def test_a_row_with_one_contradicted_run_stands_apart_whole_with_both_numbers(folder, rescorer, forwards):
    forged(folder, 1, top1=0.994)
    gathered = entries.gathered_entries([folder], mark=rescorer.mark)
    assert not gathered.entries and len(gathered.apart) == 3
    page = leaderboard.site_files(gathered)["not-ranked.html"].decode()
    assert "states top-1 99.40 %" in page and "score top-1 99.00 %" in page and "in one row with" in page


def test_deleting_the_weights_of_a_forged_seed_does_not_make_it_one_that_was_scored_again(folder, rescorer, forwards):
    forged(folder, 1, top1=0.994)
    shutil.rmtree(folder / PLACE / "seed1")
    assert rows(entries.gathered_entries([folder], mark=rescorer.mark)) == [(2, 3)]


@pytest.mark.parametrize("change", ["sha256", "weights", "damage"])
def test_other_weights_than_a_run_speaks_of_contradict_it(folder, rescorer, forwards, change):
    path = folder / PLACE / "seed2" / "model.safetensors"
    if change == "sha256":
        forged(folder, 2, weights={"sha256": "0" * 64})
    elif change == "weights":
        state = load_file(path)
        save_file({**state, "classifier.bias": state["classifier.bias"] + torch.arange(10.0)}, path)
    else:
        path.write_bytes(path.read_bytes()[:-1])
    gathered = entries.gathered_entries([folder], mark=rescorer.mark)
    assert not gathered.entries and len(gathered.apart) == 3


def test_one_origin_s_false_weights_leave_the_rows_of_others(folder, rescorer, forwards, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "stranger")
    forged(copy, 0, top1=0.994)
    gathered = entries.gathered_entries([copy, folder], mark=rescorer.mark)
    assert rows(gathered) == [(3, 3)] and {entry.origin.name for entry in gathered.entries} == {"results"}


def test_without_real_data_nothing_is_scored_and_the_row_says_so(folder, tmp_path, forwards):
    rescorer = rescore.rescorer((f"digits={tmp_path / 'nothing'}",))
    assert rows(entries.gathered_entries([folder], mark=rescorer.mark)) == [(0, 3)] and not forwards


def test_the_command_scores_again(folder, tmp_path, forwards):
    done = run_script(tmp_path, "rd3_utils", "leaderboard", "--results", folder, "--rescore", "--out", "site")
    assert done.code == 0, done.err
    assert ">3 of 3</td>" in (tmp_path / "site/index.html").read_text() and len(forwards) == 1
    refused = run_script(tmp_path, "rd3_utils", "leaderboard", "--results", folder, "--data-dir", "x", "--out", "site")
    assert refused.code == 2 and "--rescore" in refused.err


def test_a_repos_network_beyond_the_limit_is_said_and_not_fetched(monkeypatch):
    sizes = {"model.safetensors": 600_000_000, "config.json": 1000, "run.json": 5000}
    monkeypatch.setattr(rescore.hub, "sizes", lambda repo, commit: sizes)
    monkeypatch.setattr(rescore.hub, "network_folder", lambda *given: pytest.fail("fetched"))
    gathering = entries.Gathering()
    assert rescore.head_of(entries.Origin("hub", "someone/large", "0" * 40), gathering) is None
    assert "600 MB is not fetched, at most 500 MB" in gathering.notes[0]
