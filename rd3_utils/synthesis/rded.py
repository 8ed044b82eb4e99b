"""RDED: distilled images assembled from crops of real ones, those that a teacher finds easiest."""

from collections.abc import Iterable

import numpy as np
import torch
from accelerate.utils import tqdm
from PIL import Image
from torch.nn import functional as F

from rd3_utils.data import images as image_sets
from rd3_utils.data import selections
from rd3_utils.data.tables import Table
from rd3_utils.errors import UserError
from rd3_utils.learning import teachers
from rd3_utils.learning.students import SMALL
from rd3_utils.learning.teachers import Teacher
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.synthesis.task import SynthesisTask

CROP_SCALE = (0.08, 1.0)  # torchvision's default, which RDED's crops leave as it is
FORWARD = 100  # patches per teacher pass


@torch.no_grad()
def rded(
    task: SynthesisTask,
    teacher: str = "default",
    candidates: int = 300,
    crops: int = 5,
    factor: int | None = None,
) -> tuple[torch.Tensor, dict]:
    """RDED (Sun et al., CVPR 2024, arXiv 2312.03526): uint8 [N, 3, S, S], `ipc` per class, and what is worth recording.

    Of every class, `candidates` real images are drawn (the first ones of random:ipc=...,seed=SEED); of each, `crops` square
    crops of 8 % to 100 % of its area are taken at its own resolution and resized to S / factor. The teacher sees each patch
    in the middle of an S x S canvas of zeros (after normalisation); an image's best patch is the one of least cross-entropy
    with its class, and a class keeps its ipc * factor^2 best. Image t is made of the patches ranked t, t + ipc, t + 2 ipc, ...
    in reading order.
    As LINs-lab/RDED 3f6453d synthesize/main.py and utils.py; its patches are kept as JPEG, these are 8-bit and lossless.
    """
    benchmark, ipc, device, size = task.benchmark, task.ipc, task.accelerator.device, task.benchmark.image.size
    factor = factor or (1 if size <= SMALL else 2)
    rows_of = candidate_rows(task, candidates, factor)
    judge = teachers.load(teacher, benchmark)
    judge = teachers.examined(judge, benchmark, image_sets.test_split(benchmark, task.data_dir), task.accelerator)
    network = teachers.Ensemble([judge], benchmark).to(device)
    made = []
    for k, rows in enumerate(tqdm(rows_of, desc=f"rded ipc {ipc}", unit="class", leave=False)):
        patches = random_patches(task.train, rows, crops, size // factor, task.seed)  # uint8 [candidates, crops, 3, s, s]
        inputs = patches.flatten(0, 1).split(FORWARD)
        logits = torch.cat([network(on_canvas(some.to(device), judge, benchmark)) for some in inputs]).float()
        losses = F.cross_entropy(logits, torch.full((len(logits),), k, device=logits.device), reduction="none").cpu()
        best = best_patches(patches, losses.view(len(rows), crops), ipc * factor**2)
        made.append(assembled(best, ipc, factor, size))
    about = {"teacher": judge.describe(), "candidates": candidates, "crops": crops, "factor": factor}
    return torch.cat(made), about


def candidate_rows(task: SynthesisTask, candidates: int, factor: int) -> list[np.ndarray]:
    """For every class the rows of its real images to choose from; UserError where they are too few for the patches."""
    ipc, wanted, size = task.ipc, task.ipc * factor**2, task.benchmark.image.size
    if factor > size:
        raise UserError(f"--factor {factor} leaves no pixel of {size} x {size} to a patch; use at most {size}.")
    if wanted > candidates:
        raise UserError(
            f"{ipc} images per class of {factor} x {factor} patches need {wanted} candidates per class, "
            f"{candidates} are drawn; use --candidates {wanted} or more."
        )
    rows_of = [rows[:candidates] for rows in selections.shuffled(task.train, task.seed)]
    few = min(range(len(rows_of)), key=lambda k: len(rows_of[k]))
    if len(rows_of[few]) < wanted:
        raise UserError(
            f"class '{task.benchmark.classes[few]}' has {len(rows_of[few])} real images, {ipc} images of {factor} x {factor} "
            f"patches need {wanted}; use a smaller --ipc or --factor."
        )
    return rows_of


def random_patches(table: Table, rows: np.ndarray, crops: int, size: int, seed: int) -> torch.Tensor:
    """uint8 [len(rows), crops, 3, size, size]: random square crops of the original pictures, resized (bilinear, antialiased).

    The numbers of row i come from a Philox stream of (seed, i): they do not depend on the other rows.
    """
    patches = np.empty((len(rows), crops, 3, size, size), np.uint8)

    def crop(places: np.ndarray, cells: Iterable) -> None:
        for place, cell in zip(places, cells):
            picture: Image.Image = table.picture(cell, rows[place])
            generator = np.random.Generator(np.random.Philox(key=[seed, int(rows[place])]))
            for j in range(crops):
                left, top, side = random_square(*picture.size, generator)
                patch = picture.crop((left, top, left + side, top + side))
                patches[place, j] = np.asarray(patch.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)

    table.chunks(rows, crop)
    return torch.from_numpy(patches)


def random_square(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int]:
    """(left, top, side) as torchvision's RandomResizedCrop.get_params with ratio (1, 1): ten tries, then the central square."""
    for _ in range(10):
        side = round((width * height * generator.uniform(*CROP_SCALE)) ** 0.5)
        if 0 < side <= min(width, height):
            top, left = generator.integers(0, height - side + 1), generator.integers(0, width - side + 1)
            return int(left), int(top), side
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def on_canvas(patches: torch.Tensor, teacher: Teacher, benchmark: Benchmark) -> torch.Tensor:
    """Patches uint8 [B, 3, s, s] in the middle of S x S canvases, normalised for the benchmark: float32 [B, 3, S, S].

    The canvas has the teacher's mean colour, which is zero to the teacher.
    """
    side, image = patches.shape[-1], benchmark.image
    black, mean, std = (torch.tensor(v, device=patches.device)[:, None, None] for v in (teacher.mean, image.mean, image.std))
    canvas = black.repeat(len(patches), 1, image.size, image.size)
    first = (image.size - side) // 2
    canvas[:, :, first : first + side, first : first + side] = patches / 255
    return (canvas - mean) / std


def best_patches(patches: torch.Tensor, losses: torch.Tensor, wanted: int) -> torch.Tensor:
    """uint8 [wanted, 3, s, s], best first: of every image [m, crops, 3, s, s] the patch of least loss, of these the least."""
    least, which = losses.min(1)
    best = least.argsort(stable=True)[:wanted]
    return patches[best, which[best]]


def assembled(patches: torch.Tensor, ipc: int, factor: int, size: int) -> torch.Tensor:
    """uint8 [ipc, 3, size, size]: a factor x factor grid; block b of `ipc` patches fills cell b of every image.

    Where factor does not divide the size, the first rows and columns of cells are a pixel larger (nearest neighbour).
    """
    edges = [i * (size // factor) + min(i, size % factor) for i in range(factor + 1)]
    canvas = torch.empty(ipc, 3, size, size, dtype=torch.uint8)
    for b, block in enumerate(patches.split(ipc)):
        top, bottom = edges[b // factor : b // factor + 2]
        left, right = edges[b % factor : b % factor + 2]
        canvas[:, :, top:bottom, left:right] = F.interpolate(block, (bottom - top, right - left))
    return canvas
