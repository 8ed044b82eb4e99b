"""Operations on single images whose numbers are drawn with the views.

RandAugment comes first, on the source image, colour jitter and lighting after crop and flip, DSA on the result. RandAugment
works on 8-bit images through PIL and the jitter on whole grey levels, one rounding per operation: both have the same bits
everywhere. DSA works on normalised images in float32: another device may differ in the last bits.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as ops

if TYPE_CHECKING:
    from rd3_utils.data.views import Stream

LEVELS = 31  # magnitudes of RandAugment: 0 to 30


def affine(image: Image.Image, **change: Any) -> Image.Image:
    neutral = dict(angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0], interpolation=InterpolationMode.NEAREST)
    return ops.affine(image, **{**neutral, **change})


def degrees(tangent: float) -> float:
    return math.degrees(math.atan(tangent))


# RandAugment (Cubuk et al., CVPR Workshops 2020, arXiv 1909.13719) as torchvision's transforms.RandAugment states it:
# name -> (whether the magnitude gets a random sign, magnitude at level m of 0..30 for width w, operation)
OPERATIONS: dict[str, tuple[bool, Callable[[int, int], float], Callable]] = {
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
NAMES = list(OPERATIONS)


def draw_operations(stream: "Stream", n: int, count: int, level: int) -> np.ndarray:
    """int64 [N, count]: RandAugment's operations for every row, each as (operation * 31 + level) * 2 + (sign is minus)."""
    u = stream.uniform("randaugment", n, count, 2)
    kind = np.floor(u[..., 0] * len(NAMES)).astype(np.int64)
    signed = np.array([OPERATIONS[name][0] for name in NAMES])[kind]
    return (kind * LEVELS + level) * 2 + (signed & (u[..., 1] < 0.5))


def randaugment(images: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, S, S] on the CPU: each image after the operations `codes` int64 [B, n], in order."""
    done = torch.empty_like(images)
    for i, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for code in codes[i].tolist():
            kind, level, minus = code // 2 // LEVELS, code // 2 % LEVELS, code % 2
            _, magnitude, operation = OPERATIONS[NAMES[kind]]
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


def normal(u: np.ndarray) -> np.ndarray:
    """Standard normal numbers from uniform ones in [0, 1)."""
    from scipy.special import ndtri

    return ndtri(u + 2.0**-54)


def draw_timm(stream: "Stream", n: int, count: int, level: int) -> tuple[np.ndarray, np.ndarray]:
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


ORDERS = list(itertools.permutations(range(3)))  # of brightness, contrast, saturation


def draw_jitter(stream: "Stream", n: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N, 3], int64 [N]): torchvision's ColorJitter: factors in 1 +- strength, at least 0, and index in ORDERS."""
    u = stream.uniform("color jitter", n, 4)
    low, high = max(0.0, 1 - strength), 1 + strength
    return (low + u[:, :3] * (high - low)).astype(np.float32), np.floor(u[:, 3] * len(ORDERS)).astype(np.int64)


