"""Distilled image sets made here: distribution matching (DM) and teacher-selected real patches (RDED)."""

import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import tqdm
from PIL import Image
from torch.nn import functional as F

from rd3_utils import launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import selections, tables
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import students, teachers
from rd3_utils.learning.students import SMALL

# VICO-UoE/DatasetCondensation main_DM.py:15-38: images learn by SGD with momentum 0.5 and learning rate 1.0
LEARNING_RATE, MOMENTUM = 1.0, 0.5
REAL_BATCH = 64  # real images per class and iteration; 256 there
CROP_SCALE = (0.08, 1.0)  # torchvision's default, which RDED's crops leave as it is
FORWARD = 100  # patches per teacher pass


def dm(train, benchmark, ipc, seed, accelerator, data_dir, iterations=1000, student=None):
    """Distribution matching: uint8 [N, 3, S, S], `ipc` per class, and what is worth recording.

    In every iteration a freshly drawn, untrained network embeds real and synthetic images, and the images move so that the
    class means of the embeddings agree (Zhao & Bilen, WACV 2023, arXiv 2110.04181). They start as random real images.
    No augmentation (the original uses DSA).
    """
    device = accelerator.device
    image_sets.check_size(len(train), benchmark)
    student = students.architecture(student or benchmark.defaults.student, benchmark)
    start = selections.random(benchmark, lambda: train, f"random:ipc={ipc},seed={seed}", ipc, seed)
    everything = selections.full(benchmark, lambda: train, "full")
    mean, std = (torch.tensor(v, device=device)[:, None, None] * 255 for v in (benchmark.image.mean, benchmark.image.std))
    generator = torch.Generator().manual_seed(seed)
    synthetic = ((start.images.to(device).float() - mean) / std).requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=LEARNING_RATE, momentum=MOMENTUM)
    rows_of = [(everything.labels == k).nonzero().flatten() for k in range(len(benchmark.classes))]
    pixels, classes = everything.images.to(device), len(rows_of)
    for i in tqdm(range(iterations), desc=f"dm ipc {ipc}", unit="step", leave=False):
        network = students.create(student, benchmark, seed * iterations + i).to(device).train().requires_grad_(False)
        picked = [rows[torch.randint(len(rows), (REAL_BATCH,), generator=generator)] for rows in rows_of]
        real = (pixels[torch.cat(picked).to(device)].float() - mean) / std
        with torch.no_grad():
            target = network.forward_features(real).flatten(1).view(classes, REAL_BATCH, -1).mean(1)
        embedded = network.forward_features(synthetic).flatten(1).view(classes, ipc, -1).mean(1)
        loss = (embedded - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pixels = (synthetic.detach() * std + mean).add(0.5).floor().clamp(0, 255).to(torch.uint8).cpu()
    about = {"iterations": iterations, "student": student, "train_fingerprint": everything.fingerprint}
    return pixels, about


@torch.no_grad()
def rded(train, benchmark, ipc, seed, accelerator, data_dir, teacher="default", candidates=300, crops=5, factor=None):
    """RDED (Sun et al., CVPR 2024, arXiv 2312.03526): uint8 [N, 3, S, S], `ipc` per class, and what is worth recording.

    Of every class, `candidates` real images are drawn (the first ones of random:ipc=...,seed=SEED); of each, `crops` square
    crops of 8 % to 100 % of its area are taken at its own resolution and resized to S / factor. The teacher sees each patch
    in the middle of an S x S canvas of zeros (after normalisation); an image's best patch is the one of least cross-entropy
    with its class, and a class keeps its ipc * factor^2 best. Image t is made of the patches ranked t, t + ipc, t + 2 ipc, ...
    in reading order.
    As LINs-lab/RDED 3f6453d synthesize/main.py and utils.py; its patches are kept as JPEG, these are 8-bit and lossless.
    """
    size = benchmark.image.size
    factor = factor or (1 if size <= SMALL else 2)
    wanted = ipc * factor**2
    if wanted > candidates:
        raise UserError(
            f"{ipc} images per class of {factor} x {factor} patches need {wanted} candidates per class, "
            f"{candidates} are drawn; use --candidates {wanted} or more."
        )
    rows_of = [rows[:candidates] for rows in selections.shuffled(train, seed)]
    few = min(range(len(rows_of)), key=lambda k: len(rows_of[k]))
    if len(rows_of[few]) < wanted:
        raise UserError(
            f"class '{benchmark.classes[few]}' has {len(rows_of[few])} real images, {ipc} images of {factor} x {factor} "
            f"patches need {wanted}; use a smaller --ipc or --factor."
        )
    found = teachers.load(teacher, benchmark)
    found = teachers.examined(found, benchmark, image_sets.test_split(benchmark, data_dir), accelerator)
    network = teachers.Ensemble([found], benchmark).to(accelerator.device)
    made = []
    for k, rows in enumerate(tqdm(rows_of, desc=f"rded ipc {ipc}", unit="class", leave=False)):
        patches = random_patches(train, rows, crops, size // factor, seed)  # uint8 [candidates, crops, 3, s, s]
        inputs = patches.flatten(0, 1).split(FORWARD)
        logits = torch.cat([network(on_canvas(some.to(accelerator.device), found, benchmark)) for some in inputs]).float()
        losses = F.cross_entropy(logits, torch.full((len(logits),), k, device=logits.device), reduction="none").cpu()
        made.append(assembled(best_patches(patches, losses.view(len(rows), crops), wanted), ipc, factor, size))
    about = {"teacher": found.describe(), "candidates": candidates, "crops": crops, "factor": factor}
    return torch.cat(made), about


def random_patches(table, rows, crops, size, seed):
    """uint8 [len(rows), crops, 3, size, size]: random square crops of the original pictures, resized (bilinear, antialiased).

    The numbers of row i come from a Philox stream of (seed, i): they do not depend on the other rows.
    """
    patches = np.empty((len(rows), crops, 3, size, size), np.uint8)

    def crop(start, cells):
        for place, cell in enumerate(cells, start):
            picture = table.picture(cell, rows[place])
            generator = np.random.Generator(np.random.Philox(key=[seed, int(rows[place])]))
            for j in range(crops):
                left, top, side = random_square(*picture.size, generator)
                patch = picture.crop((left, top, left + side, top + side))
                patches[place, j] = np.asarray(patch.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)

    table.chunks(rows, crop)
    return torch.from_numpy(patches)


def random_square(width, height, generator):
    """(left, top, side) as torchvision's RandomResizedCrop.get_params with ratio (1, 1): ten tries, then the central square."""
    for _ in range(10):
        side = round((width * height * generator.uniform(*CROP_SCALE)) ** 0.5)
        if 0 < side <= min(width, height):
            top, left = generator.integers(0, height - side + 1), generator.integers(0, width - side + 1)
            return int(left), int(top), side
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def on_canvas(patches, teacher, benchmark):
    """Patches uint8 [B, 3, s, s] in the middle of S x S canvases, normalised for the benchmark: float32 [B, 3, S, S].

    The canvas has the teacher's mean colour, which is zero to the teacher.
    """
    side, image = patches.shape[-1], benchmark.image
    black, mean, std = (torch.tensor(v, device=patches.device)[:, None, None] for v in (teacher.mean, image.mean, image.std))
    canvas = black.repeat(len(patches), 1, image.size, image.size)
    first = (image.size - side) // 2
    canvas[:, :, first : first + side, first : first + side] = patches / 255
    return (canvas - mean) / std


def best_patches(patches, losses, wanted):
    """uint8 [wanted, 3, s, s], best first: of every image [m, crops, 3, s, s] the patch of least loss, of these the least."""
    least, which = losses.min(1)
    best = least.argsort(stable=True)[:wanted]
    return patches[best, which[best]]


def assembled(patches, ipc, factor, size):
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


METHODS = {"dm": dm, "rded": rded}


def synthesize(method, benchmark, ipc, out, seed=0, data_dir=None, **settings):
    """Make a distilled set with `method` and save it in folder `out`; the ImageSet. UserError if `out` holds something.

    `settings` are the method's own. `out` gets the images as parquet (8-bit PNG, class names kept) and distilled.json:
    method, source, settings, seconds, fingerprint.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' exists and is not an empty folder; give another --out, nothing is overwritten.")
    accelerator = launch.accelerator()
    if accelerator.num_processes > 1:
        raise UserError(
            f"synthesize runs in one process, {accelerator.num_processes} were launched; run it without a launcher."
        )
    train = tables.real(benchmark, "train", data_dir)
    started = time.time()
    pixels, about = METHODS[method](train, benchmark, ipc, seed, accelerator, data_dir, **settings)
    seconds = time.time() - started
    name = out.resolve().name
    labels = torch.arange(len(benchmark.classes)).repeat_interleave(ipc)
    found = image_sets.make(name, pixels, labels, benchmark.classes, name)
    partial = out.with_name(f".{name}.partial")
    image_sets.save(found, partial)
    about = {
        "method": method,
        "benchmark": benchmark.name,
        "ipc": ipc,
        "seed": seed,
        **about,
        "source": {"repo": benchmark.data.repo, "commit": train.commit},
        "fingerprint": found.fingerprint,
        "seconds": round(seconds, 1),
        "device": accelerator.device.type,
    }
    (partial / "distilled.json").write_text(json.dumps(about, indent=1) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for file in partial.iterdir():
        os.replace(file, out / file.name)
    partial.rmdir()
    return found
