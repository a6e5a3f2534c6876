"""Related losses, each by its published definition: focal, inverse focal, confidence penalty, R-Drop.

Focal losses are curves over the target's probability p: with G = -d loss / d z_y, every other class j gets
G p_j / (1 - p), the softmax without the target. So 1 - p is exact however confident the model is.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid

from mt.losses.function import LossFunction, Rows, softmax_
from mt.losses.smoothing import label_smoothed_kl


class TargetCurve(LossFunction):
    """A loss that depends on the target's probability alone."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    @abstractmethod
    def curve(self, log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and G at log p and log(1 - p), each (rows,)."""

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> Rows:
        """See LossFunction.rows_."""
        column = targets[:, None]
        gold = logits.gather(1, column)
        highest = logits.scatter_(1, column, -torch.inf).amax(1, keepdim=True)
        gold = (gold - highest).squeeze(1)
        log_odds = softmax_(logits) - gold
        log_p = logsigmoid(-log_odds)
        loss, pull = self.curve(log_p, logsigmoid(log_odds))
        if gradient:
            logits.mul_(pull[:, None]).scatter_(1, column, -pull[:, None])
        return Rows(loss, -log_p, gold >= 0)


class Focal(TargetCurve):
    """-(1 - p)^gamma log p (Lin et al. 2017): confident tokens count less."""

    def __init__(self, gamma: float, pad_id: int) -> None:
        super().__init__(pad_id)
        self.gamma = gamma
        self.signature = f"focal|gamma:{gamma:g}"

    def curve(self, log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
        """See TargetCurve.curve."""
        factor = torch.exp(self.gamma * log_rest)
        return -factor * log_p, factor * (log_rest.exp() - self.gamma * log_p.exp() * log_p)


class InverseFocal(TargetCurve):
    """-(1 + scale p)^gamma log p (Wang, Feng and Zhang 2021; with a scale the anti-focal loss of Raunak et al.
    2020): confident tokens count more."""

    def __init__(self, gamma: float, pad_id: int, scale: float = 1.0) -> None:
        super().__init__(pad_id)
        self.gamma = gamma
        self.scale = scale
        self.signature = f"inverse_focal|gamma:{gamma:g}|scale:{scale:g}"

    def curve(self, log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
        """See TargetCurve.curve."""
        scaled = self.scale * log_p.exp()
        factor = (1 + scaled) ** self.gamma
        slope = self.gamma * scaled * (1 + scaled) ** (self.gamma - 1) * log_p
        return -factor * log_p, log_rest.exp() * (factor + slope)


class ConfidencePenalty(LossFunction):
    """-log p_y - beta H(p) (Pereyra et al. 2017): low entropy costs."""

    def __init__(self, beta: float, pad_id: int) -> None:
        self.beta = beta
        self.pad_id = pad_id
        self.signature = f"confidence_penalty|beta:{beta:g}"

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> Rows:
        """See LossFunction.rows_."""
        column = targets[:, None]
        logits.sub_(logits.amax(1, keepdim=True))
        gold = logits.gather(1, column).squeeze(1)
        p = logits.clone()
        normaliser = softmax_(p)
        # a masked class, at -inf, has p log p = 0
        log_p = logits.sub_(normaliser[:, None]).clamp_(min=torch.finfo(logits.dtype).min)
        entropy = -(p * log_p).sum(1)
        nll = normaliser - gold
        if gradient:  # p_i (1 + beta (log p_i + H)) - [i = y]
            log_p.add_(entropy[:, None]).mul_(self.beta).add_(1).mul_(p)
            log_p.scatter_add_(1, column, -torch.ones_like(gold)[:, None])
        return Rows(nll - self.beta * entropy, nll, gold == 0)


def focal(logits: Tensor, targets: Tensor, *, gamma: float, pad_id: int) -> Tensor:
    """-(1 - p)^gamma log p a token; shapes and types as in label_smoothed_kl."""
    return Focal(gamma, pad_id)(logits, targets)


def inverse_focal(
    logits: Tensor, targets: Tensor, *, gamma: float, pad_id: int, scale: float = 1.0
) -> Tensor:
    """-(1 + scale p)^gamma log p a token; shapes and types as in label_smoothed_kl."""
    return InverseFocal(gamma, pad_id, scale)(logits, targets)


def confidence_penalty(logits: Tensor, targets: Tensor, *, beta: float, pad_id: int) -> Tensor:
    """-log p_y - beta H(p) a token; shapes and types as in label_smoothed_kl."""
    return ConfidencePenalty(beta, pad_id)(logits, targets)


def rdrop(
    logits: Tensor, again: Tensor, targets: Tensor, *, alpha: float, pad_id: int, smoothing: float = 0.0,
    definition: str = "uniform_nopad",
) -> Tensor:  # fmt: skip
    """R-Drop (Liang et al. 2021): the losses of two passes with different dropout, plus alpha times the mean of
    their two KL divergences from each other; logits and again (..., vocabulary), a value a token, 0 at padding.
    """
    losses = [
        label_smoothed_kl(each, targets, smoothing=smoothing, definition=definition, pad_id=pad_id)
        for each in (logits, again)
    ]
    first, second = (torch.log_softmax(each.to(losses[0].dtype), -1) for each in (logits, again))
    divergence = kl_div(second, first, reduction="none", log_target=True).sum(-1)
    divergence = divergence + kl_div(first, second, reduction="none", log_target=True).sum(-1)
    apart = (alpha / 2 * divergence).masked_fill(targets == pad_id, 0)
    return losses[0] + losses[1] + apart
