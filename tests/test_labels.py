"""Knobs of the labels: how teachers are combined, what their batch norm sees, who they are, which kind of label they give."""

import copy
import dataclasses
import json
import shlex

import pytest
import torch
from conftest import PROJECT
from PIL import Image
from safetensors.torch import load_file

from rd3_utils import launch, pushing
from rd3_utils.arms import planned_runs
from rd3_utils.data import images as image_sets
from rd3_utils.data import label_readers, label_store, selections, soft_labels, tables, views
from rd3_utils.errors import UserError
from rd3_utils.learning import labelling, students, teachers
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.publishing import dataset_repo

EMBEDDED = f"local-dir:{PROJECT / 'rd3_utils/embedded/digits-teacher-convnet3'}"
SHORT = "--set", "training.epochs=3"


@pytest.fixture
def made(digits, test_set, recipe, tmp_path):
    """made(images, [sources], "labels.teachers=2", ..., forward_batch=7) -> (folder, recipe, plan) of a finished store."""

    def make(images, sources, *overrides, **options):
        accelerator = launch.accelerator()
        r = recipe("rd3-v1", images, *overrides)
        found = labelling.load_teachers(sources, r, digits)
        plan = labelling.plan_store(images, r.labelled, found, 0, accelerator.device, labelling.StoreFormat(**options))
        where = soft_labels.store_folder(tmp_path, images, plan.teachers_id, r.labelled, 0)
        task = labelling.LabellingTask(plan, images, r.labelled, found, digits)
        labelling.make_labels(where, task, test_set, accelerator)
        return where, r, plan

    return make


def pixels(images, recipe, epoch, rows):
    return views.apply(images.images, views.draw(recipe, 0, epoch), rows, recipe.mean, recipe.std)


def same_views(one, other):
    """Whether two Views are equal in every field."""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


def runs(folder, pattern="results/**/seed0.json"):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]


# ensembles


def test_norm_balanced_scales_every_row_of_every_teacher_to_the_mean_norm():
    logits = [torch.randn(3, 5, generator=torch.Generator().manual_seed(k)) * 10.0**k for k in range(3)]
    combined = teachers.ENSEMBLES["norm_balanced"](logits, None)
    for row in range(3):
        norms = [float(sum(v**2 for v in some[row].double().tolist()) ** 0.5) for some in logits]
        wanted = sum(some[row].double() / norm * (sum(norms) / 3) for some, norm in zip(logits, norms)) / 3
        assert torch.allclose(combined[row].double(), wanted, rtol=1e-5)


def test_a_balanced_label_does_not_depend_on_its_batch_mates(digits, second):
    found = [teachers.load("default", digits), teachers.load(second, digits)]
    ensemble = teachers.Ensemble(found, digits, "norm_balanced")
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ensemble(x)[:2], ensemble(x[:2]), atol=1e-4)
    loud = torch.cat([x[:2], 100 * x[2:]])
    assert torch.allclose(ensemble(loud)[:2], ensemble(x[:2]), atol=1e-4)


def test_accuracy_weights_are_the_softmax_of_tenths_of_percent():
    """CV-DD: w = softmax(acc / 10). Of 70 % and 60 %, e / (1 + e) and 1 / (1 + e)."""
    weights = teachers.accuracy_weights([0.7, 0.6]).tolist()
    assert weights == pytest.approx([0.7310585786300049, 0.2689414213699951], rel=1e-9)
    a, b = torch.randn(2, 4, 5)
    combined = teachers.ENSEMBLES["accuracy_weighted"]([a, b], [0.7, 0.6])
    assert torch.allclose(combined, 0.7310586 * a + 0.2689414 * b, atol=1e-6)


