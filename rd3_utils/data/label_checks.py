"""What a label store says, beside what can be recomputed: its views are drawn again, its labels are of what the views show.

The SHA-256 of a shard comes from the same hand as the shard. So a student trains on the views that `views.draw` gives, and a
store that holds others is refused.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from rd3_utils.data import soft_labels
from rd3_utils.errors import UserError

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # {key of a shard: (type, shape of one epoch)}

DTYPES = {"F16": torch.float16, "F32": torch.float32, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32}
VIEWS_NEEDED = 1000  # before labels are judged by what their views show
LEAST = 0.05  # of the way from chance to the share of recognised images; honest stores go 0.1 and far more of it


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


def check_finite_labels(logits: torch.Tensor, epoch: int, name: str) -> None:
    """UserError unless every label of `epoch` is a finite number."""
    if not bool(torch.isfinite(logits).all()):
        row = int((~torch.isfinite(logits).all(1)).nonzero()[0, 0])
        raise UserError(f"epoch {epoch} of {name}: the label of row {row} is not finite; make or fetch the labels again.")


def shown_share(logits: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """(share of views, the same by chance) whose label has as its likeliest class one that the view shows, `own` or `other`.

    logits [V, C]; own, other int64 [V]. By chance: were the labels dealt to the views at random.
    """
    likeliest = logits.argmax(1)
    dealt = torch.bincount(likeliest, minlength=logits.shape[1]) / len(likeliest)
    share = ((likeliest == own) | (likeliest == other)).float().mean()
    return float(share), float((dealt[own] + torch.where(own == other, 0.0, dealt[other])).mean())


def check_agreement(share: float, chance: float, views: int, index: dict, name: str) -> None:
    """UserError where labels fit what their views show by `chance` alone, though the index says that teachers know the images.

    Labels of other rows, or of classes in another order, do. Of few views, and of images that few teachers know, nothing
    can be said.
    """
    known = soft_labels.recognised(index).get("recognised")
    if known is None or views < VIEWS_NEEDED or known < 3 * chance:
        return
    if share < chance + LEAST * (known - chance):
        raise UserError(
            f"{name} says that its teachers recognise {100 * known:.0f} % of the images, but only {100 * share:.1f} % of "
            f"{views} labels have as their likeliest class one that the view shows, {100 * chance:.1f} % would by chance: they "
            "are of other images or other classes; make or fetch the labels again."
        )
