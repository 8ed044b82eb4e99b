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

BASE = ["views.crop=none", "views.crop_scale=[0.3, 1]", "views.patch_shuffle=1", "views.mix=none", "views.mix_probability=1",
        "views.group=5"]  # fmt: skip
EXAMPLES = {  # where type, range and choices do not tell a value that does something, or what it needs
    "views.crop_scale": ["views.crop=random_resized", "views.crop_scale=[0.3, 0.6]"],
    "views.crop_ratio": ["views.crop=random_resized", "views.crop_ratio=[0.5, 2]"],
    "views.padding": ["views.crop=pad", "views.padding=0.25"],
    "views.group": ["views.mix=cutmix", "views.group=3"],
    "views.dsa": ["views.dsa=color_crop"],
}
ELSEWHERE = {"views.flip", "views.zca"}  # digits have no mirror images; whitening is of hard labels, and drawn for nobody
OF_VIEWS = sorted({f"views.{field.name}" for field in dataclasses.fields(SECTIONS["views"])} - ELSEWHERE)
ROWS = torch.arange(10)


def at_work(key):
    """Assignments under which a knob of views does something; the last one is its own."""
    if key in EXAMPLES:
        return EXAMPLES[key]
    base = protocol.load("rd3-v1").override(BASE)
    told, now = KNOBS[key].metadata, dict(base.overrides).get(key, getattr(base.views, key.split(".")[1]))
    others = [choice for choice in told["choices"] or () if choice not in (now, told["plain"])]
    value = others[0] if others else {int: 2, float: 0.3}[KNOBS[key].type]  # of another type: give an example
    return [*(at_work(f"views.{told['of']}") if told["of"] else []), f"{key}={value}"]


def recipe_of(digits, assignments, labels="soft"):
    return protocol.load("rd3-v1").override([*BASE, *assignments]).resolve(digits, "convnet3", 1, 10, labels)


def seen(drawn, rows=ROWS):
    """(the grey levels of ten images of noise, those of the views `drawn` of them)."""
    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images[rows].float(), views.apply(images, drawn, rows, (0.0,) * 3, (1 / 255,) * 3)


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


@pytest.mark.parametrize("key", OF_VIEWS)
def test_a_knob_of_views_is_off_in_the_plain_arm(key, digits):
    """Nothing can be forgotten: a knob says what it is when a view is the image itself, or of which knob it is a part."""
    told, name = KNOBS[key].metadata, key.split(".")[1]
    assert told["plain"] is not None or KNOBS[f"views.{told['of']}"].metadata["plain"] is not None
    recipe = recipe_of(digits, at_work(key), "plain")
    if told["plain"] is not None:
        assert getattr(recipe.views, name) == told["plain"] == PLAIN[name]
    images, plain = seen(views.draw(recipe, 0, 3))
    assert torch.allclose(images, plain, atol=1e-3)


@pytest.mark.parametrize("key", OF_VIEWS)
def test_a_knob_of_views_changes_views_row_by_row_and_a_store_holds_what_was_planned(key, digits, tmp_path):
    assignments = at_work(key)
    recipe, without = recipe_of(digits, assignments), recipe_of(digits, assignments[:-1])
    assert recipe.views_digest != without.views_digest
    drawn = [views.draw(recipe, 0, epoch) for epoch in (0, 1)]
    together = [seen(one)[1] for one in drawn]
    assert any(not torch.equal(x, seen(views.draw(without, 0, epoch))[1]) for epoch, x in enumerate(together))
    assert torch.equal(together[0], torch.cat([seen(drawn[0], row[None])[1] for row in ROWS]))
    used = {column for column in COLUMNS if column.numbers(stated(recipe.views))}
    found = {column for column in COLUMNS if getattr(drawn[0], column.name) is not None}
    assert used == {column for column in found if column.key != "patch_order" or recipe.views.patch_shuffle > 1}
    what = {"images": {}, "class_names": tuple("0123456789"), "teachers": (), "teachers_id": "0" * 8, "ensemble": "mean"}
    how = {"views_seed": 0, "label_dtype": "fp16", "forward_batch": 10, "device": "cpu", "shard_mb": 256}
    size = {"epochs": 2, "rows": 10, "classes": 10, "image_size": recipe.image_size, "border": soft_labels.border_of(recipe)}
    plan = soft_labels.StorePlan(**what, **how, **size, views=stated(recipe.views), views_digest=recipe.views_digest)
    soft_labels.write_shard(tmp_path / "labels.safetensors", plan, 0, 2, drawn, torch.zeros(2, 10, 10))
    with safe_open(tmp_path / "labels.safetensors", "pt") as shard:
        tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    assert sum(tensor.nbytes for tensor in tensors.values()) == 2 * plan.epoch_bytes
    assert soft_labels.planned_bytes(recipe, "fp16") == plan.epoch_bytes * recipe.label_epochs
    for column in used:  # the same numbers and types, drawn or read
        stored = tensors[column.key].to(getattr(torch, column.in_memory))
        assert torch.equal(stored, torch.stack([getattr(one, column.name) for one in drawn])), column.key
        assert stored.dtype == getattr(drawn[0], column.name).dtype


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
    wanted = [assignment for key in OF_VIEWS if key in NEUTRAL for assignment in at_work(key)]
    wanted += ["training.warmup_epochs=2", "training.warmup_apart=true", "training.ema_decay=0.9"]
    sets = [word for pair in wanted for word in ("--set", pair)]
    done = script("train_student", "--dry-run", "--teacher", "default", *sets)
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.out.splitlines() if "=" in line and line.split()[0] in SECTIONS}
    for pair in wanted:
        key, _, value = pair.partition("=")
        section, name = key.split(".")
        assert f"{name}={value.capitalize() if value == 'true' else value}" in lines[section], key
    assert lines.keys() == SECTIONS.keys()
