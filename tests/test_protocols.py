"""Protocols and benchmarks: strict files, digests that hold, rules that resolve, overrides that show."""

import dataclasses
import itertools

import pytest

from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark, protocol
from rd3_utils.protocols.knobs import SECTIONS, all_knobs, stated

RELEASED = {  # a released file never changes; a correction is a new version
    "rd3-v1": "974086290837",
    "hard-label-v1": "dd5df7a75b44",
    "teacher-v1": "bc77c0bb5e7f",
    "cda-v1": "6c8a599d5f91",
    "cvdd-v1": "8b5fef31a34d",
    "d4m-v1": "5dd077bb3ad6",
    "datm-v1": "6edb75a56ab2",
    "dc-v1": "dd5df7a75b44",
    "delt-v1": "20c07473cd5b",
    "delt-v2": "c3577a1fe688",
    "dm-v1": "9680ab37b47d",
    "dsa-v1": "9680ab37b47d",
    "dwa-v1": "479f84214f8a",
    "edc-v1": "45d877128cc9",
    "fadrm-plus-v1": "4bc4f307a5d1",
    "fadrm-v1": "3956501503db",
    "gvbsm-v1": "5f5a0a0b9c07",
    "lpld-v1": "9bee01c74d92",
    "minimax-hard-v1": "435e5d0977c5",
    "minimax-hard-v2": "bcc8003538ca",
    "minimax-v1": "59526d069633",
    "mtt-v1": "bb31fd403972",
    "rd3-hybrid-v1": "1297fc74bbab",
    "rd3-joint-v1": "beacc6f6a781",
    "rd3-patchshuffle-v1": "1518fb266ec4",
    "rded-v1": "59526d069633",
    "rded-v2": "5c88d8ebfde1",
    "rethinkdc-hard-v1": "5f35c36e9f35",
    "rethinkdc-soft-v1": "15469325e0c3",
    "scdd-v1": "6886493a1b5e",
    "sre2l-v1": "5dd077bb3ad6",
    "sre2lpp-v1": "63dca4571d31",
    "wmdd-v1": "51f1809e05f9",
}
OLD = "rd3-v1", "hard-label-v1", "teacher-v1"  # from before rules had sources


@pytest.mark.parametrize("name", protocol.names())
def test_a_released_protocol_keeps_its_digest(name):
    assert protocol.load(name).digest == RELEASED[name]


@pytest.mark.parametrize("name", protocol.names())
def test_every_knob_names_its_source(name):
    found = protocol.load(name)
    knobs = [f"{section}.{knob}" for section in SECTIONS for knob in stated(getattr(found, section))]
    assert len(knobs) > 30 and all(found.sources[knob].strip() for knob in knobs)


@pytest.mark.parametrize("name", sorted(set(protocol.names()) - set(OLD)))
def test_every_rule_names_its_source(name):
    assert all(rule.get("source", "").strip() for rule in protocol.load(name).rules)


def test_the_source_of_a_rule_is_outside_the_digest():
    rded = protocol.load("rded-v1")
    silent = tuple({"when": rule["when"], "set": rule["set"]} for rule in rded.rules)
    assert dataclasses.replace(rded, rules=silent).digest == rded.digest


STUDENTS = {  # up to 64 px, and above
    True: ("convnet3", "convnet3_bn", "resnet18_cifar", "resnet50_cifar", "resnet101_cifar", "vit_base_cifar"),
    False: ("resnet18", "resnet50", "resnet101", "mobilenetv2_100", "vit_base_patch16_224"),
}


@pytest.mark.parametrize("name", protocol.names())
def test_every_protocol_says_what_to_do_on_every_benchmark(name):
    found = protocol.load(name)
    for bench in map(benchmark.load, benchmark.names()):
        for student, ipc, arm in itertools.product(STUDENTS[bench.image.size <= 64], (1, 10, 50), found.arms):
            recipe = found.resolve(bench, student, ipc, ipc * len(bench.classes), arm)  # UserError: it contradicts itself
            kind = found.labels.kind if arm == "soft" else {"hard": "hard", "plain": "soft"}[arm]
            assert recipe.labels.kind == kind and recipe.training.batch_size <= recipe.images
            assert recipe.labels.teachers == len(recipe.labels.architectures) or not recipe.labels.architectures


