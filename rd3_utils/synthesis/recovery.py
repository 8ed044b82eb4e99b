"""Images recovered from a teacher: SRe2L, and CDA, which is SRe2L with a curriculum on the crops.

What the teacher remembers of its training images, the batch-norm statistics, and what it knows, the classes, are turned into
pixels. The values are those of VILA-Lab/SRe2L: paths below are of that repository (SRe2L/recover, SRe2L/*small_dataset, CDA).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate.utils import tqdm
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rd3_utils import command_lines
from rd3_utils.data import images as image_sets
from rd3_utils.data import selections, sources, views
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import teachers, training
from rd3_utils.learning.teachers import Teacher
from rd3_utils.options import TrainOptions
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.synthesis import rded as real_patches
from rd3_utils.synthesis.settings import CLASSES
from rd3_utils.synthesis.task import SynthesisTask

BETAS, EPSILON = (0.5, 0.9), 1e-8  # Adam's: recover/data_synthesis.py:46
FIRST_LAYER = 10.0  # --first-bn-multiplier in all of its scripts
CROP_RATIO = (3 / 4, 4 / 3)  # torchvision's default, which its crops leave as it is


@dataclass(frozen=True)
class RecoveryRecipe:
    """How images are recovered.

    A step takes a crop of at least `min_crop` of the area, flips it with probability `flip`, and rolls it down and right by
    as many pixels as drawn from `jitter`, both ends included: one crop, flip and roll for all images of the step.
    The curriculum leads the lower bound of the crop from 1 to `min_crop` in the first `milestone` of the iterations.
    """

    iterations: int
    learning_rate: float  # of Adam at the start; cosine to 0, no warm-up
    bn_weight: float
    min_crop: float
    flip: float
    jitter: tuple
    curriculum: str = "step"
    milestone: float = 0.0


# by image size: the recipe of the least size that is not below the image's, else of the largest
SRE2L = {
    32: RecoveryRecipe(1000, 0.25, 0.01, 1.0, 0.0, (0, 4)),  # *small_dataset/recover_cifar.{sh,py}: CIFAR-100, no multi-crop
    64: RecoveryRecipe(4000, 0.1, 1.0, 0.08, 0.5, (-4, 4)),  # *small_dataset/recover_tiny.{sh,py}
    224: RecoveryRecipe(4000, 0.25, 0.01, 0.08, 0.5, (0, 32)),  # recover/recover.sh, data_synthesis.py
}
CDA = {
    # extrapolated, no CIFAR code of CDA is public: SRe2L's recipe for CIFAR with CDA's crops, which are the method
    32: RecoveryRecipe(1000, 0.25, 0.01, 0.08, 0.5, (0, 4), "cosine", 1.0),
    64: RecoveryRecipe(4000, 0.4, 0.05, 0.08, 0.5, (0, 4), "cosine", 1.0),  # CDA/README.md, recover_cda_tiny.py
    224: RecoveryRecipe(4000, 0.25, 0.01, 0.08, 0.5, (0, 32), "cosine", 1.0),  # CDA/README.md, recover_cda_in1k.py
}


def recover(
    method: str,
    recipes: dict[int, RecoveryRecipe],
    task: SynthesisTask,
    teacher: str = "default",
    init: str = "noise",
    batch: int = CLASSES,
    **changes: Any,
) -> tuple[torch.Tensor, dict]:
    """uint8 [N, 3, S, S], `ipc` per class, and what is worth recording; `changes` are values of the RecoveryRecipe, None where
    the one of `recipes` stands.

    Image t of every class is optimised together with image t of the other classes, at most `batch` of them, and with no
    other image; its random numbers are those of (seed, t, first class of the batch). So a larger ipc of the same seed and
    teacher contains the smaller one, from noise and from real images. Pixels live in the benchmark's normalisation and are
    clipped after every step to what an image can be. The last iterate is kept, as in the original, rounded to 8 bits (there:
    truncated, and saved as JPEG).
    """
    benchmark, ipc, device = task.benchmark, task.ipc, task.accelerator.device
    size, classes = benchmark.image.size, len(benchmark.classes)
    recipe = resolved_recipe(recipes, benchmark, changes)
    image_sets.check_size(ipc * classes, benchmark)
    if init not in STARTS:
        raise unknown("init", init, STARTS)
    source = batch_norm_teacher(method, teacher, task)
    start = STARTS[init](task, teacher)
    network = teachers.Ensemble([source], benchmark).to(device)
    loss = TeacherLoss(network)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (benchmark.image.mean, benchmark.image.std))
    made = torch.empty(classes, ipc, 3, size, size, dtype=torch.uint8)
    batches = [(t, some) for t in range(ipc) for some in torch.arange(classes).split(batch)]
    with tqdm(total=len(batches) * recipe.iterations, desc=f"{method} ipc {ipc}", unit="step", leave=False) as bar:
        for t, some in batches:
            stream = views.Stream(task.seed, f"recovery {t} {int(some[0])}")
            x = noise(len(some), size, stream).to(device) if start is None else (start[some, t].to(device) / 255 - mean) / std
            x = optimised(x, some.to(device), loss, recipe, draws(recipe, size, stream), (-mean / std, (1 - mean) / std), bar)
            training.check_finite_images(x, method)
            made[some, t] = (x * std + mean).mul(255).add(0.5).floor().clamp(0, 255).to(torch.uint8).cpu()
    about = {"teacher": source.describe(), "init": init, "batch": batch, **asdict(recipe)}
    return made.flatten(0, 1), about


sre2l = partial(recover, "sre2l", SRE2L)  # Yin, Xing & Shen, NeurIPS 2023, arXiv 2306.13092
# Yin & Shen, TMLR 2024, arXiv 2311.18838: SRe2L whose crops start as the whole image and may become smaller from step to step
cda = partial(recover, "cda", CDA)


def batch_norm_teacher(method: str, teacher: str, task: SynthesisTask) -> Teacher:
    """The Teacher at the source `teacher`, examined on the test split; UserError for one without batch norm."""
    benchmark = task.benchmark
    loaded = teachers.load(teacher, benchmark)
    if not batch_norms(loaded.network):
        one = TrainOptions(benchmark=benchmark.name, distilled="full", student="convnet3_bn", arms="full-hard")
        raise UserError(
            f"{method} matches batch-norm statistics; {loaded.source} ({loaded.architecture}) has none; use a teacher with "
            f"batch norm such as convnet3_bn: {command_lines.launch(one, stated=['benchmark'])} makes one."
        )
    return teachers.examined(loaded, benchmark, image_sets.test_split(benchmark, task.data_dir), task.accelerator)


def resolved_recipe(recipes: dict[int, RecoveryRecipe], benchmark: Benchmark, changes: dict) -> RecoveryRecipe:
    """The one of `recipes` for the benchmark's images, with `changes` that are not None; UserError for impossible ones.

    Below 32 px, which nobody has published, the jitter is an eighth of the side, as it is at 32 px. No flip where the
    benchmark says that a mirrored image is none of its class.
    """
    size = benchmark.image.size
    recipe = recipes[min((s for s in recipes if s >= size), default=max(recipes))]
    jitter = (0, size // 8) if size < min(recipes) else recipe.jitter
    recipe = replace(recipe, jitter=jitter, flip=recipe.flip * benchmark.image.mirror)
    recipe = replace(recipe, **{key: value for key, value in changes.items() if value is not None})
    if isinstance(recipe.jitter, int):
        recipe = replace(recipe, jitter=(0, recipe.jitter))
    for key, wanted, right in (
        ("iterations", "at least 1", recipe.iterations >= 1),
        ("learning_rate", "above 0", 0 < recipe.learning_rate < math.inf),
        ("bn_weight", "at least 0", 0 <= recipe.bn_weight < math.inf),
        ("min_crop", "a share of the area above 0, at most 1", 0 < recipe.min_crop <= 1),
        ("jitter", f"pixels from 0 to {size - 1}", -size < recipe.jitter[0] <= recipe.jitter[1] < size),
        ("milestone", "a share of the iterations from 0 to 1", 0 <= recipe.milestone <= 1),
    ):
        if not right:
            raise UserError(f"--{key.replace('_', '-')} is {changes[key]}, wanted {wanted}.")
    if recipe.curriculum not in CURRICULA:
        raise unknown("curriculum", recipe.curriculum, CURRICULA)
    return recipe


def from_real(task: SynthesisTask, teacher: str) -> torch.Tensor:
    """The images of random:ipc=K,seed=S, uint8 [C, ipc, 3, S, S]."""
    images = selections.select(sources.random(task.ipc, task.seed), task.benchmark, lambda: task.train).images
    return images.unflatten(0, (-1, task.ipc))


def from_rded(task: SynthesisTask, teacher: str) -> torch.Tensor:
    """RDED's images by the same teacher, uint8 [C, ipc, 3, S, S]; more candidates than its 300 where ipc asks for them."""
    images, _ = real_patches.rded(task, teacher, candidates=max(300, 4 * task.ipc))
    return images.unflatten(0, (-1, task.ipc))


