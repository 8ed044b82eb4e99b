"""A student starts as torchvision's network does: every tensor has the distribution that torchvision draws it from."""

import dataclasses

import pytest
import timm
import torch
import torchvision
from test_networks import benchmark_of
from torch import nn

from rd3_utils.learning import initialisation, students
from rd3_utils.scoring import measure
from rd3_utils.scoring.runs import Network

SIGMAS = 6  # how far two samples of one distribution may lie apart


def small_stem():
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)  # as LINs-lab/RDED synthesize/utils.py:193-204
    return network


def small_vit():
    return torchvision.models.VisionTransformer(32, 4, 12, 12, 768, 3072, num_classes=10)


STOCK = {  # our name: torchvision's
    "resnet18": "resnet18",
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv3_small_100": "mobilenet_v3_small",
    "efficientnet_b0": "efficientnet_b0",
    "densenet121": "densenet121",
}
SLOW = {
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "wide_resnet50_2": "wide_resnet50_2",
    "resnext50_32x4d": "resnext50_32x4d",
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "vgg11": "vgg11",
    "vgg11_bn": "vgg11_bn",
    "vit_base_patch16_224": "vit_b_16",
    "swin_tiny_patch4_window7_224": "swin_t",
    "convnext_tiny": "convnext_tiny",
}
CASES = [
    *[pytest.param(ours, 224, 1000, theirs, id=ours) for ours, theirs in STOCK.items()],
    pytest.param("resnet18", 32, 10, small_stem, id="resnet18 at 32 px"),
    *[pytest.param(ours, 224, 1000, theirs, id=ours, marks=pytest.mark.slow) for ours, theirs in SLOW.items()],
    pytest.param("vit_base", 32, 10, small_vit, id="vit_base at 32 px", marks=pytest.mark.slow),
]


def profile(network):
    """[(numbers, mean, std, fourth moment over the squared variance)] of every parameter, those of equal size side by side.

    Within 8 standard deviations: torch's trunc_normal_ makes about one number in 2^24 the lower end of its range, 100 of them.
    """
    found = []
    for p in network.parameters():
        p = p.detach().flatten().double()
        p = p.clamp(p.mean() - 8 * p.std(), p.mean() + 8 * p.std()) if p.numel() > 1 else p
        std = float(p.std()) if p.numel() > 1 else 0.0
        kurtosis = float(((p - p.mean()) ** 4).mean() / p.var(correction=0) ** 2) if std > 1e-12 else 0.0
        found.append((p.numel(), float(p.mean()), std, kurtosis))
    return sorted(found, key=lambda one: (one[0], round(one[2], 2), one[2] > 1e-12, one[3] > 2.4, one[1]))


def apart(mine, theirs):
    """What two tensors of one distribution cannot differ by, or None."""
    n, mean, std, kurtosis = mine
    if (n, std > 1e-12) != (theirs[0], theirs[2] > 1e-12):
        return "size or constancy"
    if std <= 1e-12:
        return None if mean == pytest.approx(theirs[1], abs=1e-12) else "constant"
    spread = theirs[2]
    if abs(mean - theirs[1]) > SIGMAS * spread * (2 / n) ** 0.5:
        return "mean"
    if abs(std / spread - 1) > SIGMAS * (1 / n) ** 0.5:
        return "std"
    return "kind" if n > 3000 and abs(kurtosis - theirs[3]) > 0.6 else None  # 1.8 of a uniform, 3 of a normal distribution


@pytest.mark.parametrize("name, size, classes, theirs", CASES)
def test_every_tensor_is_drawn_as_torchvision_draws_it(digits, name, size, classes, theirs):
    oracle = theirs() if callable(theirs) else torchvision.models.get_model(theirs, num_classes=classes)
    ours = profile(students.create(name, benchmark_of(digits, size, classes), 0))
    theirs = profile(oracle)
    assert len(ours) == len(theirs)
    found = [(mine, other, what) for mine, other in zip(ours, theirs) if (what := apart(mine, other))]
    assert not found, found[:5]


def test_the_comparison_sees_what_timm_draws_otherwise():
    """timm's own ResNet-18: residual branches off; MobileNetV2: depthwise kernels five times as wide."""
    for name, theirs in (("resnet18", "resnet18"), ("mobilenetv2_100", "mobilenet_v2")):
        network, oracle = timm.create_model(name, num_classes=10), torchvision.models.get_model(theirs, num_classes=10)
        assert any(apart(mine, other) for mine, other in zip(profile(network), profile(oracle)))


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_every_residual_branch_is_on(digits, name, size):
    network = students.create(name, benchmark_of(digits, size, 10), 0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(bool((norm.weight == 1).all()) and bool((norm.bias == 0).all()) for norm in norms)


@pytest.mark.parametrize("name", ["convnet3", "convnet3_bn"])
def test_a_convnet_is_torchs_layers_drawn_one_after_another_to_the_bit(digits, name):
    """Their Runs of every age may stand in one mean."""
    network = students.create(name, benchmark_of(digits, 32, 10), 3)
    torch.manual_seed(3)
    blocks = [[nn.Conv2d(channels, 128, 3), nn.BatchNorm2d(128)] for channels in (3, 128, 128)]
    oracle = nn.Sequential(*blocks[0], *blocks[1], *blocks[2], nn.Linear(128 * 4 * 4, 10))
    pairs = list(zip(network.parameters(), oracle.parameters(), strict=True))
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs) and initialisation.version(name) == 1


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("densenet121", {}),
        ("swin_tiny_patch4_window7_224", {"img_size": 32}),
        ("swin_tiny_cifar", {"img_size": 32, "patch_size": 2, "window_size": 4}),
        ("deit_tiny_patch16_224", {"img_size": 32}),
    ],
)
def test_networks_that_no_rule_names_are_timms_to_the_bit(digits, name, arguments):
    network = students.create(name, benchmark_of(digits, 32, 10), 3)
    torch.manual_seed(3)
    oracle = timm.create_model(name.replace("cifar", "patch4_window7_224"), num_classes=10, **arguments)
    mine, theirs = network.state_dict(), oracle.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert initialisation.version(name) == 1


def test_networks_of_two_initialisations_are_two_networks():
    """A Run of a ResNet that does not say how it was drawn never stands beside one of today's."""
    from making_runs import made

    now = made(student="resnet18_cifar", network={"architecture": "resnet18_cifar", "initialisation": 2})
    before = dataclasses.replace(now, schema=1, network=Network("resnet18_cifar", 1))
    assert str(measure.same_measure(before, now)) == "initialisation of the network: 1 and 2"
    assert measure.same_measure(now, dataclasses.replace(now, seed=1))