def test_the_measured_accuracies_weigh_the_labels_and_are_recorded(made, ten, digits, second):
    rule = "labels.ensemble=accuracy_weighted"
    where, recipe, _ = made(ten, ["default", second], "training.epochs=2", "labels.teachers=2", rule)
    index = soft_labels.read_index(where)
    top1 = torch.tensor([teacher["top1"] for teacher in index["teachers"]], dtype=torch.float64)
    weights = (10 * top1).softmax(0)
    assert [t["weight"] for t in index["teachers"]] == pytest.approx(weights.tolist()) and top1[0] == 0.99 != top1[1]
    a, b = (teachers.load(source, digits).network for source in ("default", second))
    x = pixels(ten, recipe, 1, torch.arange(10))
    wanted = float(weights[0]) * a(x) + float(weights[1]) * b(x)
    assert torch.allclose(label_store.load_store(where, ten, recipe, 0).epoch(1)[1], wanted, atol=0.02)


def test_a_store_of_another_rule_is_another_store(made, ten, second):
    two = "training.epochs=1", "labels.teachers=2"
    mean, _, _ = made(ten, ["default", second], *two)
    balanced, recipe, _ = made(ten, ["default", second], *two, "labels.ensemble=norm_balanced")
    assert mean != balanced
    with pytest.raises(UserError, match="ensemble rule mean, this run has norm_balanced"):
        label_store.load_store(mean, ten, recipe, 0)


def test_two_teachers_work_end_to_end(script, second, tmp_path):
    """--teacher A --teacher B under a rule of G-VBSM: labels, a student, a card that names both."""
    what = *SHORT, "--set", "labels.teachers=2", "--set", "labels.ensemble=norm_balanced"
    given = "--teacher", EMBEDDED, "--teacher", second
    assert script("generate_soft_labels", *what, *given).code == 0
    done = script("train_student", *what)
    assert done.code == 0, done.err
    (run,) = runs(tmp_path)
    assert [t["architecture"] for t in run["teachers"]] == ["convnet3", "convnet2_bn"]
    assert run["labels"]["ensemble"] == "norm_balanced" and all(t["top1"] > 0.95 for t in run["teachers"])
    card = next(tmp_path.glob("results/**/README.md")).read_text()
    assert all(t["sha256"] in card for t in run["teachers"])
    assert len(list(tmp_path.glob("soft_labels/**/index.json"))) == 1
    assert script("train_student", *what, *given).code == 0  # the same store, found by its teachers
    done = script("train_student", *what, "--teacher", EMBEDDED)
    assert done.code == 2 and "1 teachers given, the recipe labels with 2" in done.err


# batch norm of the teachers


@pytest.mark.parametrize("size", [4, 7])
def test_grouped_batch_norm_is_a_train_mode_forward_over_the_orders_rows(made, digits, second, select, size):
    """Against network.train() on a copy, for every group of N consecutive rows of `order`, the last one smaller."""
    images = select("random:ipc=3,seed=0")
    where, recipe, _ = made(images, [second], "training.epochs=2", f"labels.teacher_bn=groups:{size}")
    store = label_store.load_store(where, images, recipe, 0)
    for epoch in (0, 1):
        drawn, logits = store.epoch(epoch)
        for rows in drawn.order.split(size):
            brute = copy.deepcopy(teachers.load(second, digits).network).train()
            assert torch.allclose(logits[rows], brute(pixels(images, recipe, epoch, rows)), atol=0.02)
    in_eval = teachers.load(second, digits).network(pixels(images, recipe, 1, torch.arange(30)))
    assert float((logits - in_eval).abs().max()) > 0.5


def test_grouped_batch_norm_leaves_the_teacher_as_it_was_and_dropout_off(digits):
    network = students.create("mobilenetv2_100", digits, 0).eval()
    network.classifier = torch.nn.Sequential(torch.nn.Dropout(0.5), network.classifier).eval()
    before, x = teachers.weights_sha256(network), torch.randn(8, 3, 8, 8)
    plain = network(x)
    with torch.no_grad(), teachers.batch_statistics(network):
        one, two = network(x), network(x)
    assert torch.equal(one, two) and not torch.allclose(one, plain)
    assert teachers.weights_sha256(network) == before and torch.equal(network(x), plain)
    assert not any(module.training for module in network.modules())


