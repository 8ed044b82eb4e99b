"""A saved network scored again on the test split, as the Run beside it says that it was.

The network is built from the Run and its benchmark, never from config.json, and the safetensors must fit it tensor by tensor:
no other architecture, size or code comes in with the files. What a file could ask for in memory is known from its header.

Two machines, two numbers of threads or two releases of torch round differently, and a Run does not say on which processor it
was made. So an image whose true class leads or trails by less than a tolerance may be right on one machine and wrong on
another: such near ties are counted, and a Run is as these weights score if its right answers differ by no more than them.
The tolerance is a share of the range of an image's logits, TOLERANCES. On CIFAR-10's test images (embedded teacher: all;
a ConvNet-3 of shaken weights: 1,000) other batches, threads, memory formats and kernels, and float64, moved no lead by more
than 1.1e-5 in float32: at 1e-4 none of the teacher's images is a near tie. Bfloat16 moved them by up to 1.5e-2, 99 of 100
by at most 6e-3, flipped 13 images of 10,000 and the count by 5, and between a GPU and a CPU by 7; near ties at 1e-2 are 143.

Weights can be made for which every image is a near tie: one class far below all others widens the range. So no more than a
share of the images, SHIFTS, may be counted otherwise, however many near ties there are; at least LEAST_SHIFT of a small split.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError
from rd3_utils.learning import evaluation, students
from rd3_utils.learning.weights import weights_sha256
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.scoring.runs import Run
from rd3_utils.scoring.shapes import shown

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # what autocast computes in
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 1e-2}  # of the range of an image's logits
SHIFTS = {"fp32": 5e-4, "fp16": 1e-3, "bf16": 3e-3}  # of the test images
LEAST_SHIFT = 2  # images


class Misfit(Exception):
    """Saved files are no network of the Run that they lie with; the text says why."""


@dataclass(frozen=True)
class RightAnswers:
    """Test images that a network answers rightly here, and how many near ties may be so elsewhere (`more`) or not (`fewer`)."""

    right: int
    more: int
    fewer: int

    def allows(self, right: int, most: int) -> bool:
        """Whether another machine may have counted `right`, at most `most` apart."""
        return self.right - min(self.fewer, most) <= right <= self.right + min(self.more, most)

    @property
    def near(self) -> int:
        """Near ties, whichever side they are on."""
        return self.more + self.fewer


@dataclass(frozen=True)
class Rescored:
    """What weights of this SHA-256 score on so many test images: the first answer, and the first five."""

    sha256: str
    images: int
    first: RightAnswers
    five: RightAnswers

    def allows(self, run: Run) -> bool:
        """Whether these weights score what `run` states, near ties aside."""
        first, five = round(run.top1 * self.images), round(run.top5 * self.images)
        most = max(LEAST_SHIFT, math.floor(SHIFTS[run.environment.precision] * self.images))
        return run.images_scored == self.images and self.first.allows(first, most) and self.five.allows(five, most)


def rescored(run: Run, folder: Path, test: ImageSet, benchmark: Benchmark, accelerator: Accelerator) -> Rescored:
    """The Rescored of the network that lies in `folder`, in the precision of `run`, in one process.

    Misfit where the files hold another network than the Run speaks of, training.Diverged where it gives no finite numbers.
    """
    network = saved_network(run, folder, benchmark)
    sha256 = weights_sha256(network)
    precision, device = run.environment.precision, accelerator.device
    watched = Watched(network, test.labels, TOLERANCES[precision]).to(device)
    with torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF):
        evaluation.accuracy(watched, test, benchmark, accelerator, exact=True, whose="the saved network")
    return Rescored(sha256, len(test), *watched.answers())


class Watched(nn.Module):
    """A network that remembers of each test image, shown in order, how far its true class is from being no right answer."""

    def __init__(self, network: nn.Module, labels: torch.Tensor, tolerance: float) -> None:
        super().__init__()
        self.network, self.labels, self.tolerance = network, labels, tolerance
        self.leads: list[torch.Tensor] = []  # [2, B]: before the best of the other classes, and before their fifth
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.network(x).float()  # [B, C]
        labels = self.labels[self.count : self.count + len(x)]
        self.count += len(x)
        self.leads.append(leads(logits.cpu(), labels))
        return logits

    def answers(self) -> tuple[RightAnswers, RightAnswers]:
        """Of the first answer, and of the first five."""
        first, five = torch.cat(self.leads, dim=1)
        return counted(first, self.tolerance), counted(five, self.tolerance)


def leads(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float32 [2, B]: by how much the true class leads the best of the others, and their fifth, as shares of the row's range.

    Infinite where there are no five others: then the true class is always among the first five.
    """
    own = logits.gather(1, labels[:, None])  # [B, 1]
    others = logits.scatter(1, labels[:, None], -torch.inf).topk(min(evaluation.TOP, logits.shape[1]), dim=1).values
    span = (logits.amax(1) - logits.amin(1)).clamp(min=torch.finfo(torch.float32).tiny)
    return ((own - others)[:, [0, -1]] / span[:, None]).T


def counted(lead: torch.Tensor, tolerance: float) -> RightAnswers:
    """The RightAnswers of leads [N]."""
    right, near = lead > 0, lead.abs() <= tolerance
    return RightAnswers(int(right.sum()), int((near & ~right).sum()), int((near & right).sum()))


# --- the files


def expected_network(run: Run, benchmark: Benchmark) -> nn.Module:
    """The network that `run` speaks of, without weights (on the device meta); Misfit where there is none."""
    try:
        with torch.device("meta"):
            return students.create(run.student, benchmark, 0)
    except UserError as error:
        raise Misfit(str(error)) from error


def saved_network(run: Run, folder: Path, benchmark: Benchmark) -> nn.Module:
    """The network of `run` with the weights in `folder`; Misfit unless these are its tensors, all and no other."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise Misfit(f"there is no {WEIGHTS}")
    expected = {
        name: (list(value.shape), TYPES.get(value.dtype, str(value.dtype)))
        for name, value in expected_network(run, benchmark).state_dict().items()
    }
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            stated = {name: (list(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        for name in {**expected, **stated}:
            if expected.get(name) != stated.get(name):
                mine, theirs = (described_tensor(table.get(name)) for table in (stated, expected))
                raise Misfit(f"its {WEIGHTS} has {mine} {shown(name)}, a {run.student} has {theirs}")
        network = students.create(run.student, benchmark, 0)
        network.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise Misfit(f"its {WEIGHTS} cannot be read: {' '.join(str(error).split())[:120]}") from error
    return network


def described_tensor(about: tuple[list[int], str] | None) -> str:
    """A tensor for a message."""
    return "no tensor" if about is None else f"{about[1]} {about[0]}"


def config_faults(run: Run, folder: Path, benchmark: Benchmark) -> Iterator[str]:
    """What config.json in `folder` says that the Run's student on its benchmark does not make; Misfit where it is no JSON."""
    try:
        stated = flat(students.read_timm_config(folder))
    except UserError as error:
        raise Misfit(str(error)) from error
    wanted = flat(students.config_of(expected_network(run, benchmark), benchmark))
    for key in {**wanted, **stated}:
        if stated.get(key) != wanted.get(key):
            yield f"{key[:60]} is {shown(stated.get(key))}, wanted {shown(wanted.get(key))}"


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """{dotted key: value that is no table} of plain data; a key of null is as good as none."""
    if not isinstance(value, dict):
        return {key: value}
    inner = [flat(one, f"{key}.{name}" if key else name).items() for name, one in value.items()]
    return {name: one for pairs in inner for name, one in pairs}
