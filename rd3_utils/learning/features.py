"""Features: what the last layer of a frozen network reads of images, as every student and untrained network gives them.

x [B, 3, S, S] -> forward_features -> forward_head(pre_logits=True) -> [B, D] -> classifier -> [B, C]
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from accelerate.utils import tqdm
from PIL import Image
from torch import nn

from rd3_utils import hub
from rd3_utils.data import embedded, sources
from rd3_utils.errors import UserError
from rd3_utils.learning import students, teachers, training
from rd3_utils.learning.weights import RUN, check_stated_weights, weights_sha256
from rd3_utils.protocols.benchmark import Benchmark

FEATURE_BATCH = 500  # images of 32 px and less per forward pass; fewer of larger ones


@dataclass(frozen=True, eq=False)
class Frozen:
    """A network whose features are read, put into eval mode; `mean` and `std` normalise its images' values in [0, 1]."""

    network: nn.Module
    source: str
    commit: str | None
    architecture: str
    size: int  # pixels per side of the images it takes
    mean: tuple
    std: tuple
    folder: Path | None = None  # where its files lie

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    @cached_property
    def sha256(self) -> str:
        """Of parameters and buffers, which nothing changes any more."""
        return weights_sha256(self.network)


def load_frozen(source: str) -> Frozen:
    """The Frozen network that was saved at `source`: a folder, local-dir:FOLDER or hf-hub:OWNER/REPO[@REVISION].

    UserError for a folder without config.json or safetensors, files of another network, one that takes no square images of
    three channels, and one whose weights are no finite numbers.
    """
    where = sources.parse_network(source)
    if where.kind not in ("hf-hub", "local-dir"):
        where = sources.saved(source)
    folder, commit = Path(where.name), None
    if where.kind == "hf-hub":
        commit = hub.commit(where.name, where.revision, repo_type="model")
        folder = hub.network_folder(where.name, commit, also=(RUN,))
    elif not folder.is_dir() and (embedded.PACKAGE / folder).is_dir():
        folder = embedded.PACKAGE / folder
    elif folder.suffix == ".json" and folder.is_file():  # the Run instead of the folder beside it
        folder = folder.with_suffix("")
    if not folder.is_dir():
        raise UserError(
            f"student {source}: there is no such folder; give the seed folder that train_student.py keeps beside a Run "
            "(of the first seed, or of all with --keep-weights all), or hf-hub:OWNER/REPO."
        )
    students.read_timm_config(folder)  # says so where there is none
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"student {source} has no model.safetensors beside its config.json; give the whole folder.")
    try:
        network = timm.create_model(sources.saved(folder).text, pretrained=True)
        config = cast(dict, network.pretrained_cfg)
        shape, mean, std = (tuple(config[key]) for key in ("input_size", "mean", "std"))
    except teachers.MISLOADED as error:
        raise UserError(f"student {source} cannot be loaded: {hub.one_line(error)}") from error
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2] or len(mean) != 3 or len(std) != 3:
        raise UserError(
            f"student {source} takes images of shape {'x'.join(map(str, shape))} (channels x height x width), wanted "
            "3 channels and a square: the benchmarks here have such images."
        )
    training.check_finite(network, f"student {source}")
    check_stated_weights(folder, network, f"student {source}")
    return Frozen(network, where.stated.text, commit, config["architecture"], shape[1], mean, std, folder)


def untrained(student: str, benchmark: Benchmark, seed: int) -> Frozen:
    """The Frozen network that the student of this seed is before its training."""
    network = students.create(student, benchmark, seed)
    image = benchmark.image
    return Frozen(network, f"untrained:{student},seed={seed}", None, student, image.size, image.mean, image.std)


@torch.no_grad()
def extract(one: Frozen, images: torch.Tensor, device: torch.device | str, batch: int = FEATURE_BATCH) -> torch.Tensor:
    """float32 [N, D]: the features of `images` uint8 [N, 3, S', S'] in order; what the classifier reads, bit for bit.

    Images of another size are `resized` to the network's. Eval mode and float32, no views. UserError for a network of
    another kind, and where features are no finite numbers or the same for all images.
    """
    network: Any = one.network.to(device)  # timm's networks have no type in common that tells of features
    mean, std = (torch.tensor(v, device=device)[:, None, None] * 255 for v in (one.mean, one.std))
    batches = []
    steps = torch.arange(len(images)).split(min(batch, max(64, batch * 32**2 // one.size**2)))
    for rows in tqdm(steps, desc=one.source, unit="batch", leave=False, disable=len(steps) < 20):
        x = (resized(images[rows], one.size).to(device).float() - mean) / std  # [B, 3, S, S]
        try:
            y = network.forward_head(network.forward_features(x), pre_logits=True)
        except students.MISFITS as error:
            raise UserError(f"student {one.source} gives no features of {one.size} px images: {hub.one_line(error)}") from error
        batches.append(y.flatten(1).float().cpu())
    features = torch.cat(batches)
    if not torch.isfinite(features).all():
        raise training.Diverged(f"student {one.source}: its features are not all finite numbers; its training diverged.")
    if bool((features == features[0]).all()):
        raise UserError(f"student {one.source}: its features are the same for all {len(images)} images, so they tell nothing.")
    return features


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [N, 3, size, size] of uint8 [N, 3, S, S]: PIL's bilinear resize, which averages where it makes smaller."""
    if images.shape[-1] == size:
        return images
    into = np.empty((len(images), 3, size, size), np.uint8)

    def one(i: int) -> None:
        picture = Image.fromarray(images[i].permute(1, 2, 0).numpy())
        into[i] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(one, range(len(images))):
            pass
    return torch.from_numpy(into)
