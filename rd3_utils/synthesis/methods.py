"""A distilled image set made here, by any method of settings.METHODS, and written with what it was made of."""

import importlib
import time
from pathlib import Path
from typing import Any

import torch

from rd3_utils import files, launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import tables
from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.synthesis.settings import METHODS
from rd3_utils.synthesis.task import SynthesisTask


def synthesize(
    method: str,
    benchmark: Benchmark,
    ipc: int,
    out: Path | str,
    seed: int = 0,
    data_dir: Path | str | None = None,
    **settings: Any,
) -> ImageSet:
    """Make a distilled set with `method` and save it in folder `out`; the ImageSet. UserError if `out` holds something.

    `settings` are the method's own. `out` gets the images as parquet (8-bit PNG, class names kept) and distilled.json:
    method, source, settings, seconds, fingerprint.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    module, _, function = METHODS[method][0].partition(":")
    make = getattr(importlib.import_module(f"rd3_utils.synthesis.{module}"), function)
    out = Path(out)
    files.check_new(out)
    accelerator = launch.accelerator()
    if accelerator.num_processes > 1:
        raise UserError(
            f"synthesize runs in one process, {accelerator.num_processes} were launched; run it without a launcher."
        )
    task = SynthesisTask(tables.real(benchmark, "train", data_dir), benchmark, ipc, seed, accelerator, data_dir)
    started = time.time()
    pixels, about = make(task, **settings)
    seconds = time.time() - started
    name = out.resolve().name
    labels = torch.arange(len(benchmark.classes)).repeat_interleave(ipc)
    images = image_sets.make(name, pixels, labels, benchmark.classes, name)
    about = {
        "method": method,
        "benchmark": benchmark.name,
        "ipc": ipc,
        "seed": seed,
        **about,
        "source": {"repo": benchmark.data.repo, "commit": task.train.commit},
        "fingerprint": images.fingerprint,
        "seconds": round(seconds, 1),
        "device": accelerator.device.type,
    }
    image_sets.save_new(images, out, about)
    return images
