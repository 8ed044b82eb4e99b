"""Names of the networks that are ours beside timm's, and what they are; the networks themselves are in students.py."""

CONVNETS = {f"convnet{d}{norm}": (d, norm) for d in range(1, 7) for norm in ("", "_bn")}
RESNETS = {  # name: (bottleneck blocks, blocks of each stage)
    "resnet18_cifar": (False, (2, 2, 2, 2)),
    "resnet34_cifar": (False, (3, 4, 6, 3)),
    "resnet50_cifar": (True, (3, 4, 6, 3)),
    "resnet101_cifar": (True, (3, 4, 23, 3)),
}
TRANSFORMERS = {
    "vit_base_cifar": "ViT-B for small images: 8x8 patches at any size",
    "swin_tiny_cifar": "Swin-T for small images: 16x16 patches at any size, windows of 4x4",
}
OWN = {
    **{name: f"ConvNet-{d}, {'batch' if norm else 'instance'} norm" for name, (d, norm) in CONVNETS.items()},
    **{name: f"{name.removesuffix('_cifar')} with a 3x3 stride-1 stem and no max-pooling" for name in RESNETS},
    **TRANSFORMERS,
}