def test_a_store_of_another_grouping_is_refused_and_lies_elsewhere(made, ten, second, recipe):
    base = "training.epochs=1"
    plain, eval_recipe, plan = made(ten, [second], base)
    grouped, grouped_recipe, _ = made(ten, [second], base, "labels.teacher_bn=groups:5")
    assert plain.name != grouped.name and plan.header.keys() == soft_labels.read_index(plain).keys() - {
        "recognised",
        "epochs_per_shard",
        "shards",
    }
    assert "teacher_bn" not in plan.header and soft_labels.read_index(grouped)["teacher_bn"] == "groups:5"
    assert label_store.load_store(grouped, ten, grouped_recipe, 0).describe()["teacher_bn"] == "groups:5"
    with pytest.raises(UserError, match="labels.teacher_bn groups:5, this run has eval"):
        label_store.load_store(grouped, ten, eval_recipe, 0)
    with pytest.raises(UserError, match="labels.teacher_bn eval, this run has groups:5"):
        label_store.load_store(plain, ten, grouped_recipe, 0)


def test_grouped_labels_do_not_depend_on_who_makes_which_epoch(digits, second, ten, recipe):
    r = recipe("rd3-v1", ten, "training.epochs=4", "labels.teacher_bn=groups:4")
    found = labelling.load_teachers([second], r, digits)
    plan = labelling.plan_store(ten, r, found, 0, torch.device("cpu"))
    labeller = labelling.labeller_on(torch.device("cpu"), labelling.LabellingTask(plan, ten, r, found, digits))
    whole = labelling.label_epochs(labeller, 0, 4, {})
    apart = [labelling.label_epochs(labeller, e, e + 1, {}) for e in (3, 1, 0, 2)]
    assert torch.equal(whole, torch.cat([apart[2], apart[1], apart[3], apart[0]]))


@pytest.mark.parametrize("value, wanted", [("groups:1", "N at least 2"), ("train", "wanted eval or groups:N"),
                                           ("groups:3", "leaves one of 10 images alone")])  # fmt: skip
def test_a_wrong_grouping_is_named(recipe, ten, value, wanted):
    with pytest.raises(UserError, match=wanted):
        recipe("rd3-v1", ten, f"labels.teacher_bn={value}")


# architectures


@pytest.mark.parametrize("a, b", [("mobilenetv2_100", "mobilenet_v2"), ("mobilenetv3_large_100", "mobilenet_v3_large"),
                                  ("resnet18.tv_in1k", "resnet18"), ("resnet18_cifar", "resnet18"),
                                  ("tf_efficientnet_b0", "efficientnet_b0")])  # fmt: skip
def test_libraries_may_name_an_architecture_differently(a, b):
    assert label_store.architecture_key(a) == label_store.architecture_key(b)


def test_different_architectures_keep_different_keys():
    names = ["resnet18", "resnet34", "resnet101", "mobilenet_v2", "mobilenetv2_050", "mobilenetv2_140", "shufflenet_v2_x0_5",
             "shufflenet_v2_x1_0", "densenet121", "alexnet", "efficientnet_b0", "efficientnet_b1", "convnet3", "convnet3_bn",
             "resnetv2_50", "resnet50"]  # fmt: skip
    assert len({label_store.architecture_key(name) for name in names}) == len(names)


def test_teachers_must_have_the_architectures_in_any_order(digits, recipe, ten, second):
    two = "labels.teachers=2", 'labels.architectures=["convnet2_bn", "convnet3"]'
    r = recipe("rd3-v1", ten, *two)
    assert len(labelling.load_teachers(["default", second], r, digits)) == 2
    with pytest.raises(UserError, match=r"are convnet3, convnet3: convnet2_bn is missing.*architectures=\[\]"):
        labelling.load_teachers(["default", "default"], r, digits)
    with pytest.raises(UserError, match="labels.teachers is 2 and labels.architectures names 1"):
        recipe("rd3-v1", ten, "labels.teachers=2", 'labels.architectures=["convnet3"]')


def test_a_store_of_other_architectures_is_refused(made, ten, recipe):
    where, _, _ = made(ten, ["default"], "training.epochs=1")
    r = recipe("rd3-v1", ten, "training.epochs=1", 'labels.architectures=["resnet18"]')
    with pytest.raises(UserError, match="names resnet18, the labels in .* are of convnet3: resnet18 is missing"):
        label_store.load_store(where, ten, r, 0)


