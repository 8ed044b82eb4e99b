"""Command lines for people: each parses back, through the real parser, to the options that it was written from."""

import dataclasses
import random
import shlex

import pytest

from rd3_utils import command_lines
from rd3_utils.cli import label, train
from rd3_utils.options import PUBLISH, LabelOptions, TrainOptions, unpublished

PARSERS = {TrainOptions: train.parse, LabelOptions: label.parse}
TEXTS = [
    "a",
    "my set/",
    "it's",
    "$HOME",
    "-o",
    "--out",
    "a=b",
    "hf-hub:A/B@main",
    "*.png",
    "ü",
    "random:ipc=1,seed=0",
    "a\nb",
]
NUMBERS = [0, 1, 7, 2**40]
COUNTS = [1, 7, 1000]  # what every bounded number may be
CHOICES = {"full_hard": ["trained", "cited"], "keep_weights": ["first", "all"], "log_with": [None, "wandb"],
           "labels": ["soft", "plain"], "label_dtype": ["fp16", "u8"], "label_cache_gb": [None, 0.5, 1e-7, 40.0],
           "check_labels": [None, 0, 3],
           "seeds": [(0,), (1,), (3, 1, 2)]}  # fmt: skip


def any_value(kind, field, draw):
    """A value that the option `field` may have; every kind of value comes up."""
    if field.name in CHOICES:
        return draw.choice(CHOICES[field.name])
    if field.name == "views_seed":
        return draw.choice([*NUMBERS, "each"] if kind is TrainOptions else NUMBERS)
    if isinstance(field.default, bool):
        return draw.random() < 0.5
    if field.name == "draw":
        return draw.choice([None, *NUMBERS])
    if isinstance(field.default, int) or field.name == "workers":
        return draw.choice(COUNTS + [field.default])
    if isinstance(field.default, tuple):
        return tuple(draw.choices(TEXTS, k=draw.randrange(3)))
    return draw.choice([field.default, *TEXTS])


def read(line):
    """(options, words before the script) of a command as a shell and the real parser read it."""
    words = shlex.split(line)
    kind, place = next((kind, words.index(script)) for kind, script in command_lines.SCRIPTS.items() if script in words)
    return PARSERS[kind](words[place + 1 :]), words[:place]


@pytest.mark.parametrize("kind", PARSERS)
def test_a_command_parses_back_to_the_options_that_it_was_written_from(kind):
    draw = random.Random(0)
    for k in range(500):
        changed = [field for field in dataclasses.fields(kind) if draw.random() < (0.1, 0.5, 1)[k % 3]]
        options = kind(**{field.name: any_value(kind, field, draw) for field in changed})
        stated = draw.sample([field.name for field in dataclasses.fields(kind)], k % 4)
        precision = draw.choice(["fp32", "bf16", "fp16"])
        line = command_lines.launch(options, stated, precision=precision)
        assert read(line) == (
            options,
            ["accelerate", "launch", *(["--mixed_precision", precision] if precision != "fp32" else [])],
        )


@pytest.mark.parametrize("kind", PARSERS)
def test_without_options_a_command_has_none_and_is_parsed_to_the_defaults(kind):
    assert PARSERS[kind]([]) == kind() and command_lines.option_words(kind()) == []


def test_options_cannot_be_changed_on_the_way():
    with pytest.raises(dataclasses.FrozenInstanceError):
        train.parse([]).out = "elsewhere"


def test_a_command_on_a_card_publishes_nothing():
    options = TrainOptions(push_to="a/b", tag="v1", private=True, create_pr=True, push_only=True, seeds=(1,))
    assert unpublished(options) == TrainOptions(seeds=(1,)) and unpublished(LabelOptions(with_images=True)) == LabelOptions()
    assert {field.name for kind in PARSERS for field in dataclasses.fields(kind)} >= set(PUBLISH)


def test_the_labels_that_were_made_are_those_that_training_then_looks_for():
    made = label.parse(shlex.split("--benchmark cifar10 --set a=1 --teacher x --teacher y --labels plain --out o --data-dir d"))
    wanted = "--benchmark cifar10 --set a=1 --teacher x --teacher y --arms distilled-plain --soft-labels o --data-dir d"
    assert made.for_training() == train.parse(shlex.split(wanted))


@pytest.mark.parametrize("argv, wanted", [
    (["train_student.py", "--seeds", "1"], "accelerate launch --mixed_precision no train_student.py --seeds 1 --push-only"),
    (["/usr/bin/rd3", "train"], "accelerate launch --mixed_precision no -m rd3_utils train --push-only"),
    (["x/__main__.py", "train", "--push-only"], "accelerate launch --mixed_precision no -m rd3_utils train --push-only"),
])  # fmt: skip
def test_a_push_is_tried_again_with_the_command_and_the_precision_that_it_had(argv, wanted):
    assert command_lines.repeated(argv, "--push-only", precision="fp32") == wanted


def test_a_command_is_repeated_as_it_was_given():
    assert command_lines.repeated(["rd3", "label", "--tag", "v1"], other_tag=True) == "rd3 label --tag ANOTHER"
    assert command_lines.repeated(["rd3", "label", "--tag=v1", "x"], other_tag=True) == "rd3 label --tag=ANOTHER x"
    assert (
        command_lines.repeated(["/x/rd3_utils/__main__.py", "publish", "a b", "c/d"]) == "python -m rd3_utils publish 'a b' c/d"
    )
