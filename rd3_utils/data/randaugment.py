"""RandAugment as torchvision and as timm have it, on 8-bit images through PIL: the same bits everywhere."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as ops

from rd3_utils.data.streams import Stream, normal
from rd3_utils.protocols.knobs import ViewKnobs

LEVELS = 31  # magnitudes of RandAugment: 0 to 30


def affine(image: Image.Image, **change: Any) -> Image.Image:
    neutral = dict(angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0], interpolation=InterpolationMode.NEAREST)
    return ops.affine(image, **{**neutral, **change})


def degrees(tangent: float) -> float:
    return math.degrees(math.atan(tangent))


# RandAugment (Cubuk et al., CVPR Workshops 2020, arXiv 1909.13719) as torchvision's transforms.RandAugment states it:
# name -> (whether the magnitude gets a random sign, magnitude at level m of 0..30 for width w, operation)
TORCHVISION: dict[str, tuple[bool, Callable[[int, int], float], Callable]] = {
    "identity": (False, lambda m, w: 0, lambda image, v: image),
    "shear_x": (True, lambda m, w: 0.3 * m / 30, lambda image, v: affine(image, shear=[degrees(v), 0.0], center=[0, 0])),
    "shear_y": (True, lambda m, w: 0.3 * m / 30, lambda image, v: affine(image, shear=[0.0, degrees(v)], center=[0, 0])),
    "translate_x": (True, lambda m, w: 150 / 331 * w * m / 30, lambda image, v: affine(image, translate=[int(v), 0])),
    "translate_y": (True, lambda m, w: 150 / 331 * w * m / 30, lambda image, v: affine(image, translate=[0, int(v)])),
    "rotate": (True, lambda m, w: 30.0 * m / 30, ops.rotate),
    "brightness": (True, lambda m, w: 0.9 * m / 30, lambda image, v: ops.adjust_brightness(image, 1 + v)),
    "color": (True, lambda m, w: 0.9 * m / 30, lambda image, v: ops.adjust_saturation(image, 1 + v)),
    "contrast": (True, lambda m, w: 0.9 * m / 30, lambda image, v: ops.adjust_contrast(image, 1 + v)),
    "sharpness": (True, lambda m, w: 0.9 * m / 30, lambda image, v: ops.adjust_sharpness(image, 1 + v)),
    "posterize": (False, lambda m, w: 8 - round(4 * m / 30), ops.posterize),
    "solarize": (False, lambda m, w: 255 - 255 * m / 30, ops.solarize),
    "autocontrast": (False, lambda m, w: 0, lambda image, v: ops.autocontrast(image)),
    "equalize": (False, lambda m, w: 0, lambda image, v: ops.equalize(image)),
}
TORCHVISION_NAMES = list(TORCHVISION)


def draw_torchvision(stream: Stream, n: int, count: int, level: int) -> np.ndarray:
    """int64 [N, count]: torchvision's operations for every row, each as (operation * 31 + level) * 2 + (sign is minus)."""
    u = stream.uniform("randaugment", n, count, 2)
    kind = np.floor(u[..., 0] * len(TORCHVISION_NAMES)).astype(np.int64)
    signed = np.array([TORCHVISION[name][0] for name in TORCHVISION_NAMES])[kind]
    return (kind * LEVELS + level) * 2 + (signed & (u[..., 1] < 0.5))