# static labels


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_a_static_label_is_that_of_the_plain_images_that_a_view_shows(made, digits, ten, mix):
    """Row by row: own_share * z_i + (1 - own_share) * z_partner of the untouched images."""
    where, r, _ = made(ten, ["default"], "training.epochs=5", "labels.kind=static", f"views.mix={mix}")
    labels = label_readers.StaticLabels(r, 0, label_store.load_store(where, ten, r.labelled, 0))
    plain = (ten.images / 255 - digits.image.mean[0]) / digits.image.std[0]
    z = teachers.load("default", digits).network(plain)  # [10, 10]
    for epoch in (0, 4):
        v, logits = labels.epoch(epoch)
        assert same_views(v, views.draw(r, 0, epoch))
        for row in range(10):
            share = float(v.own_share(torch.tensor([row]), 8))
            assert torch.allclose(logits[row], share * z[row] + (1 - share) * z[v.mix_partner[row]], atol=0.02)
    assert torch.allclose(logits, z, atol=0.02) == (mix == "none")


def test_static_labels_share_the_store_of_the_plain_arm(script, tmp_path):
    what = *SHORT, "--set", "labels.kind=static"
    done = script("train_student", *what, "--arms", "distilled-soft,distilled-plain", "--teacher", "default")
    assert done.code == 0, done.err
    (store,) = tmp_path.glob("soft_labels/**/index.json")
    assert json.loads(store.read_text())["epochs"] == 1
    plain = script("train_student", *SHORT, "--arms", "distilled-plain", "--out", "rd3")  # of the protocol as released
    assert plain.code == 0, plain.err
    (soft,) = runs(tmp_path, "results/**/distilled-soft/seed0.json")
    assert soft["labels"]["kind"] == "static" and soft["recipe"]["views"]["mix"] == "cutmix"
    card = next(tmp_path.glob("results/**/README.md")).read_text()
    assert "one teacher label per image" in card and store.parent.name in card


def test_static_labels_are_made_by_the_command_that_an_error_names(script, tmp_path):
    what = *SHORT, "--set", "labels.kind=static"
    done = script("train_student", *what)
    command = done.err.split("or make them with: ")[1].split()
    assert script("generate_soft_labels", *command[3:]).code == 0
    done = script("train_student", *what)
    assert done.code == 0, done.err


# learned labels


@pytest.fixture
def learned(ten):
    """Ten digits with logits of their own, largest for their class."""
    logits = torch.randn(10, 10, generator=torch.Generator().manual_seed(0)) + 5 * torch.eye(10)[ten.labels]
    weights = torch.rand(10, generator=torch.Generator().manual_seed(1))
    return image_sets.make("mine", ten.images, ten.labels, ten.class_names, "mine", soft_labels=logits, weights=weights)


def test_learned_labels_and_weights_survive_the_file_and_change_the_fingerprint(digits, ten, learned, tmp_path):
    image_sets.save(learned, tmp_path / "mine")
    again = image_sets.read(str(tmp_path / "mine"), digits)
    assert again.fingerprint == learned.fingerprint != ten.fingerprint
    assert torch.equal(again.soft_labels, learned.soft_labels) and torch.equal(again.weights, learned.weights)
    own = {"soft_labels": learned.soft_labels, "weights": learned.weights}
    parts = [{}, {"soft_labels": own["soft_labels"]}, {"weights": own["weights"]}, own,
             {"soft_labels": own["soft_labels"] + 1}, {"weights": own["weights"] * 2}]  # fmt: skip
    prints = [image_sets.make("x", ten.images, ten.labels, ten.class_names, "x", **part).fingerprint for part in parts]
    assert prints[0] == ten.fingerprint and len(set(prints)) == len(parts)


def test_a_published_set_brings_its_own_labels_along(digits, learned, tmp_path):
    target = pushing.Target("owner/repo", "dataset", False, False, None)
    files = dataset_repo.image_files(target, learned, {}, digits, tmp_path)
    again = image_sets.read(str(files["mine/train-00000-of-00001.parquet"]), digits)
    assert again.fingerprint == learned.fingerprint and torch.equal(again.soft_labels, learned.soft_labels)


