"""Labels of another tool: their views are read, not drawn, and every output says so."""

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import forge_shards

from rd3_utils import launch
from rd3_utils.data import label_store, soft_labels, views
from rd3_utils.errors import UserError
from rd3_utils.leaderboard import entries
from rd3_utils.learning import labelling, relabelling, teachers
from rd3_utils.options import VerifyOptions
from rd3_utils.protocols import protocol as protocols
from rd3_utils.scoring import measure, runs
from rd3_utils.verification import verifying


@pytest.fixture(scope="module")
def imported(ten, digits, test_set, tmp_path_factory):
    """(folder, recipe, [(Views, logits)]) of a store of six epochs whose views are those of another seed."""
    recipe = protocols.load("rd3-v1").override(["training.epochs=6"]).resolve(digits, "convnet3", 1, 10, "soft")
    (one,) = labelling.load_teachers(["default"], recipe, digits)
    teacher = [teachers.examined(one, digits, test_set, launch.accelerator())]
    plan = labelling.plan_store(ten, recipe, teacher, 0, torch.device("cpu"))
    epochs = [(views.draw(recipe, 77, epoch), torch.randn(10, 10).half().float()) for epoch in range(6)]
    where = tmp_path_factory.mktemp("imported") / "store"
    soft_labels.write_imported(where, plan, epochs)
    return where, recipe, epochs


@pytest.fixture
def changed(imported, tmp_path):
    """changed(change) -> (folder, recipe) of a copy whose shards `change(tensors, first)` has changed."""

    def make(change):
        forge_shards(copy := shutil.copytree(imported[0], tmp_path / "changed"), change)
        return copy, imported[1]

    return make


def test_students_train_on_the_views_that_are_stored(imported, ten):
    where, recipe, epochs = imported
    store = label_store.load_store(where, ten, recipe, 0)
    for epoch, (wanted, logits) in enumerate(epochs):
        mine, stored = store.epoch(epoch)
        assert torch.equal(stored, logits)
        for field in dataclasses.fields(wanted):
            a, b = getattr(mine, field.name), getattr(wanted, field.name)
            assert a is b is None or (torch.equal(a, b) and a.dtype == b.dtype), field.name
    assert store.describe()["kind"] == "imported" and store.origin == {}


IMPOSSIBLE = {
    "a row twice": ("order", lambda t: t * 0),
    "a partner that is none": ("mix_partner", lambda t: t + 10),
    "a box outside": ("box", lambda t: t + 8),
    "a box of nothing": ("box", lambda t: t * 0),
    "a mix box outside": ("mix_box", lambda t: t + 9),
    "a mix box from right to left": ("mix_box", lambda t: t * 0 + torch.tensor([0, 5, 3, 2])),
    "flipped twice": ("flip", lambda t: t + 2),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_view_that_cannot_be_is_refused_with_its_row(changed, ten, name):
    key, change = IMPOSSIBLE[name]
    where, recipe = changed(lambda t, first: {**t, key: change(t[key].long()).to(t[key].dtype)})
    with pytest.raises(UserError, match=f"'{key}' of row . is .*, which no view of 10 images of 8 px can have"):
        label_store.load_store(where, ten, recipe, 0).epoch(0)


def test_the_checks_that_remain_are_made(changed, ten):
    where, recipe = changed(lambda t, first: {**t, "logits": t["logits"] / 0})
    with pytest.raises(UserError, match="is not finite"):
        label_store.load_store(where, ten, recipe, 0).epoch(0)


def test_nobody_labels_them_again_or_writes_among_them(imported, ten, digits):
    where, recipe, _ = imported
    loaded = labelling.load_teachers(["default"], recipe, digits)
    with pytest.raises(UserError, match="are imported: another tool made their views"):
        relabelling.audit_of(label_store.load_store(where, ten, recipe, 0), loaded, digits, 1, launch.accelerator())
    with pytest.raises(UserError, match="already holds imported labels"):
        labelling.is_complete(where, labelling.plan_store(ten, recipe, loaded, 0, torch.device("cpu")))


def test_verify_says_that_their_views_are_not_drawn(imported):
    checks = verifying.verify(VerifyOptions(str(imported[0]))).checks
    mine = {" ".join(check.claim.split()[:2]): check for check in checks}
    assert mine["views of"].outcome == mine["labels of"].outcome == "not checkable"
    assert "imported labels: another tool made their views" in mine["views of"].why
    assert not [check for check in checks if check.outcome == "contradicted"]


def test_runs_cards_and_boards_say_imported_and_keep_them_apart(imported, script, tmp_path):
    common = ["--set", "training.epochs=6", "--distilled", "random:ipc=1,seed=0", "--arms", "distilled-soft"]
    made = script("train_student", *common, "--soft-labels", imported[0], "--teacher", "default", "--out", "imported")
    assert made.code == 0, made.err
    assert script("train_student", *common, "--teacher", "default", "--out", "drawn").code == 0
    theirs, ours = (runs.read(next((tmp_path / out).rglob("seed0.json"))) for out in ("imported", "drawn"))
    assert theirs.labels.kind == "imported" and ours.labels.kind == "soft"
    assert not measure.same_measure(theirs, ours) and not measure.same_labels(theirs, ours)
    card = next((tmp_path / "imported").rglob("README.md")).read_text()
    assert "The soft labels of these runs are imported: another tool made them" in card
    assert "with soft labels that were imported from another tool, gets" in card
    board = entries.gathered_entries([tmp_path / "imported"])
    assert not board.entries and "its labels are imported" in board.apart[0].reason
    again = script("train_student", *common, "--soft-labels", imported[0], "--check-labels", "1", "--out", "x")
    assert again.code and "they cannot be labelled again" in again.err


def test_the_index_alone_says_that_labels_are_imported(imported):
    index = json.loads((imported[0] / "index.json").read_text())
    assert index["views_from"] == "store" and soft_labels.is_imported(index) and "recognised" not in index
