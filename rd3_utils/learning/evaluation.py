"""The one evaluation: top-1 and top-5 of a network on a whole test split, exact under any number of processes."""

import contextlib
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from rd3_utils import progress
from rd3_utils.data.images import ImageSet
from rd3_utils.data.whitening import Whitening
from rd3_utils.errors import UserError
from rd3_utils.launch import from_main, raise_on_all
from rd3_utils.learning.training import Diverged, check_finite
from rd3_utils.protocols.benchmark import Benchmark

METRIC = Path(__file__).parent / "topk"
TOP = 5  # classes that a prediction names
TEST_BATCH = 500  # test images of 32 px and less per forward pass; fewer of larger ones


@dataclass(frozen=True)
class Score:
    """How often a network is right: shares of the images scored whose class is its first answer, or among its first five."""

    top1: float
    top5: float
    images_scored: int


@dataclass(frozen=True, eq=False)
class Reading:
    """How a network is shown images: normalised, then whitened if at all; `exact`: float32 whatever the launch says."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    whitening: Whitening | None = None
    exact: bool = False


@torch.no_grad()
def predictions(
    network: nn.Module,
    images: torch.Tensor,
    rows: torch.Tensor,
    reading: Reading,
    accelerator: Accelerator,
    whose: str = "the network",
) -> torch.Tensor:
    """int64 [B, TOP] (or [B, C] with fewer classes): the most likely classes of `rows`, best first.

    Eval mode, no views. Diverged, with the name `whose`, where an output is no finite number: such classes would be in no
    order.
    """
    training = network.training
    network.eval()
    shift, scale = (torch.tensor(v, device=accelerator.device)[:, None, None] * 255 for v in (reading.mean, reading.std))
    best = []
    steps = rows.split(min(TEST_BATCH, max(64, TEST_BATCH * 32**2 // images.shape[-1] ** 2)))
    for some in progress.shown(steps, name=f"scoring {whose}", unit="batch", total=len(steps)):
        x = (images[some.to(images.device)].to(accelerator.device).float() - shift) / scale  # [B, 3, S, S]
        x = x if reading.whitening is None else reading.whitening(x)
        with contextlib.nullcontext() if reading.exact else accelerator.autocast():
            logits = network(x).float()  # [B, C]
        if not bool(logits.isfinite().all()):
            raise Diverged(f"{whose}: its outputs are no finite numbers; it diverged and is not scored.")
        best.append(logits.topk(min(TOP, logits.shape[1]), dim=1).indices.cpu())
    network.train(training)
    return torch.cat(best) if best else torch.empty(0, TOP, dtype=torch.int64)


def accuracy(
    network: nn.Module,
    test: ImageSet,
    benchmark: Benchmark,
    accelerator: Accelerator,
    exact: bool = False,
    whitening: Whitening | None = None,
    whose: str = "the network",
) -> Score:
    """The Score of `network` on the ImageSet `test`, the same in every process; see `graded`."""
    return graded(network, test, benchmark, accelerator, exact, whitening, whose=whose)[0]


def graded(
    network: nn.Module,
    test: ImageSet,
    benchmark: Benchmark,
    accelerator: Accelerator,
    exact: bool = False,
    whitening: Whitening | None = None,
    *,
    whose: str = "the network",
) -> tuple[Score, torch.Tensor]:
    """(the Score of `network` on the ImageSet `test`, its first answers int64 [N]), the same in every process.

    Process r scores rows r, r + P, ...; the rows that come back must be each test row exactly once, or UserError. Diverged,
    in every process, where weights or outputs are no finite numbers in one of them; `whose` names the network.
    """
    rows = torch.arange(accelerator.process_index, len(test), accelerator.num_processes)
    best: list[torch.Tensor] = []
    reading = Reading(benchmark.image.mean, benchmark.image.std, whitening, exact)

    def predict() -> None:
        check_finite(network, whose)
        best.append(predictions(network, test.images, rows, reading, accelerator, whose))

    raise_on_all(accelerator, predict)
    pairs = [(rows.numpy(), best[0].numpy())]
    pairs = gather_object(pairs) if accelerator.num_processes > 1 else pairs

    def compute() -> tuple[Score, torch.Tensor]:
        rows = torch.cat([torch.from_numpy(r) for r, _ in pairs])
        best = torch.cat([torch.from_numpy(b) for _, b in pairs if len(b)])
        rows, places = rows.sort()
        if not torch.equal(rows, torch.arange(len(test))):
            raise UserError(f"{len(rows)} test rows came back, wanted each of {len(test)} once; the score would be wrong.")
        import evaluate  # takes a second, and only scores need it

        metric = evaluate.load(str(METRIC), keep_in_memory=True, experiment_id=uuid.uuid4().hex)
        score = Score(**metric.compute(predictions=best[places].numpy(), references=test.labels.numpy()))
        return score, best[places, 0]

    return from_main(accelerator, compute)
