"""Dropout and stochastic depth of students: torchvision's where a protocol states them, mask by mask of a training step."""

import json

import pytest
import torch
import torchvision

from rd3_utils.data import views
from rd3_utils.errors import UserError
from rd3_utils.learning import dropping, students, training
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols

PAIRS = [  # timm's name, torchvision's, dropout and stochastic depth of timm's own
    ("vgg11", "vgg11", 0, 0),
    ("mobilenetv2_100", "mobilenet_v2", 0, 0),
    ("efficientnet_b0", "efficientnet_b0", 0, 0),
    ("swin_tiny_patch4_window7_224", "swin_t", 0, 0.1),
    *[pytest.param(*names, marks=pytest.mark.slow) for names in (
        ("swinv2_tiny_window8_256", "swin_v2_t", 0, 0.1),
        ("vit_base_patch16_224", "vit_b_16", 0, 0),
        ("resnet18", "resnet18", 0, 0),
        ("densenet121", "densenet121", 0, 0),
    )],
]  # fmt: skip


def network(name, benchmark, protocol, *overrides):
    """What `protocol` builds, in shapes without numbers."""
    recipe = protocols.load(protocol).override(overrides).resolve(benchmark, name, 10, 10 * len(benchmark.classes), "soft")
    with torch.device("meta"):
        return students.create(name, benchmark, 0, **recipe.training.drops)


@pytest.mark.parametrize("ours, theirs, dropout, depth", PAIRS)
def test_a_training_step_draws_the_masks_of_torchvisions_network(ours, theirs, dropout, depth):
    """The probability of every mask, in order, under rded-v2; timm's own under rded-v1."""
    imagenet = benchmarks.load("imagenet-1k")
    with torch.device("meta"):
        wanted = dropping.drop_probabilities(torchvision.models.get_model(theirs, weights=None), 224)
    assert dropping.drop_probabilities(network(ours, imagenet, "rded-v2"), 224) == wanted
    older = dropping.drop_probabilities(network(ours, imagenet, "rded-v1"), 224)
    assert max(older["dropout"], default=0) == dropout and max(older["stochastic_depth"], default=0) == depth


def test_masks_are_told_apart_by_what_they_leave_out():
    """Written out: two layers of dropout, one of them half; nothing where the rate is 0; whole images."""

    class Net(torch.nn.Module):
        def forward(self, x):
            x = torch.nn.functional.dropout(x, 0.25, self.training)
            x = torch.nn.functional.dropout(x, 0.5, self.training)
            x = torch.nn.functional.dropout(x, 0.0, self.training)
            return torchvision.ops.stochastic_depth(x, 0.125, "row", self.training)

    net = Net().eval()
    assert dropping.drop_probabilities(net, 8) == {"dropout": [0.25, 0.5], "stochastic_depth": [0.125]} and not net.training
    with pytest.raises(UserError, match="student net keeps a dropout of 0.5 .* and training.dropout is 0"):
        dropping.check_drops(net, "net", 8, 0.0, dropping.STOCK)


def test_looking_at_the_masks_of_a_network_leaves_it_as_it_is(digits):
    net = students.create("convnet2_bn", digits, 0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert dropping.drop_probabilities(net, 8) == {"dropout": [], "stochastic_depth": []}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_student_starts_with_the_same_weights_whatever_it_leaves_out(digits):
    plain = students.create("resnet18", digits, 3).state_dict()
    dropped = students.create("resnet18", digits, 3, dropout=0.5, stochastic_depth=0.2).state_dict()
    assert plain.keys() == dropped.keys() and all(torch.equal(plain[name], dropped[name]) for name in plain)


@pytest.mark.parametrize("name, depth", [("swin_tiny_cifar", 0), ("convnet3", 0), ("vgg11", 0), ("swin_tiny_cifar", 0.2)])
def test_a_rate_of_zero_switches_off_what_timm_has_and_is_allowed_where_there_is_none(name, depth):
    """VGG does not know the word drop_path_rate, the ConvNets know neither."""
    cifar = benchmarks.load("cifar10")
    found = dropping.drop_probabilities(
        network(name, cifar, "rd3-v1", "training.dropout=0", f"training.stochastic_depth={depth}"), 32
    )
    assert found["dropout"] == [] and max(found["stochastic_depth"], default=0) == depth


@pytest.mark.parametrize(
    "name, knob, wanted",
    [
        ("convnet3", "dropout", "student convnet3 has no dropout in it, and training.dropout is 0.2"),
        ("convnet3_bn", "stochastic_depth", "has no stochastic depth in it, and training.stochastic_depth is 0.2"),
        ("vgg11", "stochastic_depth", "student vgg11 has no stochastic depth in it"),
    ],
)
def test_a_network_without_a_place_for_a_rate_is_refused(name, knob, wanted):
    with pytest.raises(UserError, match=wanted):
        network(name, benchmarks.load("cifar10"), "rd3-v1", f"training.{knob}=0.2")


def test_a_network_without_dropout_ends_a_command_before_anything_is_trained(script, tmp_path):
    done = script("train_student", "--protocol", "hard-label-v1", "--set", "training.dropout=0.2")
    assert done.code == 2 and done.err.count("\n") == 1 and "set it to -1 (as timm's network has it) or 0" in done.err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("text", ["dropout=-0.5", "dropout=1", "stochastic_depth=1.5", "stochastic_depth=-2"])
def test_a_rate_that_is_none_is_named(text):
    with pytest.raises(UserError, match=r"wanted -1 \(as timm's network has it\) or a fraction from 0 to below 1"):
        protocols.load("rd3-v1").override([f"training.{text}"])


def test_a_training_leaves_out_what_its_protocol_states(script, tmp_path, digits, ten, recipe):
    """One step of ten digits: its loss is that of the network with both knobs, drawn with the seed of the epoch."""
    knobs = "training.epochs=1", "training.dropout=0.5", "training.stochastic_depth=0.3"
    words = [word for knob in knobs for word in ("--set", knob)]
    what = "--distilled", "random:ipc=1,seed=0", "--student", "test_resnet"
    done = script("train_student", "--protocol", "hard-label-v1", *what, *words)
    assert done.code == 0, done.err
    (run,) = (json.loads(path.read_text()) for path in tmp_path.glob("results/**/seed0.json"))
    stated = run["recipe"]["training"]
    assert (stated["dropout"], stated["stochastic_depth"]) == (0.5, 0.3)
    r = recipe("hard-label-v1", ten, student="test_resnet", labels="hard")
    drawn = views.draw(r, 0, 0)
    (rows,) = training.batches(r, drawn.order, 0, 0)
    x, y = views.apply(ten.images, drawn, rows, r.mean, r.std), ten.labels[rows]
    losses = []
    for rates in ({"dropout": 0.5, "stochastic_depth": 0.3}, {"dropout": 0.5}, {"stochastic_depth": 0.3}, {}):
        net = students.create("test_resnet", digits, 0, **rates).train()
        training.seed_epoch(0, 0, 0)
        losses.append(torch.nn.functional.cross_entropy(net(x), y).item())
    assert run["history"][0]["loss"] == pytest.approx(losses[0], rel=1e-4)
    assert all(abs(losses[0] - other) > 1e-3 for other in losses[1:])
