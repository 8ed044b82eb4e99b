"""Views: what happens to every image in one epoch, as data; and the one function that makes pixels of it.

Nothing here knows batches, processes or workers. `draw` derives every number from `(views_seed, epoch)` and the row, so
row i of an epoch is the same whoever draws it. `apply` turns rows into pixels with integer weights whose sums stay below
2^24, which float32 holds exactly: a view has the same bits on any device and in any batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from rd3_utils.data import augmentation
from rd3_utils.data.streams import Stream, beta_quantile
from rd3_utils.protocols import knobs
from rd3_utils.protocols.recipe import Recipe

WEIGHT_BITS = 16  # weights sum to 2^16, times 255 is below 2^24: every partial sum is exact in float32


def with_columns(cls: type) -> type:
    """`cls` with a field, by default None, for every column that a knob of views declares and `cls` does not name."""
    for column in knobs.COLUMNS:
        if column.name not in cls.__annotations__:
            cls.__annotations__[column.name] = torch.Tensor | None
            setattr(cls, column.name, None)
    return cls


@dataclass(frozen=True)
@with_columns
class Views:
    """One epoch's views of N images of S x S pixels, all arrays on the CPU; row i belongs to image i.

    box          int64 [N, 4]     top, left, height, width in source pixels; may reach outside (black) for padded crops
    flip         bool  [N]        mirrored after the crop
    mix_partner  int64 [N]        row whose view is mixed in; the row itself: nothing
    mix_box      int64 [N, 4]     CutMix: top, left, bottom, right in output pixels, half open; all 0: nothing
    order        int64 [N]        the epoch's sequence of rows, to be cut into groups of the recipe's `views.group`
    patch_order  int64 [N, 2, F]  order of column strips, then of row strips, shuffled before the crop; F = 1: none

    mix_weight   float32 [N]      MixUp: share of the own image, a multiple of 2^-16; 1: nothing mixed in; None: no MixUp

    Then a field for every other column that a knob of views declares (docs/knobs.md lists them): what operations drew, as
    int64 or float32 arrays with N rows, None where a recipe does not use them.
    """

    box: torch.Tensor
    flip: torch.Tensor
    mix_partner: torch.Tensor
    mix_box: torch.Tensor
    order: torch.Tensor
    patch_order: torch.Tensor
    mix_weight: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.order)

    def own_share(self, rows: torch.Tensor, size: int) -> torch.Tensor:
        """[B] The share of each row's pixels (CutMix, after clipping) or weight (MixUp) that is its own image."""
        if self.mix_weight is not None:
            return self.mix_weight[rows]
        top, left, bottom, right = self.mix_box[rows].unbind(1)
        return 1 - (bottom - top) * (right - left) / size**2


def draw(recipe: Recipe, views_seed: int, epoch: int) -> Views:
    """The Views of `epoch` under `recipe` (a Recipe); the same bits for the same seed and epoch, always.

    Crops as torchvision's RandomResizedCrop.get_params (ten tries, then the largest central crop that fits the ratio);
    the CutMix box of clovaai/CutMix-PyTorch (Yun et al., ICCV 2019), which the lineage copied: side ratio
    sqrt(1 - lambda), half a side (rounded down) on each side of a uniform centre, clipped. MixUp (Zhang et al., ICLR 2018)
    weighs the own image with lambda. With `mix_per = "group"` one box or weight serves a group; partners are a permutation
    inside the group, or with `mix_pairing = "roll"` the row before, and for the first row the last.
    """
    views, n, size = recipe.views, recipe.images, recipe.image_size
    stream = Stream(views_seed, epoch)
    order = np.argsort(stream.bits("order", n), kind="stable")
    partner, mix_box, used = np.arange(n), np.zeros((n, 4), np.int64), {}
    if views.mix == "cutmix":
        partner, mix_box = draw_cutmix(views, order, size, stream)
    elif views.mix == "mixup":
        partner, used["mix_weight"] = draw_mixup(views, order, stream)
    for operation in augmentation.OPERATIONS:
        used.update(operation.drawn(stream, views, order))
    if views.crop == "random_resized":
        box = random_resized_boxes(views, n, size, stream)
    else:
        border = round(views.padding * size) if views.crop == "pad" else 0
        corner = np.floor(stream.uniform("crop", n, 2) * (2 * border + 1)).astype(np.int64) - border
        box = np.concatenate([corner, np.full((n, 2), size)], axis=1)
    strips = np.argsort(stream.bits("patches", n, 2, views.patch_shuffle), axis=2, kind="stable")
    flip = stream.uniform("flip", n) < views.flip
    arrays = dict(box=box, flip=flip, mix_partner=partner, mix_box=mix_box, order=order, patch_order=strips, **used)
    return Views(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})


