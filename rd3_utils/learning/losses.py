"""Losses, one value per row [B]: the training step adds them up and divides by the global batch.

Every function takes (student [B, C], teacher [B, C] or None, classes int64 [B], partner_classes int64 [B],
own_share [B], loss): logits of both networks for the same view, the classes of the image and of the one mixed into it,
the share of pixels that show the image itself, and the recipe's Loss.

To add one: declare what it reads in LOSSES of protocols/knobs.py; write it here and enter it under the same name in LOSSES
below; test it against its formula; run `python docs/render_knobs.py`. Protocols, checks and tests/test_knobs.py know it then.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rd3_utils.protocols.knobs import LossKnobs

SMOOTHING = 0.1  # of the class in GIFT's labels


def kl(
    student: Tensor, teacher: Tensor, classes: Tensor, partner_classes: Tensor, own_share: Tensor, loss: LossKnobs
) -> Tensor:
    """KL(teacher || student) of softmax(logits / T), times T^2 if `t_squared`; batchmean over rows.

    Hinton et al., arXiv 1503.02531; without T^2 as VILA-Lab/SRe2L SRe2L/validate/train_FKD.py:216,248-251. In float64: at
    T = 20 both distributions are nearly uniform, and in float32 their difference keeps only three or four digits.
    """
    t = loss.temperature
    if student.device.type != "mps":  # which has no float64
        student, teacher = student.double(), teacher.double()
    log_student, log_teacher = F.log_softmax(student / t, 1), F.log_softmax(teacher / t, 1)
    rows = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return rows * t**2 if loss.t_squared else rows


def soft_ce(
    student: Tensor, teacher: Tensor, classes: Tensor, partner_classes: Tensor, own_share: Tensor, loss: LossKnobs
) -> Tensor:
    """Cross-entropy of softmax(student / T) with softmax(teacher / T) as target, times T^2 if `t_squared`."""
    t = loss.temperature
    rows = -(F.softmax(teacher / t, 1) * F.log_softmax(student / t, 1)).sum(1)
    return rows * t**2 if loss.t_squared else rows


def mse_gt(
    student: Tensor, teacher: Tensor, classes: Tensor, partner_classes: Tensor, own_share: Tensor, loss: LossKnobs
) -> Tensor:
    """Mean squared error of the logits plus `hard_weight` times the hard term (by default of the own class, mixed or not).

    shaoshitong/G_VBSM_Dataset_Condensation Branch_full_ImageNet_1k/train/train_FKD_parallel.py; EDC, arXiv 2404.13733.
    """
    squares = F.mse_loss(student, teacher, reduction="none").mean(1)
    return squares + loss.hard_weight * hard_term(student, classes, partner_classes, own_share, loss)


def joint_ce(
    student: Tensor, teacher: Tensor, classes: Tensor, partner_classes: Tensor, own_share: Tensor, loss: LossKnobs
) -> Tensor:
    """`soft_ce` plus `hard_weight` times the hard term, which has no temperature."""
    soft = soft_ce(student, teacher, classes, partner_classes, own_share, loss)
    return soft + loss.hard_weight * hard_term(student, classes, partner_classes, own_share, loss)


def cosine(
    student: Tensor, teacher: Tensor, classes: Tensor, partner_classes: Tensor, own_share: Tensor, loss: LossKnobs
) -> Tensor:
    """1 - cosine of the student's logits and the label: the teacher's logits plus `hard_weight` of the smoothed own class.

    GIFT (Shang et al., ICLR 2025, arXiv 2405.14736), LINs-lab/GIFT ec9503e validate/losses_benchmark.py: logits and the
    class, smoothed to 0.9 and 0.1 / (C - 1), are each scaled to length 1 before they are added; there the class weighs 0.1.
    Raw logits, no temperature. With hard_weight 0 it is that file's plain "cosine".
    """
    smooth = torch.full_like(teacher, SMOOTHING / (teacher.shape[1] - 1)).scatter_(1, classes[:, None], 1 - SMOOTHING)
    label = F.normalize(teacher, dim=1) + loss.hard_weight * F.normalize(smooth, dim=1)
    return 1 - F.cosine_similarity(student, label, dim=1)


def hard_term(student: Tensor, classes: Tensor, partner_classes: Tensor, own_share: Tensor, loss: LossKnobs) -> Tensor:
    """Cross-entropy with the class of the image or, where `hard_target` is "mixed", with both of a mixed one."""
    cross_entropy = ce_mixed if loss.hard_target == "mixed" else ce
    return cross_entropy(student, None, classes, partner_classes, own_share, loss)


def ce(
    student: Tensor, teacher: Tensor | None, classes: Tensor, partner_classes: Tensor, own_share: Tensor, loss: LossKnobs
) -> Tensor:
    """Cross-entropy with the class of the image."""
    return F.cross_entropy(student, classes, reduction="none")


def ce_mixed(
    student: Tensor, teacher: Tensor | None, classes: Tensor, partner_classes: Tensor, own_share: Tensor, loss: LossKnobs
) -> Tensor:
    """Cross-entropy with both classes of a mixed image, weighted by their share of pixels (Yun et al., ICCV 2019)."""
    own, other = (F.cross_entropy(student, c, reduction="none") for c in (classes, partner_classes))
    return own_share * own + (1 - own_share) * other


LOSSES: dict[str, Callable[..., Tensor]] = {
    "kl": kl,
    "soft_ce": soft_ce,
    "mse_gt": mse_gt,
    "joint_ce": joint_ce,
    "cosine": cosine,
    "ce": ce,
    "ce_mixed": ce_mixed,
}
