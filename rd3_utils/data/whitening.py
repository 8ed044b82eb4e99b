"""ZCA whitening: the one preprocessing that is fitted on real data (Krizhevsky 2009; MTT and DATM train in its space)."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rd3_utils import hub
from rd3_utils.errors import UserError

FOLDER = Path(constants.HF_HOME) / "rd3" / "zca"
VERSION = 1  # of how it is fitted
CHUNK = 2000  # images per product
ROWS = 64  # images per whitening product, always: the last bit of a product depends on how many there are


@dataclass(frozen=True, eq=False)
class Whitening:
    """x -> (x - centre) @ matrix over flattened normalised images; `centre` float32 [D], `matrix` float32 [D, D]."""

    centre: torch.Tensor
    matrix: torch.Tensor

    def __call__(self, x):
        """float32 [B, 3, S, S] -> the same shape; an image's result does not depend on the others."""
        centre, matrix = self.centre.to(x.device), self.matrix.to(x.device)
        flat = F.pad(x.flatten(1) - centre, (0, 0, 0, -len(x) % ROWS))
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([rows @ matrix for rows in flat.split(ROWS)])[: len(x)].view_as(x)


def fit(images, mean, std, eps):
    """The Whitening of an ImageSet: matrix U (S + eps)^-1/2 U^T of the covariance U S U^T of its normalised images.

    As kornia.enhance.ZCAWhitening(eps=0.1), which MTT and DATM use; computed in float64.
    """
    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in (mean, std))

    def chunks():
        return (((some.float() - mean) / std).flatten(1).double() for some in images.images.split(CHUNK))

    centre = sum(chunk.sum(0) for chunk in chunks()) / len(images)
    covariance = sum((d := chunk - centre).T @ d for chunk in chunks()) / (len(images) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors * (values.clamp(min=0) + eps).rsqrt() @ vectors.T
    return Whitening(centre.float(), matrix.float())


def fitted(images, mean, std, eps):
    """`fit`, once for the same data and numbers: kept under the Hub's cache folder (HF_HOME); one process fits, others wait."""
    key = hashlib.sha256(f"{VERSION} {images.fingerprint} {mean} {std} {eps}".encode()).hexdigest()[:32]
    path = FOLDER / f"{key}.safetensors"
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with FileLock(FOLDER / f".{key}.lock"):
            with contextlib.suppress(FileNotFoundError, SafetensorError):  # a damaged file is fitted again
                return Whitening(**load_file(path))
            whitening = fit(images, mean, std, eps)
            temporary = FOLDER / f".{key}.{os.getpid()}.partial"
            save_file({"centre": whitening.centre, "matrix": whitening.matrix.contiguous()}, temporary)
            temporary.chmod(0o644)  # safetensors writes 0600
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"the whitening matrix cannot be kept in {FOLDER} ({hub.one_line(error)}); set HF_HOME.") from error
    return whitening
