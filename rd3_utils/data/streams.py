"""Random numbers of one epoch: a stream for every purpose, and the distributions that are made of uniform numbers."""

import hashlib
import math

import numpy as np


class Stream:
    """Numbers for one epoch; every purpose has its own Philox stream, so that one knob does not shift another's."""

    def __init__(self, views_seed: int, epoch: int | str) -> None:
        self.key = f"rd3 views {views_seed} {epoch}"

    def bits(self, purpose: str, *shape: int) -> np.ndarray:
        """uint64 `shape`, uniform; row i does not depend on how many rows there are."""
        key = int.from_bytes(hashlib.sha256(f"{self.key} {purpose}".encode()).digest()[:16], "little")
        return np.random.Philox(key=key).random_raw(math.prod(shape)).reshape(shape)

    def uniform(self, purpose: str, *shape: int) -> np.ndarray:
        """float64 `shape` in [0, 1)."""
        return (self.bits(purpose, *shape) >> np.uint64(11)) * 2.0**-53


def normal(u: np.ndarray) -> np.ndarray:
    """Standard normal numbers from uniform ones in [0, 1)."""
    from scipy.special import ndtri

    return ndtri(u + 2.0**-54)


def beta_quantile(alpha: float, u: np.ndarray) -> np.ndarray:
    """Beta(alpha, alpha) numbers from uniform ones."""
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, u)