def test_soft_labels_follow_classes_that_a_file_has_in_another_order(digits, learned, tmp_path):
    names = list(reversed(digits.classes))
    turned = image_sets.make("x", learned.images, 9 - learned.labels, names, "x", soft_labels=learned.soft_labels.flip(1))
    image_sets.save(turned, tmp_path / "turned")
    again = image_sets.read(str(tmp_path / "turned"), digits)
    assert torch.equal(again.labels, learned.labels) and torch.equal(again.soft_labels, learned.soft_labels)


@pytest.mark.parametrize("field, value, wanted", [
    ("soft_labels", torch.zeros(10, 10).log(), "10 finite numbers per row"),
    ("weights", torch.full((10,), -1.0), "wanted at least 0"),
    ("weights", torch.zeros(10), "not only 0"),
])  # fmt: skip
def test_wrong_columns_of_a_set_are_named(digits, ten, tmp_path, field, value, wanted):
    image_sets.save(image_sets.make("x", ten.images, ten.labels, ten.class_names, "x", **{field: value}), tmp_path / "x")
    with pytest.raises(UserError, match=wanted):
        image_sets.read(str(tmp_path / "x"), digits)


LEARNED = "--set", "labels.kind=learned", "--set", "loss.name=soft_ce", "--set", "loss.temperature=1.0"


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_a_learned_label_is_mixed_as_its_view_is(recipe, learned, mix):
    r = recipe("rd3-v1", learned, "labels.kind=learned", "loss.name=soft_ce", f"views.mix={mix}")
    for epoch in (0, 4):
        v, logits = label_readers.LearnedLabels(r, 0, learned).epoch(epoch)
        assert same_views(v, views.draw(r, 0, epoch))
        for row in range(10):
            share = float(v.own_share(torch.tensor([row]), 8))
            z = learned.soft_labels
            assert torch.allclose(logits[row], share * z[row] + (1 - share) * z[v.mix_partner[row]], atol=1e-6)
    assert torch.allclose(logits, learned.soft_labels) == (mix == "none")


def test_a_student_learns_from_the_sets_own_labels(script, learned, tmp_path):
    image_sets.save(learned, tmp_path / "mine")
    done = script("train_student", *SHORT, *LEARNED, "--distilled", "mine", "--set", "views.mix=none")
    assert done.code == 0, done.err
    (run,) = runs(tmp_path)
    assert (run["labels"]["kind"], run["teachers"]) == ("learned", []) and not (tmp_path / "soft_labels").exists()
    assert "the labels that come with them" in next(tmp_path.glob("results/**/README.md")).read_text()
    assert "random-soft" not in done.out  # what is tried next can be tried


def test_only_sets_with_learned_labels_can_be_learned_from(script, learned, tmp_path):
    image_sets.save(learned, tmp_path / "mine")
    done = script("train_student", *SHORT, *LEARNED)
    assert done.code == 2 and "brings no labels of its own (no column soft_label)" in done.err
    done = script("train_student", *SHORT, *LEARNED, "--distilled", "mine", "--arms", "distilled-soft,random-soft")
    assert done.code == 2 and "random images have none; use random-hard" in done.err
    done = script("train_student", *SHORT, *LEARNED, "--distilled", "mine", "--arms", "random-hard", "--draws", "1")
    assert done.code == 0, done.err
    done = script("generate_soft_labels", *LEARNED)
    assert done.code == 2 and "has learned labels: there is nothing to generate" in done.err


def test_the_groups_of_arms_are_those_that_the_labels_allow():
    assert planned_runs.arm_names(None, "learned") == planned_runs.arm_names(None, "static") == ["distilled-soft"]
    assert planned_runs.arm_names("all", "learned") == ["distilled-soft", "distilled-hard", "random-hard", "full-hard"]
    assert planned_runs.arm_names("lrs", "static") == planned_runs.arm_names(
        "lrs", "soft"
    ) and "random-plain" in planned_runs.arm_names("ars", "static")
    with pytest.raises(UserError, match="this protocol has learned ones"):
        planned_runs.arm_names("ars", "learned")


