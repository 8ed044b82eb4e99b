"""What a set's images share with a test split and with each other: exact pixels, and near copies.

A near copy looks the same to a person: the grey levels of the two, shrunk to 8 x 8 and whole, correlate beyond COARSE and
FINE, as they are or mirrored. Such a copy survives JPEG and noise; a shift by a pixel or a tighter crop hides it. So many of
the real train images of a benchmark are near copies of one of its test images, found once over whole splits:

    digits          11 of  1,297 beside   500 test images
    CIFAR-10        21 of 50,000 beside 10,000, some of them true copies (ciFAIR, Barz and Denzler, 2020, lists 3.3 % of its
                    test images as having one in the train split)

None of the same test images was missed as JPEG of quality 75; of those with noise of 5 grey levels 0.4 %, of those zoomed to
twice their size and back 13 %.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from rd3_utils.data.images import ImageSet

COARSE, FINE = 0.95, 0.98  # least correlations of near copies, at 8 x 8 and at the images' own size
SIDE = 8
FLAT = 1.0  # grey levels: an image whose standard deviation is less has no shape to compare
BLOCK = 2000  # images at a time


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


def compare(images: ImageSet, test: ImageSet) -> Overlap:
    """The Overlap of a set with a test split of the same size and with itself."""
    keys = pixel_keys(images.images)
    in_test = dict(zip(reversed(pixel_keys(test.images)), reversed(range(len(test)))))
    exact = {row: in_test[key] for row, key in enumerate(keys) if key in in_test}
    first: dict[bytes, int] = {}
    repeated = {row: first[key] for row, key in enumerate(keys) if first.setdefault(key, row) != row}
    conflicts = tuple(row for row, other in repeated.items() if images.labels[row] != images.labels[other])
    near = {row: other for row, other in near_copies(images.images, test.images).items() if row not in exact}
    return Overlap(exact, near, repeated, conflicts)


def pixel_keys(images: torch.Tensor) -> list[bytes]:
    """A key of every image's pixels, uint8 [N, 3, S, S]: equal pixels have equal keys."""
    return [hashlib.blake2b(image.numpy().data, digest_size=16).digest() for image in images.contiguous()]


def near_copies(images: torch.Tensor, others: torch.Tensor) -> dict[int, int]:
    """{row of `images`: row of `others` that is most like it} where that is a near copy; both uint8 [N, 3, S, S]."""
    coarse = shapes(others, SIDE)
    mirrored = coarse.unflatten(1, (-1, min(SIDE, others.shape[-1]))).flip(-1).flatten(1)
    copies = {}
    for begin in range(0, len(images), BLOCK):
        part = shapes(images[begin : begin + BLOCK], SIDE)
        likeness, row = torch.maximum(part @ coarse.T, part @ mirrored.T).max(1)
        for i in (likeness > COARSE).nonzero()[:, 0].tolist():
            one, other = images[begin + i : begin + i + 1], others[row[i] : row[i] + 1]
            pair = shapes(torch.cat([one, other, other.flip(-1)]), others.shape[-1])
            if float((pair[:1] @ pair[1:].T).max()) > FINE:
                copies[begin + i] = int(row[i])
    return copies


def shapes(images: torch.Tensor, side: int) -> torch.Tensor:
    """float32 [N, side * side] of images uint8 [N, 3, S, S]: grey levels at `side` or S pixels, whichever is less.

    Each of mean 0 and norm 1, so that a product of two is their correlation; 0 where an image is flat.
    """
    parts = []
    for part in images.split(BLOCK):
        grey = part.float().mean(1, keepdim=True)
        small = grey if side >= images.shape[-1] else F.adaptive_avg_pool2d(grey, side)
        small = small.flatten(1) - small.flatten(1).mean(1, keepdim=True)
        norm = small.norm(dim=1, keepdim=True)
        parts.append(torch.where(norm > FLAT * small.shape[1] ** 0.5, small / norm.clamp(min=1e-6), 0))
    return torch.cat(parts)