STARTS: dict[str, Callable[..., torch.Tensor | None]] = {"noise": lambda *_: None, "real": from_real, "rded": from_rded}


def noise(count: int, size: int, stream: views.Stream) -> torch.Tensor:
    """Standard normal float32 [count, 3, size, size]: what images of the original start from."""
    from scipy.special import ndtri

    return torch.from_numpy(ndtri(stream.uniform("noise", count, 3, size, size) + 2.0**-54).astype(np.float32))


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Its layers that hold batch statistics of training images, in the order of `modules()`."""
    layers = (m for m in network.modules() if isinstance(m, _BatchNorm))
    return [layer for layer in layers if layer.running_mean is not None]


class TeacherLoss:
    """(x, labels) -> how unlike its classes a batch is to a network in eval mode, and how unlike its training images.

    The first is the cross-entropy. The second sums, over the batch-norm layers, the Euclidean distances over channels of the
    batch's mean and (biased) variance at the layer's input from the running ones, the first layer counted ten times
    (recover/utils.py, BNFeatureHook; recover/data_synthesis.py:74-75).
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.layers = network, batch_norms(network)
        self.inputs: dict[nn.Module, torch.Tensor] = {}
        for layer in self.layers:
            layer.register_forward_pre_hook(lambda layer, inputs: self.inputs.update({layer: inputs[0]}))

    def __call__(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cross_entropy = F.cross_entropy(self.network(x), labels)
        reached = [layer for layer in self.layers if layer in self.inputs]  # auxiliary heads are not, in eval mode
        distances = torch.stack([distance(layer, self.inputs.pop(layer)) for layer in reached])
        return cross_entropy, distances.sum() + (FIRST_LAYER - 1) * distances[0]


def distance(layer: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """How far mean and variance of x [B, C, ...] are from the running ones of a batch-norm layer."""
    assert layer.running_mean is not None and layer.running_var is not None
    others = [d for d in range(x.ndim) if d != 1]
    mean = x.mean(others)
    variance = x.square().mean(others) - mean.square()  # a quarter less time per step on a CPU than torch.var_mean
    return torch.linalg.vector_norm(mean - layer.running_mean) + torch.linalg.vector_norm(variance - layer.running_var)


def optimised(
    x: torch.Tensor,
    labels: torch.Tensor,
    loss: TeacherLoss,
    recipe: RecoveryRecipe,
    draws: Iterable[tuple],
    limits: tuple[torch.Tensor, torch.Tensor],
    bar: Any,
) -> torch.Tensor:
    """Images x [B, 3, S, S] after the recipe's iterations, each on the next of `draws`; `limits` [3, 1, 1] of a pixel."""
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], betas=BETAS, eps=EPSILON)
    for i, draw in enumerate(draws):
        optimizer.param_groups[0]["lr"] = annealed_rate(recipe, i)
        cross_entropy, batch_norm = loss(augmented(x, *draw), labels)
        optimizer.zero_grad()
        (cross_entropy + recipe.bn_weight * batch_norm).backward()
        optimizer.step()
        with torch.no_grad():
            x.clamp_(*limits)
        bar.update()
    return x.detach()


