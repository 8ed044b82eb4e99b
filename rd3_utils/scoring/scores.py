"""HLR, IOR, LRS and ARS (DD-Ranking, arXiv 2505.13300) as pure functions of fractions, or of arrays of them.

Accuracies are in [0, 1]; a value above 1 is percent given by mistake and refused. DD-Ranking's public code feeds percent
into the exponential (`as_coded`); here alpha and beta stay in [-1, 1], so LRS and ARS stay in [0, 1].
"""

import numpy as np

from rd3_utils.errors import UserError

Values = float | np.ndarray  # one, or an array of them
WEIGHT = 0.5  # of IOR in LRS, and of the gain with augmentation in ARS: DD-Ranking's defaults


def hlr(full_hard: Values, distilled_hard: Values) -> Values:
    """Hard label recovery: accuracy of the full data less that of the distilled set, hard labels. Smaller is better."""
    check(full_hard=full_hard, distilled_hard=distilled_hard)
    return full_hard - distilled_hard


def ior(distilled: Values, random: Values) -> Values:
    """Improvement over random: accuracy of the distilled set less that of as many random real images, same labels."""
    check(distilled=distilled, random=random)
    return distilled - random


def alpha(hlr: Values, ior: Values, weight: float = WEIGHT) -> Values:
    """weight * IOR - (1 - weight) * HLR, in [-1, 1]."""
    check(weight=weight)
    return weight * ior - (1 - weight) * hlr


def beta(
    distilled_augmented: Values, random_augmented: Values, distilled_plain: Values, random_plain: Values, gamma: float = WEIGHT
) -> Values:
    """gamma * gain over random with augmentation + (1 - gamma) * gain without, in [-1, 1]."""
    check(gamma=gamma)
    with_augmentation = ior(distilled_augmented, random_augmented)
    return gamma * with_augmentation + (1 - gamma) * ior(distilled_plain, random_plain)


def lrs(hlr: Values, ior: Values, weight: float = WEIGHT) -> Values:
    """Label robust score in [0, 1]: alpha, normalised."""
    return normalised(alpha(hlr, ior, weight))


def ars(
    distilled_augmented: Values, random_augmented: Values, distilled_plain: Values, random_plain: Values, gamma: float = WEIGHT
) -> Values:
    """Augmentation robust score in [0, 1]: beta, normalised."""
    return normalised(beta(distilled_augmented, random_augmented, distilled_plain, random_plain, gamma))


def normalised(x: Values) -> Values:
    """(e^x - e^-1) / (e - e^-1): -1 -> 0, 1 -> 1."""
    return (np.exp(x) - np.exp(-1)) / (np.e - np.exp(-1))


def as_coded(x: Values) -> Values:
    """The LRS or ARS that DD-Ranking v0.2.0 prints for an alpha or beta of fractions: it normalises percentage points.

    NUS-HPC-AI-Lab/DD-Ranking b8b0966 ddranking/metrics/soft_label.py:561-564. From below -0.156 to far above 1.
    """
    return normalised(100 * x)


def check(**fractions: Values) -> None:
    """UserError for a value that is no fraction."""
    for name, value in fractions.items():
        if np.any(np.asarray(value) > 1):
            raise UserError(
                f"{name} is {np.max(value):g}: percent, it seems; wanted a fraction from 0 to 1, so divide it by 100."
            )
        if not np.all(np.asarray(value) >= 0):  # NaN, too
            raise UserError(f"{name} is {np.min(value):g}, wanted a fraction from 0 to 1.")
