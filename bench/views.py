"""How fast views are made, beside the usual way: python -m bench.views

Both make the same RandomResizedCrop(0.08, 1) + flip + normalise of the same uint8 images, alternately in one process:
`views.apply` on batches, and PIL images through torchvision's transforms one by one, as the published loaders do after
decoding. Prints images per second of each and the ratio of the medians.
"""

import dataclasses
import statistics
import time

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from rd3_utils.data import views
from rd3_utils.protocols import benchmark, protocol

REPEATS, BATCH = 7, 50
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def main():
    digits = benchmark.load("digits")
    custom = protocol.load("rd3-v1").override(["views.crop_scale=[0.08, 1]", "views.mix=none", "views.patch_shuffle=1"])
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, median of {REPEATS} alternating repeats")
    for size, n in ((32, 2000), (64, 1000), (224, 100)):
        sized = dataclasses.replace(digits, image=dataclasses.replace(digits.image, size=size, mirror=True))
        images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
        pictures = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.08, 1)),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
        recipe = custom.resolve(sized, "convnet3", 1, n, "soft")

        def ours(recipe=recipe, images=images, n=n):
            drawn = views.draw(recipe, 0, 0)
            for rows in torch.arange(n).split(BATCH):
                views.apply(images, drawn, rows, MEAN, STD)

        def usual(transform=transform, pictures=pictures):
            for start in range(0, len(pictures), BATCH):
                torch.stack([transform(picture) for picture in pictures[start : start + BATCH]])

        seconds = {"ours": [], "usual": []}
        for _ in range(REPEATS):
            for name, function in (("ours", ours), ("usual", usual)):
                started = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - started)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        print(f"{size:4} px  views.apply {n / median['ours']:8.0f} images/s   PIL + torchvision {n / median['usual']:8.0f} "
              f"images/s   ratio {median['usual'] / median['ours']:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
