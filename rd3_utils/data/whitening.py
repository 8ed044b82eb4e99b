"""ZCA whitening: the one preprocessing that is fitted on real data (Krizhevsky 2009; MTT and DATM train in its space)."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rd3_utils import files, hub
from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError

FITTED = Path(constants.HF_HOME) / "rd3" / "zca"
FIT_VERSION = 2  # of how it is fitted
CHUNK = 2000  # images per product
PRODUCT_ROWS = 64  # images per whitening product, always: the last bit of a product depends on how many there are


@dataclass(frozen=True, eq=False)
class Whitening:
    """x -> (x - centre) @ matrix over flattened normalised images; `centre` float32 [D], `matrix` float32 [D, D]."""

    centre: torch.Tensor
    matrix: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, S, S] -> the same shape; an image's result does not depend on the others."""
        centre, matrix = self.centre.to(x.device), self.matrix.to(x.device)
        flat = F.pad(x.flatten(1) - centre, (0, 0, 0, -len(x) % PRODUCT_ROWS))
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([rows @ matrix for rows in flat.split(PRODUCT_ROWS)])[: len(x)].view_as(x)


def fit_whitening(images: ImageSet, mean: Sequence[float], std: Sequence[float], eps: float) -> Whitening:
    """The Whitening of an ImageSet by U (S + eps)^-1/2 U^T, where U S U^T is the covariance of its images in [0, 1].

    As kornia.enhance.ZCAWhitening(eps=0.1) in MTT and DATM, which do not normalise images before it
    (GeorgeCazenavette/mtt-distillation utils.py). Networks' images here are normalised by `mean` and `std`, so the
    Whitening undoes that first, inside `matrix` and `centre`. Computed in float64.
    """

    def chunks() -> Iterator:
        return (some.flatten(1).double() / 255 for some in images.images.split(CHUNK))

    centre = sum(chunk.sum(0) for chunk in chunks()) / len(images)
    covariance = sum((d := chunk - centre).T @ d for chunk in chunks()) / (len(images) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors * (values.clamp(min=0) + eps).rsqrt() @ vectors.T
    of_mean, of_std = (torch.tensor(v, dtype=torch.float64).repeat_interleave(len(centre) // 3) for v in (mean, std))
    return Whitening(((centre - of_mean) / of_std).float(), (of_std[:, None] * matrix).float())


def fitted(images: ImageSet, mean: Sequence[float], std: Sequence[float], eps: float) -> Whitening:
    """`fit_whitening`, once for the same data and numbers: kept under the Hub's cache folder (HF_HOME); one process fits."""
    key = hashlib.sha256(f"{FIT_VERSION} {images.fingerprint} {mean} {std} {eps}".encode()).hexdigest()[:32]
    path = FITTED / f"{key}.safetensors"
    try:
        FITTED.mkdir(parents=True, exist_ok=True)
        with FileLock(FITTED / f".{key}.lock"):
            with contextlib.suppress(FileNotFoundError, SafetensorError):  # a damaged file is fitted again
                return Whitening(**load_file(path))
            whitening = fit_whitening(images, mean, std, eps)
            with files.whole_file(path, files.SET_HOME, (SafetensorError,)) as partial:
                save_file({"centre": whitening.centre, "matrix": whitening.matrix.contiguous()}, partial)
                partial.chmod(0o644)  # safetensors writes 0600
    except OSError as error:
        raise UserError(f"the whitening matrix cannot be kept in {FITTED} ({hub.one_line(error)}); set HF_HOME.") from error
    return whitening
