"""The learning-rate search: which images it is scored on, who wins, what is recorded, and that it is made once."""

import json

import numpy as np
import pytest

from rd3_utils.data import images as image_sets
from rd3_utils.data import tables
from rd3_utils.errors import UserError
from rd3_utils.learning import search
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.shapes import Refused
from rd3_utils.verification import vetting

GRID = "training.learning_rates=[0.01, 0.00001, 1e30]"
SHORT = "--protocol", "hard-label-v1", "--distilled", "random:ipc=10", "--student", "convnet1", "--set", "training.epochs=8"
SHORT += ("--runs-only",)


@pytest.fixture(scope="module")
def table(digits):
    return tables.real(digits, "train")


def pixels(images):
    return [image.tobytes() for image in images.images.numpy()]


def recorded(folder, pattern="**/seed*.json"):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]


def test_held_out_images_are_a_balanced_tenth_of_the_train_split_and_always_the_same(table, train, ten):
    found = search.held_out(table, ten)
    assert found.ipc == len(train) // 10 // 10 and len(found) <= len(train) / 10
    label = dict(zip(pixels(train), train.labels.tolist()))
    assert [label[p] for p in pixels(found)] == found.labels.tolist()
    assert found.fingerprint == search.held_out(table, ten).fingerprint


def test_no_held_out_image_has_the_pixels_of_one_that_is_trained_on(table, ten):
    first = search.held_out(table, ten)
    again = search.held_out(table, first)
    assert again.ipc == first.ipc and not set(pixels(first)) & set(pixels(again))


def test_of_a_large_train_split_five_thousand_are_held_out(ten):
    labels = np.arange(60_000) % 10
    arrays = np.random.default_rng(0).integers(0, 256, (60_000, 3, 8, 8), np.uint8)
    large = tables.Table("large", "x", None, ten.class_names, labels, np.arange(60_000), arrays, (), 8, 0, True, None)
    found = search.held_out(large, ten)
    assert (len(found), found.ipc) == (5_000, 500)


def test_a_class_without_a_free_image_and_the_whole_split_are_refused(table, train, ten):
    with pytest.raises(UserError, match="leaves too few of the .* train images"):
        search.held_out(table, train)
    rows = np.flatnonzero(table.labels == 3)
    with pytest.raises(UserError, match="holds every train image of a class"):
        search.held_out(table, image_sets.of_table(table, rows))


def test_the_best_rate_wins_and_of_equals_the_smallest(ten):
    top1 = {0.1: 0.5, 0.01: 0.7, 0.001: 0.7, 1.0: None}
    found = search.best((0.1, 0.01, 1.0, 0.001), top1.get, ten)
    assert found["learning_rate"] == 0.001 and found["grid"] == [0.1, 0.01, 1.0, 0.001]
    assert found["candidates"] == [{"learning_rate": rate, "top1": top1[rate]} for rate in (0.001, 0.01, 0.1, 1.0)]
    assert (found["images"]["images"], found["images"]["fingerprint"]) == (10, ten.fingerprint)
    with pytest.raises(UserError, match="diverged at each of 1.0, 2.0"):
        search.best((1.0, 2.0), top1.get, ten)


def test_a_searched_run_is_the_run_at_the_winning_rate_and_all_seeds_share_the_search(script, tmp_path):
    assert script("train_student", *SHORT, "--set", GRID, "--seeds", "1,2", "--out", "searched").code == 0
    one, two = recorded(tmp_path / "searched")
    found = one["learning_rate_search"]
    accuracy = {candidate["learning_rate"]: candidate["top1"] for candidate in found["candidates"]}
    assert two["learning_rate_search"] == found and found["seed"] == 0
    assert accuracy[1e30] is None and accuracy[0.01] > accuracy[0.00001] and found["learning_rate"] == 0.01
    assert found["images"]["source"] == f"held-out:ipc={found['images']['ipc']}"
    for top1 in (accuracy[0.01], accuracy[0.00001]):  # scored on these images, and not on the 500 of the test split
        assert top1 * found["images"]["images"] == pytest.approx(round(top1 * found["images"]["images"]))
    assert one["recipe"]["training"]["learning_rate"] == 0.01 == one["history"][0]["learning_rate"]
    script("train_student", *SHORT, "--set", "training.learning_rate=0.01", "--seeds", "1", "--out", "stated")
    (stated,) = recorded(tmp_path / "stated")
    assert stated["history"] == one["history"] and stated["top1"] == one["top1"] and "learning_rate_search" not in stated
    assert not list(tmp_path.rglob("*.checkpoint"))


RATES = 0.01, 0.00001, 1e30
LIES = [
    ("does not say which of the grid won", {"learning_rate": 0.5}),
    ("chose 1e-05, and 0.01 scored best", {"learning_rate": 0.00001}),
    ("one of learning_rate_search.candidates lacks top1", {"candidates": [{"learning_rate": 0.01}]}),
    ("tried other rates", {"candidates": [{"learning_rate": 0.01, "top1": 0.5}]}),
    ("no candidate that finished", {"candidates": [{"learning_rate": rate, "top1": None} for rate in RATES]}),
    ("was not scored on held-out train images", {"images": {"source": "digits-test"}}),
    ("was not scored on held-out train images", {"images": "test"}),
    ("no whole number of 7 images", {"images": {"images": 7}}),
]


