"""Every knob and every loss, through all that derives from its declaration: range, digest, plain arm, store, docs."""

import dataclasses
import importlib.util

import pytest
import torch
from conftest import PROJECT
from safetensors import safe_open

from rd3_utils.data import soft_labels, views
from rd3_utils.errors import UserError
from rd3_utils.learning import losses
from rd3_utils.protocols import protocol
from rd3_utils.protocols.knobs import COLUMNS, KNOBS, LOSSES, NEUTRAL, PLAIN, SECTIONS, check_knob, stated

# one value of each knob of views that does something, alone or with what it needs
AT_WORK = {
    "views.crop": ["views.crop=random_resized"],
    "views.patch_shuffle": ["views.patch_shuffle=2"],
    "views.mix": ["views.mix=mixup", "views.group=5", "views.mix_probability=1"],
    "views.group": ["views.group=5", "views.mix=cutmix", "views.mix_probability=1"],
    "views.randaugment": ["views.randaugment=2"],
    "views.randaugment_kind": ["views.randaugment=2", "views.randaugment_kind=timm", "views.randaugment_magnitude=9"],
    "views.randaugment_magnitude": ["views.randaugment=2", "views.randaugment_magnitude=5"],
    "views.dsa": ["views.dsa=color_crop"],
    "views.color_jitter": ["views.color_jitter=0.4"],
    "views.lighting": ["views.lighting=0.1"],
    "views.mix_pairing": ["views.mix=cutmix", "views.mix_pairing=roll", "views.group=5", "views.mix_probability=1"],
    "views.crop_scale": ["views.crop=random_resized", "views.crop_scale=[0.3, 0.6]"],
    "views.crop_ratio": ["views.crop=random_resized", "views.crop_ratio=[0.5, 2]"],
    "views.padding": ["views.crop=pad", "views.padding=0.25"],
    "views.mix_alpha": ["views.mix=cutmix", "views.mix_alpha=0.3", "views.group=5", "views.mix_probability=1"],
    "views.mix_probability": ["views.mix=cutmix", "views.mix_probability=0.3", "views.group=5"],
    "views.mix_per": ["views.mix=cutmix", "views.mix_per=row", "views.group=5", "views.mix_probability=1"],
}
ELSEWHERE = {"views.flip", "views.zca"}  # digits have no mirror images; whitening is of hard labels, and drawn for nobody


@pytest.mark.parametrize("key", KNOBS)
def test_a_knob_has_words_and_a_range_that_its_released_values_keep(key):
    section, name = key.split(".")
    told = KNOBS[key].metadata
    assert told["text"] and len(told["text"]) < 100
    for released in protocol.names():
        value = getattr(getattr(protocol.load(released), section), name)
        assert check_knob(key, value, released) == value
    for side, outside in (("above", told["above"]), ("least", None if told["least"] is None else told["least"] - 1)):
        if outside is not None:
            with pytest.raises(UserError, match="wanted"):
                check_knob(key, type(NEUTRAL.get(key, outside))(outside), side)
    if told["choices"]:
        with pytest.raises(UserError, match="Known"):
            check_knob(key, "none of these", "a test")


@pytest.mark.parametrize("key", KNOBS)
def test_a_knob_at_work_moves_the_digest_and_a_later_one_at_rest_does_not(key):
    section, name = key.split(".")
    plain = protocol.load("rd3-v1")
    at_rest = stated(getattr(plain, section))
    if key in NEUTRAL and getattr(getattr(plain, section), name) == NEUTRAL[key]:
        assert name not in at_rest  # a file that came before it has the digest that it had
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.2, tuple: lambda v: (*v, 0.5)}
    value = getattr(getattr(plain, section), name)
    choices = [choice for choice in KNOBS[key].metadata["choices"] or () if choice != value]
    changed = choices[0] if choices else other.get(type(value), lambda v: "groups:7" if "b" in name[-2:] else "color")(value)
    moved = dataclasses.replace(plain, **{section: dataclasses.replace(getattr(plain, section), **{name: changed})})
    assert moved.digest != plain.digest


