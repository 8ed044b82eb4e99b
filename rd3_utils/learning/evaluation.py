"""The one evaluation: top-1 and top-5 of a network on a whole test split, exact under any number of processes."""

import contextlib
import uuid
from pathlib import Path

import evaluate
import torch
from accelerate.utils import broadcast_object_list, gather_object

from rd3_utils.errors import UserError

METRIC = Path(__file__).parent / "topk"
BATCH = 500  # test images of 32 px and less per forward pass; fewer of larger ones


@torch.no_grad()
def predictions(network, images, rows, mean, std, accelerator, top=5, exact=False, whitening=None):
    """int64 [B, top] (or [B, C] with fewer classes): the most likely classes of `rows`, best first.

    Eval mode, no views; `exact` computes in float32 whatever the launch says.
    """
    training = network.training
    network.eval()
    mean, std = (torch.tensor(v, device=accelerator.device)[:, None, None] * 255 for v in (mean, std))
    best = []
    for some in rows.split(min(BATCH, max(64, BATCH * 32**2 // images.shape[-1] ** 2))):
        x = (images[some.to(images.device)].to(accelerator.device).float() - mean) / std  # [B, 3, S, S]
        x = x if whitening is None else whitening(x)
        with contextlib.nullcontext() if exact else accelerator.autocast():
            logits = network(x).float()  # [B, C]
        best.append(logits.topk(min(top, logits.shape[1]), dim=1).indices.cpu())
    network.train(training)
    return torch.cat(best) if best else torch.empty(0, top, dtype=torch.int64)


def accuracy(network, test, benchmark, accelerator, exact=False, whitening=None):
    """{"top1", "top5" (fractions), "images_scored"} of `network` on the ImageSet `test`, the same in every process.

    Process r scores rows r, r + P, ...; the rows that come back must be each test row exactly once, or UserError.
    """
    rows = torch.arange(accelerator.process_index, len(test), accelerator.num_processes)
    normalisation = benchmark.image.mean, benchmark.image.std
    best = predictions(network, test.images, rows, *normalisation, accelerator, exact=exact, whitening=whitening)
    pairs = [(rows.numpy(), best.numpy())]
    pairs = gather_object(pairs) if accelerator.num_processes > 1 else pairs
    scores = [None]
    if accelerator.is_main_process:
        rows = torch.cat([torch.from_numpy(r) for r, _ in pairs])
        best = torch.cat([torch.from_numpy(b) for _, b in pairs if len(b)])
        rows, places = rows.sort()
        if not torch.equal(rows, torch.arange(len(test))):
            raise UserError(f"{len(rows)} test rows came back, wanted each of {len(test)} once; the score would be wrong.")
        metric = evaluate.load(str(METRIC), keep_in_memory=True, experiment_id=uuid.uuid4().hex)
        scores = [metric.compute(predictions=best[places].numpy(), references=test.labels.numpy())]
    if accelerator.num_processes > 1:
        broadcast_object_list(scores)
    return scores[0]