# distinct epochs


def test_epoch_e_reads_views_and_labels_of_epoch_e_mod_d(made, ten):
    """LPLD's pool: a store of D epochs serves the whole training."""
    where, recipe, _ = made(ten, ["default"], "training.epochs=10", "labels.distinct_epochs=3")
    store = label_store.load_store(where, ten, recipe, 0)
    assert store.index["epochs"] == 3 and recipe.training.epochs == 10
    for epoch in range(10):
        v, logits = store.epoch(epoch)
        assert same_views(v, views.draw(recipe, 0, epoch % 3))
        assert torch.equal(logits, store.epoch(epoch % 3)[1])
    assert not torch.equal(store.epoch(0)[1], store.epoch(1)[1])


def test_a_label_budget_holds_whatever_more_the_store_has(made, ten, recipe):
    """The store of a training of ten epochs serves a budget of three, which must not see the other seven, nor count them."""
    where, ten_epochs, _ = made(ten, ["default"], "training.epochs=10")
    pruned = recipe("rd3-v1", ten, "training.epochs=10", "labels.distinct_epochs=3")
    assert pruned.views_digest == ten_epochs.views_digest
    everything, budget = label_store.load_store(where, ten, ten_epochs, 0), label_store.load_store(where, ten, pruned, 0)
    for epoch in range(10):
        v, logits = budget.epoch(epoch)
        wanted, teacher = everything.epoch(epoch % 3)
        assert torch.equal(v.box, wanted.box) and torch.equal(v.order, wanted.order) and torch.equal(logits, teacher)
    of_all, of_three = everything.describe(), budget.describe()
    assert (of_all["epochs"], of_three["epochs"]) == (10, 3)
    assert of_all["bytes"] == sum(path.stat().st_size for path in where.glob("*.safetensors"))
    assert of_three["bytes"] == pytest.approx(0.3 * of_all["bytes"], rel=0.05)


def test_labels_without_a_store_cycle_alike(ten, recipe):
    r = recipe("rd3-v1", ten, "labels.distinct_epochs=3", labels="hard")
    labels = label_readers.HardLabels(r, 0)
    assert same_views(labels.epoch(7)[0], views.draw(r, 0, 1))
    assert not torch.equal(labels.epoch(2)[0].order, labels.epoch(1)[0].order)


# what the teachers make of the images


def relabelled(images, rows):
    """The same images, those of `rows` called the class after their own."""
    labels = images.labels.clone()
    labels[rows] = (labels[rows] + 1) % len(images.class_names)
    return dataclasses.replace(images, labels=labels)


def test_a_store_says_which_share_of_the_images_its_teachers_recognise(made, ten, digits):
    """Against one pass over the images by hand, where all are right and where 7 of 10 are called something else."""
    x = (ten.images / 255 - digits.image.mean[0]) / digits.image.std[0]
    right = teachers.load("default", digits).network(x).argmax(1) == ten.labels
    assert right.all()
    for images, share in ((ten, 1.0), (relabelled(ten, torch.arange(7)), 0.3)):
        where, r, _ = made(images, ["default"])
        assert soft_labels.read_index(where)["recognised"] == pytest.approx(share)
        store = label_store.load_store(where, images, r, 0)
        assert store.origin["recognised"] == pytest.approx(share) and "recognised" not in store.describe()


@pytest.mark.parametrize("stated", [None, "all", 2, -0.5, [1], True])
def test_a_share_that_is_none_is_not_taken_over(stated):
    assert soft_labels.recognised({"recognised": stated}) == {}