@pytest.mark.parametrize(
    "steps, names",
    [
        (3_000, "sre2l gvbsm d4m"),
        (23_700, "dwa lpld cda rethinkdc-soft rethinkdc-hard"),
        (30_000, "rded edc delt wmdd minimax"),
        (47_100, "scdd"),
        (80_000, "rd3 rd3-hybrid rd3-joint rd3-patchshuffle"),
        (187_500, "cvdd sre2lpp fadrm fadrm-plus"),
    ],
)
def test_optimizer_steps_on_imagenet_are_those_of_the_original(steps, names):
    """10 images per class, ResNet-18: epochs times batches, the last one smaller."""
    bench = benchmark.load("imagenet-1k")
    for name in names.split():
        found = protocol.load(f"{name}-v1")
        assert found.resolve(bench, "resnet18", 10, 10_000, next(iter(found.arms))).steps == steps, name


R18, R50, R101, CONV = "resnet18", "resnet50", "resnet101", "convnet3"
DSA, GRID = "color_crop_cutout_flip_scale_rotate", (0.001, 0.005, 0.01, 0.05, 0.1)
VALUES = [  # protocol, benchmark, student, ipc: epochs, batch, learning rate, zeta, temperature; and what else is special
    ("sre2l", "imagenet-1k", R18, 10, (300, 1024, 0.001, 1, 20), {"training.batch_norm": "groups:512", "views.group": 1024}),
    ("sre2l", "tiny-imagenet", R18, 50, (100, 256, 0.2, 1, 20), {"loss.t_squared": True, "views.mix": "none"}),
    ("sre2l", "cifar100", R18, 10, (400, 128, 0.001, 1, 30), {"labels.teacher_bn": "groups:128", "views.mix": "mixup"}),
    ("sre2l", "cifar10", R18, 50, (400, 128, 0.001, 1, 30), {"views.mix_alpha": 0.8, "training.decay": "all"}),
    ("cda", "imagenet-1k", R18, 50, (300, 128, 0.001, 1, 20), {"training.batch_norm": "global"}),
    ("scdd", "cifar100", R18, 50, (200, 64, 0.001, 3, 30), {"views.crop": "pad"}),
    ("scdd", "tiny-imagenet", R18, 50, (500, 256, 0.2, 1, 20), {}),
    ("dwa", "tiny-imagenet", R18, 50, (200, 64, 0.2, 1, 20), {"views.mix_pairing": "roll", "loss.t_squared": True}),
    ("lpld", "imagenet-1k", R18, 10, (300, 128, 0.001, 1, 20), {"labels.distinct_epochs": 8}),
    ("lpld", "tiny-imagenet", R18, 50, (100, 64, 0.2, 1, 20), {"labels.distinct_epochs": 3, "training.decay": "ndim>1"}),
    ("wmdd", "imagenette", R18, 1, (300, 10, 0.001, 1, 20), {"loss.image_weights": True}),
    ("gvbsm", "imagenet-1k", R50, 10, (300, 1024, 0.001, 1, 1), {"training.batch_norm": "groups:128", "loss.hard_weight": 0.1}),
    ("gvbsm", "tiny-imagenet", R18, 50, (100, 100, 0.1, 1, 1), {"labels.ensemble": "mean", "training.batch_norm": "groups:50"}),
    ("gvbsm", "cifar100", CONV, 10, (1000, 64, 0.1, 1, 1), {"loss.hard_weight": 0.15, "training.weight_decay": 0.0005}),
    ("gvbsm", "cifar10", R18, 10, (1000, 100, 0.001, 1, 1), {"training.weight_decay": 0.0, "labels.teachers": 5}),
    ("edc", "imagenet-1k", R18, 10, (300, 100, 0.001, 2, 1), {"training.ema_decay": 0.99, "loss.hard_weight": 0.025}),
    ("edc", "imagenet-10", R18, 10, (1000, 50, 0.001, 2, 1), {"views.randaugment": 2, "views.crop_scale": (0.5, 1)}),
    ("edc", "tiny-imagenet", R18, 1, (1000, 100, 0.001, 2, 1), {"labels.teachers": 5}),
    ("edc", "cifar10", R18, 10, (1000, 25, 0.001, 2, 1), {"training.milestones": (0.8, 0.9, 0.95), "labels.teachers": 8}),
    ("edc", "cifar10", R18, 1, (1000, 10, 0.001, 2, 1), {"training.schedule": "step", "training.drop": 0.5}),
    ("rded", "imagenet-1k", R18, 1, (300, 20, 0.001, 2, 20), {"views.patch_shuffle": 2, "views.crop_scale": (0.5, 1)}),
    ("rded", "imagenet-1k", "mobilenetv2_100", 50, (300, 200, 0.0025, 2, 20), {}),
    ("rded", "imagewoof", R18, 50, (300, 100, 0.001, 2, 20), {}),
    ("rded", "tiny-imagenet", "vit_base_cifar", 50, (300, 100, 0.0001, 2, 20), {"views.patch_shuffle": 1}),
    ("rded", "cifar100", CONV, 10, (300, 25, 0.002, 2, 20), {"views.group": 25}),
    ("rded", "cifar10", CONV, 10, (300, 50, 0.001, 2, 20), {"views.crop_scale": (1, 1)}),
    ("delt", "imagenet-1k", R101, 50, (300, 100, 0.001, 2, 20), {"views.randaugment": 2, "views.crop_scale": (0.25, 1)}),
    ("delt", "imagenet-1k", R18, 20, (300, 100, 0.001, 2, 20), {"views.randaugment_magnitude": 6, "views.patch_shuffle": 1}),
    ("minimax-hard", "imagewoof", R18, 1, (3000, 10, 0.01, 1, 1), {"views.mix_probability": 1, "training.drop": 0.2}),
    ("minimax-hard", "imagenet-100", R18, 10, (1300, 64, 0.01, 1, 1), {"loss.name": "ce_mixed", "views.color_jitter": 0.4}),
    ("minimax-hard", "imagenet-1k", R18, 50, (1500, 128, 0.1, 1, 1), {"training.weight_decay": 0.0001, "views.lighting": 0.1}),
    ("cvdd", "imagenette", R50, 10, (300, 16, 0.001, 1, 20), {"training.batch_norm": "groups:8", "labels.teachers": 5}),
    ("cvdd", "tiny-imagenet", R101, 10, (300, 16, 0.0005, 2, 20), {"labels.ensemble": "accuracy_weighted"}),
    ("sre2lpp", "cifar10", R18, 1, (300, 10, 0.001, 1, 20), {"labels.teacher_bn": "groups:5", "labels.teachers": 1}),
    ("fadrm", "cifar100", R18, 1, (1000, 16, 0.0005, 2, 20), {"labels.teacher_bn": "groups:8"}),
    ("fadrm", "imagewoof", R50, 10, (300, 10, 0.005, 1, 20), {"training.batch_norm": "groups:5"}),
    ("fadrm-plus", "imagenet-1k", R101, 1, (300, 16, 0.0035, 2, 20), {"labels.teachers": 4}),
    ("fadrm-plus", "tiny-imagenet", R18, 1, (300, 16, 0.001, 2, 20), {"labels.teachers": 3}),
    ("dsa", "cifar10", CONV, 10, (1000, 100, 0.01, 1, 1), {"views.dsa": DSA, "views.group": 100}),
    ("dsa", "cifar10", CONV, 50, (1000, 256, 0.01, 1, 1), {"training.milestones": (0.5,), "training.drop": 0.1}),
    ("mtt", "cifar10", CONV, 10, (1000, 100, 0.01, 1, 1), {"views.zca": 0.1}),
    ("mtt", "cifar10", CONV, 50, (1000, 256, 0.01, 1, 1), {"views.zca": 0.0, "training.learning_rates": GRID}),
    ("datm", "cifar10", CONV, 50, (1000, 128, 0.01, 1, 1), {"labels.kind": "learned", "loss.name": "soft_ce"}),
    ("rd3-joint", "cifar10", CONV, 10, (400, 50, 0.001, 2, 1), {"loss.hard_weight": 0.15, "loss.name": "mse_gt"}),
    ("rd3-patchshuffle", "cifar10", CONV, 10, (400, 50, 0.001, 2, 20), {"views.patch_shuffle": 2, "views.crop_scale": (1, 1)}),
    ("rd3-hybrid", "imagenet-1k", R18, 10, (400, 50, 0.001, 1, 20), {"labels.teachers": 4}),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, bench, student, ipc, numbers, more", VALUES, ids=lambda v: str(v) if isinstance(v, (str, int)) else ""
)
def test_a_protocol_has_its_originals_numbers(name, bench, student, ipc, numbers, more):
    bench, found = benchmark.load(bench), protocol.load(f"{name}-v1")
    student = f"{student}_cifar" if bench.image.size <= 64 and student.startswith("resnet") else student
    recipe = found.resolve(bench, student, ipc, ipc * len(bench.classes), next(iter(found.arms)))
    t = recipe.training
    assert (t.epochs, t.batch_size, t.learning_rate, t.zeta, recipe.loss.temperature) == numbers
    assert {key: getattr(getattr(recipe, key.split(".")[0]), key.split(".")[1]) for key in more} == more


