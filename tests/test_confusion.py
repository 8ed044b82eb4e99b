"""Swapped classes are told, poor images are not: circles of classes that a teacher takes for one another."""

import dataclasses
import json

import pytest
import torch

from rd3_utils.data import images as image_sets
from rd3_utils.learning import confusion

NAMES = tuple("abcdefghij")


def table_of(answers):
    """The confusion_table of {class: [its images' answers]}; classes that are not named are recognised, 10 images each."""
    rows = {k: answers.get(k, [k] * 10) for k in range(len(NAMES))}
    labels = torch.tensor([k for k, mine in rows.items() for _ in mine])
    return confusion.confusion_table(torch.tensor(sum(rows.values(), [])), labels, len(NAMES))


def told(answers):
    return [(one.own, one.taken_for, one.times, one.images) for one in confusion.mistaken(table_of(answers), NAMES)]


def test_a_table_counts_as_a_plain_loop_does():
    answers, labels = torch.randint(0, 4, (2, 50), generator=torch.Generator().manual_seed(0))
    table = confusion.confusion_table(answers, labels, 4)
    assert all(table[a, b] == sum(x == a and y == b for x, y in zip(labels, answers)) for a in range(4) for b in range(4))


@pytest.mark.parametrize("answers, wanted", [
    ({2: [5] * 10, 5: [2] * 10}, [("c", "f", 10, 10), ("f", "c", 10, 10)]),
    ({2: [5] * 10, 5: [2] * 9 + [5]}, [("c", "f", 10, 10), ("f", "c", 9, 10)]),
    ({0: [1] * 6, 1: [2] * 6, 2: [0] * 6}, [("a", "b", 6, 6), ("b", "c", 6, 6), ("c", "a", 6, 6)]),
    ({k: [(k + 1) % 10] for k in range(10)}, [(a, b, 1, 1) for a, b in zip("abcdefghij", "bcdefghija")]),
    ({2: [5] * 5, 5: [2] * 5}, []),  # five images may be taken for a look-alike by chance
    ({2: [5] * 7 + [2] * 3, 5: [2] * 7 + [5] * 3}, []),
    ({k: [3] * 10 for k in range(10)}, []),  # images that all look alike
    ({2: [5] * 10}, []),  # one class of poor images
    ({2: [5], 5: [2], 7: [8], 8: [7]}, []),  # one image per class
])  # fmt: skip
def test_circles_that_chance_would_not_make_are_told(answers, wanted):
    assert told(answers) == wanted


def test_honest_sets_of_look_alikes_and_of_noise_seldom_cry_wolf():
    """Every class is taken for its look-alike half of the time; or answers have nothing to do with classes."""
    draw, alarms = torch.Generator().manual_seed(0), {"look-alikes": 0, "noise": 0}
    for _ in range(1000):
        for ipc in (1, 10):
            labels = torch.arange(10).repeat_interleave(ipc)
            coin = torch.randint(0, 2, labels.shape, generator=draw)
            weights = torch.rand(10, generator=draw) ** 4
            noise = torch.multinomial(weights, len(labels), replacement=True, generator=draw)
            for kind, answers in (("look-alikes", torch.where(coin == 0, labels, labels ^ 1)), ("noise", noise)):
                alarms[kind] += bool(confusion.mistaken(confusion.confusion_table(answers, labels, 10), NAMES))
    assert max(alarms.values()) <= 8  # of 2,000 each; two looks of CHANCE allow 4 in the mean


@pytest.fixture(scope="module")
def ten_each(select):
    return select("random:ipc=10,seed=0")


SHORT = "--set", "training.epochs=1", "--set", "labels.epochs=1"


def saved(images, folder, order):
    """The folder of `images` with the class k called `order[k]`."""
    labels = torch.tensor(order)[images.labels]
    image_sets.save(dataclasses.replace(images, labels=labels), folder)
    return folder


def test_swapped_classes_are_said_when_labels_are_made_and_by_run_and_card(script, ten_each, tmp_path):
    swapped = saved(ten_each, tmp_path / "mine", [0, 1, 2, 5, 4, 3, 6, 7, 8, 9])
    done = script("train_student", "--distilled", swapped, "--teacher", "default", "--student", "convnet1", *SHORT[:2])
    assert done.code == 0, done.err
    text = "mine: classes look swapped to the teacher: images of class 3 are taken for 5 in 9 of 10, of class 5 are taken for"
    assert done.err.count(text) == 1
    (path,) = tmp_path.glob("results/**/seed0.json")
    run = json.loads(path.read_text())
    assert run["labels"]["mistaken"][0] == {"own": "3", "taken_for": "5", "times": 9, "images": 10}
    assert text in next(tmp_path.glob("results/**/README.md")).read_text()


def test_classes_that_all_stand_in_another_order_are_refused_before_labels_are_made(script, ten_each, tmp_path):
    rolled = saved(ten_each, tmp_path / "mine", [*range(1, 10), 0])
    done = script("generate_soft_labels", "--distilled", rolled, *SHORT[:2])
    assert done.code == 2 and "stand in another order than the teacher learned" in done.err
    assert not list(tmp_path.glob("soft_labels/**/*.safetensors")) and done.err.count("error:") == 1


def test_verify_shows_a_set_to_a_teacher(script, ten_each, tmp_path):
    swapped = saved(ten_each, tmp_path / "mine", [0, 1, 2, 5, 4, 3, 6, 7, 8, 9])
    done = script("rd3_utils", "verify", swapped, "--teacher", "default", "--data-dir", f"digits={tmp_path}", "--json")
    rows = {row["claim"]: row for row in json.loads(done.out)["checks"]}
    row = rows["its classes are those that they are called"]
    assert row["outcome"] == "contradicted" and "images of class 3 are taken for 5 in 9 of 10" in row["why"] and done.code == 1
    done = script("rd3_utils", "verify", "digits-dm-ipc10", "--teacher", "default", "--json")
    rows = {row["claim"]: row for row in json.loads(done.out)["checks"]}
    assert rows["its classes are those that they are called"]["outcome"] == "confirmed" and done.code == 3
