"""Label-smoothed Kullback-Leibler loss, KL(q || p) with q one of the named smoothed targets.

KL = sum_k q_k log(q_k / p_k) = CE(q, p) - H(q): the gradient of label-smoothed cross-entropy, and a value that is 0 for
a perfect fit. (`scatter` sums to less than 1, so its minimum lies a little below 0.)
"""

from __future__ import annotations

from torch import Tensor

from mt.losses.function import LossFunction, RowLosses, softmax_
from mt.losses.targets import SmoothedTarget


class LabelSmoothedKL(LossFunction):
    """KL from a smoothed target to the model's distribution."""

    def __init__(self, target: SmoothedTarget, pad_id: int) -> None:
        super().__init__(pad_id)
        self.target = target

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> RowLosses:
        """See LossFunction.rows_."""
        target, column = self.target, targets[:, None]
        weights = target.weights(targets, logits.dtype)
        highest = logits.amax(1)
        gold = logits.gather(1, column).squeeze(1) - highest
        loss = target.negative_entropy(targets, weights) - weights.gold * gold
        if not target.hard:
            loss -= weights.base * target.weighted_sum(logits, highest)
        normaliser = softmax_(logits)  # overwrites the logits: what needs them stands above
        loss += weights.total * normaliser
        if gradient:  # total * p - q
            if target.definition == "scatter":
                logits.mul_(weights.total[:, None])
            if not target.hard:
                target.subtract_prior_(logits, weights.base)
            logits.scatter_add_(1, column, -weights.gold[:, None])
        return RowLosses(loss, normaliser - gold, gold == 0)


def label_smoothed_kl(
    logits: Tensor, targets: Tensor, *, smoothing: float, definition: str, pad_id: int, unigram: Tensor | None = None
) -> Tensor:
    """KL(q || p) of each token, with its constant: logits (..., vocabulary) of any float type, targets (...) int64 ->
    (...) float32 nats (float64 in, float64 out), 0 at padding.

    `smoothing` is a weight in [0, 1), `definition` one of mt.losses.targets; `pad_id`: targets that count nothing, and
    the class that gets no weight in the `_nopad` forms; `unigram`: (vocabulary,) class frequencies, for the definition
    of that name. Raises ValueError for a value out of range.
    """
    target = SmoothedTarget(definition, smoothing, pad_id=pad_id, vocabulary_size=logits.shape[-1], unigram=unigram)
    return LabelSmoothedKL(target, pad_id)(logits, targets)
