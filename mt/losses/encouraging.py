"""Encouraging Loss with log-end (Zhao et al. 2022, "Well-classified examples are underestimated", AAAI).

    sum_k q_k (-log p_k) + sum_k q'_k B(p_k),   B(p) = log(1 - p) up to p = log_end, then its tangent

q is the smoothed target, q' the same with its own weight; the target's entropy is not subtracted. log_end 1 is the pure
bonus log(1 - p), exact here at any margin.

How it stays finite: one class s of each row is taken out of the softmax, and the rest is normalised without it. With
x = LSE of the others - z_s, p_s = sigmoid(-x) and 1 - p_s = sigmoid(x), both to full relative precision, and
p_i / (1 - p_s) is the softmax without s. s is the only class whose probability can come near 1: the arg-max, or without
smoothing of the bonus the target, the only class that has one. The gradient is

    (p_i sum_k q_k - q_i) + (p_i sum_k w_k - w_i)   with   w_k = q'_k p_k / (1 - min(p_k, log_end))
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mt.losses.function import LossFunction, RowLosses, highest_class, softmax_
from mt.losses.targets import SmoothedTarget, Weights

CLAMP = 1e-5
"""least 1 - p of the published code"""


class _LeftOut(NamedTuple):
    """The class s of each row that is left out of the softmax; each (rows,)."""

    ids: Tensor
    is_gold: Tensor
    probability: Tensor
    rest: Tensor
    """1 - p_s"""
    bonus: Tensor
    """B(p_s)"""
    slope: Tensor
    """-(1 - p_s) B'(p_s), 1 up to log_end"""
    weight: Tensor
    """q'_s"""


class _RestBonus(NamedTuple):
    """The bonus of every class but s."""

    bonus: Tensor
    """sum over k but s of q'_k B(p_k), (rows,)"""
    quotient: Tensor
    """p_k / (1 - min(p_k, log_end)), (rows, vocabulary), 0 at excluded classes"""
    base: Tensor
    """q'_k of each class, times its prior (rows,)"""
    on_gold: Tensor
    """q' of the target on top of that, 0 where s is the target (rows,)"""
    pull: Tensor
    """sum of w_k (rows,)"""


class Encouraging(LossFunction):
    """Cross-entropy with a bonus for probability on the target, each with its smoothed target."""

    def __init__(self, target: SmoothedTarget, bonus: SmoothedTarget, log_end: float, pad_id: int) -> None:
        super().__init__(pad_id)
        if not 0 <= log_end <= 1:
            raise ValueError(f"log_end is {log_end!r}; it must be 0 to 1")
        self.target, self.bonus, self.log_end = target, bonus, log_end

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> RowLosses:
        """See LossFunction.rows_; without a smoothed bonus it needs no more passes than cross-entropy."""
        ids = targets if self.bonus.hard else highest_class(logits)
        is_gold = ids == targets
        column = ids[:, None]
        gold_logit, logit = logits.gather(1, targets[:, None]), logits.gather(1, column)
        highest = logits.scatter_(1, column, -torch.inf).amax(1, keepdim=True)
        gold_logit, logit = (gold_logit - highest).squeeze(1), (logit - highest).squeeze(1)

        weights = self.target.weights(targets, logits.dtype)
        if not self.target.hard:
            # In the place of s the highest adds 0, where -inf would make it infinite; s is added below.
            spread = self.target.weighted_sum(logits.scatter_(1, column, highest), highest.squeeze(1))
            spread += self.target.prior_at(ids, logits.dtype) * logit
            logits.scatter_(1, column, -torch.inf)
        log_rest = softmax_(logits)
        log_odds = log_rest - logit
        normaliser = torch.logaddexp(log_rest, logit)
        loss = nll = torch.where(is_gold, -logsigmoid(-log_odds), normaliser - gold_logit)
        if not self.target.hard:
            loss = weights.total * normaliser - weights.gold * gold_logit - weights.base * spread

        left_out = self._left_out(targets, ids, is_gold, log_odds)
        loss = loss + left_out.weight * left_out.bonus
        of_rest = None if self.bonus.hard else self._rest_bonus(logits, targets, left_out)
        if of_rest is not None:
            loss += of_rest.bonus
        if gradient:
            self._gradient_(logits, targets, weights, left_out, of_rest)
        return RowLosses(loss, nll, logit >= 0 if self.bonus.hard else is_gold)  # logit: ahead of the others

    def _left_out(self, targets: Tensor, ids: Tensor, is_gold: Tensor, log_odds: Tensor) -> _LeftOut:
        """log_odds: log((1 - p_s) / p_s), (rows,)."""
        probability, rest = torch.sigmoid(-log_odds), torch.sigmoid(log_odds)
        bonus, slope = logsigmoid(log_odds), torch.ones_like(rest)
        if self.log_end < 1:
            beyond, room = probability > self.log_end, 1 - self.log_end
            bonus = torch.where(beyond, math.log(room) - (probability - self.log_end) / room, bonus)
            slope = torch.where(beyond, rest / room, slope)
        weights = self.bonus.weights(targets, log_odds.dtype)
        weight = weights.gold * (is_gold & self.bonus.included(targets))
        weight += weights.base * self.bonus.prior_at(ids, log_odds.dtype)
        return _LeftOut(ids, is_gold, probability, rest, bonus, slope, weight)

    def _rest_bonus(self, softmax: Tensor, targets: Tensor, left_out: _LeftOut) -> _RestBonus:
        """softmax: without s, (rows, vocabulary)."""
        weights = self.bonus.weights(targets, softmax.dtype)
        on_gold = weights.gold * (~left_out.is_gold & self.bonus.included(targets))
        p = softmax * left_out.rest[:, None]
        p[:, self.bonus.excluded] = 0
        gold = p.gather(1, targets[:, None])
        # these classes have p <= 1/2, and s, missing here, has 0
        room = 1 - (p.clamp(max=self.log_end) if self.log_end < 0.5 else p)
        gold_room = 1 - gold.clamp(max=self.log_end)
        if self.bonus.prior is None:  # the product is at least 1/4
            bonus = weights.base * room.prod(1).log_()
        else:
            bonus = weights.base * self.bonus.weighted_sum(room.log())
        bonus += on_gold * gold_room.log().squeeze(1)
        if self.log_end < 0.5:
            beyond, gold_beyond = (p - self.log_end).clamp_(min=0), (gold - self.log_end).clamp(min=0)
            tangent = weights.base * self.bonus.weighted_sum(beyond) + on_gold * gold_beyond.squeeze(1)
            bonus -= tangent / (1 - self.log_end)
        quotient = torch.div(p, room, out=p)
        pull = weights.base * self.bonus.weighted_sum(quotient) + on_gold * (gold / gold_room).squeeze(1)
        return _RestBonus(bonus, quotient, weights.base, on_gold, pull)

    def _gradient_(
        self, softmax: Tensor, targets: Tensor, weights: Weights, left_out: _LeftOut, of_rest: _RestBonus | None
    ) -> None:
        """Turns the softmax without s into the gradient."""
        column, pull = targets[:, None], 0.0 if of_rest is None else of_rest.pull
        encouraged = left_out.weight * left_out.probability * left_out.slope
        softmax.mul_((left_out.rest * (weights.total + pull) + encouraged)[:, None])
        on_gold = weights.gold * ~left_out.is_gold
        if of_rest is not None:
            on_gold += of_rest.on_gold * of_rest.quotient.gather(1, column).squeeze(1)
            if self.bonus.prior is not None:
                of_rest.quotient.mul_(self.bonus.prior.to(softmax))
            softmax.addcmul_(of_rest.quotient, of_rest.base[:, None], value=-1)
        if not self.target.hard:
            self.target.subtract_prior_(softmax, weights.base)
        softmax.scatter_add_(1, column, -on_gold[:, None])
        q = weights.base * self.target.prior_at(left_out.ids, softmax.dtype) + weights.gold * left_out.is_gold
        # total * p_s - q_s, where p_s = 1 - rest would round to 1
        at_left_out = (weights.total - q) - weights.total * left_out.rest + left_out.probability * pull - encouraged
        softmax.scatter_(1, left_out.ids[:, None], at_left_out[:, None])


