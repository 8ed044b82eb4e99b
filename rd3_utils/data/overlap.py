"""What a set's images share with a test split and with each other: exact pixels, and near copies.

A near copy looks the same to a person: the grey levels of the two correlate beyond COARSE at 8 x 8 and beyond FINE at up to
32 x 32, the second image as it is or mirrored, and moved by up to a sixteenth of its side. docs/benchmarks.md says which
changes of a test image that reaches, which it does not, and how many real train images it takes for copies.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rd3_utils.data import thumbnails
from rd3_utils.data.images import ImageSet

COARSE, FINE = 0.9, 0.98  # least correlations of near copies, at 8 x 8 and at 32 x 32
SAME = 0.999  # and of the same pixels at 8 x 8, but for rounding
FINE_SIDE = 32
MOVES = 16  # an image may be moved by this part of its side
BLOCK = 500  # images at a time
EXAMPLES = 3  # of rows that a line names


@dataclass(frozen=True)
class Overlap:
    """What `compare` found: rows of the set, each once.

    test       {row: row of the test split with the same pixels}
    near_test  {row: row of the test split of which it is a near copy}, without those of `test`
    repeated   {row: the first row of the set with the same pixels}
    conflicts  those of `repeated` whose first row is of another class
    """

    test: dict[int, int]
    near_test: dict[int, int]
    repeated: dict[int, int]
    conflicts: tuple[int, ...]

    @property
    def counts(self) -> dict[str, int]:
        """What a Run records of it."""
        return {
            "test_images": len(self.test),
            "near_test_images": len(self.near_test),
            "repeated": len(self.repeated),
            "conflicts": len(self.conflicts),
        }


def in_words(counts: dict[str, int]) -> list[str]:
    """What of an Overlap's `counts` a reader must know, a sentence without its end for each kind that there is."""
    texts = {
        "test_images": "images that are in the test split",
        "near_test_images": "images that are near copies of test images",
        "repeated": "images with the pixels of an earlier one",
        "conflicts": "images with the pixels of one of another class",
    }
    return [f"{counts[key]} {text}" for key, text in texts.items() if counts[key]]


def pairs(rows: dict[int, int]) -> str:
    """The first few rows and what they are copies of: row 3 is 17, ..."""
    first = [f"row {row} is {other}" for row, other in list(rows.items())[:EXAMPLES]]
    return ", ".join([*first, "..."] if len(rows) > EXAMPLES else first)


def compare(images: ImageSet, test: ImageSet) -> Overlap:
    """The Overlap of a set with a test split of the same size and with itself; a bar where that takes long."""
    first: dict[bytes, int] = {}
    keys = pixel_keys(images.images)
    repeated = {row: first[key] for row, key in enumerate(keys) if first.setdefault(key, row) != row}
    conflicts = tuple(row for row, other in repeated.items() if images.labels[row] != images.labels[other])
    return Overlap(*copies(images.images, test.images, thumbnails.kept(test)), repeated, conflicts)


def pixel_keys(images: torch.Tensor) -> list[bytes]:
    """A key of every image's pixels, uint8 [N, 3, S, S]: equal pixels have equal keys."""
    return [hashlib.blake2b(image.numpy().data, digest_size=16).digest() for image in images.contiguous()]


def copies(
    images: torch.Tensor, others: torch.Tensor, coarse: torch.Tensor | None = None
) -> tuple[dict[int, int], dict[int, int]]:
    """({row of `images`: first row of `others` with its pixels}, {row: row of which it is a near copy}); uint8 [N, 3, S, S].

    `coarse` are the thumbnails of the others, where they are known; of the others themselves, only those are then read that
    look alike at 8 x 8.
    """
    coarse = thumbnails.shapes(others) if coarse is None else coarse
    mirrored = coarse.unflatten(1, (-1, min(thumbnails.SIDE, others.shape[-1]))).flip(-1).flatten(1)
    flat = [row for row, norm in enumerate(coarse.norm(dim=1).tolist()) if norm == 0]
    exact, near = {}, {}
    for begin in range(0, len(images), BLOCK):
        block = images[begin : begin + BLOCK]
        part = thumbnails.shapes(block)
        alike = part @ coarse.T
        likest, row = torch.maximum(alike, part @ mirrored.T).max(1)
        for other in moved(block):
            part_moved = thumbnails.shapes(other)
            for side in (coarse, mirrored):
                more, where = (part_moved @ side.T).max(1)
                likest, row = torch.maximum(likest, more), torch.where(more > likest, where, row)
        for i in ((likest > COARSE) | (part.norm(dim=1) == 0)).nonzero()[:, 0].tolist():
            image = images[begin + i]
            candidates = (alike[i] > SAME).nonzero()[:, 0].tolist() if likest[i] > COARSE else flat
            same = next((other for other in candidates if torch.equal(image, others[other])), None)
            if same is not None:
                exact[begin + i] = same
            elif likest[i] > COARSE and likeness(image, others[row[i]]) > FINE:
                near[begin + i] = int(row[i])
    return exact, near


def moved(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """The images uint8 [N, 3, S, S] moved by a MOVES-th of their side in each of eight directions; edges are repeated."""
    size = images.shape[-1]
    if move := size // MOVES:
        for down, right in itertools.product((-move, 0, move), repeat=2):
            if down or right:
                rows, columns = ((torch.arange(size) - by).clamp(0, size - 1) for by in (down, right))
                yield images[..., rows, :][..., columns]


def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest correlation of the middle of an image with a part of another of that size, mirrored or not; uint8 [3, S, S].

    Of grey levels at FINE_SIDE or S pixels; the middle is what lies a MOVES-th of the side inside.
    """
    grey = thumbnails.grey_levels(torch.stack([one, other, other.flip(-1)]), FINE_SIDE)  # [3, s, s]
    move = grey.shape[-1] // MOVES
    inner = grey.shape[-1] - 2 * move
    parts = grey.unfold(1, inner, 1).unfold(2, inner, 1)  # [3, 2 * move + 1, 2 * move + 1, inner, inner]
    rows = thumbnails.normalised(torch.cat([parts[:1, move, move], parts[1:].flatten(0, 2)]).flatten(1))
    return float((rows[:1] @ rows[1:].T).max())
