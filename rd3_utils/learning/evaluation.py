"""The one evaluation: top-1 and top-5 of a network on a whole test split, exact under any number of processes."""

import contextlib
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from rd3_utils.data.images import ImageSet
from rd3_utils.data.whitening import Whitening
from rd3_utils.errors import UserError
from rd3_utils.launch import from_main, raise_on_all
from rd3_utils.learning.training import Diverged, check_finite
from rd3_utils.protocols.benchmark import Benchmark

METRIC = Path(__file__).parent / "topk"
TEST_BATCH = 500  # test images of 32 px and less per forward pass; fewer of larger ones


@torch.no_grad()
def predictions(
    network: nn.Module,
    images: torch.Tensor,
    rows: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    accelerator: Accelerator,
    top: int = 5,
    exact: bool = False,
    whitening: Whitening | None = None,
    whose: str = "the network",
) -> torch.Tensor:
    """int64 [B, top] (or [B, C] with fewer classes): the most likely classes of `rows`, best first.

    Eval mode, no views; `exact` computes in float32 whatever the launch says. Diverged, with the name `whose`, where an
    output is no finite number: such classes would be in no order.
    """
    training = network.training
    network.eval()
    shift, scale = (torch.tensor(v, device=accelerator.device)[:, None, None] * 255 for v in (mean, std))
    best = []
    for some in rows.split(min(TEST_BATCH, max(64, TEST_BATCH * 32**2 // images.shape[-1] ** 2))):
        x = (images[some.to(images.device)].to(accelerator.device).float() - shift) / scale  # [B, 3, S, S]
        x = x if whitening is None else whitening(x)
        with contextlib.nullcontext() if exact else accelerator.autocast():
            logits = network(x).float()  # [B, C]
        if not bool(logits.isfinite().all()):
            raise Diverged(f"{whose}: its outputs are no finite numbers; it diverged and is not scored.")
        best.append(logits.topk(min(top, logits.shape[1]), dim=1).indices.cpu())
    network.train(training)
    return torch.cat(best) if best else torch.empty(0, top, dtype=torch.int64)


def accuracy(
    network: nn.Module,
    test: ImageSet,
    benchmark: Benchmark,
    accelerator: Accelerator,
    exact: bool = False,
    whitening: Whitening | None = None,
    whose: str = "the network",
) -> dict:
    """{"top1", "top5" (fractions), "images_scored"} of `network` on the ImageSet `test`, the same in every process.

    Process r scores rows r, r + P, ...; the rows that come back must be each test row exactly once, or UserError. Diverged,
    in every process, where weights or outputs are no finite numbers in one of them; `whose` names the network.
    """
    rows = torch.arange(accelerator.process_index, len(test), accelerator.num_processes)
    best: list[torch.Tensor] = []
    normalisation = benchmark.image.mean, benchmark.image.std

    def predict() -> None:
        check_finite(network, whose)
        best.append(
            predictions(network, test.images, rows, *normalisation, accelerator, exact=exact, whitening=whitening, whose=whose)
        )

    raise_on_all(accelerator, predict)
    pairs = [(rows.numpy(), best[0].numpy())]
    pairs = gather_object(pairs) if accelerator.num_processes > 1 else pairs

    def compute() -> dict:
        rows = torch.cat([torch.from_numpy(r) for r, _ in pairs])
        best = torch.cat([torch.from_numpy(b) for _, b in pairs if len(b)])
        rows, places = rows.sort()
        if not torch.equal(rows, torch.arange(len(test))):
            raise UserError(f"{len(rows)} test rows came back, wanted each of {len(test)} once; the score would be wrong.")
        import evaluate  # takes a second, and only scores need it

        metric = evaluate.load(str(METRIC), keep_in_memory=True, experiment_id=uuid.uuid4().hex)
        return metric.compute(predictions=best[places].numpy(), references=test.labels.numpy())

    return from_main(accelerator, compute)
