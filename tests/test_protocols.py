"""Protocols and benchmarks: strict files, digests that hold, rules that resolve, overrides that show."""

import dataclasses

import pytest

from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark, protocol

RELEASED = {  # a released file never changes; a correction is a new version
    "rd3-v1": "974086290837",
    "hard-label-v1": "dd5df7a75b44",
    "teacher-v1": "bc77c0bb5e7f",
}


@pytest.mark.parametrize("name", protocol.names())
def test_a_released_protocol_keeps_its_digest(name):
    assert protocol.load(name).digest == RELEASED[name]


@pytest.mark.parametrize("name", protocol.names())
def test_every_knob_names_its_source(name):
    found = protocol.load(name)
    knobs = [f"{section}.{knob}" for section in protocol.SECTIONS for knob in protocol.stated(getattr(found, section))]
    assert len(knobs) > 30 and all(found.sources[knob].strip() for knob in knobs)


@pytest.mark.parametrize("knob", protocol.all_knobs())
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
        (["training.warmup_apart=true"], "without training.warmup_epochs"),
        (["training.warmup_start=0.01"], "without training.warmup_epochs"),
        (["training.learning_rates=[0.1, 0.01]"], "the search is for hard labels"),
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
