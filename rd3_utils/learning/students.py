"""Students: name -> network. timm's, plus the field's ConvNets and small-image ResNets registered as timm architectures.

Importing this module registers the architectures, so that a saved student reloads bit for bit with
`timm.create_model("local-dir:FOLDER", pretrained=True)`.
"""

import json
import os
from pathlib import Path

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from rd3_utils.errors import UserError, unknown

SMALL = 64  # pixels: up to this size `resnet18` means the network with the small-image stem


class ConvNet(nn.Module):
    """The field's ConvNet-D: D blocks of 3x3 convolution, norm, ReLU, 2x2 average pooling; then one linear layer.

    Width 128; instance norm (affine, as group norm with one channel per group) or batch norm, as in Gidaris & Komodakis,
    CVPR 2018, and VICO-UoE/DatasetCondensation networks.py. The linear layer reads the whole last map, so the input size
    `img_size` is part of the architecture.
    """

    def __init__(self, depth=3, norm="instance", num_classes=10, in_chans=3, img_size=32, width=128, **_):
        super().__init__()
        size = img_size if isinstance(img_size, int) else img_size[0]
        self.depth, self.num_classes, self.in_chans = depth, num_classes, in_chans
        side = size // 2**depth
        if side < 1:
            raise UserError(f"convnet{depth} halves the image {depth} times; {size} px is too small, use 2^{depth} or more.")
        blocks, channels = [], in_chans
        for _ in range(depth):
            normalise = nn.GroupNorm(width, width) if norm == "instance" else nn.BatchNorm2d(width)
            blocks += [nn.Conv2d(channels, width, 3, padding=1), normalise, nn.ReLU(), nn.AvgPool2d(2)]
            channels = width
        self.features = nn.Sequential(*blocks)
        self.num_features = self.head_hidden_size = width * side * side
        self.classifier = nn.Linear(self.num_features, num_classes)

    def get_classifier(self):
        return self.classifier

    def reset_classifier(self, num_classes, global_pool=None):
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x):
        return self.features(x)  # [B, 128, S / 2^D, S / 2^D]

    def forward_head(self, x, pre_logits=False):
        x = x.flatten(1)
        return x if pre_logits else self.classifier(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))  # [B, C]


class SmallImageResNet(ResNet):
    """timm's ResNet with the stem for 32 and 64 px: 3x3 convolution of stride 1, no max-pooling.

    As LINs-lab/RDED synthesize/utils.py:193-204 and the SRe2L small-dataset code.
    """

    def __init__(self, *args, in_chans=3, **kwargs):
        super().__init__(*args, in_chans=in_chans, **kwargs)
        self.conv1 = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)
        self.maxpool = nn.Identity()
        self.init_weights(zero_init_last=False)


CONVNETS = {f"convnet{d}{norm}": (d, norm) for d in range(1, 7) for norm in ("", "_bn")}
RESNETS = {
    "resnet18_cifar": (BasicBlock, (2, 2, 2, 2)),
    "resnet34_cifar": (BasicBlock, (3, 4, 6, 3)),
    "resnet50_cifar": (Bottleneck, (3, 4, 6, 3)),
    "resnet101_cifar": (Bottleneck, (3, 4, 23, 3)),
}
OWN = {
    **{name: f"ConvNet, {d} blocks, {'batch' if norm else 'instance'} norm" for name, (d, norm) in CONVNETS.items()},
    **{name: f"{name.removesuffix('_cifar')} with a 3x3 stride-1 stem and no max-pooling" for name in RESNETS},
}


def register(name, cls, head, **arguments):
    """Make `name` a timm architecture that builds `cls(**arguments)`."""

    def entrypoint(pretrained=False, **kwargs):
        return build_model_with_cfg(cls, name, pretrained, **{**arguments, **kwargs})

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    globals()[name] = entrypoint
    register_model(entrypoint)


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": dict(
            url="", num_classes=10, input_size=(3, 32, 32), pool_size=None, crop_pct=1.0, interpolation="bilinear",
            mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),  # replaced by the benchmark's when a student is created
            fixed_input_size=name in CONVNETS, first_conv="features.0" if name in CONVNETS else "conv1",
            classifier="classifier" if name in CONVNETS else "fc",
            license=None,
        )
        for name in OWN
    }
)  # fmt: skip
__all__ = []  # timm's register_model appends the architectures
for _name, (_depth, _norm) in CONVNETS.items():
    register(_name, ConvNet, "classifier", depth=_depth, norm="batch" if _norm else "instance")
for _name, (_block, _layers) in RESNETS.items():
    register(_name, SmallImageResNet, "fc", block=_block, layers=_layers)


def architecture(name, benchmark):
    """The timm architecture that `name` means on this benchmark: at most 64 px, resnet18 is resnet18_cifar.

    UserError with the nearest name when there is none.
    """
    plain, _, _ = name.partition(".")
    if benchmark.image.size <= SMALL and f"{plain}_cifar" in RESNETS:
        return f"{plain}_cifar"
    if not timm.is_model(plain):
        known = {*OWN, "resnet18", "resnet34", "resnet50", "resnet101", "mobilenetv2_100", "efficientnet_b0"}
        near = known if any(part in name.lower() for part in ("convnet", "resnet")) else known | set(timm.list_models())
        error = unknown("student", name, near)
        raise error if near == known else UserError(str(error).split("Known:")[0] + "See python -m rd3_utils list.")
    return name


def create(name, benchmark, seed):
    """An untrained network for `benchmark`, its weights drawn from `seed` alone.

    With batch norm its kernels lie channels-last, which CPUs and GPUs compute faster; group norm is slower that way.
    """
    arch = architecture(name, benchmark)
    sized = {"img_size": benchmark.image.size} if takes_image_size(arch) else {}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = timm.create_model(arch, num_classes=len(benchmark.classes), **sized)
        with torch.no_grad():
            network.eval()(torch.zeros(2, 3, benchmark.image.size, benchmark.image.size))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"student {arch} cannot be built for {benchmark.image.size} px images: {reason}") from error
    return network.to(memory_format=torch.channels_last) if has_batch_norm(network) else network


def takes_image_size(arch):
    """Whether an architecture is built for one input size."""
    return arch in CONVNETS or arch.startswith(("vit_", "deit", "swin", "beit", "eva", "maxvit", "mixer", "xcit"))


def has_batch_norm(network):
    """Whether rows of a batch influence one another in training."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def save(network, folder, benchmark):
    """Write config.json and model.safetensors in timm's layout, with the benchmark's class names and normalisation."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.partial")
    data = benchmark.image
    network = network.to(memory_format=torch.contiguous_format)  # what safetensors stores
    timm.models.save_for_hf(
        network,
        temporary,
        model_config={"label_names": list(benchmark.classes), "pretrained_cfg": {"tag": "rd3", "license": None}},
        safe_serialization=True,
        data_config={
            "input_size": (3, data.size, data.size),
            "mean": data.mean,
            "std": data.std,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(temporary.iterdir(), key=lambda file: file.name != "model.safetensors"):  # config.json last
        file.chmod(0o644)
        os.replace(file, folder / file.name)
    temporary.rmdir()


def read_config(folder):
    """config.json of a saved student; UserError when the folder holds none."""
    path = Path(folder) / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"'{folder}' is no saved network: {path.name} is missing or not JSON.") from error