class ReferenceEncouraging(Encouraging):
    """The same as its authors' translation code computes it, for comparison with the exact form.

    The published criterion takes log(max(1 - p, 1e-5)) of a float32 softmax: where the clamp binds, the bonus has no
    gradient. With log_end below 1 the clamp lies beyond the tangent's start and never shows; with log_end 1 it takes
    the gradient of every token whose p is above 0.99999, the very tokens the bonus is for.
    """

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> RowLosses:
        """See LossFunction.rows_; differentiated by autograd."""
        at_target = logits.gather(1, targets[:, None]).squeeze(1)
        nll, correct = logits.logsumexp(1) - at_target, logits.amax(1) == at_target
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_(gradient)
            log_p = torch.log_softmax(leaf, 1)
            p = log_p.exp()
            bonus = (1 - p).clamp(min=CLAMP).log()
            if self.log_end < 1:
                room = 1 - self.log_end
                bonus = torch.where(p > self.log_end, math.log(room) - (p - self.log_end) / room, bonus)
            loss = _expected(bonus, targets, self.bonus) - _expected(log_p, targets, self.target)
            total = loss.sum()
        if gradient:
            logits.copy_(torch.autograd.grad(total, leaf)[0])
        return RowLosses(loss.detach(), nll, correct)


def _expected(values: Tensor, targets: Tensor, target: SmoothedTarget) -> Tensor:
    """Sum over classes of q_k values_k: (rows, vocabulary) -> (rows,)."""
    weights = target.weights(targets, values.dtype)
    prior = target.prior_at(torch.arange(values.shape[1], device=values.device), values.dtype)
    at_target = values.gather(1, targets[:, None]).squeeze(1)
    return weights.gold * at_target + weights.base * (values @ prior)


def encouraging(
    logits: Tensor,
    targets: Tensor,
    *,
    log_end: float,
    smoothing: float,
    definition: str,
    pad_id: int,
    bonus_smoothing: float | None = None,
    excluded_ids: tuple[int, ...] = (),
    unigram: Tensor | None = None,
    reference: bool = False,
) -> Tensor:
    """sum_k q_k (-log p_k + B(p_k)) of each token, the target's entropy not subtracted, as published: negative for
    confident, correct models, never a perplexity. What is not named here is as in label_smoothed_kl, the result too.

    `log_end` is in [0, 1]; `bonus_smoothing`: the bonus' own weight (None: the same); `excluded_ids`: classes that get
    no smoothing mass and no bonus, not even as a target, the definition being applied to the others, of which the
    `_nopad` forms exclude padding besides; `reference`: as the published code computes it, which excludes no class.
    """
    if reference and excluded_ids:
        raise ValueError(f"excluded_ids is {excluded_ids!r}; the published code, reference=True, knows none")
    size = logits.shape[-1]
    smoothed = partial(
        SmoothedTarget, definition, pad_id=pad_id, vocabulary_size=size, unigram=unigram, excluded_ids=excluded_ids
    )
    bonus = smoothed(smoothing if bonus_smoothing is None else bonus_smoothing)
    kind = ReferenceEncouraging if reference else Encouraging
    return kind(smoothed(smoothing), bonus, log_end, pad_id)(logits, targets)
