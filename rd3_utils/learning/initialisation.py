"""How the weights of a student are drawn: as torchvision draws them, where RULES names the network; else as timm does.

The field trains torchvision's networks. timm builds the same ones and draws some of them otherwise: it switches the residual
branches of a ResNet off, for one. Each rule here follows the constructor of torchvision's class (torchvision/models/*.py), and
a test compares every tensor with it. Of DenseNet, Swin and ConvNeXt both draw alike. What torchvision lacks keeps timm's; so do
families that no protocol here trains, though torchvision draws them otherwise: RegNet, EfficientNetV2, MNASNet.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Timm = Any  # a network of timm whose parts are named: torch knows of them only that they are tensors or modules


def convolutions(network: nn.Module) -> None:
    """He's normal by fan-out for every convolution, no bias; norms that do nothing (torchvision's CNNs, all alike)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def resnet(network: Timm) -> None:
    """torchvision/models/resnet.py: residual branches are on (zero_init_residual=False); fc as torch draws it."""
    convolutions(network)
    network.fc.reset_parameters()


def small_image_resnet(network: Timm) -> None:
    """The same with the 3x3 stem put in afterwards, as torch draws it: LINs-lab/RDED synthesize/utils.py:193-204."""
    resnet(network)
    network.conv1.reset_parameters()


def mobilenet(network: nn.Module) -> None:
    """torchvision/models/mobilenetv2.py, mobilenetv3.py: kernels of depthwise convolutions by the fan-out of all channels."""
    convolutions(network)
    linear_layers(network, lambda weight: nn.init.normal_(weight, 0, 0.01))


def mobilenet_v3(network: Timm) -> None:
    """The same; timm writes the hidden layer of the classifier as a convolution, which is drawn as the linear one it is."""
    mobilenet(network)
    nn.init.normal_(network.conv_head.weight, 0, 0.01)


def efficientnet(network: nn.Module) -> None:
    """torchvision/models/efficientnet.py: the last layer uniform to 1 / sqrt(classes)."""
    convolutions(network)
    linear_layers(network, lambda weight: nn.init.uniform_(weight, -1 / math.sqrt(len(weight)), 1 / math.sqrt(len(weight))))


def vgg(network: Timm) -> None:
    """torchvision/models/vgg.py. timm writes the first two linear layers as convolutions; they are drawn as linear ones."""
    convolutions(network)
    for module in (network.pre_logits.fc1, network.pre_logits.fc2, network.head.fc):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


def vision_transformer(network: Timm) -> None:
    """torchvision/models/vision_transformer.py: Glorot's uniform inside blocks, and a last layer of zeros."""
    patches = network.patch_embed.proj
    nn.init.trunc_normal_(patches.weight, std=math.sqrt(1 / patches.weight[0].numel()))
    nn.init.zeros_(patches.bias)
    nn.init.normal_(network.pos_embed, std=0.02)
    nn.init.zeros_(network.cls_token)
    for block in network.blocks:
        nn.init.xavier_uniform_(block.attn.qkv.weight)  # as one matrix [3 d, d]
        nn.init.kaiming_uniform_(block.attn.proj.weight, a=math.sqrt(5))  # torch's default of a linear layer
        nn.init.zeros_(block.attn.qkv.bias)
        nn.init.zeros_(block.attn.proj.bias)
        for layer in (block.mlp.fc1, block.mlp.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)


def linear_layers(network: nn.Module, draw: Callable[[torch.Tensor], Any]) -> None:
    """Call `draw` on the weight of every linear layer; biases become 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            draw(module.weight)
            nn.init.zeros_(module.bias)


RULES: dict[str, Callable[[nn.Module], None]] = {  # timm's name -> the rule; `resnet50.a1_in1k` is resnet50
    **{f"resnet{depth}_cifar": small_image_resnet for depth in (18, 34, 50, 101)},
    **{f"resnet{depth}": resnet for depth in (18, 34, 50, 101, 152)},
    **{name: resnet for name in "resnext50_32x4d resnext101_32x8d resnext101_64x4d wide_resnet50_2 wide_resnet101_2".split()},
    "mobilenetv2_100": mobilenet,
    **{f"mobilenetv3_{size}_100": mobilenet_v3 for size in ("small", "large")},
    **{f"efficientnet_b{i}": efficientnet for i in range(8)},
    **{f"vgg{depth}{norm}": vgg for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
    **{f"vit_{kind}": vision_transformer for kind in "base_cifar base_patch16_224 base_patch32_224".split()},
    **{f"vit_{kind}": vision_transformer for kind in "large_patch16_224 large_patch32_224 huge_patch14_224".split()},
}


def draw_weights(name: str, network: nn.Module) -> None:
    """Draw the weights of `network`, which timm has just built as `name`, again where torchvision has a rule for it."""
    rule = RULES.get(name.partition(".")[0])
    if rule is not None:
        rule(network)


def version(name: str) -> int:
    """Which initialisation students called `name` have: 2 where torchvision's took the place of timm's, 1 where none changed.

    3 for MobileNetV3, one layer of which was drawn as a convolution under 2. Runs of two versions are of two networks. A Run
    that states none is of version 1.
    """
    rule = RULES.get(name.partition(".")[0])
    return 1 if rule is None else 3 if rule is mobilenet_v3 else 2
