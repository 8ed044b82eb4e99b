"""Thumbnails of images, 8 x 8 grey levels: enough to tell which of a large test split could be copies of an image.

Those of a split that takes gigabytes to read are kept under the cache folder of the Hub's clients (HF_HOME), by the fingerprint
of its pixels and with a checksum: what is damaged or of other images is made anew. They may be deleted at any time.
"""

from pathlib import Path

import torch
from accelerate.utils import tqdm
from huggingface_hub import constants
from torch.nn import functional as F

from rd3_utils.data import stamps
from rd3_utils.data.images import ImageSet

KEPT = Path(constants.HF_HOME) / "rd3" / "thumbnails"
VERSION = 1  # of how they are made
SIDE = 8
FLAT = 1.0  # grey levels: an image whose standard deviation is less has no shape to compare
BLOCK = 500  # images at a time
LARGE = 1e9  # bytes of pixels from which thumbnails are kept, and a bar is shown


def kept(images: ImageSet) -> torch.Tensor:
    """`shapes` of a set; of a large one from the disk, where they lie after the first time."""
    if images.images.numel() < LARGE:
        return shapes(images.images)
    path = KEPT / f"{images.fingerprint[:32]}.bin"
    count = min(SIDE, images.images.shape[-1]) ** 2
    about = f"{VERSION} {images.fingerprint} {len(images)} {count}\n".encode()
    data = stamps.read_sealed(path) or b""
    if data.startswith(about) and len(data) == len(about) + len(images) * count * 4:
        return torch.frombuffer(bytearray(data[len(about) :]), dtype=torch.float32).view(len(images), count)
    made = shapes(images.images)
    stamps.write_sealed(path, about + made.numpy().tobytes())
    return made


def shapes(images: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """float32 [N, side * side] of images uint8 [N, 3, S, S]: `normalised` grey levels at `side` or S pixels."""
    blocks = tqdm(images.split(BLOCK), "looking for copies", unit="block", leave=False, disable=images.numel() < LARGE)
    return torch.cat([normalised(grey_levels(block, side).flatten(1)) for block in blocks])


def grey_levels(images: torch.Tensor, side: int) -> torch.Tensor:
    """float32 [N, s, s] of images uint8 [N, 3, S, S]: the mean of their colours, shrunk to s = `side` where S is more."""
    grey = images.float().mean(1)
    return grey if side >= images.shape[-1] else F.adaptive_avg_pool2d(grey, side)


def normalised(rows: torch.Tensor) -> torch.Tensor:
    """Each of the `rows` [N, n] with mean 0 and norm 1, so that a product of two is their correlation; 0 where it is flat."""
    rows = rows - rows.mean(1, keepdim=True)
    norm = rows.norm(dim=1, keepdim=True)
    return torch.where(norm > FLAT * rows.shape[1] ** 0.5, rows / norm.clamp(min=1e-6), 0)