def random_resized_boxes(views: knobs.ViewKnobs | SimpleNamespace, n: int, size: int, stream: Stream) -> np.ndarray:
    """int64 [N, 4]: torchvision's RandomResizedCrop.get_params for every row."""
    u = stream.uniform("crop", n, 10, 4)
    area = size * size * (views.crop_scale[0] + u[..., 0] * (views.crop_scale[1] - views.crop_scale[0]))
    low, high = np.log(views.crop_ratio[0]), np.log(views.crop_ratio[1])
    ratio = np.exp(low + u[..., 1] * (high - low))
    width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)  # [N, 10]
    first = fits.argmax(1)
    rows = np.arange(n)
    height, width, (v, w) = height[rows, first], width[rows, first], u[rows, first, 2:].T
    top, left = np.floor(v * (size - height + 1)), np.floor(w * (size - width + 1))
    box = np.stack([top, left, height, width], axis=1)
    if views.crop_ratio[0] > 1:  # no try fits: the largest central crop of an allowed ratio
        fallback = size, round(size / views.crop_ratio[0])
    elif views.crop_ratio[1] < 1:
        fallback = round(size * views.crop_ratio[1]), size
    else:
        fallback = size, size
    w, h = fallback
    box[~fits.any(1)] = [(size - h) // 2, (size - w) // 2, h, w]
    return box.astype(np.int64)


def draw_cutmix(views: knobs.ViewKnobs, order: np.ndarray, size: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Partners int64 [N] and boxes int64 [N, 4]: permutations and boxes inside groups of `order`."""
    partner, u, share = draw_partners(views, order, stream)
    half = np.floor(size * np.sqrt(1 - share)) // 2
    row, column = np.floor(u[:, 1] * size), np.floor(u[:, 2] * size)
    box = np.stack([row - half, column - half, row + half, column + half], axis=1)
    box = np.clip(box, 0, size).astype(np.int64)
    empty = (box[:, 2] <= box[:, 0]) | (box[:, 3] <= box[:, 1]) | (u[:, 3] >= views.mix_probability)
    box[empty] = 0
    by_row = np.empty_like(box)
    by_row[order] = box
    alone = ~by_row.any(1)
    partner[alone] = np.flatnonzero(alone)
    return partner, by_row


def draw_mixup(views: knobs.ViewKnobs, order: np.ndarray, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Partners int64 [N] and weights of the own image float32 [N]."""
    partner, u, share = draw_partners(views, order, stream)
    share = np.floor(share * 2**WEIGHT_BITS + 0.5) * 2.0**-WEIGHT_BITS
    share[u[:, 3] >= views.mix_probability] = 1
    weight = np.empty(len(order), np.float32)
    weight[order] = share
    partner[weight == 1] = np.flatnonzero(weight == 1)
    return partner, weight


def draw_partners(views: knobs.ViewKnobs, order: np.ndarray, stream: Stream) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Partners int64 [N] of rows, inside groups of `order`; for places in the order: numbers [N, 4], lambda [N].

    Permuted, or rolled by one as torchvision's reference (references/classification/transforms.py: `batch.roll(1, 0)`).
    """
    n = len(order)
    groups = np.arange(n) // views.group  # group of each place in the order
    if views.mix_pairing == "roll":
        shuffled = np.arange(n) - 1  # places
        shuffled[:: views.group] = np.append(shuffled[views.group :: views.group], n - 1)
    else:
        shuffled = np.lexsort((stream.bits("partner", n), groups))  # places, permuted inside their group
    partner = np.empty(n, np.int64)
    partner[order] = order[shuffled]
    u = stream.uniform("mix", n, 4)[groups if views.mix_per == "group" else np.arange(n)]
    return partner, u, u[:, 0] if views.mix_alpha == 1 else beta_quantile(views.mix_alpha, u[:, 0])


def apply(
    images: torch.Tensor,
    views: Views,
    rows: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str | None = None,
    whitening: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Normalised pixels float32 [B, 3, S, S] of the views of `rows`: exactly what a teacher labels and a student sees.

    Operations on the source, patch shuffle, crop, flip, operations on the crop, mixing, normalisation, ZCA (a `Whitening`),
    operations on what is normalised, in this order; see `augmentation.OPERATIONS`.
    images  uint8 [N, 3, S, S], on any device; rows int64 [B] on the CPU; mean, std: 3 numbers each, for values in [0, 1].
    A crop is resampled as PIL does it (bilinear, antialiased, rounded to 8 bits after each axis) with 16-bit weights.
    """
    device = device or images.device
    partners = views.mix_partner[rows]
    needed, where = torch.unique(torch.cat([rows, partners]), return_inverse=True)
    x = cropped(images, views, needed, device, mean)
    for operation in augmentation.at_work("crop", views):
        x = operation.on(x, views, needed, mean)
    x = x[where.to(device)]  # own views, then partners' [2B, 3, S, S]
    own, other = x[: len(rows)], x[len(rows) :]
    if not torch.equal(partners, rows):
        if views.mix_weight is not None:  # multiples of 2^-16 of whole numbers to 255: exact
            weight = views.mix_weight[rows].to(device)[:, None, None, None]
            own = own * weight + other * (1 - weight)
        else:
            own = torch.where(inside(views.mix_box[rows], x.shape[-1]).to(device), other, own)
    centre = torch.tensor(mean, device=device)[:, None, None] * 255
    scale = torch.tensor(std, device=device)[:, None, None] * 255
    x = (own - centre) / scale
    x = x if whitening is None else whitening(x)
    for operation in augmentation.at_work("normalised", views):
        x = operation.on(x, views, rows, mean)
    return x


def inside(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """bool [B, 1, S, S]: True inside each box (top, left, bottom, right, half open)."""
    place = torch.arange(size)
    top, left, bottom, right = (side[:, None] for side in boxes.unbind(1))
    return (((place >= top) & (place < bottom))[:, :, None] & ((place >= left) & (place < right))[:, None, :])[:, None]


def cropped(
    images: torch.Tensor,
    views: Views,
    rows: torch.Tensor,
    device: torch.device | str,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
) -> torch.Tensor:
    """Whole numbers 0..255 as float32 [B, 3, S, S]: operations on the source, patch shuffle, crop, resize, flip of `rows`.

    What such an operation moves in has the colour `mean`.
    """
    size = images.shape[-1]
    if on_source := augmentation.at_work("source", views):
        images = images[rows.to(images.device)].cpu()
        for operation in on_source:
            images = operation.on(images, views, rows, mean)
        views, rows = subset(views, rows), torch.arange(len(rows))
    box, flip, patches = views.box[rows], views.flip[rows], views.patch_order[rows]
    if patches.shape[2] == 1 and bool((box[:, 2:] == size).all()):
        return shifted(images, rows, box, flip).to(device).float()
    x = images[rows.to(images.device)].to(device).float()
    vertical = resize_weights(box[:, 0], box[:, 2], size, size, patches[:, 1])  # [B, S, S]
    horizontal = resize_weights(box[:, 1], box[:, 3], size, size, patches[:, 0])
    horizontal = torch.where(flip[:, None, None], horizontal.flip(1), horizontal)
    with torch.autocast(torch.device(device).type, enabled=False):
        x = rounded(x.flatten(1, 2) @ horizontal.to(device).mT)  # [B, 3S, S]
        x = x.unflatten(1, (3, size)).transpose(1, 2).flatten(2)  # [B, S, 3S]
        return rounded(vertical.to(device) @ x).unflatten(2, (3, size)).transpose(1, 2).contiguous()


def subset(views: Views, rows: torch.Tensor) -> Views:
    """The Views of `rows` alone, to be applied to as many images."""
    fields = {field.name: getattr(views, field.name) for field in dataclasses.fields(views)}
    picked: dict[str, Any] = {name: None if value is None else value[rows] for name, value in fields.items()}
    return Views(**picked)


def shifted(images: torch.Tensor, rows: torch.Tensor, box: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Crops of the images' own size, uint8 [B, 3, S, S]: pixels move, none is resampled; those from outside are black."""
    size = images.shape[-1]
    place = torch.arange(size)
    down, right = box[:, :1] + place, box[:, 1:2] + torch.where(flip[:, None], place.flip(0), place)  # [B, S] source pixels
    outside = ((down < 0) | (down >= size))[:, :, None] | ((right < 0) | (right >= size))[:, None, :]
    rows, down, right, outside = (
        t.to(images.device) for t in (rows, down.clamp(0, size - 1), right.clamp(0, size - 1), outside)
    )
    x = images[rows[:, None, None], :, down[:, :, None], right[:, None, :]]  # [B, S, S, 3]
    return x.masked_fill_(outside[..., None], 0).permute(0, 3, 1, 2).contiguous()


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Weighted sums back to whole grey levels, halves up."""
    return torch.floor(x * 2.0**-WEIGHT_BITS + 0.5)


def resize_weights(start: torch.Tensor, length: torch.Tensor, source: int, out: int, strips: torch.Tensor) -> torch.Tensor:
    """float32 [B, out, source], whole numbers: row o weighs the source pixels that make output pixel o.

    The triangle filter of PIL's bilinear resize over the `length` [B] pixels from `start` [B], cut off at the crop's edge;
    every row sums to 2^16. A crop that reaches outside the image must be `out` long: there each output pixel has one source
    pixel, and those outside are black. `strips` int64 [B, F]: the source's F strips are first put in this order.
    """
    scale = length[:, None, None].double() / out
    centre = (torch.arange(out)[:, None] + 0.5) * scale  # [B, out, 1], in pixels of the crop
    place = torch.arange(source) - start[:, None, None]  # [B, 1, source]
    weight = (place + 0.5 - centre).abs_().div_(scale.clamp(min=1)).neg_().add_(1).clamp_(min=0)
    weight *= (place >= 0) & (place < length[:, None, None])
    total = weight.sum(2, keepdim=True)
    weight = weight.mul_(2**WEIGHT_BITS / total.clamp(min=0.5)).add_(0.5).floor_()
    excess = torch.where(total > 0, weight.sum(2, keepdim=True) - 2**WEIGHT_BITS, 0.0)  # from rounding: a few units
    weight.scatter_add_(2, weight.argmax(2, keepdim=True), -excess)
    if strips.shape[1] > 1:
        width = source // strips.shape[1]
        origin = (strips[:, :, None] * width + torch.arange(width)).flatten(1)  # [B, source]: shuffled <- source
        weight = torch.zeros_like(weight).scatter_(2, origin[:, None].expand_as(weight), weight)
    return weight.float()
