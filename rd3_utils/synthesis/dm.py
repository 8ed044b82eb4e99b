"""Distribution matching (DM): images whose mean embeddings agree with those of real ones, in freshly drawn networks."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from accelerate.utils import tqdm
from torch import nn

from rd3_utils.data import augmentation, selections, sources
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import students, training
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.synthesis.task import SynthesisTask

# VICO-UoE/DatasetCondensation main_DM.py:15-38: images learn by SGD with momentum 0.5 and learning rate 1.0
LEARNING_RATE, MOMENTUM = 1.0, 0.5
REAL_BATCH = 64  # real images per class and iteration; 256 there


def dm(task: SynthesisTask, iterations: int = 1000, student: str | None = None, dsa: str = "none") -> tuple[torch.Tensor, dict]:
    """Distribution matching: uint8 [N, 3, S, S], `ipc` per class, and what is worth recording.

    In every iteration a freshly drawn, untrained network embeds real and synthetic images, and the images move so that the
    class means of the embeddings agree (Zhao & Bilen, WACV 2023, arXiv 2110.04181). They start as random real images. With
    `dsa`, names of operations joined by "_", real and synthetic images of a class are first changed alike, by an operation
    and numbers drawn anew in every iteration; the original does so with all six (main_DM.py:134-138).
    """
    benchmark, seed, device = task.benchmark, task.seed, task.accelerator.device
    operations = siamese_operations(dsa, benchmark)
    image_sets.check_size(len(task.train), benchmark)
    student = students.architecture(student or benchmark.defaults.student, benchmark)
    start = selections.select(sources.random(task.ipc, seed), benchmark, lambda: task.train)
    everything = selections.select(sources.FULL, benchmark, lambda: task.train)
    mean, std = (torch.tensor(v, device=device)[:, None, None] * 255 for v in (benchmark.image.mean, benchmark.image.std))
    generator = torch.Generator().manual_seed(seed)
    synthetic = ((start.images.to(device).float() - mean) / std).requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=LEARNING_RATE, momentum=MOMENTUM)
    rows_of = [(everything.labels == k).nonzero().flatten() for k in range(len(benchmark.classes))]
    pixels, classes = everything.images.to(device), len(rows_of)
    for i in tqdm(range(iterations), desc=f"dm ipc {task.ipc}", unit="step", leave=False):
        network = students.create(student, benchmark, seed * iterations + i).to(device).train().requires_grad_(False)
        picked = [rows[torch.randint(len(rows), (REAL_BATCH,), generator=generator)] for rows in rows_of]
        real = (pixels[torch.cat(picked).to(device)].float() - mean) / std
        drawn = draw_siamese(operations, classes, generator) if operations else None
        with torch.no_grad():
            target = class_means(network, real, classes, drawn)
        loss = (class_means(network, synthetic, classes, drawn) - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    training.check_finite_images(synthetic, "dm")
    pixels = (synthetic.detach() * std + mean).add(0.5).floor().clamp(0, 255).to(torch.uint8).cpu()
    about = {"iterations": iterations, "student": student, "dsa": dsa, "train_fingerprint": everything.fingerprint}
    return pixels, about


def siamese_operations(dsa: str, benchmark: Benchmark) -> list[str]:
    """The operations that `--dsa` names; UserError for an unknown one, and for flip where the benchmark forbids it."""
    operations = [] if dsa == "none" else dsa.split("_")
    for name in operations:
        if name not in augmentation.DSA_OPERATIONS:
            raise unknown("operation of --dsa", name, augmentation.DSA_OPERATIONS)
    if "flip" in operations and not benchmark.image.mirror:
        raise UserError(f"--dsa {dsa}: {benchmark.name} forbids mirror images; leave out flip.")
    return operations


def draw_siamese(operations: Sequence[str], classes: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(int64 [C], float32 [C, 3]): for each class one of `operations`, as augmentation.dsa counts them, and its numbers."""
    kinds = torch.tensor([1 + list(augmentation.DSA_OPERATIONS).index(name) for name in operations])
    return kinds[torch.randint(len(kinds), (classes,), generator=generator)], torch.rand(classes, 3, generator=generator)


def class_means(
    network: nn.Module, x: torch.Tensor, classes: int, drawn: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """float32 [C, features]: mean embedding of each class of x [C * n, 3, S, S], in order of class; after DSA as `drawn`."""
    n = len(x) // classes
    if drawn is not None:
        x = augmentation.dsa(x, *(part.repeat_interleave(n, 0) for part in drawn))
    return cast(Callable, network.forward_features)(x).flatten(1).view(classes, n, -1).mean(1)
