"""What a label store says, beside what can be recomputed: its views are drawn again, its labels are of what the views show.

The SHA-256 of a shard comes from the same hand as the shard. So a student trains on the views that `views.draw` gives, and a
store that holds others is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rd3_utils.data import soft_labels
from rd3_utils.errors import UserError
from rd3_utils.protocols.recipe import Recipe

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # {key of a shard: (type, shape of one epoch)}

DTYPES = {"F16": torch.float16, "F32": torch.float32, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32}
ROWS_AFTER = 40  # epochs after which each row is judged by itself
VIEWS_NEEDED = 1000  # before labels are judged by what their views show
LEAST = 0.05  # of the way from chance to the share of recognised images; honest stores go 0.1 and more, crops of 5 % just this


def check_layout(shard: Any, epochs: int, wanted: Layout, name: str) -> None:
    """UserError unless an opened shard of `epochs` holds the tensors `wanted` and no others; nothing of them is read."""
    keys = set(shard.keys())
    if keys != set(wanted):
        other = sorted(keys ^ set(wanted))[0]
        raise UserError(
            f"{name} {'holds' if other in keys else 'lacks'} a tensor '{other[:60]}', wanted {', '.join(sorted(wanted))}; "
            "make or fetch the labels again."
        )
    for key, (kind, shape) in wanted.items():
        part = shard.get_slice(key)
        stated, expected = (part.get_dtype(), list(part.get_shape())), [epochs, *shape]
        if DTYPES.get(stated[0]) != kind or stated[1] != expected:
            raise UserError(
                f"'{key}' of {name} is {stated[0]} {stated[1]}, wanted {str(kind).removeprefix('torch.')} {expected}; "
                "make or fetch the labels again."
            )


def check_views(stored: Mapping[str, torch.Tensor], drawn: Mapping[str, torch.Tensor], epoch: int, name: str) -> None:
    """UserError, with row, field and both values, unless the views that are `stored` of `epoch` are those that are `drawn`.

    Both as `soft_labels.view_tensors` gives them: whole numbers to the bit, others within one unit of their type.
    """
    for key, wanted in drawn.items():
        same = stored[key] == wanted
        if wanted.is_floating_point():
            below, above = (torch.nextafter(wanted, torch.full_like(wanted, end)) for end in (-math.inf, math.inf))
            same = (stored[key] >= below) & (stored[key] <= above)
        if not bool(same.all()):
            row = int((~same.flatten(1).all(1) if same.dim() > 1 else ~same).nonzero()[0, 0])
            raise UserError(
                f"epoch {epoch} of {name}: '{key}' of row {row} is {stored[key][row].tolist()}, the recipe draws "
                f"{wanted[row].tolist()}. These are not the views of this recipe and views seed; make the labels again."
            )


def check_stored_views(stored: Mapping[str, torch.Tensor], recipe: Recipe, border: int, epoch: int, name: str) -> None:
    """UserError, with row and value, unless the views of imported labels are possible ones of the recipe's kind.

    Nothing draws them again: boxes inside the image with its border, halves of a mixing that a student can make, an order
    that has every row once, and no view operation but crop, patch shuffle, flip and mixing.
    """
    size, n = recipe.image_size, recipe.images
    numbers = {key: column if column.is_floating_point() else column.long() for key, column in stored.items()}
    box, mixed = numbers["box"], numbers["mix_box"]
    side = size + 2 * border
    right = {
        "box": (box[:, 2:] > 0).all(1) & (box[:, :2] + box[:, 2:] <= side).all(1),
        "flip": numbers["flip"] <= 1,
        "mix_partner": numbers["mix_partner"] < n,
        "mix_box": (mixed[:, :2] <= mixed[:, 2:]).all(1) & (mixed[:, 2:] <= size).all(1),
        "order": numbers["order"].sort().values == torch.arange(n),
    }
    if border:  # pixels move, none is resampled
        right["box"] &= (box[:, 2:] == size).all(1)
    if "mix_lam" in numbers:
        right["mix_lam"] = (numbers["mix_lam"] >= 0) & (numbers["mix_lam"] <= 1)
    if "patch_order" in numbers:
        strips = numbers["patch_order"]
        right["patch_order"] = (strips.sort(2).values == torch.arange(strips.shape[2])).flatten(1).all(1)
    strange = stored.keys() - right.keys() - {"logits", "logits_q", "logits_lo", "logits_scale"}
    if strange:
        raise UserError(f"{name} holds imported labels with '{min(strange)}', an operation that is not imported; leave it out.")
    for key, good in right.items():
        if not bool(good.all()):
            row = int((~good).nonzero()[0, 0])
            raise UserError(
                f"epoch {epoch} of {name}: '{key}' of row {row} is {stored[key][row].tolist()}, which no view of {n} images of "
                f"{size} px can have; import the labels again."
            )


def check_finite_labels(logits: torch.Tensor, epoch: int, name: str) -> None:
    """UserError unless every label of `epoch` is a finite number."""
    if not bool(torch.isfinite(logits).all()):
        row = int((~torch.isfinite(logits).all(1)).nonzero()[0, 0])
        raise UserError(f"epoch {epoch} of {name}: the label of row {row} is not finite; make or fetch the labels again.")


def shown_classes(logits: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, float]:
    """(bool [V]: whether the label of a view has as its likeliest class one that it shows, the share that would by chance).

    logits [V, C]; own, other int64 [V]: the classes that a view shows. By chance: were the labels dealt to the views at random.
    """
    likeliest = logits.argmax(1)
    dealt = torch.bincount(likeliest, minlength=logits.shape[1]) / len(likeliest)
    agrees = (likeliest == own) | (likeliest == other)
    return agrees, float((dealt[own] + torch.where(own == other, 0.0, dealt[other])).mean())


@dataclass
class Block:
    """Views whose labels are judged together: how many, how many of their labels agree with them, how many would by chance.

    `epochs` of them, and how often those of each row agree: int64 [N].
    """

    views: int = 0
    agreeing: float = 0.0
    by_chance: float = 0.0
    epochs: int = 0
    of_row: torch.Tensor | int = 0

    def add(self, agrees: torch.Tensor, chance: float) -> None:
        """Take in views [V] as `shown_classes` has them, those of an epoch: labels are dealt inside it."""
        self.views += len(agrees)
        self.agreeing += float(agrees.sum())
        self.by_chance += chance * len(agrees)
        self.epochs += 1
        self.of_row = self.of_row + agrees.long()


def decides(chance: float, known: float, views: int, errors: float) -> bool:
    """Whether `views` are enough to judge labels by: few of honest ones would fall short by so many standard errors.

    Honest labels go at least twice LEAST of the way from `chance` to `known`, the share of recognised images.
    """
    if views < VIEWS_NEEDED or known < 3 * chance:
        return False
    least = chance + 2 * LEAST * (known - chance)
    return LEAST * (known - chance) * views >= errors * math.sqrt(views * least * (1 - least))


def check_agreement(block: Block, index: dict, name: str, errors: float) -> bool:
    """Whether the views of `block` are enough to judge; UserError where their labels fit what they show by chance alone.

    Within three standard errors of it and less than LEAST of the way, though the index says that teachers know the images.
    Labels of other rows, or of classes in another order, do; so do those of views that show nothing of their images. Of few
    views, and of images that few teachers know, nothing can be said.
    """
    known = soft_labels.recognised(index).get("recognised")
    share, chance = block.agreeing / block.views, block.by_chance / block.views
    if known is None or not decides(chance, known, block.views, errors):
        return False
    spread = 3 * math.sqrt(chance * (1 - chance) / block.views)
    if share < chance + min(LEAST * (known - chance), spread):
        raise UserError(
            f"{name} says that its teachers recognise {100 * known:.0f} % of the images, but only {100 * share:.1f} % of "
            f"{block.views} labels have as their likeliest class one that the view shows, {100 * chance:.1f} % would by "
            "chance: they are of other images or other classes, or the views show nothing of the images; make or fetch the "
            "labels again, or give their --teacher, who then labels some again."
        )
    return True


def check_rows(block: Block, index: dict, name: str) -> bool:
    """Whether `block` has epochs enough to judge each row; UserError where more rows fit by chance alone than teachers leave.

    An image that the teachers do not recognise may have labels that agree with its views by chance alone; of honest stores
    those were at most three quarters of such images, wherever the best tenth of the rows shows that views show their images.
    Rows of classes that were swapped or rolled in a part of a store are as many more. Who rolls other rows in every epoch, or
    states fewer recognised images, is not told this way: only teachers can.
    """
    known = soft_labels.recognised(index).get("recognised")
    if block.epochs < ROWS_AFTER or known is None or isinstance(block.of_row, int):
        return block.epochs >= ROWS_AFTER
    share, chance = block.of_row / block.epochs, block.by_chance / block.views  # [N]
    shown = known >= 3 * chance and float(share.quantile(0.9)) >= chance + 0.6 * (known - chance)
    low = float((share <= chance).float().mean())
    if shown and low > 1.5 * (1 - known) + 0.1:
        rows = (share <= chance).nonzero().flatten()[:3].tolist()
        raise UserError(
            f"{name} says that its teachers recognise {100 * known:.0f} % of the images, but {100 * low:.0f} % of the rows "
            f"(such as {', '.join(map(str, rows))}) have labels that agree with what their views show no more often than by "
            f"chance in {block.epochs} epochs, and the others do: classes are swapped in a part of it; make or fetch the "
            "labels again, or give their --teacher, who then labels some again."
        )
    return True
