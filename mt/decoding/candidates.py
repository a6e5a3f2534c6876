"""The best continuations of each sentence: exactly, in a fixed order, in few passes over the scores."""

from __future__ import annotations

import torch
from torch import Tensor

# Columns are compared in blocks of so many first, whose maxima torch finds fastest (measured, AVX-512).
_BLOCK = 64


def best_continuations(log_probs: Tensor, totals: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest totals[i, j] + log_probs[i, j, k] of each sentence i.

    Args:
        log_probs: (sentences, hypotheses, vocabulary) float32, of the next token; -inf: never chosen.
        totals: (sentences, hypotheses) float32, of what was read.
        count: how many; fewer come back where there are fewer.

    Returns:
        sums: (sentences, count) float32, largest first; ties by the earlier hypothesis, then the lower token. On
            a GPU a tie for the last place may fall the other way: to look for one would stop the GPU.
        places: (sentences, count) int64, j * vocabulary + k.
    """
    sentences, hypotheses, vocabulary = log_probs.shape
    count = min(count, hypotheses * vocabulary)
    # One more than asked for, to see whether the last place is tied.
    more = min(count + 1, hypotheses * vocabulary)
    blocks = vocabulary // _BLOCK
    if more > hypotheses * blocks:
        values, places = (log_probs + totals[:, :, None]).flatten(1).topk(more, dim=1)
    else:
        # The `more` blocks with the largest maxima hold the `more` largest values: adding a total keeps the order,
        # so maxima are taken first and only what may win is added up.
        maxima = log_probs[:, :, : blocks * _BLOCK].unflatten(2, (blocks, _BLOCK)).amax(3) + totals[:, :, None]
        winners = maxima.flatten(1).topk(more, dim=1, sorted=False).indices
        parents, first = winners // blocks, winners % blocks * _BLOCK
        if blocks * _BLOCK < vocabulary:  # the columns after the last block, of every hypothesis
            every = torch.arange(hypotheses, device=totals.device).expand(sentences, -1)
            parents = torch.cat([parents, every], dim=1)
            first = torch.cat([first, torch.full_like(every, vocabulary - _BLOCK)], dim=1)
        chosen = (parents * vocabulary + first)[:, :, None] + torch.arange(_BLOCK, device=totals.device)
        sums = log_probs.flatten(1).gather(1, chosen.flatten(1)).view(chosen.shape)
        sums += totals.gather(1, parents)[:, :, None]
        sums[:, more:, : (blocks + 1) * _BLOCK - vocabulary] = -torch.inf  # in the last block as well
        values, order = sums.flatten(1).topk(more, dim=1)
        places = chosen.flatten(1).gather(1, order)
    return _ordered(values, places, log_probs, totals, count)


def _ordered(values: Tensor, places: Tensor, log_probs: Tensor, totals: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` of values, largest first, with ties in their order."""
    if values.device.type != "cpu":
        places, order = places.sort(dim=1)
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        return values[:, :count], places.gather(1, order)[:, :count]
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(1)
    if bool(tied.any()):
        rows = tied.nonzero()[:, 0]
        sums = (log_probs[rows] + totals[rows, :, None]).flatten(1)
        ordered, order = sums.sort(dim=1, descending=True, stable=True)
        values, places = values.clone(), places.clone()
        values[rows, :count], places[rows, :count] = ordered[:, :count], order[:, :count]
    return values[:, :count], places[:, :count]
