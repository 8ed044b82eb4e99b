"""ZCA whitening: the one preprocessing that is fitted on real data (Krizhevsky 2009; MTT and DATM train in its space)."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from rd3_utils.errors import UserError

FOLDER = Path(constants.HF_HOME) / "rd3" / "zca"
LARGEST = 64  # pixels: at 64, the matrix has 12,288^2 numbers
CHUNK = 2000  # images per product


@dataclass(frozen=True, eq=False)
class Whitening:
    """x -> (x - centre) @ matrix over flattened normalised images; `centre` float32 [D], `matrix` float32 [D, D]."""

    centre: torch.Tensor
    matrix: torch.Tensor

    def __call__(self, x):
        """float32 [B, 3, S, S] -> the same shape."""
        centre, matrix = self.centre.to(x.device), self.matrix.to(x.device)
        with torch.autocast(x.device.type, enabled=False):
            return ((x.flatten(1) - centre) @ matrix).view_as(x)


def fit(images, mean, std, eps):
    """The Whitening of an ImageSet: matrix U (S + eps)^-1/2 U^T of the covariance U S U^T of its normalised images.

    As kornia.enhance.ZCAWhitening(eps=0.1), which MTT and DATM use; computed in float64.
    """
    size = images.images.shape[-1]
    if size > LARGEST:
        raise UserError(
            f"ZCA of {size} px images has a matrix of {(3 * size**2) ** 2 * 4 / 1e9:.0f} GB; use at most {LARGEST} px."
        )
    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in (mean, std))
    chunks = [((some.float() - mean) / std).flatten(1) for some in images.images.split(CHUNK)]
    centre = sum(chunk.double().sum(0) for chunk in chunks) / len(images)
    covariance = sum((d := chunk.double() - centre).T @ d for chunk in chunks) / (len(images) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors * (values.clamp(min=0) + eps).rsqrt() @ vectors.T
    return Whitening(centre.float(), matrix.float())


def fitted(images, mean, std, eps):
    """`fit`, once for the same data and numbers: kept under the Hub's cache folder (HF_HOME)."""
    key = hashlib.sha256(f"{images.fingerprint} {mean} {std} {eps}".encode()).hexdigest()[:32]
    path = FOLDER / f"{key}.safetensors"
    if path.is_file():
        return Whitening(**load_file(path))
    whitening = fit(images, mean, std, eps)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file({"centre": whitening.centre, "matrix": whitening.matrix.contiguous()}, temporary)
    os.replace(temporary, path)
    return whitening
