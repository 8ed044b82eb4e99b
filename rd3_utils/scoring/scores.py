"""HLR, IOR, LRS and ARS (DD-Ranking, arXiv 2505.13300) as pure functions of fractions.

Accuracies are in [0, 1]; a value above 1 is percent given by mistake and refused. DD-Ranking's public code feeds percent
into the exponential; here alpha and beta stay in [-1, 1], so LRS and ARS stay in [0, 1].
"""

import math

from rd3_utils.errors import UserError


def hlr(full_hard, distilled_hard):
    """Hard label recovery: accuracy of the full data less that of the distilled set, hard labels. Smaller is better."""
    check(full_hard=full_hard, distilled_hard=distilled_hard)
    return full_hard - distilled_hard


def ior(distilled, random):
    """Improvement over random: accuracy of the distilled set less that of as many random real images, same labels."""
    check(distilled=distilled, random=random)
    return distilled - random


def lrs(hlr, ior, weight=0.5):
    """Label robust score in [0, 1]: alpha = weight * IOR - (1 - weight) * HLR, normalised."""
    check(weight=weight)
    return normalised(weight * ior - (1 - weight) * hlr)


def ars(distilled_augmented, random_augmented, distilled_plain, random_plain, gamma=0.5):
    """Augmentation robust score in [0, 1]: beta = gamma * gain with augmentation + (1 - gamma) * gain without, normalised."""
    check(gamma=gamma)
    with_augmentation = ior(distilled_augmented, random_augmented)
    return normalised(gamma * with_augmentation + (1 - gamma) * ior(distilled_plain, random_plain))


def normalised(x):
    """(e^x - e^-1) / (e - e^-1): -1 -> 0, 1 -> 1."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def check(**fractions):
    """UserError for a value that is no fraction."""
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} is {value}, wanted a fraction from 0 to 1; divide percent by 100.")
