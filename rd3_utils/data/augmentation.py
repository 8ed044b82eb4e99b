"""View operations: what may happen to a single image beside crop, flip and mixing, which data/views.py does itself.

RandAugment works on 8-bit images through PIL and the jitter on whole grey levels, one rounding per operation: both have the
same bits everywhere. DSA works on normalised images in float32: another device may differ in the last bits.

To add one: declare its knob and its columns in `ViewKnobs` of protocols/knobs.py; write here what it draws and what it does;
enter it in OPERATIONS at its place; test it against its formula or another library's; run `python docs/render_knobs.py`.
Digests, the arm `plain`, label stores, dry runs and tests/test_knobs.py know it then.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional as F

from rd3_utils.data import randaugment
from rd3_utils.data.streams import Stream, normal
from rd3_utils.protocols.knobs import KNOBS, PLAIN, Column, ViewKnobs

if TYPE_CHECKING:
    from rd3_utils.data.views import Views

ORDERS = list(itertools.permutations(range(3)))  # of brightness, contrast, saturation


def draw_jitter(stream: Stream, views: ViewKnobs, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N, 3], int64 [N]): torchvision's ColorJitter: factors in 1 +- strength, at least 0, and index in ORDERS."""
    u = stream.uniform("color jitter", len(order), 4)
    low, high = max(0.0, 1 - views.color_jitter), 1 + views.color_jitter
    return (low + u[:, :3] * (high - low)).astype(np.float32), np.floor(u[:, 3] * len(ORDERS)).astype(np.int64)


def color_jitter(x: torch.Tensor, factors: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Whole numbers 0..255 as float32 [B, 3, S, S] after the factors [B, 3] in the order of ORDERS[orders]; rounded down.

    As torchvision's adjust_brightness, adjust_contrast and adjust_saturation of 8-bit tensors.
    """
    factors, orders = factors.to(x.device), orders.to(x.device)
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


def draw_lighting(stream: Stream, views: ViewKnobs, order: np.ndarray) -> tuple[np.ndarray]:
    """float32 [N, 3]: what is added to red, green and blue, in grey levels, as multiples of 2^-8 so that every sum is exact."""
    alpha = views.lighting * normal(stream.uniform("lighting", len(order), 3))
    noise = [sum(alpha[:, k] * EIGENVALUES[k] * vector[k] for k in range(3)) * 255 for vector in EIGENVECTORS]
    return ((np.floor(np.stack(noise, 1) * 2**8 + 0.5) * 2.0**-8).astype(np.float32),)


def lighting(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Grey levels [B, 3, S, S] plus `shift` [B, 3]; not rounded, and not cut off at 0 and 255."""
    return x + shift.to(x.device)[:, :, None, None]


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


def draw_dsa(stream: Stream, views: ViewKnobs, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [N], float32 [N, 3]): per row, 1 + the index in DSA of its group's operation, and three numbers in [0, 1)."""
    n, names = len(order), views.dsa.split("_")
    groups = np.arange(n) // views.group
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


Stage = Literal["source", "crop", "normalised"]


@dataclass(frozen=True)
class Operation:
    """One operation: the knob of views that turns it on, where it acts, what it draws and what it does.

    `draw(stream, views, order)` gives the arrays, N rows each, of the columns that the knob declares, in that order; fewer
    where the last ones are not used. `apply(x, *columns)` gives x [B, 3, S, S] after it; columns are on the CPU, those not
    drawn are None. `fills`: it takes as last argument the images' mean (3 numbers in [0, 1]), to fill what moves in with.

    Stages: "source", uint8 on the CPU before patch shuffle and crop; "crop", whole grey levels as float32 after crop and
    flip, before mixing; "normalised", float32 after mixing, normalisation and whitening.
    """

    knob: str
    stage: Stage
    draw: Callable[[Stream, ViewKnobs, np.ndarray], tuple[np.ndarray, ...]]
    apply: Callable[..., torch.Tensor]
    fills: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        return KNOBS[f"views.{self.knob}"].metadata["columns"]

    def drawn(self, stream: Stream, views: ViewKnobs, order: np.ndarray) -> dict[str, np.ndarray]:
        """{field of Views: int64 or float32 array}; nothing where the knob leaves images as they are."""
        if getattr(views, self.knob) == PLAIN[self.knob]:
            return {}
        arrays = zip(self.columns, self.draw(stream, views, order))
        return {column.name: array.astype(column.in_memory, copy=False) for column, array in arrays}

    def on(self, x: torch.Tensor, views: "Views", rows: torch.Tensor, mean: Sequence[float]) -> torch.Tensor:
        """What x becomes, x[i] on its way to be the view of image rows[i]."""
        columns = [getattr(views, column.name) for column in self.columns]
        columns = [None if column is None else column[rows] for column in columns]
        return self.apply(x, *columns, mean) if self.fills else self.apply(x, *columns)


OPERATIONS = (  # in the order in which they act
    Operation("randaugment", "source", randaugment.draw_randaugment, randaugment.randaugment, fills=True),
    Operation("color_jitter", "crop", draw_jitter, color_jitter),
    Operation("lighting", "crop", draw_lighting, lighting),
    Operation("dsa", "normalised", draw_dsa, dsa),
)


def at_work(stage: Stage, views: "Views") -> list[Operation]:
    """The operations at `stage` for which `views` holds numbers."""
    return [one for one in OPERATIONS if one.stage == stage and getattr(views, one.columns[0].name) is not None]