def randaugment_torchvision(images: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, S, S] on the CPU: each image after the operations `codes` int64 [B, n], in order."""
    done = torch.empty_like(images)
    for i, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for code in codes[i].tolist():
            kind, level, minus = code // 2 // LEVELS, code // 2 % LEVELS, code % 2
            _, magnitude, operation = TORCHVISION[TORCHVISION_NAMES[kind]]
            value = magnitude(level, picture.width)
            picture = operation(picture, -value if minus else value)
        done[i] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return done


# timm's RandAugment "rand-m{level}-n{count}-mstd1.0" (timm.data.auto_augment, its operations at prob 0.5):
# name -> (whether the argument gets a random sign, argument at magnitude m of 0..10; None: none). Translations are a share of
# the image's side: hparams["translate_const"], 117 at 224 px in VILA-Lab/DELT evaluation/validation/main.py, is not read.
TIMM: dict[str, tuple[bool, Callable[[float], float] | None]] = {
    "AutoContrast": (False, None),
    "Equalize": (False, None),
    "Invert": (False, None),
    "Rotate": (True, lambda m: m / 10 * 30),
    "Posterize": (False, lambda m: int(m / 10 * 4)),
    "Solarize": (False, lambda m: min(256, int(m / 10 * 256))),
    "SolarizeAdd": (False, lambda m: min(128, int(m / 10 * 110))),
    "Color": (False, lambda m: m / 10 * 1.8 + 0.1),
    "Contrast": (False, lambda m: m / 10 * 1.8 + 0.1),
    "Brightness": (False, lambda m: m / 10 * 1.8 + 0.1),
    "Sharpness": (False, lambda m: m / 10 * 1.8 + 0.1),
    "ShearX": (True, lambda m: m / 10 * 0.3),
    "ShearY": (True, lambda m: m / 10 * 0.3),
    "TranslateXRel": (True, lambda m: m / 10 * 0.45),
    "TranslateYRel": (True, lambda m: m / 10 * 0.45),
}
TIMM_NAMES = list(TIMM)
MAGNITUDE_STD, LARGEST_MAGNITUDE = 1.0, 10.0


def draw_timm(stream: Stream, n: int, count: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [N, count], float32 [N, count]): timm's operations and their magnitudes.

    An operation is coded as ((operation * 2 + applied) * 2 + sign is minus) * 2 + resampled bicubic, not bilinear.
    """
    u = stream.uniform("randaugment timm", n, count, 5)
    code = np.floor(u[..., 0] * len(TIMM_NAMES)).astype(np.int64)
    for k in (1, 2, 3):  # applied, minus, bicubic: each with probability a half
        code = code * 2 + (u[..., k] < 0.5)
    magnitude = np.clip(level + MAGNITUDE_STD * normal(u[..., 4]), 0, LARGEST_MAGNITUDE)
    return code, magnitude.astype(np.float32)


def randaugment_timm(
    images: torch.Tensor, codes: torch.Tensor, magnitudes: torch.Tensor, mean: Sequence[float]
) -> torch.Tensor:
    """uint8 [B, 3, S, S] on the CPU: each image after the operations `codes` int64 [B, n] at `magnitudes`, in order.

    What moves in from outside has the colour `mean` (3 numbers in [0, 1]).
    """
    done = torch.empty_like(images)
    fill = tuple(min(255, round(255 * m)) for m in mean)
    for i, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for code, magnitude in zip(codes[i].tolist(), magnitudes[i].tolist()):
            kind, applied, minus, bicubic = code >> 3, code & 4, code & 2, code & 1
            if applied:
                name = TIMM_NAMES[kind]
                signed, argument = TIMM[name]
                value = [] if argument is None else [argument(magnitude) * (-1 if signed and minus else 1)]
                resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
                if name == "Posterize" and value == [0]:  # no bits are left, which Pillow 13 refuses
                    picture = Image.new("RGB", picture.size)
                else:
                    operation: Any = auto_augment.NAME_TO_OP[name]
                    picture = operation(picture, *value, fillcolor=fill, resample=resample)
        done[i] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return done


def draw_randaugment(stream: Stream, views: ViewKnobs, order: np.ndarray) -> tuple[np.ndarray, ...]:
    """The operations of every row, and of timm's their magnitudes."""
    asked = len(order), views.randaugment, views.randaugment_magnitude
    return draw_timm(stream, *asked) if views.randaugment_kind == "timm" else (draw_torchvision(stream, *asked),)


def randaugment(
    images: torch.Tensor, codes: torch.Tensor, magnitudes: torch.Tensor | None, mean: Sequence[float]
) -> torch.Tensor:
    """uint8 [B, 3, S, S] on the CPU: each image after what `draw` drew for it."""
    return randaugment_torchvision(images, codes) if magnitudes is None else randaugment_timm(images, codes, magnitudes, mean)