def test_images_that_the_teacher_takes_for_others_are_noticed(script, tmp_path):
    """Digits in folders of another class: the label script, the Run and the card say so."""
    for place, classes in (("right", range(10)), ("wrong", [1, 2, 3, 4, 5, 6, 7, 0, 8, 9])):
        done = script("generate_soft_labels", *SHORT, "--distilled", shuffled(tmp_path / place, classes))
        assert done.code == 0, done.err
        share = 1.0 if place == "right" else 0.2
        assert f"it puts {100 * share:.2f} % of the 10 images into their own class" in done.out
        assert script("train_student", *SHORT, "--distilled", place).code == 0
        (run,) = runs(tmp_path, f"results/**/{place}@*/**/seed0.json")
        card = next(tmp_path.glob(f"results/**/{place}@*/README.md")).read_text()
        assert run["labels"]["recognised"] == share
        assert ("The teacher puts only 20.00 % of the images of wrong into their own class" in card) == (place == "wrong")


def shuffled(folder, classes):
    """A folder of ten real digits, that of class k in the folder of class `classes`[k]; returns its name."""
    bench = benchmarks.load("digits")
    images = selections.select("random:ipc=1,seed=0", bench, lambda: tables.real(bench, "train"))
    for image, label in zip(images.images, images.labels):
        path = folder / bench.classes[classes[label]] / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder.name


# online


def weights_of(folder):
    (path,) = folder.glob("**/seed0/model.safetensors")
    return load_file(path)


@pytest.mark.parametrize("options", [("--views-seed", "0"), ("--views-seed", "3", "--label-dtype", "u8"),
                                     ("--set", "labels.distinct_epochs=2", "--forward-batch", "7"),
                                     ("--set", "labels.kind=static"), ("--set", "labels.teacher_bn=groups:5")])  # fmt: skip
def test_online_and_stored_labels_train_the_same_student_bit_for_bit(script, tmp_path, second, options):
    what = "--set", "training.epochs=5", "--teacher", second, *options
    for out, more in (("stored", ()), ("online", ("--online",))):
        done = script("train_student", *what, "--out", out, *more)
        assert done.code == 0, done.err
        if out == "stored":
            for path in tmp_path.glob("soft_labels/**/*.*"):
                path.unlink()
    assert not list(tmp_path.glob("soft_labels/**/*.safetensors"))
    (stored,), (online,) = (runs(tmp_path, f"{out}/**/seed0.json") for out in ("stored", "online"))
    assert stored["recipe"]["views"]["mix"] == "cutmix" and stored["history"] == online["history"]
    assert online["labels"].pop("online") and online["labels"].pop("bytes") == 0 and stored["labels"].pop("bytes") > 0
    assert online["labels"] == stored["labels"] and online["teachers"] == stored["teachers"]
    a, b = weights_of(tmp_path / "stored"), weights_of(tmp_path / "online")
    assert all(torch.equal(a[key], b[key]) for key in a) and a.keys() == b.keys()


def test_online_needs_a_teacher(script):
    done = script("train_student", *SHORT, "--online")
    assert done.code == 2 and "--online labels with a teacher" in done.err


def test_static_views_are_those_of_the_plain_arm(digits):
    """For every protocol that has both arms, whatever its views: one store serves both."""
    for name in protocols.names():
        protocol = protocols.load(name)
        if {"soft", "plain"} <= protocol.arms.keys():
            plain = protocol.resolve(digits, "convnet3", 1, 10, "plain")
            static = dataclasses.replace(plain, views=protocol.resolve(digits, "convnet3", 1, 10, "soft").views)
            static = dataclasses.replace(static, labels=dataclasses.replace(static.labels, kind="static"))
            assert static.labelled.views_digest == plain.views_digest and static.labelled.label_epochs == 1


def test_what_a_given_store_lacks_is_made_by_the_command_that_is_told_and_then_found(script, tmp_path):
    short = "--set", "training.epochs=1"
    assert script("generate_soft_labels", *short, "--out", "mine").code == 0
    (index,) = tmp_path.glob("mine/*/*/index.json")
    train = "train_student", *short, "--soft-labels", str(index.parent), "--arms", "distilled-soft,random-soft", "--draws", "1"
    done = script(*train)
    assert done.code == 2, done.err
    command = shlex.split(done.err.split("or make them with: ")[1])
    assert script("generate_soft_labels", *command[3:]).code == 0
    done = script(*train)
    assert done.code == 0, done.err