def color_jitter(x: torch.Tensor, factors: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Whole numbers 0..255 as float32 [B, 3, S, S] after the factors [B, 3] in the order of ORDERS[orders]; rounded down.

    As torchvision's adjust_brightness, adjust_contrast and adjust_saturation of 8-bit tensors.
    """
    order = torch.tensor(ORDERS, device=x.device)[orders]  # [B, 3]
    for step in range(3):
        for k, other in enumerate((black, mean_grey, grey)):
            rows = (order[:, step] == k).nonzero().flatten()
            own, factor = x[rows], factors[rows, k, None, None, None]
            rest = (1 - factor.double()).float()
            x = x.index_copy(0, rows, (factor * own + rest * other(own)).clamp(0, 255).floor())
    return x


def black(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x)


def grey(x: torch.Tensor) -> torch.Tensor:
    """Luma of 8-bit images, whole numbers [B, 1, S, S]."""
    red, green, blue = x.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()[:, None]


def mean_grey(x: torch.Tensor) -> torch.Tensor:
    """[B, 1, 1, 1], summed in float64: the same in every batch and on every device."""
    return grey(x).mean((1, 2, 3), keepdim=True, dtype=torch.float64).float()


# PCA noise on the colours (Krizhevsky et al., NeurIPS 2012, sec. 4.1); ImageNet's eigenvalues and, in columns, eigenvectors of
# RGB in [0, 1] as facebookarchive/fb.resnet.torch datasets/imagenet.lua, vimar-gu/MinimaxDiffusion 62fc435 data.py
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def draw_lighting(stream: "Stream", n: int, std: float) -> np.ndarray:
    """float32 [N, 3]: what is added to red, green and blue, in grey levels, as multiples of 2^-8 so that every sum is exact."""
    alpha = std * normal(stream.uniform("lighting", n, 3))
    noise = [sum(alpha[:, k] * EIGENVALUES[k] * vector[k] for k in range(3)) * 255 for vector in EIGENVECTORS]
    return (np.floor(np.stack(noise, 1) * 2**8 + 0.5) * 2.0**-8).astype(np.float32)


# Differentiable siamese augmentation (Zhao & Bilen, ICML 2021, arXiv 2102.08259), VICO-UoE/DatasetCondensation utils.py
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP_PAD, CUTOUT, FLIP, SCALE, ROTATE = 0.125, 0.5, 0.5, 1.2, 15.0


def color(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Brightness, saturation, contrast, in this order. Means in float64: their last bit then does not depend on the batch."""
    u = u[:, :, None, None, None]
    x = x + (u[:, 0] - 0.5) * BRIGHTNESS
    grey = x.mean(1, keepdim=True, dtype=torch.float64).float()
    x = (x - grey) * (u[:, 1] * SATURATION) + grey
    mean = x.mean((1, 2, 3), keepdim=True, dtype=torch.float64).float()
    return (x - mean) * (u[:, 2] + CONTRAST) + mean


def crop(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Moved by up to an eighth of the side each way, zeros moving in."""
    size = x.shape[-1]
    border = int(size * CROP_PAD + 0.5)
    shift = torch.floor(u[:, :2].double() * (2 * border + 1)).long() - border
    padded = F.pad(x, (border,) * 4)
    place = torch.arange(size, device=x.device) + border
    rows, columns = (place + shift[:, k, None] for k in (0, 1))  # [B, S]
    return padded[torch.arange(len(x), device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None]].movedim(3, 1)


def cutout(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """A square of half the side set to zero, at a uniform centre."""
    size = x.shape[-1]
    side = int(size * CUTOUT + 0.5)
    centre = torch.floor(u[:, :2].double() * (size + 1 - side % 2)).long()
    place = torch.arange(size, device=x.device)
    first = centre - side // 2  # [B, 2]
    hit = (place >= first[..., None]) & (place < first[..., None] + side)  # [B, 2, S]
    return x.masked_fill((hit[:, 0, :, None] & hit[:, 1, None])[:, None], 0.0)


def flip(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Mirrored with probability a half."""
    return torch.where(u[:, 0, None, None, None] < FLIP, x.flip(3), x)


def scale(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Height and width scaled by 1 / 1.2 to 1.2 each, zeros moving in."""
    s = u[:, :2] * (SCALE - 1 / SCALE) + 1 / SCALE
    return resampled(x, torch.diag_embed(s))


def rotate(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Rotated by up to 15 degrees each way, zeros moving in."""
    angle = (u[:, 0] - 0.5) * 2 * ROTATE / 180 * math.pi
    cos, sin = angle.cos(), angle.sin()
    return resampled(x, torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1))


def resampled(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """x read at `matrix` [B, 2, 2] times the place (x, y in -1..1), bilinear, zeros outside."""
    grid = F.affine_grid(F.pad(matrix, (0, 1)), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


DSA_OPERATIONS = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}  # knobs.DSA's names


def draw_dsa(stream: "Stream", strategy: str, order: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [N], float32 [N, 3]): per row, 1 + the index in DSA of its group's operation, and three numbers in [0, 1)."""
    n, names = len(order), strategy.split("_")
    groups = np.arange(n) // group
    chosen = np.floor(stream.uniform("dsa", n)[groups] * len(names)).astype(np.int64)
    kind = np.empty(n, np.int64)
    kind[order] = np.array([1 + list(DSA_OPERATIONS).index(name) for name in names])[chosen]
    return kind, (np.floor(stream.uniform("dsa numbers", n, 3) * 2**24) * 2.0**-24).astype(np.float32)


def dsa(x: torch.Tensor, kind: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """float32 [B, 3, S, S]: normalised images after the DSA operation of each row."""
    x = x.clone()
    for k in kind.unique().tolist():
        rows = (kind == k).nonzero().flatten().to(x.device)
        x[rows] = list(DSA_OPERATIONS.values())[k - 1](x[rows], numbers[rows.to(numbers.device)].to(x.device))
    return x
