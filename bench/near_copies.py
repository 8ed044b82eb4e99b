"""How far the look for test images in a set reaches, and how often it is wrong: the tables of docs/benchmarks.md.

    python bench/near_copies.py [BENCHMARK ...] [--data-dir NAME=DIR]

First, of all real train images of a benchmark, how many are taken for a test image. Then, of 1,000 test images changed in the
ways that people and programs change images, how many are known again. Two minutes for digits and cifar10.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rd3_utils.data import images as image_sets
from rd3_utils.data import overlap, tables
from rd3_utils.protocols import benchmark as benchmarks


def whole(x):
    return x.round().clamp(0, 255).byte()


def pixel(x):
    changed = x.clone()
    changed[:, 0, 3, 3] ^= 1
    return changed


def jpeg(x):
    def through(image):
        stream = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=75)
        return torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1)

    return torch.stack([through(image) for image in x])


def noise(levels):
    return lambda x: whole(x + levels * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))


def resized(x, size):
    return whole(F.interpolate(x.float(), size, mode="bicubic", antialias=True))


def moved(right, down):
    def move(x):
        size = x.shape[-1]
        padded = F.pad(x, (4,) * 4)
        return padded[..., 4 - down : 4 - down + size, 4 - right : 4 - right + size].contiguous()

    return move


def cropped(x):
    size = x.shape[-1]
    edge = size // 16 or 1
    return resized(x[..., edge:-edge, edge:-edge], size)


def covered(x):
    size, changed = x.shape[-1], x.clone()
    changed[..., size * 3 // 8 : size * 5 // 8, size * 3 // 8 : size * 5 // 8] = 0
    return changed


CHANGES = {
    "one grey level of one pixel": pixel,
    "mirrored": lambda x: x.flip(-1),
    "grey": lambda x: whole(x.float().mean(1, keepdim=True)).expand_as(x),
    "darker, less contrast": lambda x: whole(x * 0.6 + 20),
    "JPEG of quality 75": jpeg,
    "twice the size and back": lambda x: resized(resized(x, 2 * x.shape[-1]), x.shape[-1]),
    "half the size and back": lambda x: resized(resized(x, x.shape[-1] // 2), x.shape[-1]),
    "noise of 5 grey levels": noise(5),
    "noise of 10 grey levels": noise(10),
    "noise of 20 grey levels": noise(20),
    "moved by 1 pixel, padded with zeros": moved(1, 0),
    "moved by 1 pixel in both directions": moved(1, 1),
    "moved by 2 pixels": moved(2, 0),
    "moved by 2 pixels in both directions": moved(2, 2),
    "an eighth of its side cropped away": cropped,
    "blended with 10 % of another": lambda x: whole(0.9 * x + 0.1 * x.roll(1, 0)),
    "blended with 30 % of another": lambda x: whole(0.7 * x + 0.3 * x.roll(1, 0)),
    "a square in the middle covered": covered,
    "upside down": lambda x: x.flip(-2),
    "turned by 90 degrees": lambda x: x.rot90(1, (-1, -2)),
    "inverted": lambda x: 255 - x,
}


def main(options):
    folders = tables.data_dirs(options.data_dir, options.benchmarks)
    reached = {}
    for name in options.benchmarks:
        benchmark, folder = benchmarks.load(name), folders.get(name)
        test = image_sets.test_split(benchmark, folder)
        train = image_sets.of_table(tables.real(benchmark, "train", folder))
        exact, near = overlap.copies(train.images, test.images)
        print(f"{name}: of {len(train):,} train images {len(exact)} have the pixels of one of {len(test):,} test images, "
              f"{len(near)} are called near copies", flush=True)  # fmt: skip
        rows = torch.arange(len(test))[:: max(1, len(test) // 1000)]
        for change, function in CHANGES.items():
            exact, near = overlap.copies(function(test.images[rows]).contiguous(), test.images)
            known = sum(rows[i] == row for i, row in (exact | near).items())
            reached.setdefault(change, []).append(f"{100 * known / len(rows):.1f}")
    print(f"\n| change, % known again | {' | '.join(options.benchmarks)} |\n|---|{'--:|' * len(options.benchmarks)}")
    for change, shares in reached.items():
        print(f"| {change} | {' | '.join(shares)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("benchmarks", nargs="*", default=["digits", "cifar10"])
    parser.add_argument("--data-dir", action="append", default=[], metavar="NAME=DIR")
    main(parser.parse_args())
