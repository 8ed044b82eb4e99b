"""Students: name -> network. timm's, plus the field's ConvNets and networks for small images, registered with timm.

Importing this module registers the architectures, so that a saved student reloads bit for bit with
`timm.create_model("local-dir:FOLDER", pretrained=True)`.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._hub import save_config_for_hf
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rd3_utils import bounded, files, hub, limits
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import dropping, initialisation
from rd3_utils.learning.architectures import CONVNETS, OWN, RESNETS
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.knobs import STOCK

SMALL = 64  # pixels: up to this size `resnet18` means the network with the small-image stem
SIZES = ("num_classes", "num_features", "model_args", "pretrained_cfg")  # keys of a config.json that say how large a network is
# what networks raise that do not take an image of some size
MISFITS = (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, ArithmeticError, LookupError)


class ConvNet(nn.Module):
    """The field's ConvNet-D: D blocks of 3x3 convolution, norm, ReLU, 2x2 average pooling; then one linear layer.

    Width 128; instance norm (affine, as group norm with one channel per group) or batch norm, as in Gidaris & Komodakis,
    CVPR 2018, and VICO-UoE/DatasetCondensation networks.py. The linear layer reads the whole last map, so the input size
    `img_size` is part of the architecture.
    """

    def __init__(
        self,
        depth: int = 3,
        norm: str = "instance",
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        width: int = 128,
        **ignored: Any,
    ) -> None:
        super().__init__()
        size = image_side(img_size)
        self.depth, self.num_classes, self.in_chans = depth, num_classes, in_chans
        side = size // 2**depth
        if side < 1:
            raise UserError(f"convnet{depth} halves the image {depth} times; {size} px is too small, use 2^{depth} or more.")
        blocks: list[nn.Module] = []
        channels = in_chans
        for _ in range(depth):
            normalise = nn.GroupNorm(width, width) if norm == "instance" else nn.BatchNorm2d(width)
            blocks += [nn.Conv2d(channels, width, 3, padding=1), normalise, nn.ReLU(), nn.AvgPool2d(2)]
            channels = width
        self.features = nn.Sequential(*blocks)
        self.num_features = self.head_hidden_size = width * side * side
        self.classifier = nn.Linear(self.num_features, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # [B, 128, S / 2^D, S / 2^D]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = x.flatten(1)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))  # [B, C]


class SmallImageResNet(ResNet):
    """timm's ResNet with the stem for 32 and 64 px: 3x3 convolution of stride 1, no max-pooling.

    As LINs-lab/RDED synthesize/utils.py:193-204 and the SRe2L small-dataset code.
    """

    def __init__(self, *args: Any, in_chans: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, in_chans=in_chans, **kwargs)  # type: ignore[misc]
        self.conv1 = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)  # type: ignore[assignment]
        self.maxpool = nn.Identity()  # type: ignore[assignment]


def small_image_vit_base(img_size: int | tuple[int, int] = 32, **arguments: Any) -> VisionTransformer:
    """timm's ViT-B with patches an eighth of the image's side: 64 tokens, where patches of 16 px leave 4 of a 32 px image."""
    return VisionTransformer(
        img_size=img_size, patch_size=patch_side(img_size, 8), embed_dim=768, depth=12, num_heads=12, **arguments
    )


def small_image_swin_tiny(img_size: int | tuple[int, int] = 32, **arguments: Any) -> SwinTransformer:
    """timm's Swin-T with a first map of 16x16 patches and windows of 4x4: maps of side 16, 8, 4 and 2 at any image size.

    With the stock patches of 4 px the last map of a 32 px image has one pixel, and attention nothing to attend to.
    """
    return SwinTransformer(
        img_size=img_size, patch_size=patch_side(img_size, 16), window_size=4, embed_dim=96, depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24), **arguments,
    )  # fmt: skip


def patch_side(img_size: int | tuple[int, int], across: int) -> int:
    """Pixels per side of a patch where `across` patches span the image; UserError where that is no whole number."""
    size = image_side(img_size)
    if size % across:
        raise UserError(f"this network cuts the image into {across}x{across} patches; {size} px is no multiple of {across}.")
    return size // across


def image_side(img_size: int | tuple[int, int]) -> int:
    """The side of a square image, which timm gives as a number or as (height, width)."""
    return img_size if isinstance(img_size, int) else img_size[0]


BUILDERS: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "vit_base_cifar": (small_image_vit_base, "head"),
    "swin_tiny_cifar": (small_image_swin_tiny, "head.fc"),
}


def register(name: str, build: Callable[..., nn.Module], **arguments: Any) -> None:
    """Make `name` a timm architecture that `build(**arguments)` makes."""

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(build, name, pretrained, **{**arguments, **kwargs})

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    globals()[name] = entrypoint
    register_model(entrypoint)


def untrained_cfg(first_conv: str, classifier: str, fixed_input_size: bool) -> dict:
    """timm's description of an architecture without weights; the benchmark's size and normalisation come when it is saved."""
    return {
        "url": "", "num_classes": 10, "input_size": (3, 32, 32), "pool_size": None, "crop_pct": 1.0, "license": None,
        "interpolation": "bilinear", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "first_conv": first_conv,
        "classifier": classifier, "fixed_input_size": fixed_input_size,
    }  # fmt: skip


default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.untrained": untrained_cfg("features.0", "classifier", True) for name in CONVNETS},
        **{f"{name}.untrained": untrained_cfg("conv1", "fc", False) for name in RESNETS},
        **{f"{name}.untrained": untrained_cfg("patch_embed.proj", head, True) for name, (_, head) in BUILDERS.items()},
    }
)
__all__: list[str] = []  # timm's register_model appends the architectures
for _name, (_depth, _norm) in CONVNETS.items():
    register(_name, ConvNet, depth=_depth, norm="batch" if _norm else "instance")
for _name, (_bottleneck, _layers) in RESNETS.items():
    register(_name, SmallImageResNet, block=Bottleneck if _bottleneck else BasicBlock, layers=_layers)
for _name, (_build, _) in BUILDERS.items():
    register(_name, _build)


def architecture(name: str, benchmark: Benchmark) -> str:
    """The timm architecture that `name` means on this benchmark: at most 64 px, resnet18 is resnet18_cifar, vit_base and
    swin_tiny alike.

    UserError with the nearest name when there is none, and for a tag that timm does not have.
    """
    plain, _, _ = name.partition(".")
    if benchmark.image.size <= SMALL and f"{plain}_cifar" in OWN:
        return f"{plain}_cifar"
    if not timm.is_model(plain):
        known = {*OWN, "resnet18", "resnet34", "resnet50", "resnet101", "mobilenetv2_100", "efficientnet_b0"}
        near = known if any(part in name.lower() for part in ("convnet", "resnet")) else known | set(timm.list_models())
        error = unknown("student", name, near)
        raise error if near == known else UserError(str(error).split("Known:")[0] + "See python -m rd3_utils list.")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"unknown student '{name}': {error}") from error
    return name


def create(name: str, benchmark: Benchmark, seed: int, dropout: float = STOCK, stochastic_depth: float = STOCK) -> nn.Module:
    """An untrained network for `benchmark`, its weights drawn from `seed` alone, by the rules of `initialisation`.

    `dropout` and `stochastic_depth` are the protocol's knobs: by default what timm gives the network; weights stay the same.
    With batch norm its kernels lie channels-last, which CPUs and GPUs compute faster; group norm is slower that way.
    UserError for an unknown name and for a network that does not take the benchmark's images, or has no place for a knob.
    """
    arch = architecture(name, benchmark)
    size, classes = benchmark.image.size, len(benchmark.classes)
    cfg = timm.get_pretrained_cfg(arch)
    assert cfg is not None  # every architecture of timm has one
    # built for one size, timm's own unless told another
    sized: dict[str, Any] = {"img_size": size} if cfg.fixed_input_size else {}

    def make(**rates: Any) -> nn.Module:
        torch.manual_seed(seed)
        return timm.create_model(arch, num_classes=classes, **sized, **rates)

    try:
        with torch.random.fork_rng(devices=[]):
            network = dropping.built(make, arch, dropout, stochastic_depth)
            initialisation.draw_weights(arch, network)
        with torch.no_grad():
            shape = tuple(network.eval()(torch.zeros(2, 3, size, size)).shape)
    except MISFITS as error:
        raise UserError(
            f"student {arch} cannot be built for {size} px images (timm's size for it: {cfg.input_size[-1]} px): "
            f"{hub.one_line(error)}"
        ) from error
    if shape != (2, classes):
        raise UserError(f"student {arch} answers two images with shape {shape}, wanted (2, {classes}): it is no classifier.")
    dropping.check_drops(network, arch, size, dropout, stochastic_depth)
    flat = all(p.ndim < 5 for p in network.parameters())  # channels-last is for kernels of two dimensions
    return network.to(memory_format=torch.channels_last) if flat and has_batch_norm(network) else network


def describe_network(name: str, network: nn.Module) -> dict:
    """What a Run records of its network: enough to tell it from others of the same name, and to build it again.

    `dropout` and `stochastic_depth` are the largest probabilities in it; `parameters` are numbers, all of them.
    """
    depth = [cast(float, module.drop_prob) for module in network.modules() if hasattr(module, "drop_prob")]
    dropout = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    return {
        "architecture": name,
        "initialisation": initialisation.version(name),
        "dropout": float(max([getattr(network, "drop_rate", 0.0), *dropout])),
        "stochastic_depth": float(max(depth, default=0.0)),
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def has_batch_norm(network: nn.Module) -> bool:
    """Whether rows of a batch influence one another in training."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def save(network: nn.Module, folder: Path | str, benchmark: Benchmark) -> None:
    """Write config.json and model.safetensors in timm's layout, with the benchmark's class names and normalisation."""
    network = network.to(memory_format=torch.contiguous_format)  # what safetensors stores
    hook = network.register_state_dict_post_hook(copied)
    with files.whole_folder(folder, last="config.json", failures=(SafetensorError,)) as partial:
        timm.models.save_for_hf(
            network,
            str(partial),
            safe_serialization=True,
            **config_arguments(benchmark),
        )
        for file in partial.iterdir():
            file.chmod(0o644)
    hook.remove()