def annealed_rate(recipe: RecoveryRecipe, i: int) -> float:
    """The learning rate of iteration i (from 0): cosine, without warm-up."""
    return recipe.learning_rate * (1 + math.cos(math.pi * i / recipe.iterations)) / 2


def smallest_crop(recipe: RecoveryRecipe, i: int) -> float:
    """The least share of the area that a crop of iteration i may have (CDA/recover_cda_in1k.py:51-66)."""
    ends = recipe.milestone * recipe.iterations
    return recipe.min_crop + (1 - recipe.min_crop) * CURRICULA[recipe.curriculum](i / ends) if i < ends else recipe.min_crop


CURRICULA: dict[str, Callable[[float], float]] = {  # from 1 at 0, of the part of the curriculum that is over
    "step": lambda part: 1.0,
    "linear": lambda part: 1 - part,
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
}


def draws(recipe: RecoveryRecipe, size: int, stream: views.Stream) -> list[tuple]:
    """For every iteration (box, flip, roll): the crop's top, left, height and width; whether to mirror; pixels down and right.

    Boxes are torchvision's RandomResizedCrop.get_params.
    """
    n, (low, high) = recipe.iterations, recipe.jitter
    least = np.array([[smallest_crop(recipe, i)] for i in range(n)])
    knobs: Any = SimpleNamespace(crop_scale=(least, 1.0), crop_ratio=CROP_RATIO)  # of a protocol's views, those that are read
    boxes = views.random_resized_boxes(knobs, n, size, stream)
    flips = stream.uniform("flip", n) < recipe.flip
    rolls = low + np.floor(stream.uniform("jitter", n, 2) * (high - low + 1)).astype(np.int64)
    return list(zip(boxes.tolist(), flips.tolist(), rolls.tolist()))


def augmented(x: torch.Tensor, box: Sequence[int], flip: bool, roll: Sequence[int]) -> torch.Tensor:
    """x [B, 3, S, S] cropped and resized to S (bilinear), mirrored, and rolled around its edges; gradients flow back.

    Resizing is two matrix products, which unlike torch's interpolation have the same bits every time on a GPU too.
    """
    size = x.shape[-1]
    if tuple(box) != (0, 0, size, size):
        strip = torch.zeros(1, 1, dtype=torch.int64)
        vertical, horizontal = (
            views.resize_weights(torch.tensor([start]), torch.tensor([length]), size, size, strip)[0].to(x.device)
            * 2.0**-views.WEIGHT_BITS
            for start, length in (box[::2], box[1::2])
        )
        x = vertical @ x @ horizontal.mT
    x = x.flip(3) if flip else x
    return x.roll(roll, (2, 3)) if any(roll) else x
