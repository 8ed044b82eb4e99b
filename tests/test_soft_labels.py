"""Soft labels: what the teacher says about exactly the student's pixels; bound to images, teachers and views; resumable."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from rd3_utils import launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import label_store, soft_labels, views
from rd3_utils.errors import UserError
from rd3_utils.learning import labelling, teachers, training


@pytest.fixture
def made(digits, test_set, recipe, tmp_path):
    """made(images, "training.epochs=20", ..., forward_batch=7) -> (folder, recipe) of a finished store."""

    def make(images, *overrides, labels="soft", views_seed=0, where=None, keep=None, **options):
        accelerator = launch.accelerator()
        r = recipe("rd3-v1", images, *overrides, labels=labels)
        found = labelling.load_teachers(["default"], r, digits)
        plan = labelling.plan_store(images, r, found, views_seed, accelerator.device, labelling.StoreFormat(**options))
        where = where or soft_labels.store_folder(tmp_path, images, plan.teachers_id, r, views_seed)
        labelling.make_labels(where, labelling.LabellingTask(plan, images, r, found, digits), test_set, accelerator)
        return where, r

    return make


def all_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_label_is_the_teachers_answer_to_exactly_the_students_pixels(made, digits, ten):
    where, recipe = made(ten, "training.epochs=18")
    store = label_store.load_store(where, ten, recipe, 0)
    teacher = teachers.Ensemble([teachers.load("default", digits)], digits)
    for epoch in (0, 7, 17):
        v, logits = store.epoch(epoch)
        drawn = views.draw(recipe, 0, epoch)
        for field in dataclasses.fields(v):
            mine, theirs = getattr(v, field.name), getattr(drawn, field.name)
            assert (mine is theirs is None) or torch.equal(mine, theirs), field.name
        x = views.apply(ten.images, v, torch.arange(len(ten)), recipe.mean, recipe.std)
        assert torch.allclose(teacher(x), logits, atol=0.01)


def test_padded_crops_and_shuffled_patches_survive_the_file(made, ten):
    where, recipe = made(ten, "training.epochs=2", "views.crop=pad", "views.padding=0.25", "views.patch_shuffle=2")
    for epoch in (0, 1):
        v, drawn = label_store.load_store(where, ten, recipe, 0).epoch(epoch)[0], views.draw(recipe, 0, epoch)
        assert v.box.min() < 0 and torch.equal(v.box, drawn.box) and torch.equal(v.patch_order, drawn.patch_order)


def test_logits_do_not_depend_on_shard_size_or_number_of_epochs(made, ten, tmp_path):
    a, recipe = made(ten, "training.epochs=30", where=tmp_path / "a", forward_batch=7)
    b, _ = made(ten, "training.epochs=19", where=tmp_path / "b", forward_batch=7)
    shorter = label_store.load_store(
        b, ten, dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, epochs=19)), 0
    )
    longer = label_store.load_store(a, ten, recipe, 0)
    assert longer.index["epochs_per_shard"] != 1
    for epoch in range(19):
        assert torch.equal(longer.epoch(epoch)[1], shorter.epoch(epoch)[1])


@pytest.mark.parametrize("overrides", [("views.mix=mixup",), ("views.randaugment=2",), ("views.dsa=color_crop_rotate",),
                                       ("views.randaugment=2", "views.randaugment_kind=timm"),
                                       ("views.color_jitter=0.4",), ("views.lighting=0.1", "views.mix_pairing=roll"),
                                       ("views.mix=mixup", "views.randaugment=1", "views.dsa=cutout_scale")])  # fmt: skip
def test_a_store_keeps_every_augmentation_to_the_bit(made, ten, digits, overrides):
    where, recipe = made(ten, "training.epochs=3", *overrides)
    store = label_store.load_store(where, ten, recipe, 0)
    teacher = teachers.Ensemble([teachers.load("default", digits)], digits)
    v, logits = store.epoch(2)
    drawn = views.draw(recipe, 0, 2)
    x, y = (views.apply(ten.images, each, torch.arange(10), recipe.mean, recipe.std) for each in (v, drawn))
    assert torch.equal(x, y) and (logits - teacher(y)).abs().max() < 0.02
    assert torch.equal(v.own_share(torch.arange(10), 8), drawn.own_share(torch.arange(10), 8))
    size = sum(path.stat().st_size for path in where.glob("*.safetensors"))
    assert (
        0
        < size
        - 3
        * soft_labels.StorePlan(
            **{f.name: store.index[f.name] for f in dataclasses.fields(soft_labels.StorePlan) if f.name in store.index}
        ).epoch_bytes
        < 30000
    )


def test_a_store_for_twenty_epochs_serves_ten_and_refuses_thirty(made, ten, recipe):
    where, _ = made(ten, "training.epochs=20")
    assert label_store.load_store(where, ten, recipe("rd3-v1", ten, "training.epochs=10"), 0)
    with pytest.raises(UserError, match="labels 20 epochs, the recipe needs 30"):
        label_store.load_store(where, ten, recipe("rd3-v1", ten, "training.epochs=30"), 0)


def test_a_longer_recipe_extends_the_store_and_leaves_no_old_shard(made, ten, recipe):
    where, _ = made(ten, "training.epochs=5")
    longer, r = made(ten, "training.epochs=40")
    assert longer == where and label_store.load_store(where, ten, r, 0).index["epochs"] == 40
    assert len(list(where.glob("*.safetensors"))) == len(soft_labels.read_index(where)["shards"])


def test_a_store_that_is_made_longer_stays_readable_to_who_reads_it(made, ten):
    where, recipe = made(ten, "training.epochs=30")
    before = [label_store.load_store(where, ten, recipe, 0).epoch(epoch)[1] for epoch in range(30)]
    reader = label_store.load_store(where, ten, recipe, 0)
    known = training.without_bytes(reader.describe())
    assert torch.equal(reader.epoch(0)[1], before[0])
    old = {path.name for path in where.glob("*.safetensors")}
    made(ten, "training.epochs=80")
    assert not old & {path.name for path in where.glob("*.safetensors")}
    for epoch in range(30):
        drawn, labels = reader.epoch(epoch)
        assert torch.equal(labels, before[epoch]) and torch.equal(drawn.box, views.draw(recipe, 0, epoch).box)
    assert training.without_bytes(reader.describe()) == known  # so a checkpoint goes on with them


def test_a_killed_labelling_resumes_to_the_same_bytes(made, ten):
    where, _ = made(ten, "training.epochs=20")
    before = all_bytes(where)
    (where / "index.json").unlink()
    for name in ("labels-00003-of-00010.safetensors", "labels-00008-of-00010.safetensors"):
        (where / name).unlink()
    (where / "labels-00005-of-00010.safetensors").write_bytes(before["labels-00005-of-00010.safetensors"][:-50])
    kept = (where / "labels-00001-of-00010.safetensors").stat().st_mtime_ns
    made(ten, "training.epochs=20")
    assert all_bytes(where) == before
    assert (where / "labels-00001-of-00010.safetensors").stat().st_mtime_ns == kept


def test_a_half_written_store_is_not_taken_for_a_whole_one(made, ten):
    where, recipe = made(ten, "training.epochs=20")
    (where / "index.json").unlink()
    with pytest.raises(UserError, match="half-written: 10 shards but no index.json"):
        label_store.load_store(where, ten, recipe, 0)


def test_a_damaged_shard_is_found_when_it_is_read(made, ten):
    where, recipe = made(ten, "training.epochs=20")
    path = where / "labels-00002-of-00010.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="the file is damaged"):
        label_store.load_store(where, ten, recipe, 0).epoch(4)


def test_a_damaged_store_is_mended_by_the_command_that_made_it(made, ten):
    where, _ = made(ten, "training.epochs=20")
    before = all_bytes(where)
    (where / "labels-00004-of-00010.safetensors").write_bytes(b"damaged")
    (where / "labels-00007-of-00010.safetensors").unlink()
    made(ten, "training.epochs=20")
    assert all_bytes(where) == before


def test_mending_for_a_shorter_recipe_keeps_the_longer_store(made, ten):
    where, _ = made(ten, "training.epochs=20")
    before = all_bytes(where)
    (where / "labels-00007-of-00010.safetensors").unlink()
    made(ten, "training.epochs=5")
    assert all_bytes(where) == before


def test_a_flipped_byte_is_seen_and_mended(made, ten, digits):
    where, recipe = made(ten, "training.epochs=20")
    plan = labelling.plan_store(ten, recipe, labelling.load_teachers(["default"], recipe, digits), 0, torch.device("cpu"))
    assert labelling.is_complete(where, plan)
    path, before = where / "labels-00004-of-00010.safetensors", all_bytes(where)
    path.write_bytes(before[path.name][:-1] + bytes([before[path.name][-1] ^ 1]))
    assert not labelling.is_complete(where, plan)
    made(ten, "training.epochs=20")
    assert all_bytes(where) == before


def test_a_store_of_two_teachers_is_no_store_of_one(made, ten):
    where, r = made(ten, "training.epochs=2")
    index = json.loads((where / "index.json").read_text())
    index["teachers"] *= 2
    (where / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="a number of teachers of 2, this run has 1"):
        label_store.load_store(where, ten, r, 0)


def test_a_missing_shard_is_named(made, ten):
    where, recipe = made(ten, "training.epochs=20")
    (where / "labels-00002-of-00010.safetensors").unlink()
    with pytest.raises(UserError, match="00002-of-00010.safetensors is missing"):
        label_store.load_store(where, ten, recipe, 0).epoch(4)


def test_labels_of_something_else_are_refused_with_both_values(made, ten, select, recipe):
    where, r = made(ten, "training.epochs=2")
    other = select("random:ipc=1,seed=9")
    with pytest.raises(UserError, match=f"images {ten.identity}, this run has {other.identity}"):
        label_store.load_store(where, other, r, 0)
    renamed = image_sets.make(ten.name, ten.images, ten.labels, [f"class {k}" for k in range(10)], ten.source)
    with pytest.raises(UserError, match="images"):  # class names are part of the fingerprint
        label_store.load_store(where, renamed, r, 0)
    with pytest.raises(UserError, match="{'mix': 'cutmix'}, this run has {'mix': 'none'}"):
        label_store.load_store(where, ten, recipe("rd3-v1", ten, "training.epochs=2", "views.mix=none"), 0)
    with pytest.raises(UserError, match="views seed 0, this run has 1"):
        label_store.load_store(where, ten, r, 1)
    with pytest.raises(UserError, match="teachers"):
        label_store.load_store(where, ten, r, 0, teachers_id="0" * 64)


def test_an_index_that_is_none_is_refused(made, ten):
    where, r = made(ten, "training.epochs=2")
    whole = json.loads((where / "index.json").read_text())
    partial = json.dumps({key: value for key, value in whole.items() if key != "views"})
    for text in ("{}", "not json", '{"format": "else", "version": 1}', "[]", partial):
        (where / "index.json").write_text(text)
        with pytest.raises(UserError):
            label_store.load_store(where, ten, r, 0)


@pytest.mark.parametrize(
    "changes",
    [{"images": [1]}, {"shards": 7}, {"shards": []}, {"epochs_per_shard": 0}, {"epochs_per_shard": "2"}, {"class_names": None}],
)
def test_an_index_whose_parts_are_of_another_kind_is_refused(made, ten, changes):
    where, r = made(ten, "training.epochs=2")
    index = json.loads((where / "index.json").read_text())
    (where / "index.json").write_text(json.dumps({**index, **changes}))
    with pytest.raises(UserError, match="is damaged|are for"):
        label_store.load_store(where, ten, r, 0)


def test_a_file_that_is_no_safetensors_is_refused_also_where_the_index_has_its_hash(made, ten):
    where, r = made(ten, "training.epochs=2")
    index = json.loads((where / "index.json").read_text())
    (where / index["shards"][0]["file"]).write_bytes(b"x" * index["shards"][0]["bytes"])
    index["shards"][0]["sha256"] = soft_labels.file_sha256(where / index["shards"][0]["file"])
    (where / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is no safetensors file"):
        label_store.load_store(where, ten, r, 0).epoch(0)


def test_a_name_in_the_index_cannot_leave_the_folder(made, ten):
    where, r = made(ten, "training.epochs=2")
    shutil.move(where / "labels-00000-of-00002.safetensors", where.parent / "labels-00000-of-00002.safetensors")
    index = json.loads((where / "index.json").read_text())
    index["shards"][0]["file"] = "../labels-00000-of-00002.safetensors"
    (where / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is damaged"):
        label_store.load_store(where, ten, r, 0).epoch(0)


def test_eight_bit_labels_are_near_the_half_precision_ones(made, ten, tmp_path):
    a, recipe = made(ten, "training.epochs=4", where=tmp_path / "a")
    b, _ = made(ten, "training.epochs=4", where=tmp_path / "b", label_dtype="u8")
    for epoch in range(4):
        exact, short = (label_store.load_store(folder, ten, recipe, 0).epoch(epoch)[1] for folder in (a, b))
        spread = exact.amax(1) - exact.amin(1)
        assert bool(((exact - short).abs().amax(1) <= spread / 255 + 0.02).all())


def test_eight_bits_give_back_every_logit_within_half_a_step():
    logits = torch.randn(5, 4, 1000, generator=torch.Generator().manual_seed(0)) * 7
    q = soft_labels.quantised(logits)
    back = q["logits_lo"].float()[..., None] + q["logits_scale"].float()[..., None] * q["logits_q"].float()
    assert float((back - logits).abs().max()) < 0.6 * float(q["logits_scale"].float().max()) + 0.02
    constant = soft_labels.quantised(torch.full((1, 1, 10), 3.0))
    assert bool(torch.isfinite(constant["logits_scale"]).all())


def test_a_shard_holds_the_documented_tensors(made, ten):
    where, _ = made(ten, "training.epochs=20")
    tensors = load_file(where / "labels-00000-of-00010.safetensors")
    shapes = {key: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for key, t in tensors.items()}
    assert shapes == {
        "logits": ("float16", (2, 10, 10)),
        "box": ("uint8", (2, 10, 4)),
        "flip": ("uint8", (2, 10)),
        "mix_partner": ("uint32", (2, 10)),
        "mix_box": ("uint8", (2, 10, 4)),
        "order": ("uint32", (2, 10)),
    }


def test_the_index_is_enough_to_read_one_epoch_by_a_byte_range(made, ten):
    where, recipe = made(ten, "training.epochs=20")
    shard = soft_labels.read_index(where)["shards"][3]
    dtype, shape, first = shard["tensors"]["logits"]
    size = 2 * shape[1] * shape[2]
    raw = (where / shard["file"]).read_bytes()[first + size : first + 2 * size]
    read = torch.frombuffer(bytearray(raw), dtype=torch.float16).view(shape[1], shape[2])
    assert torch.equal(read.float(), label_store.load_store(where, ten, recipe, 0).epoch(7)[1])


def test_a_plan_cuts_256_mb_shards_as_documented():
    def plan(**changes):
        base = dict(images={}, class_names=(), epochs=300, rows=10_000, classes=1000, image_size=224, border=0,
                    views={"patch_shuffle": 1}, views_digest="", views_seed=0, teachers=(), teachers_id="", ensemble="mean",
                    label_dtype="fp16", forward_batch=100, device="cpu", shard_mb=256)  # fmt: skip
        return soft_labels.StorePlan(**{**base, **changes})

    assert (plan().epochs_per_shard, len(plan().shards)) == (13, 24)  # ImageNet-1K, IPC 10
    assert (plan(rows=50_000).epochs_per_shard, len(plan(rows=50_000).shards)) == (3, 100)  # IPC 50
    assert plan(rows=200_000).epochs_per_shard == 1  # IPC 200
    assert len(plan(rows=100, classes=10).shards) == 16  # small sets: still something to share and to resume
    assert [s[1:] for s in plan(epochs=5, rows=10).shards] == [(k, k + 1) for k in range(5)]


def test_logits_that_are_not_finite_are_refused(tmp_path, ten, recipe, digits, made):
    r = recipe("rd3-v1", ten, "training.epochs=1")
    plan = labelling.plan_store(ten, r, [teachers.load("default", digits)], 0, torch.device("cpu"))
    for bad in (float("nan"), 1e6):
        with pytest.raises(UserError, match="not finite or exceed"):
            soft_labels.write_shard(tmp_path / "x", plan, 0, 1, [views.draw(r, 0, 0)], torch.full((1, 10, 10), bad))
    assert not list(tmp_path.iterdir())


def test_plain_labels_are_one_answer_per_untouched_image(made, digits, ten):
    where, recipe = made(ten, labels="plain")
    store = label_store.load_store(where, ten, recipe, 0)
    assert store.index["epochs"] == 1 and recipe.training.epochs == 400
    (v, first), (_, later) = store.epoch(0), store.epoch(123)
    assert torch.equal(first, later) and bool((v.own_share(torch.arange(10), 8) == 1).all())
    x = views.apply(ten.images, v, torch.arange(10), recipe.mean, recipe.std)
    assert torch.allclose(x, (ten.images / 255 - recipe.mean[0]) / recipe.std[0], atol=1e-5)


def test_another_number_of_teachers_than_the_recipes_is_refused(digits, recipe, ten):
    with pytest.raises(UserError, match="2 teachers given, the recipe labels with 1"):
        labelling.load_teachers(["default", "default"], recipe("rd3-v1", ten), digits)