@pytest.mark.parametrize(
    "key", sorted(set(KNOBS) & {f"views.{f.name}" for f in dataclasses.fields(SECTIONS["views"])} - ELSEWHERE)
)
def test_a_knob_of_views_is_off_in_the_plain_arm(key, digits):
    """Nothing can be forgotten: a knob says what it is when a view is the image itself, or of which knob it is a part."""
    told, name = KNOBS[key].metadata, key.split(".")[1]
    assert told["plain"] is not None or KNOBS[f"views.{told['of']}"].metadata["plain"] is not None
    recipe = protocol.load("rd3-v1").override(AT_WORK[key]).resolve(digits, "convnet3", 1, 10, "plain")
    if told["plain"] is not None:
        assert getattr(recipe.views, name) == told["plain"] == PLAIN[name]
    drawn = views.draw(recipe, 0, 3)
    images = torch.randint(
        0, 256, (10, 3, recipe.image_size, recipe.image_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    seen = views.apply(images, drawn, torch.arange(10), (0.0,) * 3, (1.0,) * 3)
    assert torch.allclose(seen * 255, images.float(), atol=1e-3)


@pytest.mark.parametrize("key", sorted(AT_WORK))
def test_a_knob_of_views_changes_views_and_a_store_holds_what_was_planned(key, digits, tmp_path):
    base = ["views.crop=none", "views.patch_shuffle=1", "views.mix=none", "views.group=1"]
    plain = protocol.load("rd3-v1").override(base).resolve(digits, "convnet3", 1, 10, "soft")
    recipe = protocol.load("rd3-v1").override(base).override(AT_WORK[key]).resolve(digits, "convnet3", 1, 10, "soft")
    assert recipe.views_digest != plain.views_digest
    names = {column.field or column.key for column in COLUMNS if column.width(stated(recipe.views))}
    drawn = [views.draw(recipe, 0, epoch) for epoch in (0, 1)]
    optional = {column.field or column.key for column in COLUMNS}
    used = {name for name in optional if getattr(drawn[0], name) is not None}
    assert names == used - ({"patch_order"} if recipe.views.patch_shuffle == 1 else set())
    what = {"images": {}, "class_names": tuple("0123456789"), "teachers": (), "teachers_id": "0" * 8, "ensemble": "mean"}
    how = {"views_seed": 0, "label_dtype": "fp16", "forward_batch": 10, "device": "cpu", "shard_mb": 256}
    size = {"epochs": 2, "rows": 10, "classes": 10, "image_size": recipe.image_size, "border": soft_labels.border_of(recipe)}
    plan = soft_labels.StorePlan(**what, **how, **size, views=stated(recipe.views), views_digest=recipe.views_digest)
    soft_labels.write_shard(tmp_path / "labels.safetensors", plan, 0, 2, drawn, torch.zeros(2, 10, 10))
    with safe_open(tmp_path / "labels.safetensors", "pt") as shard:
        tensors = [shard.get_tensor(name) for name in shard.keys()]  # noqa: SIM118
    assert sum(tensor.nbytes for tensor in tensors) == 2 * plan.epoch_bytes
    assert soft_labels.planned_bytes(recipe, "fp16") == plan.epoch_bytes * recipe.label_epochs


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_reads_what_it_says(name):
    """Its gradient and its value move with what it reads, and with nothing else."""
    reads = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    student, teacher, other = (torch.randn(6, 5, generator=generator) for _ in range(3))
    classes, partners = torch.arange(6) % 5, (torch.arange(6) + 1) % 5
    shown = torch.full((6,), 0.7)
    loss = SECTIONS["loss"](
        name=name, temperature=2.0, t_squared=False, hard_weight=0.5, hard_target="own", image_weights=False
    )

    def value(teacher=teacher, classes=classes, partners=partners, **changes):
        with_changes = dataclasses.replace(loss, **changes)
        return losses.LOSSES[name](student, teacher, classes, partners, shown, with_changes)

    def moves(**changes):
        return not torch.allclose(value(**changes).float(), value().float())

    assert moves(teacher=other) == reads.teacher
    assert moves(temperature=5.0) == moves(t_squared=True) == reads.temperature
    assert moves(hard_weight=2.0) == reads.hard_term
    assert moves(hard_target="mixed") == reads.hard_target
    assert moves(classes=partners) == (reads.hard_term or not reads.teacher)


def test_every_loss_has_a_function_and_every_function_a_declaration():
    assert losses.LOSSES.keys() == LOSSES.keys() == set(KNOBS["loss.name"].metadata["choices"])


def test_the_page_of_knobs_is_what_the_declarations_say():
    spec = importlib.util.spec_from_file_location("render_knobs", PROJECT / "docs/render_knobs.py")
    render_knobs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render_knobs)
    assert (PROJECT / "docs/knobs.md").read_text() == render_knobs.page()


def test_a_dry_run_shows_every_knob_that_is_at_work(script):
    later = "views.mix=none views.randaugment=2 views.randaugment_kind=timm views.randaugment_magnitude=7 views.dsa=color "
    later += (
        "views.color_jitter=0.4 views.lighting=0.1 training.warmup_epochs=2 training.warmup_apart=true training.ema_decay=0.9"
    )
    sets = [word for pair in later.split() for word in ("--set", pair)]
    done = script("train_student", "--dry-run", "--teacher", "default", *sets)
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.out.splitlines() if "=" in line and line.split()[0] in SECTIONS}
    for pair in later.split():
        key, _, value = pair.partition("=")
        section, name = key.split(".")
        assert f"{name}={value.capitalize() if value == 'true' else value}" in lines[section], key
    assert lines.keys() == SECTIONS.keys()
