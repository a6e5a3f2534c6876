"""Smoothed target distributions: which class of the vocabulary gets how much of a token's weight; and inverse links.

Every named definition has the same shape, q_k = base * prior_k + gold * [k = y], so a loss needs only a few
numbers a row and never builds q. With n classes that may get mass (V less the excluded ones) and weight a:

    definition                prior_k      base       gold           sum of q
    uniform, uniform_nopad    1            a / n      1 - a          1
    others, others_nopad      1            a / (n-1)  1 - a - base   1
    scatter                   1            a / n      1 - a - base   1 - a / n
    unigram                   u_k          a          1 - a          1

prior_k is 0 for excluded classes, and the `_nopad` forms exclude the padding class. Sources: Szegedy et al.
2016 (uniform), Pereyra et al. 2017 (unigram); `others` is what newer fairseq and `others_nopad` what
OpenNMT-py compute; `scatter` is the tutorial form that loses the mass a / n.

A loss' link takes the true probabilities r to the distribution p that minimises its expected value; the inverse links
here find r behind p. A smoothed target's link is affine. A loss sum_k r_k psi(p_k) has its minimum where r_k psi'(p_k)
is the same for all classes, so r_k is proportional to 1 / (-psi'(p_k)): hard targets of the Encouraging Loss (with
smoothing, and the same of the bonus, compose the two inverses) and the focal losses. The confidence penalty's gradient,
p (1 + beta (log p + H)) - r, is 0 there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DEFINITIONS = ("uniform", "others", "uniform_nopad", "others_nopad", "scatter", "unigram")


class Weights(NamedTuple):
    """What a row of targets needs: each (rows,), in the float type of the logits."""

    base: Tensor
    """weight that every class gets, times its prior"""
    gold: Tensor
    """weight on the target class, on top of base"""
    total: Tensor
    """sum of the row's weights"""


