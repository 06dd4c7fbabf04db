"""Masked language modelling that learns from soft labels (cross-distillation)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(
    logits: Float[Tensor, "M V"],
    targets: Int[Tensor, "M"],
    teacher_logits: Float[Tensor, "M V"] | None = None,
    *,
    alpha: float | Tensor = 0.0,
    temperature: float = 1.0,
    top_k: int = 0,
) -> Float[Tensor, ""]:
    """``(1 - alpha) CE(one_hot, p) + alpha tau^2 KL(q || p_tau)``, the mean over ``M`` positions.

    ``q = softmax(teacher / tau)``, of which the ``top_k`` largest are kept and renormalised
    (0: all). The teacher gets no gradient. Without a teacher the loss is cross-entropy; with
    ``M = 0`` it is 0. Source: the paper's abstract states that a frozen language encoder provides
    the soft labels; this standard form (arXiv 1503.02531) is our choice.
    """
    if len(targets) == 0:
        return logits.sum().float() * 0.0
    logits = logits.float()  # in bf16 a loss of 10 is off by 0.06
    hard = F.cross_entropy(logits, targets)
    if teacher_logits is None:
        return hard
    soft = soft_cross_entropy(logits, teacher_logits, temperature, top_k)
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def soft_cross_entropy(
    logits: Float[Tensor, "M V"],
    teacher_logits: Float[Tensor, "M V"],
    temperature: float,
    top_k: int,
) -> Float[Tensor, ""]:
    """``KL(q || p_tau)`` averaged over rows, over the teacher's ``top_k`` words (0: all)."""
    teacher_logits = teacher_logits.detach().float() / temperature
    student = logits.float() / temperature
    if 0 < top_k < logits.shape[1]:
        teacher_logits, kept = teacher_logits.topk(top_k, dim=1)  # [M, K]
        # Only K columns are needed, but the student's normaliser runs over all V.
        log_p = student.gather(1, kept) - student.logsumexp(dim=1, keepdim=True)
    else:
        log_p = student.log_softmax(dim=1)
    log_q = teacher_logits.log_softmax(dim=1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")


@torch.no_grad()
def without_teacher(
    logits: Float[Tensor, "M V"],
    teacher_logits: Float[Tensor, "M V"] | None,
    *,
    alpha: float | Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
) -> Float[Tensor, "M V"]:
    """Return the student's log-probabilities minus the floor that distillation puts under them.

    Trained on mixed labels, a student converges to ``p = (1 - alpha) p_own + alpha q``: however
    well it knows the answer, every word that the teacher likes keeps at least ``alpha q``. This
    returns ``log(p - alpha q)``, not renormalised; minus infinity for a word that has only what the
    teacher gave it. ``q`` and ``alpha`` are those of ``distillation_loss``; exact for a temperature
    of 1. Our choice.
    """
    own = logits.float().softmax(dim=1)
    if teacher_logits is not None:
        soft = teacher_logits.float() / temperature
        if 0 < top_k < soft.shape[1]:
            soft = soft.masked_fill(soft < soft.topk(top_k, dim=1).values[:, -1:], -torch.inf)
        own = own - alpha * soft.softmax(dim=1)
    return own.clamp(min=0).log()


def ramped(value: float, steps: int, ramp_steps: int) -> float:
    """Return ``value`` scaled linearly from 0 over the first ``ramp_steps`` steps.

    Without a ramp it is ``value`` at every step.
    """
    return value * min(max(steps / ramp_steps, 0.0), 1.0) if ramp_steps > 0 else value
