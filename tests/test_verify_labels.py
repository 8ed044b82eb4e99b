"""Labels made again: what teachers at hand say of a sample of a store, in training and in `verify`."""

import json
import os

import pytest
import torch
from conftest import forge_shards, store_of

from rd3_utils import launch
from rd3_utils.data import label_store, shards
from rd3_utils.errors import UserError
from rd3_utils.learning import labelling, relabelling
from rd3_utils.options import VerifyOptions
from rd3_utils.verification import verifying


def audited(where, images, recipe, digits, count=1, sources=("default",), salt=None):
    """The Relabelling after every epoch of a store was read."""
    store = label_store.load_store(where, images, recipe, 0)
    loaded = labelling.load_teachers(sources, recipe, digits)
    store.audit = relabelling.audit_of(store, loaded, digits, count, launch.accelerator())
    store.audit.salt = salt or store.audit.salt
    for epoch in range(store.epochs):
        store.epoch(epoch)
    return store.audit


def change_logits(change):
    """A forger that replaces logits by change(logits, first epoch)."""
    return lambda tensors, first: {**tensors, "logits": change(tensors["logits"].clone(), first)}


def some_rows(logits, first):
    """Every other row says another class."""
    logits[:, ::2] = logits[:, ::2].roll(1, 2)
    return logits


FORGED = {
    "colder": lambda logits, first: logits / 10,
    "hotter": lambda logits, first: logits * 10,
    "a little hotter": lambda logits, first: logits * 1.3,
    "every other row rolled": some_rows,
    "classes rolled in the last shard": lambda logits, first: logits.roll(1, 2) if first >= 98 else logits,
    "one number for each view": lambda logits, first: logits + 2 * torch.eye(10)[4].half(),
}


@pytest.mark.parametrize("kind", ["plain", "all", "hundred"])
def test_labels_made_again_have_the_bits_of_an_honest_store(stores, ten, select, digits, kind):
    where, recipe = stores[kind]
    images = select("random:ipc=10,seed=0") if kind == "hundred" else ten
    audit = audited(where, images, recipe, digits)
    shards = len(json.loads((where / "index.json").read_text())["shards"])
    assert audit.rows == audit.same > 15 * len(images) // 2 and audit.largest == 0
    assert len(audit.audited) == shards and audit.labeller is None  # let go after the last


@pytest.mark.parametrize(
    "overrides, sources",
    [
        ({"labels.teachers": 2, "labels.ensemble": "norm_balanced"}, ("default", "second")),
        ({"labels.teachers": 2, "labels.ensemble": "accuracy_weighted"}, ("second", "default")),
        ({"labels.teacher_bn": "groups:7"}, ("second",)),
    ],
)
def test_labels_of_ensembles_and_of_batch_norm_groups_are_made_again(
    select, second, digits, test_set, tmp_path, overrides, sources
):
    images, sources = select("random:ipc=2,seed=0"), [second if name == "second" else name for name in sources]
    where, recipe = store_of(images, digits, test_set, tmp_path, {"training.epochs": 8, **overrides}, "u8", sources)
    audit = audited(where, images, recipe, digits, 2, sources)
    assert audit.rows == audit.same >= 14


@pytest.mark.parametrize("name", FORGED)
def test_labels_that_the_teachers_would_not_give_are_refused_with_row_and_both_values(forged, ten, digits, name):
    where, recipe = forged("plain", change_logits(FORGED[name]))
    with pytest.raises(
        UserError, match=r"epoch \d+ of .* \(labels-.*\): the label of row \d says .* of class \d, its teachers"
    ) as refused:
        audited(where, ten, recipe, digits, 2)
    assert "\n" not in str(refused.value)


def test_what_another_device_rounds_otherwise_is_no_forgery(forged, ten, digits):
    generator = torch.Generator().manual_seed(0)
    noise = lambda logits, first: logits + (0.02 * torch.rand(logits.shape, generator=generator)).half()  # noqa: E731
    where, recipe = forged("plain", change_logits(noise))
    audit = audited(where, ten, recipe, digits)
    assert audit.same == 0 < audit.largest < relabelling.TOLERANCE


def test_other_teachers_than_those_of_the_store_are_told(stores, ten, second, digits):
    where, recipe = stores["plain"]
    with pytest.raises(UserError, match="those at hand are .*; give their --teacher, or --check-labels 0"):
        audited(where, ten, recipe, digits, sources=[second])


def test_batches_are_spread_over_a_shard_and_no_forger_knows_which():
    drawn = [tuple(relabelling.drawn_batches(90, 3, b"%d shard" % salt)) for salt in range(300)]
    assert all(a < 30 <= b < 60 <= c for a, b, c in drawn) and len(set(drawn)) > 290
    assert {batch for three in drawn for batch in three} == set(range(90))  # none is safe
    assert relabelling.drawn_batches(2, 5, b"") == [0, 1]