@pytest.mark.parametrize("ipc, classes", list(itertools.product((1, 10, 50, 200, 500, 1000), (10, 100))))
def test_minimax_drops_the_rate_in_the_codes_whole_epochs(ipc, classes):
    """MultiStepLR([2 N // 3, 5 N // 6]), vimar-gu/MinimaxDiffusion train.py:85-97."""
    bench = benchmark.load("imagenet-10" if classes == 10 else "imagenet-100")
    t = protocol.load("minimax-hard-v1").resolve(bench, "resnet18", ipc, ipc * classes, "hard").training
    first = [next(e for e in range(t.epochs) if e >= m * t.epochs) for m in t.milestones]
    assert first == [2 * t.epochs // 3, 5 * t.epochs // 6]


@pytest.mark.parametrize("name", ["rded", "delt"])
def test_the_second_version_adds_torchvisions_dropout_and_stochastic_depth_and_nothing_else(name):
    first, second = (protocol.load(f"{name}-v{n}") for n in (1, 2))
    assert {**second.knobs, "rules": second.knobs["rules"][:-4]} == first.knobs
    added = [key for rule in second.rules[-4:] for key in rule["set"]]
    assert set(added) == {"training.dropout", "training.stochastic_depth"}
    bench, drops = benchmark.load("tiny-imagenet"), {}
    for student in ("mobilenetv2_100", "efficientnet_b0", "vgg11_bn", "swin_tiny_cifar", "vit_base_cifar", "resnet18_cifar"):
        drops[student] = tuple(second.resolve(bench, student, 10, 2000, "soft").training.drops.values())
    assert list(drops.values()) == [(0.2, -1), (0.2, 0.2), (0.5, -1), (-1, 0.2), (-1, -1), (-1, -1)]


def test_minimax_tests_at_its_own_zoom_in_its_second_version_and_changes_nothing_else():
    first, second = (protocol.load(f"minimax-hard-v{n}") for n in (1, 2))
    assert {**second.knobs, "rules": second.knobs["rules"][:-1]} == first.knobs
    for name in benchmark.names():
        bench = benchmark.load(name)
        training = second.resolve(bench, "resnet18", 10, 10 * len(bench.classes), "hard").training
        assert training.test_resize == (224 if bench.image.size == 224 else 0), name
        assert first.resolve(bench, "resnet18", 10, 10 * len(bench.classes), "hard").training.test_resize == 0


@pytest.mark.parametrize(
    "bench, overrides, wanted",
    [
        ("cifar10", ["training.test_resize=36"], "cifar10 resizes no image; set it to 0"),
        ("imagenette", ["training.test_resize=192"], "less than the 224 px .* set 0 .as the benchmark, 256. or 224 and more"),
        ("imagenette", ["training.test_resize=224", "training.learning_rates=[0.1, 0.01]"], "holds out images as imagenette"),
    ],
)
def test_test_images_that_cannot_be_resized_so_are_refused(bench, overrides, wanted):
    hard = protocol.load("hard-label-v1").override(overrides)
    with pytest.raises(UserError, match=wanted):
        hard.resolve(benchmark.load(bench), "convnet3", 1, 10, "hard")


def test_names_that_mean_one_evaluation_have_one_digest():
    for names in ("rded-v1 minimax-v1", "sre2l-v1 d4m-v1", "hard-label-v1 dc-v1", "dsa-v1 dm-v1"):
        assert len({protocol.load(name).digest for name in names.split()}) == 1


@pytest.mark.parametrize("knob", all_knobs())
def test_every_knob_is_inside_the_digest(knob):
    rd3 = protocol.load("rd3-v1")
    section, field = knob.split(".")
    part = getattr(rd3, section)
    value = getattr(part, field)
    other = {bool: lambda v: not v, str: lambda v: v + "x", tuple: lambda v: (*v, 0.5)}.get(type(value), lambda v: v + 1)(value)
    changed = dataclasses.replace(rd3, **{section: dataclasses.replace(part, **{field: other})})
    assert changed.digest != rd3.digest


def test_prose_is_outside_the_digest():
    rd3 = protocol.load("rd3-v1")
    assert dataclasses.replace(rd3, title="x", description="y", sources={}, published_selection="z").digest == rd3.digest


def test_an_override_changes_the_digest_and_the_label():
    custom = protocol.load("rd3-v1").override(["training.epochs=10", "views.mix=none"])
    assert custom.digest != protocol.load("rd3-v1").digest
    assert custom.label == 'custom, based on rd3-v1 (training.epochs=10, views.mix="none")'


def test_rd3_is_what_the_paper_states(digits):
    recipe = protocol.load("rd3-v1").resolve(digits, "convnet3", 10, 100, "soft")
    t = recipe.training
    assert (t.epochs, t.batch_size, t.optimizer, t.learning_rate, t.zeta) == (400, 50, "adamw", 0.001, 2.0)
    assert (recipe.loss.name, recipe.loss.temperature, recipe.loss.t_squared) == ("kl", 20.0, False)
    assert (recipe.views.mix, recipe.views.group, recipe.views.patch_shuffle) == ("cutmix", 50, 1)


@pytest.mark.parametrize("student, zeta", [("resnet18_cifar", 1.0), ("resnet18", 1.0), ("resnet50", 2.0), ("convnet3", 2.0)])
def test_rd3_smooths_every_student_but_resnet18(digits, student, zeta):
    assert protocol.load("rd3-v1").resolve(digits, student, 1, 10, "soft").training.zeta == zeta


@pytest.mark.parametrize("size, scale, factor", [(32, 1.0, 1), (64, 1.0, 1), (128, 0.5, 2), (224, 0.5, 2)])
def test_rd3_crops_and_shuffles_patches_from_128_pixels(digits, size, scale, factor):
    large = dataclasses.replace(digits, image=dataclasses.replace(digits.image, size=size))
    views = protocol.load("rd3-v1").resolve(large, "convnet3", 1, 10, "soft").views
    assert (views.crop_scale[0], views.patch_shuffle) == (scale, factor)


def test_the_batch_and_the_group_are_capped_at_the_number_of_images(digits):
    recipe = protocol.load("rd3-v1").resolve(digits, "convnet3", 1, 10, "soft")
    assert (recipe.training.batch_size, recipe.views.group, recipe.steps) == (10, 10, 400)


def test_a_flip_needs_a_benchmark_that_may_be_mirrored(digits):
    mirrored = dataclasses.replace(digits, image=dataclasses.replace(digits.image, mirror=True))
    rd3 = protocol.load("rd3-v1")
    assert rd3.resolve(digits, "convnet3", 1, 10, "soft").views.flip == 0
    assert rd3.resolve(mirrored, "convnet3", 1, 10, "soft").views.flip == 0.5


def test_an_override_wins_over_a_rule(digits):
    custom = protocol.load("rd3-v1").override(["training.zeta=1.5"])
    assert custom.resolve(digits, "resnet18_cifar", 1, 10, "soft").training.zeta == 1.5


def test_the_hard_arm_mixes_neither_images_nor_labels(digits):
    recipe = protocol.load("rd3-v1").resolve(digits, "convnet3", 1, 10, "hard")
    assert (recipe.labels.kind, recipe.loss.name, recipe.views.mix) == ("hard", "ce", "none")


def test_recipes_with_the_same_views_share_labels_whatever_the_training(digits):
    a = protocol.load("rd3-v1").resolve(digits, "convnet3", 10, 100, "soft")
    b = protocol.load("rd3-v1").override(["training.batch_size=25", "training.epochs=9"])
    assert b.resolve(digits, "resnet18_cifar", 10, 100, "soft").views_digest == a.views_digest


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("training.epoch=10", "did you mean 'training.epochs'"),
        ("training.epochs", "wanted KEY=VALUE"),
        ("training.epochs=ten", "wanted int"),
        ("training.epochs=0", "wanted more than 0"),
        ("views.flip=2", "wanted a fraction"),
        ("views.mix=cutmx", "did you mean 'cutmix'"),
        ("training.batch_norm=groups", "groups:N"),
        ("training.betas=[0.9]", "a list of 2 values"),
        ("training.betas=[2, 0.9]", "two numbers from 0 to below 1"),
        ("training.warmup_epochs=-1", "wanted at least 0"),
        ("views.crop_ratio=[0.5, inf]", "wanted finite numbers"),
        ("views.padding=-0.1", "wanted at least 0"),
        ("views.color_jitter=-0.1", "wanted at least 0"),
        ("views.lighting=-1", "wanted at least 0"),
        ("training.warmup_start=1.5", "wanted a fraction"),
        ("training.ema_decay=1.0", "wanted less than 1"),
        ("training.learning_rates=[0.1, 0.1]", "different numbers above 0"),
        ("training.learning_rates=[0.1, 0]", "different numbers above 0"),
        ("training.learning_rates=0.1", "wanted a list"),
    ],
)
def test_a_wrong_override_is_named(text, wanted):
    with pytest.raises(UserError, match=wanted.replace("(", r"\(").replace("[", r"\[")):
        protocol.load("rd3-v1").override([text])


