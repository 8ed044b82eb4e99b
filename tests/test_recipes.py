"""Every released protocol trains a student through the real script, a few steps on twenty digits."""

import json
import math

import pytest
import torch

from rd3_utils.data import images
from rd3_utils.learning import training
from rd3_utils.protocols import benchmark
from rd3_utils.protocols import protocol as protocols

SHORT = "training.epochs=2", "labels.teachers=1", "labels.architectures=[]", "labels.ensemble=mean"
OWN = "datm-v1", "wmdd-v1"  # they read what only some sets have: labels, weights


@pytest.fixture(scope="module")
def learned(select, tmp_path_factory):
    """A set of twenty digits with labels and weights of its own."""
    found, folder = select("random:ipc=2,seed=0"), tmp_path_factory.mktemp("sets") / "learned"
    logits = 3 * torch.nn.functional.one_hot(found.labels, 10).float()
    own = {"soft_labels": logits, "weights": torch.linspace(0.5, 1.5, 20)}
    images.save(images.make("learned", found.images, found.labels, found.class_names, "learned", **own), folder)
    return folder


@pytest.mark.parametrize("name", protocols.names())
def test_every_released_protocol_trains_a_student(script, tmp_path, learned, name):
    words = [word for knob in SHORT for word in ("--set", knob)]
    what = "--distilled", learned if name in OWN else "random:ipc=2,seed=0", "--student", "convnet3_bn", "--teacher", "default"
    words += [] if name in (*OWN, "rd3-v1", "hard-label-v1") else ["--runs-only"]  # of those four a card, too: a second each
    done = script("train_student", "--protocol", name, *what, *words)
    assert done.code == 0, done.err
    (run,) = (json.loads(path.read_text()) for path in tmp_path.glob("results/**/seed0.json"))
    assert run["protocol"]["name"] == name and len(run["history"]) == 2
    assert 0 < run["top1"] < 1 and all(math.isfinite(entry["loss"]) for entry in run["history"])


def cosine(share):
    return (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    "name, bench, student, ipc, rates",  # epoch -> learning rate
    [
        ("sre2l", "imagenet-1k", "resnet18", 10, {0: 0.001, 150: 0.0005, 299: 0.001 * cosine(299 / 300)}),
        ("sre2l", "cifar100", "resnet18_cifar", 10, {0: 0.001, 200: 0.0005, 399: 0.001 * cosine(399 / 400)}),
        ("rded", "imagenet-1k", "resnet18", 10, {0: 0.001, 150: 0.001 * cosine(1 / 4), 299: 0.001 * cosine(299 / 600)}),
        ("scdd", "cifar100", "resnet18_cifar", 50, {0: 0.001, 100: 0.001 * cosine(100 / 600), 199: 0.001 * cosine(199 / 600)}),
        ("cvdd", "cifar100", "resnet101_cifar", 10, {0: 0.0005, 150: 0.00025, 299: 0.0005 * cosine(299 / 300)}),
        ("fadrm", "imagenet-1k", "resnet101", 1, {0: 0.0035, 150: 0.0035 * cosine(1 / 4), 299: 0.0035 * cosine(299 / 600)}),
        ("edc", "cifar10", "resnet18_cifar", 10, {0: 0.001, 799: 0.001, 800: 0.0005, 899: 0.0005, 900: 0.00025, 999: 0.000125}),
        ("minimax-hard", "imagewoof", "resnet18", 10, {0: 0.01, 1332: 0.01, 1333: 0.002, 1666: 0.0004, 1999: 0.0004}),
        ("dsa", "cifar10", "convnet3", 10, {0: 0.01, 499: 0.01, 500: 0.001, 999: 0.001}),
        ("sre2l", "tiny-imagenet", "resnet18_cifar", 50,
         {0: 0.002, 1: 0.2 * (0.01 + 0.99 / 5), 5: 0.2, 50: 0.2 * cosine(45 / 95), 99: 0.2 * cosine(94 / 95)}),
    ],
)  # fmt: skip
def test_a_protocol_follows_its_originals_learning_rate(name, bench, student, ipc, rates):
    bench, found = benchmark.load(bench), protocols.load(f"{name}-v1")
    recipe = found.resolve(bench, student, ipc, ipc * len(bench.classes), next(iter(found.arms)))
    ours = {epoch: training.learning_rate(recipe, epoch * recipe.steps_per_epoch) for epoch in rates}
    assert ours == pytest.approx(rates, rel=1e-9)
