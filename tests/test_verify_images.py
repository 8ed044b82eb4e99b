"""verify, images: drawn or read again and compared with what Runs and distilled.json say; another value is a contradiction."""

import dataclasses
import json
from pathlib import Path

import making_runs
import pytest
import torch

from rd3_utils.data import embedded, provenance, sources
from rd3_utils.data import images as image_sets
from rd3_utils.learning import search
from rd3_utils.options import VerifyOptions
from rd3_utils.verification import image_claims
from rd3_utils.verification.at_hand import AtHand
from rd3_utils.verification.evidence import Evidence, RunFile

NONE = {"test_images": 0, "near_test_images": 0, "repeated": 0, "conflicts": 0}


@pytest.fixture(scope="module")
def hand():
    return AtHand(VerifyOptions("results"))


@pytest.fixture(scope="module")
def checks_of(hand, test_set):
    """checks_of(images, ...) -> the Checks of a Run on digits with these "images"."""

    def look(images, at_hand=hand, **changes):
        table = making_runs.table(**{"test": test_set.describe(), **changes})
        run = making_runs.runs.of({**table, "images": images})
        file = RunFile("seed0.json", Path("seed0.json"), run)
        return list(image_claims.of_images(Evidence(sources.folder("results"), "Run", runs=(file,)), at_hand))

    return look


def outcomes(checks):
    return [check.outcome for check in checks]


def wrong(checks):
    return [check for check in checks if check.outcome == "contradicted"]


@pytest.fixture(scope="module")
def drawn(ten):
    return {**ten.describe(), "checks": NONE}


def test_random_images_are_drawn_again(checks_of, drawn):
    checks = checks_of(drawn)
    assert outcomes(checks) == ["confirmed"] * 4 and "drawn again" in checks[1].how
    assert drawn["fingerprint"][:12] in checks[1].claim and drawn["train"]["fingerprint"][:12] in checks[0].claim


def test_embedded_images_are_read_again(checks_of, digits):
    dm = image_sets.read("digits-dm-ipc1", digits).describe()
    assert outcomes(checks_of(dm)) == ["confirmed"] * 3
    (check,) = wrong(checks_of({**dm, "fingerprint": "0" * 64}))
    assert check.why == f"fingerprint {dm['fingerprint'][:12]}"


def test_test_images_that_are_called_random_are_contradicted(checks_of, drawn, test_set):
    rows = torch.cat([(test_set.labels == k).nonzero()[:1, 0] for k in range(10)])
    mine = image_sets.make("random-ipc1-seed0", test_set.images[rows], torch.arange(10), test_set.class_names, "")
    (check,) = wrong(checks_of({**drawn, "fingerprint": mine.fingerprint}))
    assert mine.fingerprint[:12] in check.claim and check.why == f"fingerprint {drawn['fingerprint'][:12]}"


@pytest.mark.parametrize("forged, wanted", [
    ({"images": 20}, "images 10"),
    ({"ipc": 2}, "images per class 1"),
    ({"source": "random:ipc=1,seed=1", "name": "random-ipc1-seed1"}, "fingerprint "),
    ({"source": "full", "name": "full"}, "images 1297, images per class None, fingerprint a7d826e27e41"),
    ({"train": {"fingerprint": "0" * 64, "images": 1297}}, "fingerprint "),
    ({"train": {"fingerprint": None, "images": 1298}}, "images 1297"),
    ({"checks": {**NONE, "test_images": 1}}, "none is a test image or nearly one, none is there twice"),
    ({"checks": {**NONE, "near_test_images": 2}}, "none is a test image or nearly one, none is there twice"),
])  # fmt: skip
def test_what_a_run_says_of_random_images_otherwise_is_contradicted(checks_of, drawn, forged, wanted):
    forged = {**drawn, **forged}
    forged["train"] = {**forged["train"], "fingerprint": forged["train"]["fingerprint"] or drawn["train"]["fingerprint"]}
    checks = wrong(checks_of(forged))
    assert checks[0].why.startswith(wanted) and (len(checks) == 1 or forged["source"] != drawn["source"])


@pytest.mark.parametrize(
    "forged, wanted", [({"fingerprint": "0" * 64}, "fingerprint dce1bee8"), ({"images": 499}, "images 500")]
)
def test_another_test_split_is_contradicted(checks_of, drawn, test_set, forged, wanted):
    (check,) = wrong(checks_of(drawn, test={**test_set.describe(), **forged}))
    assert check.why.startswith(wanted)


def test_the_held_out_images_of_a_search_are_held_out_again(checks_of, drawn, ten, hand):
    held = search.held_out(hand.train("digits"), ten).describe()
    searched = {"learning_rate": 0.1, "candidates": [{"learning_rate": 0.1, "top1": 0.5}], "images": held}
    assert outcomes(checks_of(drawn, learning_rate_search=searched)) == ["confirmed"] * 5
    (check,) = wrong(checks_of(drawn, learning_rate_search={**searched, "images": {**held, "fingerprint": "0" * 64}}))
    assert check.why == f"fingerprint {held['fingerprint'][:12]}"


def test_images_of_a_folder_elsewhere_are_not_checkable_and_no_path_of_a_run_is_opened(checks_of, drawn, ten, tmp_path):
    image_sets.save(ten, tmp_path / "mine")
    for source in (str(tmp_path / "mine"), "../../etc/passwd", "mine"):
        checks = checks_of({**drawn, "source": source, "train": None, "name": "mine"})
        assert outcomes(checks) == ["not checkable", "not checkable", "confirmed"]
        assert drawn["fingerprint"][:12] in checks[0].why and "verify it" in checks[0].why


