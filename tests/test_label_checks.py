"""Forged label stores: every file is signed again, and nothing of it trains a student that the recipe would not."""

import contextlib
import json

import pytest
import torch

from rd3_utils.arms import label_sources
from rd3_utils.data import label_checks, label_store, views
from rd3_utils.errors import UserError


def everything(where, images, recipe):
    """Read all epochs, as a training does."""
    store = label_store.load_store(where, images, recipe, 0)
    for epoch in range(store.epochs):
        store.epoch(epoch)
    return store


def put(key, change):
    """A forger that replaces the tensor `key` by change(tensor)."""
    return lambda tensors, first: tensors.update({key: change(tensors[key])})


def int_change(change):
    """change(tensor as int64), back in the tensor's own type: torch computes little in unsigned ones."""
    return lambda tensor: change(tensor.long()).to(tensor.dtype)


def moved(tensor, *place, by=1):
    """`tensor` with one number changed at `place`."""
    tensor = tensor.clone()
    tensor[place] += by
    return tensor


def ulps(steps):
    """A forger's change of one number by `steps` units of its type."""

    def change(tensor):
        tensor = tensor.clone()
        for _ in range(steps):
            tensor[0, 3] = torch.nextafter(tensor[0, 3], torch.full_like(tensor[0, 3], 9.0))
        return tensor

    return change