class SmoothedTarget:
    """One target distribution over a vocabulary."""

    def __init__(
        self,
        definition: str,
        smoothing: float,
        *,
        pad_id: int,
        vocabulary_size: int,
        unigram: Tensor | None = None,
        excluded_ids: tuple[int, ...] = (),
    ) -> None:
        """See label_smoothed_kl. excluded_ids: classes without mass; unigram is normalised over the others.

        Raises ValueError for a value out of range.
        """
        if definition not in DEFINITIONS:
            raise ValueError(f"definition is {definition!r}; it must be one of {', '.join(DEFINITIONS)}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing!r}; it must be at least 0 and below 1")
        if (definition == "unigram") != (unigram is not None):
            raise ValueError("unigram frequencies belong to the definition unigram, and it needs them")
        excluded = set(excluded_ids) | ({pad_id} if definition.endswith("_nopad") else set())
        self.excluded = tuple(sorted(index for index in excluded if 0 <= index < vocabulary_size))
        self.definition, self.smoothing, self.vocabulary_size = definition, smoothing, vocabulary_size
        self.hard = smoothing == 0  # all weight lies on the target class
        self.classes = vocabulary_size - len(self.excluded)
        self.prior: Tensor | None = None
        if unigram is not None:
            if unigram.shape != (vocabulary_size,):
                raise ValueError(f"unigram has shape {tuple(unigram.shape)}; it must be ({vocabulary_size},)")
            prior = unigram.detach().to(torch.float64).clone()
            prior[list(self.excluded)] = 0
            self.prior = prior / prior.sum()
        if self.classes < 2:
            raise ValueError(f"only {self.classes} classes are left to smooth over; it takes 2")

    def included(self, ids: Tensor) -> Tensor:
        """(rows,) bool: whether the class may get smoothing mass."""
        allowed = torch.ones_like(ids, dtype=torch.bool)
        for index in self.excluded:
            allowed &= ids != index
        return allowed

    def weights(self, targets: Tensor, dtype: torch.dtype) -> Weights:
        """Row weights of targets (rows,) int64."""
        smoothing = torch.full(targets.shape, self.smoothing, dtype=dtype, device=targets.device)
        total = torch.ones_like(smoothing)
        if self.definition == "unigram":
            return Weights(smoothing, 1 - smoothing, total)
        inside = self.included(targets).to(dtype)
        if self.definition.startswith("others"):
            base = smoothing / (self.classes - inside)
            return Weights(base, 1 - smoothing - base * inside, total)
        base = smoothing / self.classes
        if self.definition == "scatter":
            return Weights(base, 1 - smoothing - base * inside, 1 - base * inside)
        return Weights(base, 1 - smoothing, total)

    def prior_at(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(rows,) prior of one class a row."""
        if self.prior is None:
            return self.included(ids).to(dtype)
        return self.prior.to(ids.device, dtype)[ids]

    def weighted_sum(self, values: Tensor, origin: Tensor | None = None) -> Tensor:
        """Sum over classes of prior_k * (values_k - origin): values (rows, vocabulary), origin (rows,) or 0 ->
        (rows,). Values of excluded classes, infinite ones too, play no part."""
        kept = values[:, self.excluded].clone() if self.excluded else None
        if kept is not None:
            values[:, self.excluded] = 0  # for the moment of the sum: a copy of all values would cost more
        total = values.sum(1) if self.prior is None else values @ self.prior.to(values)
        if kept is not None:
            values[:, self.excluded] = kept
        if origin is not None:
            total -= origin * (self.classes if self.prior is None else 1)
        return total

    def subtract_prior_(self, values: Tensor, base: Tensor) -> None:
        """values_k -= base * prior_k in place, base (rows,)."""
        if self.prior is not None:
            values.addr_(base, self.prior.to(values), alpha=-1)
            return
        kept = values[:, self.excluded].clone() if self.excluded else None
        values.sub_(base[:, None])
        if kept is not None:
            values[:, self.excluded] = kept

    def negative_entropy(self, targets: Tensor, weights: Weights) -> Tensor:
        """Sum over classes of q_k log q_k: (rows,), the constant between cross-entropy and KL."""
        at_gold = weights.base * self.prior_at(targets, weights.base.dtype)
        on_gold = at_gold + weights.gold
        if self.prior is None:
            inside = self.included(targets).to(at_gold)
            elsewhere = (self.classes - inside) * torch.xlogy(weights.base, weights.base)
        else:
            prior = self.prior.to(at_gold)
            everywhere = weights.base * torch.xlogy(prior, prior).sum() + torch.xlogy(weights.base, weights.base)
            elsewhere = everywhere - torch.xlogy(at_gold, at_gold)
        return elsewhere + torch.xlogy(on_gold, on_gold)


def smoothing_inverse_link(model: Tensor, target: SmoothedTarget) -> Tensor:
    """True probabilities behind a label-smoothed optimum, both (..., vocabulary): max(p - base, 0), normalised."""
    prior = target.prior_at(torch.arange(target.vocabulary_size, device=model.device), model.dtype)
    # Any target class that may get mass has the same weights.
    weights = target.weights(prior.argmax().view(1), model.dtype)
    kept = (model * (weights.gold + weights.base * prior.sum()) - weights.base * prior).clamp(min=0)
    return kept / kept.sum(-1, keepdim=True)


def encouraging_inverse_link(model: Tensor, log_end: float) -> Tensor:
    """True probabilities behind an optimum of the Encouraging Loss, both (..., vocabulary): proportional to
    p (1 - m) / (1 - m + p) with m = min(p, log_end). Raises ValueError for a log_end that is not in [0, 1].

    Up to log_end 1/2 the loss is convex in p: one optimum, in the order of r. Above, the optimum need not be unique.
    Undoing the link makes classes equal there, but never changes their order, since p_1 >= p_2 and p_1 + p_2 <= 1 give
    p_2 (1 - p_2) <= p_1 (1 - p_1).
    """
    if not 0 <= log_end <= 1:
        raise ValueError(f"log_end is {log_end!r}; it must be 0 to 1")
    room = 1 - model.clamp(max=log_end)
    true = model * room / (room + model)
    return true / true.sum(-1, keepdim=True)


def focal_inverse_link(model: Tensor, gamma: float, scale: float = -1.0) -> Tensor:
    """True probabilities behind an optimum of -(1 + scale p)^gamma log p, the focal loss at scale -1 (Charoenphakdee et
    al. 2021, "On focal loss for class-posterior probability estimation"), else the inverse one: both (..., vocabulary),
    proportional to p / ((1 + scale p)^gamma + gamma scale p (1 + scale p)^(gamma - 1) log p)."""
    room = (1 + scale * model).clamp(min=torch.finfo(model.dtype).eps)
    slope = torch.log1p(gamma * scale * torch.xlogy(model, model) / room)
    return (model.log() - gamma * room.log() - slope).softmax(-1)  # in logarithms: powers of room underflow


def penalty_inverse_link(model: Tensor, beta: float) -> Tensor:
    """True probabilities behind an optimum of the confidence penalty, both (..., vocabulary): p (1 + beta (log p + H)),
    0 where that is below 0, normalised."""
    information = -model.clamp(min=torch.finfo(model.dtype).tiny).log()
    entropy = (model * information).sum(-1, keepdim=True)
    true = (model * (1 + beta * (entropy - information))).clamp(min=0)
    return true / true.sum(-1, keepdim=True)
