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
from accelerate.utils import tqdm
from torch.nn import functional as F

from rd3_utils.data.images import ImageSet

COARSE, FINE = 0.95, 0.98  # least correlations of near copies, at 8 x 8 and at the images' own size
SAME = 0.999  # and of the same pixels at 8 x 8, but for rounding
SIDE = 8
FLAT = 1.0  # grey levels: an image whose standard deviation is less has no shape to compare
BLOCK = 500  # images at a time
LARGE = 1e9  # numbers of a set from which a bar is shown


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


def compare(images: ImageSet, test: ImageSet) -> Overlap:
    """The Overlap of a set with a test split of the same size and with itself; a bar where that takes long."""
    first: dict[bytes, int] = {}
    keys = pixel_keys(images.images)
    repeated = {row: first[key] for row, key in enumerate(keys) if first.setdefault(key, row) != row}
    conflicts = tuple(row for row, other in repeated.items() if images.labels[row] != images.labels[other])
    return Overlap(*copies(images.images, test.images), repeated, conflicts)


def pixel_keys(images: torch.Tensor) -> list[bytes]:
    """A key of every image's pixels, uint8 [N, 3, S, S]: equal pixels have equal keys."""
    return [hashlib.blake2b(image.numpy().data, digest_size=16).digest() for image in images.contiguous()]


def copies(images: torch.Tensor, others: torch.Tensor) -> tuple[dict[int, int], dict[int, int]]:
    """({row of `images`: first row of `others` with its pixels}, {row: row of which it is a near copy}); uint8 [N, 3, S, S].

    The others are read once, whole; then only those that look alike at 8 x 8.
    """
    coarse = shapes(others, SIDE)
    mirrored = coarse.unflatten(1, (-1, min(SIDE, others.shape[-1]))).flip(-1).flatten(1)
    flat = [row for row, norm in enumerate(coarse.norm(dim=1).tolist()) if norm == 0]
    exact, near = {}, {}
    for begin in range(0, len(images), BLOCK):
        part = shapes(images[begin : begin + BLOCK], SIDE)
        alike = part @ coarse.T
        likeness, row = torch.maximum(alike, part @ mirrored.T).max(1)
        for i in ((likeness > COARSE) | (part.norm(dim=1) == 0)).nonzero()[:, 0].tolist():
            image = images[begin + i]
            candidates = (alike[i] > SAME).nonzero()[:, 0].tolist() if likeness[i] > COARSE else flat
            same = next((other for other in candidates if torch.equal(image, others[other])), None)
            if same is not None:
                exact[begin + i] = same
            elif likeness[i] > COARSE and correlation(image, others[row[i]]) > FINE:
                near[begin + i] = int(row[i])
    return exact, near


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of the grey levels of two images uint8 [3, S, S], the second as it is or mirrored, whichever is more alike."""
    rows = shapes(torch.stack([one, other, other.flip(-1)]), one.shape[-1])
    return float((rows[:1] @ rows[1:].T).max())


def shapes(images: torch.Tensor, side: int) -> torch.Tensor:
    """float32 [N, side * side] of images uint8 [N, 3, S, S]: grey levels at `side` or S pixels, whichever is less.

    Each of mean 0 and norm 1, so that a product of two is their correlation; 0 where an image is flat.
    """
    parts = []
    blocks = images.split(BLOCK)
    for part in tqdm(blocks, "looking for copies", unit="block", leave=False, disable=images.numel() < LARGE):
        grey = part.float().mean(1, keepdim=True)
        small = grey if side >= images.shape[-1] else F.adaptive_avg_pool2d(grey, side)
        small = small.flatten(1) - small.flatten(1).mean(1, keepdim=True)
        norm = small.norm(dim=1, keepdim=True)
        parts.append(torch.where(norm > FLAT * small.shape[1] ** 0.5, small / norm.clamp(min=1e-6), 0))
    return torch.cat(parts)
