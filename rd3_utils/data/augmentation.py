"""Operations on single images whose numbers are drawn with the views: RandAugment on the source image, DSA on the result.

RandAugment works on 8-bit images through PIL, so it has the same bits everywhere. DSA works on normalised images in float32:
another device may differ in the last bits.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as ops

LEVELS = 31  # magnitudes of RandAugment: 0 to 30


def affine(image, **change):
    neutral = dict(angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0], interpolation=InterpolationMode.NEAREST)
    return ops.affine(image, **{**neutral, **change})


def degrees(tangent):
    return math.degrees(math.atan(tangent))


# RandAugment (Cubuk et al., CVPR Workshops 2020, arXiv 1909.13719) as torchvision's transforms.RandAugment states it:
# name -> (whether the magnitude gets a random sign, magnitude at level m of 0..30 for width w, operation)
OPERATIONS = {
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


def draw_operations(stream, n, count, level):
    """int64 [N, count]: RandAugment's operations for every row, each as (operation * 31 + level) * 2 + (sign is minus)."""
    u = stream.uniform("randaugment", n, count, 2)
    kind = np.floor(u[..., 0] * len(NAMES)).astype(np.int64)
    signed = np.array([OPERATIONS[name][0] for name in NAMES])[kind]
    return (kind * LEVELS + level) * 2 + (signed & (u[..., 1] < 0.5))


def randaugment(images, codes):
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


# Differentiable siamese augmentation (Zhao & Bilen, ICML 2021, arXiv 2102.08259), VICO-UoE/DatasetCondensation utils.py
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP_PAD, CUTOUT, FLIP, SCALE, ROTATE = 0.125, 0.5, 0.5, 1.2, 15.0


def color(x, u):
    """Brightness, saturation, contrast, in this order. Means in float64: their last bit then does not depend on the batch."""
    u = u[:, :, None, None, None]
    x = x + (u[:, 0] - 0.5) * BRIGHTNESS
    grey = x.mean(1, keepdim=True, dtype=torch.float64).float()
    x = (x - grey) * (u[:, 1] * SATURATION) + grey
    mean = x.mean((1, 2, 3), keepdim=True, dtype=torch.float64).float()
    return (x - mean) * (u[:, 2] + CONTRAST) + mean


def crop(x, u):
    """Moved by up to an eighth of the side each way, zeros moving in."""
    size = x.shape[-1]
    border = int(size * CROP_PAD + 0.5)
    shift = torch.floor(u[:, :2].double() * (2 * border + 1)).long() - border
    padded = F.pad(x, (border,) * 4)
    place = torch.arange(size, device=x.device) + border
    rows, columns = (place + shift[:, k, None] for k in (0, 1))  # [B, S]
    return padded[torch.arange(len(x), device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None]].movedim(3, 1)


def cutout(x, u):
    """A square of half the side set to zero, at a uniform centre."""
    size = x.shape[-1]
    side = int(size * CUTOUT + 0.5)
    centre = torch.floor(u[:, :2].double() * (size + 1 - side % 2)).long()
    place = torch.arange(size, device=x.device)
    first = centre - side // 2  # [B, 2]
    hit = (place >= first[..., None]) & (place < first[..., None] + side)  # [B, 2, S]
    return x.masked_fill((hit[:, 0, :, None] & hit[:, 1, None])[:, None], 0.0)


def flip(x, u):
    """Mirrored with probability a half."""
    return torch.where(u[:, 0, None, None, None] < FLIP, x.flip(3), x)


def scale(x, u):
    """Height and width scaled by 1 / 1.2 to 1.2 each, zeros moving in."""
    s = u[:, :2] * (SCALE - 1 / SCALE) + 1 / SCALE
    return resampled(x, torch.diag_embed(s))


def rotate(x, u):
    """Rotated by up to 15 degrees each way, zeros moving in."""
    angle = (u[:, 0] - 0.5) * 2 * ROTATE / 180 * math.pi
    cos, sin = angle.cos(), angle.sin()
    return resampled(x, torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1))


def resampled(x, matrix):
    """x read at `matrix` [B, 2, 2] times the place (x, y in -1..1), bilinear, zeros outside."""
    grid = F.affine_grid(F.pad(matrix, (0, 1)), x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


DSA = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}  # protocol.DSA's names


def draw_dsa(stream, strategy, order, group):
    """(int64 [N], float32 [N, 3]): per row, 1 + the index in DSA of its group's operation, and three numbers in [0, 1)."""
    n, names = len(order), strategy.split("_")
    groups = np.arange(n) // group
    chosen = np.floor(stream.uniform("dsa", n)[groups] * len(names)).astype(np.int64)
    kind = np.empty(n, np.int64)
    kind[order] = np.array([1 + list(DSA).index(name) for name in names])[chosen]
    return kind, (np.floor(stream.uniform("dsa numbers", n, 3) * 2**24) * 2.0**-24).astype(np.float32)


def dsa(x, kind, numbers):
    """float32 [B, 3, S, S]: normalised images after the DSA operation of each row."""
    x = x.clone()
    for k in kind.unique().tolist():
        rows = (kind == k).nonzero().flatten().to(x.device)
        x[rows] = list(DSA.values())[k - 1](x[rows], numbers[rows.to(numbers.device)].to(x.device))
    return x