@pytest.mark.parametrize(
    "overrides, wanted",
    [
        (["loss.name=ce"], "ignores them"),
        (["labels.kind=hard"], "reads teacher logits"),
        (["views.patch_shuffle=3"], "divide"),
        (["training.optimizer=sgd", "training.nesterov=true"], "needs a training.momentum"),
        (["training.schedule=linear", "training.zeta=0.5"], "rate negative"),
        (["training.schedule=cosine", "training.zeta=0.5"], "lets the learning rate rise again"),
        (["training.schedule=ssrs", "training.zeta=0.9"], "lets the learning rate rise again"),
        (["training.schedule=step"], "never drops"),
        (["views.group=1"], "mixes nothing with views.group=1 and views.mix_probability=1.0"),
        (["views.mix_probability=0"], "mixes nothing with views.group=10 and views.mix_probability=0"),
        (["loss.hard_weight=0.1"], "loss 'kl', which has no hard term"),
        (["loss.name=mse_gt", "loss.t_squared=true"], "loss 'mse_gt', which has no temperature"),
        (["training.warmup_apart=true"], "without training.warmup_epochs"),
        (["training.warmup_start=0.01"], "without training.warmup_epochs"),
        (["training.learning_rates=[0.1, 0.01]"], "the search is for hard and learned ones"),
        (["loss.hard_target=mixed"], "it is for mse_gt and joint_ce"),
        (["loss.hard_target=mixed", "loss.name=cosine"], "it is for mse_gt and joint_ce"),
        (["views.randaugment_kind=timm"], "without views.randaugment"),
        (["views.randaugment_kind=timm", "views.randaugment=2", "views.randaugment_magnitude=11"], "magnitudes go to 10"),
    ],
)
def test_knobs_that_contradict_one_another_are_refused(digits, overrides, wanted):
    with pytest.raises(UserError, match=wanted):
        protocol.load("rd3-v1").override(overrides).resolve(digits, "convnet3", 1, 10, "soft")