def config_arguments(benchmark: Benchmark) -> dict[str, Any]:
    """What timm writes into config.json of a student of `benchmark` beside what it knows of the network."""
    image = benchmark.image
    return {
        "model_config": {"label_names": list(benchmark.classes), "pretrained_cfg": {"tag": "rd3", "license": None}},
        "data_config": {
            "input_size": (3, image.size, image.size),
            "mean": image.mean,
            "std": image.std,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        },
    }


def config_of(network: nn.Module, benchmark: Benchmark) -> dict:
    """config.json as `save` writes it of `network`, which may lie on the device meta."""
    with tempfile.TemporaryDirectory() as folder:
        save_config_for_hf(network, f"{folder}/config.json", **config_arguments(benchmark))
        return read_timm_config(folder)


def copied(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    """Give every tensor of a state dict its own memory: the layers of timm's CoaT share some, which safetensors refuses."""
    state.update({key: value.clone() for key, value in state.items()})


def is_saved(folder: Path | str) -> bool:
    """Whether `folder` holds a whole saved student: its config.json is written last."""
    return (Path(folder) / "config.json").is_file()


def read_timm_config(folder: Path | str) -> dict:
    """config.json of a saved student; UserError when the folder holds none."""
    path = Path(folder) / "config.json"
    try:
        config = bounded.read_json(path, kind="a config.json")
    except bounded.Refused as refused:
        raise UserError(f"'{folder}' is no saved network: {path.name} is missing or not JSON ({refused}).") from refused
    if not isinstance(config, dict):
        raise UserError(f"'{folder}' is no saved network: {path.name} holds {bounded.shown(config)}, wanted a table.")
    for key, number in numbers_in(config):
        if number > limits.MOST_WIDTH:
            raise UserError(
                f"{path} states {bounded.shown(key)} {number}, wanted at most {limits.MOST_WIDTH}; no network is so large."
            )
    return config


def numbers_in(config: dict) -> Iterator[tuple[str, float]]:
    """(key, number) of all that a config.json states of its network's size: a builder makes layers of them."""
    stated = [(key, value) for key, value in config.items() if key in SIZES]
    while stated:
        key, value = stated.pop()
        if isinstance(value, (list, dict)):
            inner = value.items() if isinstance(value, dict) else [(key, one) for one in value]
            stated += [(str(name), one) for name, one in inner]
            yield key, len(value)
        elif isinstance(value, (int, float)):
            yield key, value