def test_labels_that_the_teacher_gives_are_true_whatever_the_views_show(select, digits, test_set, tmp_path):
    """As with --online. Without the teacher such a store cannot be told from one of other images."""
    images = select("random:ipc=5,seed=0")
    where, recipe = store_of(
        images, digits, test_set, tmp_path / "s", {"training.epochs": 60, "views.crop_scale": "[0.001,0.02]"}
    )
    with pytest.raises(UserError, match="the views show nothing of the images; .* or give their --teacher"):
        store = label_store.load_store(where, images, recipe, 0)
        for epoch in range(60):
            store.epoch(epoch)
    audit = audited(where, images, recipe, digits)
    assert audit.rows == audit.same


def test_a_teacher_is_taken_from_the_index_and_no_other_folder(stores, ten, digits, second):
    where, recipe = stores["plain"]
    index = json.loads((where / "index.json").read_text())
    assert relabelling.named_teachers(index, recipe, digits)[0].sha256 == index["teachers"][0]["sha256"]
    for about, wanted in (
        ({"sha256": "0" * 64}, "has weights .*, the labels are by 00000000"),
        ({"source": second}, "is a folder of whoever made the labels; give it with --teacher"),
        ({"source": "local-dir:embedded/../../tests"}, "is a folder of whoever made the labels"),
    ):
        with pytest.raises(UserError, match=wanted):
            relabelling.named_teachers({"teachers": [{**index["teachers"][0], **about}]}, recipe, digits)


def test_an_index_that_changes_while_a_store_is_read_is_checked_as_the_first(forged, ten):
    where, recipe = forged("plain", lambda tensors, first: None)
    store = label_store.load_store(where, ten, recipe, 0)
    store.epoch(0)
    index = json.loads((where / "index.json").read_text())
    for i, entry in enumerate(index["shards"]):
        renamed = f"labels-{i:05d}-of-00099.safetensors"
        (where / entry["file"]).rename(where / renamed)
        entry["file"] = renamed
    for change, wanted in (({"classes": 11}, "a number of classes of 11"), ({"recognised": 2}, "is damaged"), ({}, None)):
        (where / "index.json").write_text(json.dumps({**index, **change}))
        if wanted is None:
            assert store.epoch(50)
            continue
        with pytest.raises(UserError, match=wanted):
            store.epoch(50)


def test_training_labels_a_store_again_with_its_teacher_or_the_one_it_names(script, tmp_path):
    words = ["--set", "training.epochs=2", "--seeds", "0", "--distilled", "random:ipc=1,seed=0", "--runs-only"]
    assert script("train_student", *words, "--teacher", "default").code == 0
    (index,) = tmp_path.glob("soft_labels/*/*/index.json")
    forge_shards(index.parent, lambda tensors, first: {**tensors, "logits": tensors["logits"] * (0.5 if first else 1)})
    for extra, refused in (
        (["--teacher", "default"], True),
        (["--teacher", "default", "--check-labels", "0"], False),
        (["--check-labels", "1"], True),
        ([], False),
    ):
        result = script("train_student", *words, "--seeds", "1", "--out", f"out{extra}", *extra)
        assert (result.code != 0) == refused == ("its teachers say" in result.err), result.err


# python -m rd3_utils verify STORE


def verified(where, **options):
    """{claim: Check} of a store."""
    checks = verifying.verify(VerifyOptions(str(where), **options)).checks
    return {check.claim: check for check in checks}


def outcomes(checks):
    """{the first two words of a claim: outcome}."""
    return {" ".join(claim.split()[:2]): check.outcome for claim, check in checks.items()}


@pytest.mark.parametrize("kind", ["plain", "all", "hundred"])
def test_every_claim_of_an_honest_store_is_confirmed(stores, kind):
    where, recipe = stores[kind]
    verification = verifying.verify(VerifyOptions(str(where)))
    checks = {check.claim: check for check in verification.checks}
    assert {check.outcome for check in checks.values()} == {"confirmed"}
    assert any(check.why == "the same bits" for check in checks.values())
    assert any(claim.startswith("teachers recognise") for claim in checks)
    assert verification.exit_code(strict=True) == 0  # a teacher's score was recomputed