def test_a_strangers_search_is_checked(script, tmp_path):
    assert script("train_student", *SHORT, "--set", GRID).code == 0
    (run,) = recorded(tmp_path)
    vetting.vetted(json.dumps(run).encode())
    honest = run["learning_rate_search"]
    for reason, lie in LIES:
        if "images" in lie:
            other = {"fingerprint": run["test"]["fingerprint"]} if lie["images"] == "test" else lie["images"]
            lie = {"images": {**honest["images"], **other}}
        told = {**run, "learning_rate_search": {**honest, **lie}}
        with pytest.raises(Refused, match=reason):
            vetting.vetted(json.dumps(told).encode())


def test_a_search_is_found_again_in_a_kept_run(script, tmp_path):
    command = "train_student", *SHORT, "--set", GRID
    script(*command, "--seeds", "0")
    (path,) = tmp_path.glob("results/**/seed0.json")
    (kept,) = tmp_path.glob("results/**/learning-rate-search-*.json")
    kept.unlink()
    honest = json.loads(path.read_text())
    run = {**honest, "learning_rate_search": {**honest["learning_rate_search"], "seconds": 12345.0}}
    path.write_text(json.dumps(run))
    script(*command, "--seeds", "0,1")
    assert recorded(tmp_path, "results/**/seed1.json")[0]["learning_rate_search"]["seconds"] == 12345.0


def test_students_with_views_of_their_own_share_one_search_whatever_lies_beside_them(script, tmp_path):
    """A Run of shared views of seed 3 searched with those: it is the first of its own kind only where nothing is searched."""
    command = "train_student", *SHORT, "--set", GRID, "--set", "views.crop=pad", "--set", "views.padding=0.25", "--seeds", "3"
    for out, views in (("beside", "3"), ("beside", "each"), ("alone", "each")):
        assert script(*command, "--views-seed", views, "--out", out).code == 0
    (beside,), (alone,) = (recorded(tmp_path, f"{out}/**/*-each/seed3.json") for out in ("beside", "alone"))
    (shared,) = recorded(tmp_path, "beside/**/distilled-hard/seed3.json")
    searches = [run["learning_rate_search"]["candidates"] for run in (beside, alone, shared)]
    assert searches[0] == searches[1] != searches[2]


def test_a_search_on_other_held_out_images_is_made_again(script, tmp_path):
    """A Run of another train split lies beside it: its search is not recorded as this command's own."""
    command = "train_student", *SHORT, "--set", GRID
    script(*command, "--seeds", "0")
    (path,), (kept,) = tmp_path.glob("results/**/seed0.json"), tmp_path.glob("results/**/learning-rate-search-*.json")
    kept.unlink()
    run = json.loads(path.read_text())
    run["learning_rate_search"] |= {
        "seconds": 12345.0,
        "images": {**run["learning_rate_search"]["images"], "fingerprint": "0" * 64},
    }
    path.write_text(json.dumps(run))
    script(*command, "--seeds", "1")
    assert recorded(tmp_path, "results/**/seed1.json")[0]["learning_rate_search"]["seconds"] != 12345.0


def test_a_search_is_kept_as_soon_as_it_ends(script, tmp_path, monkeypatch):
    """The training after it is killed: the next command does not search again."""
    import train_student

    command = "train_student", *SHORT, "--set", GRID
    with monkeypatch.context() as patch:
        patch.setattr(train_student.runs, "write", lambda where, run: killed() if "history" in run else write(where, run))
        with pytest.raises(KeyboardInterrupt):
            script(*command)
    (kept,) = tmp_path.glob("results/**/learning-rate-search-*.json")
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "seconds": 12345.0}))
    assert script(*command).code == 0
    assert recorded(tmp_path)[0]["learning_rate_search"]["seconds"] == 12345.0


write = run_files.write


def killed():
    raise KeyboardInterrupt


def test_two_processes_agree_with_one_on_the_search(script, launched, tmp_path):
    command = *SHORT, "--set", GRID
    assert script("train_student", *command, "--out", "one").code == 0
    done = launched("cpu_2_processes.yaml", "train_student.py", *command, "--out", "two")
    assert done.code == 0, done.err
    one, two = (recorded(tmp_path / out)[0]["learning_rate_search"] for out in ("one", "two"))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_dry_run_prints_the_grid(script):
    done = script("train_student", *SHORT, "--set", GRID, "--dry-run")
    assert done.code == 0 and "search    learning rate of 0.01, 1e-05, 1e+30, on held-out" in done.out


def test_a_teachers_training_has_nothing_to_search_on(script):
    done = script("train_student", "--protocol", "teacher-v1", "--arms", "full-hard", "--set", GRID)
    assert done.code == 2 and "leaves too few" in done.err
