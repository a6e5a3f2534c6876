"""Related losses, each by its published definition: focal, inverse focal, confidence penalty, R-Drop.

Focal losses are curves over the target's probability p: with G = -d loss / d z_y, the `pull`, every other class j gets
G p_j / (1 - p), the softmax without the target. So 1 - p is exact however confident the model is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mt.losses.function import LossFunction, RowLosses, softmax_
from mt.losses.smoothing import LabelSmoothedKL
from mt.losses.targets import SmoothedTarget


class Focal(LossFunction):
    """-(1 + scale p)^gamma log p of the target's probability; at scale -1 confident tokens count less (Lin et al.
    2017)."""

    def __init__(self, gamma: float, pad_id: int, scale: float = -1.0) -> None:
        super().__init__(pad_id)
        self.gamma, self.scale = gamma, scale

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> RowLosses:
        """See LossFunction.rows_."""
        column = targets[:, None]
        gold = logits.gather(1, column)
        highest = logits.scatter_(1, column, -torch.inf).amax(1, keepdim=True)
        gold = (gold - highest).squeeze(1)
        log_odds = softmax_(logits) - gold
        log_p, p, rest = logsigmoid(-log_odds), torch.sigmoid(-log_odds), torch.sigmoid(log_odds)
        room = rest + (1 + self.scale) * p  # 1 + scale p, exact at -1 too
        factor = room**self.gamma
        if gradient:
            slope = self.gamma * self.scale * p * (rest / room.clamp(min=torch.finfo(room.dtype).tiny)) * log_p
            pull = factor * (rest + slope)
            logits.mul_(pull[:, None]).scatter_(1, column, -pull[:, None])
        return RowLosses(-factor * log_p, -log_p, gold >= 0)


class InverseFocal(Focal):
    """The same with a positive scale: confident tokens count more (Wang, Feng and Zhang 2021; with a scale the
    anti-focal loss of Raunak et al. 2020)."""

    def __init__(self, gamma: float, pad_id: int, scale: float = 1.0) -> None:
        super().__init__(gamma, pad_id, scale)


class ConfidencePenalty(LossFunction):
    """-log p_y - beta H(p) (Pereyra et al. 2017): low entropy costs."""

    def __init__(self, beta: float, pad_id: int) -> None:
        super().__init__(pad_id)
        self.beta = beta

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> RowLosses:
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
        return RowLosses(nll - self.beta * entropy, nll, gold == 0)


class RDrop(LossFunction):
    """R-Drop (Liang et al. 2021): the label-smoothed losses of two passes with different dropout, plus alpha times
    the mean of their two KL divergences from each other. nll is the mean of both passes."""

    passes = 2

    def __init__(self, target: SmoothedTarget, alpha: float, pad_id: int) -> None:
        super().__init__(pad_id)
        self.smoothed, self.alpha = LabelSmoothedKL(target, pad_id), alpha

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> RowLosses:
        """See LossFunction.rows_."""
        # a masked class, at -inf in both passes, has no part in their difference
        log_p = torch.log_softmax(logits, 1).clamp_(min=torch.finfo(logits.dtype).min)
        apart = log_p[0::2] - log_p[1::2]
        p = log_p.exp_()
        means = [(each * apart).sum(1, keepdim=True) for each in (p[0::2], p[1::2])]
        rows = self.smoothed.rows_(logits, targets.repeat_interleave(2), gradient=gradient)
        if gradient:  # of alpha / 2 sum_k (p_k - p'_k)(log p_k - log p'_k), besides
            difference = p[0::2] - p[1::2]
            logits[0::2].add_(p[0::2] * (apart - means[0]) + difference, alpha=self.alpha / 2)
            logits[1::2].sub_(p[1::2] * (apart - means[1]) + difference, alpha=self.alpha / 2)
        divergence = (means[0] - means[1]).squeeze(1)
        loss = rows.loss.view(-1, 2).sum(1) + self.alpha / 2 * divergence
        return RowLosses(loss, rows.nll.view(-1, 2).mean(1), rows.correct[0::2])