@pytest.mark.parametrize("changes", [
    {"benchmark": "nosuch"}, {"recipe": {"training": {"epochs": 1, "test_resize": 10**9}}, "benchmark": "cifar10"},
])  # fmt: skip
def test_hostile_runs_are_rows_not_faults(checks_of, drawn, changes, tmp_path):
    at_hand = AtHand(VerifyOptions("results", data_dir=(f"cifar10={tmp_path}",)))
    assert set(outcomes(checks_of(drawn, at_hand, **changes))) == {"not checkable"}


def test_one_set_of_many_runs_is_read_once(hand, drawn, test_set, monkeypatch):
    images = making_runs.runs.of({**making_runs.table(), "images": drawn}).images
    made = [dataclasses.replace(making_runs.made(test=test_set.describe(), seed=k), images=images) for k in range(5)]
    read, whole = [], image_claims.had_again
    monkeypatch.setattr(image_claims, "had_again", lambda *words: read.append(words) or whole(*words))
    files = tuple(RunFile(f"seed{run.seed}.json", Path(), run) for run in made)
    checks = list(image_claims.of_images(Evidence(sources.folder("results"), "results folder", runs=files), hand))
    assert len(read) == 1 and outcomes(checks) == ["confirmed"] * 20


# --- a SOURCE that is an image set


@pytest.fixture
def set_checks(hand, tmp_path):
    """set_checks(images, about) -> the Checks of the set, saved with that distilled.json; or of a SOURCE by name."""

    def look(images, about=None, at_hand=hand):
        source = sources.parse(images) if isinstance(images, str) else sources.folder(tmp_path / "mine")
        if not isinstance(images, str):
            image_sets.save(images, tmp_path / "mine")
            (tmp_path / "mine" / provenance.NAME).write_text(json.dumps(about))
        return list(image_claims.of_images(Evidence(source, "image set", images=source), at_hand))

    return look


def test_a_set_of_ours_is_confirmed_but_for_how_it_was_made(set_checks):
    checks = set_checks("digits-dm-ipc1")
    assert [check.claim for check in checks if check.outcome == "not checkable"] == ["made by 'dm' in 41.0 seconds"]
    about = json.loads((embedded.EMBEDDED / "digits-dm-ipc1" / "distilled.json").read_text())
    assert not wrong(checks) and about["fingerprint"][:12] in checks[1].claim and len(checks) == 7


def forged(ten, test_set, change):
    pixels, labels = ten.images.clone(), ten.labels.clone()
    change(pixels, labels, test_set.images)
    return image_sets.make("mine", pixels, labels, ten.class_names, "mine")


@pytest.mark.parametrize("change, claim, here, outcome", [
    (lambda x, y, t: x.__setitem__(2, t[40]), "a test image", "1 of 10: row 2 is 40", "contradicted"),
    (lambda x, y, t: x.__setitem__(2, t[40].flip(-1)), "nearly a test image", "1 of 10: row 2 is 40", "not checkable"),
    (lambda x, y, t: x.__setitem__((2, 0, 3, 3), x[2, 0, 3, 3] ^ 1), "", "", "confirmed"),
    (lambda x, y, t: x.__setitem__(7, x[6]), "twice", "1 of 10: row 7 is 6; 1 of another class", "contradicted"),
    (lambda x, y, t: x.__setitem__(slice(None), x[6].clone()), "twice", "9 of 10: row 1 is 0", "contradicted"),
])  # fmt: skip
def test_test_images_and_repeats_in_a_set_are_named(set_checks, ten, test_set, change, claim, here, outcome):
    images = forged(ten, test_set, change)
    checks = set_checks(images, {"benchmark": "digits", "fingerprint": images.fingerprint})
    odd = [check for check in checks if check.outcome != "confirmed"]
    assert len(odd) == (outcome != "confirmed") and all(claim in one.claim and one.why.startswith(here) for one in odd)
    assert all(one.outcome == outcome for one in odd)


@pytest.mark.parametrize("about, wanted", [
    ({"fingerprint": "0" * 64}, "fingerprint "), ({"ipc": 2}, "ipc 1"), ({"ipc": "1"}, "ipc 1"), ({"ipc": {"a": [1]}}, "ipc 1"),
])  # fmt: skip
def test_what_distilled_json_says_otherwise_is_contradicted(set_checks, ten, about, wanted):
    (check,) = wrong(set_checks(ten, {"benchmark": "digits", **about}))
    assert check.place == "distilled.json" and check.why.startswith(wanted)


def test_a_set_of_no_stated_benchmark_needs_one(set_checks, ten, tmp_path):
    (check,) = set_checks(ten, {})
    assert check.outcome == "not checkable" and "--data-dir NAME=DIR" in check.why
    (check,) = set_checks(ten, {"benchmark": "nosuch"})
    assert check.outcome == "not checkable" and "no benchmark 'nosuch'" in check.why
    at_hand = AtHand(VerifyOptions("mine", data_dir=(f"digits={tmp_path}",)))
    checks = set_checks(ten, {}, at_hand)
    assert checks[0].outcome == "confirmed" and "no folder" not in checks[0].why