VIEWS = {
    "rows repeated in the order": ("plain", put("order", int_change(lambda t: t // 5)), "'order' of row"),
    "half of the images": ("plain", put("order", int_change(lambda t: t % 5)), "'order' of row"),
    "another order": ("plain", put("order", lambda t: t.flip(1)), "'order' of row"),
    "no mixing": ("plain", put("mix_box", torch.zeros_like), "'mix_box' of row"),
    "another partner": ("plain", put("mix_partner", int_change(lambda t: t.roll(1, 1))), "'mix_partner' of row"),
    "every view flipped": ("plain", put("flip", torch.ones_like), "'flip' of row"),
    "a flip of 3": ("plain", put("flip", lambda t: t + 3), "'flip' of row"),
    "whole images": ("all", put("box", lambda t: torch.tensor([0, 0, 8, 8]).to(t.dtype).expand_as(t)), "'box' of row"),
    "a box outside": ("all", put("box", int_change(lambda t: t + 100)), "'box' of row"),
    "one pixel in one epoch": ("all", put("box", int_change(lambda t: moved(t, 0, 7, 1))), "'box' of row 7"),
    "patches unshuffled": ("all", put("patch_order", lambda t: t * 0), "'patch_order' of row"),
    "no MixUp": ("all", put("mix_lam", torch.ones_like), "'mix_lam' of row"),
    "a weight of 2": ("all", put("mix_lam", lambda t: t + 1), "'mix_lam' of row"),
    "a weight that is none": ("all", put("mix_lam", lambda t: t * float("nan")), "'mix_lam' of row"),
    "other operations": ("all", put("operations", torch.zeros_like), "'operations' of row"),
    "other colours": ("all", put("jitter", ulps(2)), "'jitter' of row 3"),
    "colours in another order": ("all", put("jitter_order", torch.zeros_like), "'jitter_order' of row"),
    "no lighting": ("all", put("lighting", torch.zeros_like), "'lighting' of row"),
    "no DSA": ("all", put("dsa", torch.zeros_like), "'dsa' of row"),
    "DSA's numbers": ("all", put("dsa_numbers", lambda t: t * 0.5), "'dsa_numbers' of row"),
    "views of another epoch": (
        "plain",
        lambda t, first: {k: v if k == "logits" else v.roll(1, 0) for k, v in t.items()},
        "of row",
    ),
}
FILES = {
    "another tensor": ("plain", lambda t, first: {**t, "notes": torch.zeros(3)}, "holds a tensor 'notes'"),
    "an operation more": (
        "plain",
        lambda t, first: {**t, "dsa": torch.zeros(len(t["flip"]), 10, dtype=torch.uint8)},
        "holds a tensor 'dsa'",
    ),
    "a tensor less": ("plain", lambda t, first: {k: v for k, v in t.items() if k != "flip"}, "lacks a tensor 'flip'"),
    "rows more": ("plain", lambda t, first: {k: torch.cat([v, v], 1) for k, v in t.items()}, r"is .* \[7, 20"),
    "classes less": ("plain", put("logits", lambda t: t[..., :9]), r"'logits' .* \[7, 10, 9\], wanted float16 \[7, 10, 10\]"),
    "epochs less": ("plain", lambda t, first: {k: v[:1] for k, v in t.items()}, "bytes, index.json says"),
    "another type": ("plain", put("logits", lambda t: t.float()), r"'logits' of .* is F32"),
    "a type of 8 bytes": ("plain", put("order", lambda t: t.long()), r"'order' of .* is I64"),
    "a label that is none": ("plain", put("logits", lambda t: moved(t, 0, 4, 2, by=float("nan"))), "row 4 is not finite"),
    "an endless label": ("plain", put("logits", lambda t: moved(t, 0, 4, 2, by=float("inf"))), "row 4 is not finite"),
    "an endless scale": ("all", put("logits_scale", lambda t: t * float("inf")), "is not finite"),
}
LABELS = {
    "classes rolled by one": put("logits", lambda t: t.roll(1, 2)),
    "classes in reverse": put("logits", lambda t: t.flip(2)),
    "labels of other rows": put("logits", lambda t: t.roll(3, 1)),
    "one class for all": put("logits", lambda t: t * 0 + torch.eye(10, dtype=torch.float16)[3]),
    "the least likely first": put("logits", lambda t: -t),
}


@pytest.mark.parametrize("name", [*VIEWS, *FILES])
def test_a_store_that_was_changed_and_signed_again_is_refused(forged, ten, name):
    kind, change, wanted = {**VIEWS, **FILES}[name]
    where, recipe = forged(kind, change)
    with pytest.raises(UserError, match=wanted):
        everything(where, ten, recipe)


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_other_classes_or_images_are_refused(forged, ten, name):
    where, recipe = forged("plain", LABELS[name])
    with pytest.raises(UserError, match="recognise 100 % of the images, but only"):
        everything(where, ten, recipe)


@pytest.mark.parametrize("kind", ["plain", "all"])
def test_an_honest_store_is_read_and_says_how_many_labels_agree_with_their_views(stores, ten, kind):
    where, recipe = stores[kind]
    store = everything(where, ten, recipe)
    agree = 0
    for epoch in range(100):
        drawn, logits = store.epoch(epoch)
        for row in range(10):
            agree += int(logits[row].argmax()) in (int(ten.labels[row]), int(ten.labels[drawn.mix_partner[row]]))
    assert store.agreement == pytest.approx(agree / 1000) and store.agreement > (0.7 if kind == "plain" else 0.2)


def test_chance_is_the_mean_over_labels_that_are_dealt_anew():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 7, generator=generator) + 2 * torch.eye(7)[3]
    own, other = torch.randint(0, 7, (2, 400), generator=generator)
    _, chance = label_checks.shown_classes(logits, own, other)
    agree = lambda order: label_checks.shown_classes(logits[order], own, other)[0].float().mean()  # noqa: E731
    dealt = [float(agree(torch.randperm(400, generator=generator))) for _ in range(500)]
    assert chance == pytest.approx(sum(dealt) / 500, abs=0.003)


def test_a_number_that_another_machine_rounds_otherwise_is_no_forgery(forged, ten):
    where, recipe = forged("all", put("jitter", ulps(1)))
    store = everything(where, ten, recipe)
    drawn = views.draw(recipe, 0, 0)
    assert torch.equal(store.epoch(0)[0].jitter, drawn.jitter)  # and the student trains on what is drawn


@pytest.mark.parametrize("change", [{"rows": 9}, {"classes": 11}, {"border": 1}, {"image_size": 9}, {"rows": 10.0}])
def test_an_index_that_says_otherwise_than_images_and_recipe_is_refused(forged, ten, change):
    where, recipe = forged("plain", lambda tensors, first: None)
    index = json.loads((where / "index.json").read_text())
    (where / "index.json").write_text(json.dumps({**index, **change}))
    if change == {"rows": 10.0}:  # the same number
        assert everything(where, ten, recipe)
        return
    with pytest.raises(UserError, match="this run has"):
        everything(where, ten, recipe)


def test_few_views_and_teachers_that_know_few_images_prove_nothing():
    def judge(share, chance, views, index, errors=2):
        return label_checks.check_agreement(label_checks.Block(views, share * views, chance * views), index, "x", errors)

    index = {"recognised": 1.0}
    assert not judge(0.1, 0.2, 999, index)
    assert not judge(0.1, 0.1, 1000, {"recognised": 0.2})
    assert not judge(0.02, 0.02, 1000, {})
    assert judge(0.142, 0.1, 1000, index)  # small crops say little, and more than chance
    assert not judge(0.002, 0.002, 1000, {"recognised": 0.01})  # two labels of a thousand, where honest ones have three
    with pytest.raises(UserError, match="only 2.0 % of 1000"):
        judge(0.02, 0.02, 1000, index)
    with pytest.raises(UserError, match="only 0.2 % of 300000"):
        judge(0.002, 0.002, 300_000, {"recognised": 0.01}, 4)


def test_few_honest_stores_fall_short_by_chance():
    """Of stores that go twice LEAST of the way, of any size that is judged: one in fifty at the start, no later block."""
    generator, known, chance = torch.Generator().manual_seed(0), 0.05, 0.004
    honest = chance + 2 * label_checks.LEAST * (known - chance)
    line = chance + label_checks.LEAST * (known - chance)
    for errors, most in ((2, 0.03), (4, 0.0005)):
        views = next(n for n in range(1000, 10**6, 100) if label_checks.decides(chance, known, n, errors))
        shares = torch.binomial(torch.full((5000,), float(views)), torch.tensor(honest), generator=generator) / views
        assert float((shares < line).float().mean()) <= most


def test_labels_of_other_classes_are_refused_in_later_epochs_too(stores, forged, select):
    def rolled(tensors, first):
        return {**tensors, "logits": tensors["logits"].roll(1, 2)} if first >= 12 else tensors

    where, recipe = forged("hundred", rolled)
    with pytest.raises(UserError, match="recognise 9. % of the images, but only"):
        everything(where, select("random:ipc=10,seed=0"), recipe)
    assert everything(*read_by(stores["hundred"], select("random:ipc=10,seed=0"))).epoch(59)


def read_by(store, images):
    """The arguments of `everything` for a store of `images`."""
    return store[0], images, store[1]


@pytest.mark.parametrize("change", [{"epochs": 100.0}, {"epochs_per_shard": 7.0}, {"recognised": "0.2"}, {"recognised": -1}])
def test_a_number_that_is_none_is_refused(forged, ten, change):
    where, recipe = forged("plain", lambda tensors, first: None)
    index = json.loads((where / "index.json").read_text())
    (where / "index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(UserError, match="is damaged"):
        label_store.load_store(where, ten, recipe, 0)


@pytest.mark.parametrize("size, wanted", [(7, "bytes, index.json says 7"), (float("nan"), "is damaged"), (True, "is damaged")])
def test_bytes_that_a_run_would_record_are_those_of_the_file(forged, ten, size, wanted):
    where, recipe = forged("plain", lambda tensors, first: None)
    index = json.loads((where / "index.json").read_text())
    index["shards"][1]["bytes"] = size
    (where / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=wanted):
        everything(where, ten, recipe)


@pytest.mark.parametrize(
    "change, wanted",
    [
        ({"teachers_id": "x"}, "labels.teachers_id is 'x', wanted 64 hex digits"),
        ({"forward_batch": 0}, "labels.forward_batch is 0"),
        ({"device": None}, ""),
        ({"top1": "0.9"}, "accuracy of a teacher is '0.9'"),
        ({"sha256": None}, "sha256 is None"),
        ({"source": 3}, "source is 3"),
    ],
)
def test_a_store_that_no_run_could_speak_of_is_refused_before_it_trains(forged, ten, change, wanted):
    where, recipe = forged("plain", lambda tensors, first: None)
    index = json.loads((where / "index.json").read_text())
    (key,) = change
    (index if key in index else index["teachers"][0]).update(change)
    (where / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=wanted) if wanted else contextlib.nullcontext():
        label_sources.recordable(label_store.load_store(where, ten, recipe, 0))


def rolled_rows(stop):
    """A forger who rolls the classes of the first `stop` rows by one, in every epoch."""

    def change(tensors, first):
        logits = tensors["logits"].clone()
        logits[:, :stop] = logits[:, :stop].roll(1, 2)
        return {**tensors, "logits": logits}

    return change


@pytest.mark.parametrize("stop", [20, 40, 80])
def test_classes_that_are_rolled_in_some_of_the_rows_are_refused(forged, select, stop):
    where, recipe = forged("hundred", rolled_rows(stop))
    with pytest.raises(UserError, match=r"% of the rows \(such as 0, "):
        everything(where, select("random:ipc=10,seed=0"), recipe)


KINDS = [("forward_batch", None), ("forward_batch", 3.5), ("views_seed", False), ("ensemble", 3), ("device", ["cpu"]),
         ("top1", "high"), ("top1", 2), ("source", None), ("commit", 7), ("sha256", {})]  # fmt: skip


@pytest.mark.parametrize("key, value", KINDS)
def test_what_an_index_says_of_its_making_is_of_its_kind(stores, ten, tmp_path, key, value):
    where, recipe = stores["plain"]
    (tmp_path / "store").mkdir()
    for file in where.iterdir():
        (tmp_path / "store" / file.name).symlink_to(file)
    index = json.loads((where / "index.json").read_text())
    (index if key in index else index["teachers"][0])[key] = value
    (tmp_path / "store" / "index.json").unlink()
    (tmp_path / "store" / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"is damaged .{'accuracy of a teacher' if key == 'top1' else key} is"):
        label_store.load_store(tmp_path / "store", ten, recipe, 0)