CLAIMS = {
    "views": (lambda t, first: {**t, "flip": 1 - t["flip"]}, "views of", "'flip' of row 0 is"),
    "all labels": (change_logits(lambda z, first: z.roll(1, 2)), "labels are", "only 1"),
    "temperature": (change_logits(FORGED["colder"]), "labels of", "its teachers say"),
    "some rows": (change_logits(some_rows), "labels of", "its teachers say"),
    "a number that is none": (change_logits(lambda z, first: z / 0), "views of", "not finite"),
    "another tensor": (lambda t, first: {**t, "x": torch.zeros(1)}, "views of", "holds a tensor 'x'"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_forged_shard_contradicts_its_claim(forged, name):
    change, claim, wanted = CLAIMS[name]
    checks = verified(forged("plain", change)[0])
    assert outcomes(checks)[claim] == "contradicted"
    assert wanted in next(check.why for text, check in checks.items() if text.startswith(claim))


INDEX = {  # a change of the index: (the claim that it contradicts, what is said)
    "fewer images recognised, to fit": ({"recognised": 0.5}, "teachers recognise", "100.00 %"),
    "classes that nobody swaps": (
        {"mistaken": [{"own": "3", "taken_for": "5", "times": 1, "images": 1}]},
        "1 classes look swapped",
        "none does",
    ),
    "another digest": ({"views_digest": "0" * 12}, "views digest", ""),
    "other views": ({"views": {"flip": 0.9}}, "views digest", ""),
    "another views seed": ({"views_seed": 1}, "views of", "These are not the views"),
    "another identity of teachers": ({"teachers_id": "ab" * 32}, "teachers abababab", ""),
    "a border": ({"border": 3}, "border 3", "0"),
    "a better teacher": ({"teachers": {"top1": 0.999}}, "teacher local-dir:embedded/digits-teacher-convnet3, top-1", "%"),
    "another teacher": ({"teachers": {"sha256": "ab" * 32}}, "teacher local-dir", " is a convnet3 of weights"),
    "another architecture": ({"teachers": {"architecture": "resnet18"}}, "teacher local-dir", " is a convnet3 of weights"),
    "rows that no file holds": ({"rows": 10**12}, "an index", "more than its shards hold"),
    "rows that are none": ({"rows": "ten"}, "an index", "rows"),
    "epochs that are none": ({"epochs": 1e300}, "an index", "damaged"),
    "views that are none": ({"views": 3}, "an index", "damaged"),
    "a knob that is none": ({"views": {"swirl": 1}}, "an index", "swirl"),
    "a million operations": ({"views": {"randaugment": 10**9}}, "an index", ""),
    "no teachers": ({"teachers": []}, "an index", ""),
    "teachers that are none": ({"teachers": [3]}, "an index", ""),
}


@pytest.mark.parametrize("name", INDEX)
def test_an_index_that_was_changed_is_contradicted(forged, name):
    change, claim, wanted = INDEX[name]
    where, _ = forged("plain", lambda tensors, first: None)
    index = json.loads((where / "index.json").read_text())
    for key, value in change.items():
        if key == "views" and isinstance(value, dict):
            value = {**index[key], **value}
        if key == "teachers" and isinstance(value, dict):
            value = [{**index[key][0], **value}]
        index[key] = value
    (where / "index.json").write_text(json.dumps(index))
    checks = verified(where)
    told_of = [check for text, check in checks.items() if text.startswith(claim) and check.outcome == "contradicted"]
    assert told_of and wanted in told_of[0].why, checks


def test_what_is_not_at_hand_is_unchecked_and_says_what_would_make_it_so(forged, second):
    where, _ = forged("plain", lambda tensors, first: None)
    index = json.loads((where / "index.json").read_text())
    path = where / "index.json"
    path.write_text(json.dumps({**index, "images": {**index["images"], "name": "my_set"}}))
    checks = verified(where)
    assert outcomes(checks)["labels of"] == "not checkable" and outcomes(checks)["views of"] == "confirmed"
    assert any("nothing here is called my_set; give --distilled SOURCE" in check.why for check in checks.values())
    assert set(outcomes(verified(where, distilled="random:ipc=1,seed=0")).values()) == {"confirmed"}
    other = verified(where, distilled="random:ipc=1,seed=1")
    assert any("random:ipc=1,seed=1 has the fingerprint" in check.why for check in other.values())
    mine = verified(where, distilled="random:ipc=1,seed=0", teacher=(second,))
    assert outcomes(mine)["labels of"] == "not checkable" and outcomes(mine)["labels are"] == "confirmed"
    path.write_text(json.dumps({**index, "teachers": [{**index["teachers"][0], "source": "local-dir:theirs"}]}))
    checks = verified(where)
    assert any("give it with --teacher" in check.why and check.outcome == "not checkable" for check in checks.values())
    path.write_text(json.dumps({**index, "class_names": list("abcdefghij")}))
    assert [check.why for check in verified(where).values()] == ["no benchmark here has the classes a, b, c ... (10) at 8 px"]


def test_a_shard_with_other_bytes_is_contradicted(forged):
    where, _ = forged("plain", lambda tensors, first: None)
    path = sorted(where.glob("*.safetensors"))[3]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    checks = verified(where)
    assert any("the file is damaged" in check.why and check.outcome == "contradicted" for check in checks.values())


def test_a_shard_of_a_terabyte_is_not_hashed(forged, monkeypatch):
    where, _ = forged("plain", lambda tensors, first: None)
    path = sorted(where.glob("*.safetensors"))[3]
    os.truncate(path, 1 << 40)  # sparse
    hashed, hash_of = [], shards.file_sha256
    monkeypatch.setattr(shards, "file_sha256", lambda path: hashed.append(path) or hash_of(path))
    assert any("has 1099511627776 bytes" in check.why and check.outcome == "contradicted" for check in verified(where).values())
    assert path not in hashed