def edited(tmp_path, old, new):
    text = (protocol.RELEASED / "rd3-v1.toml").read_text().replace('name = "rd3-v1"', 'name = "mine"', 1)
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    "old, new, wanted",
    [
        ("epochs = 400\n", "", "lacks epochs"),
        ("epochs = 400\n", "epochs = 400\nepocks = 1\n", "unknown field 'epocks'"),
        ("epochs = 400\n", 'epochs = "400"\n', "wanted int"),
        ('schedule = "cosine"', 'schedule = "cosin"', "did you mean 'cosine'"),
        ("image_size_min = 128", "image_sise_min = 128", "unknown condition"),
        ('"training.zeta" = 1.0', '"training.zeeta" = 1.0', "unknown knob"),
        ('"loss.name" = "stated: KL"\n', "", "lacks loss.name"),
        ("[training]", "[training", "not valid TOML"),
        ("image_size_min = 128", 'image_size_min = "128"', "wanted int"),
        ('student = ["resnet18", "resnet18_cifar", "resnet18.*"]', 'student = "resnet18"', "wanted a list"),
        ("[arms.plain]", "[arms.plian]", "did you mean 'plain'"),
        ('"loss.name" = "stated: KL"', '"loss.name" = 3', "unknown source"),
        ("when = { image_size_min = 128 }", "when = 3", "wanted exactly the tables"),
        ("when = { image_size_min = 128 }", "source = 3\nwhen = { image_size_min = 128 }", "a text 'source' if any"),
    ],
)
def test_a_wrong_protocol_file_is_named(tmp_path, old, new, wanted):
    with pytest.raises(UserError, match=wanted):
        protocol.load(str(edited(tmp_path, old, new)))


def test_a_file_cannot_pass_as_a_released_protocol(tmp_path):
    text = (protocol.RELEASED / "rd3-v1.toml").read_text()
    (tmp_path / "rd3-v1.toml").write_text(text)
    assert protocol.load(str(tmp_path / "rd3-v1.toml")).digest == protocol.load("rd3-v1").digest
    (tmp_path / "rd3-v1.toml").write_text(text.replace("epochs = 400", "epochs = 5", 1))
    with pytest.raises(UserError, match="takes the released name"):
        protocol.load(str(tmp_path / "rd3-v1.toml"))


def test_a_protocol_of_ones_own_is_a_file(tmp_path):
    mine = protocol.load(str(edited(tmp_path, "epochs = 400", "epochs = 30")))
    assert (mine.name, mine.training.epochs) == ("mine", 30)


@pytest.mark.parametrize("name", benchmark.names())
def test_a_benchmark_is_complete(name):
    b = benchmark.load(name)
    assert len(b.classes) > 1 and 0 < b.defaults.teacher_floor < 1 and all(0 < c.top1 < 1 for c in b.full_data)
