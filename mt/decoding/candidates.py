"""The best continuations of each sentence: exactly, in a fixed order, in few passes over the scores."""

from __future__ import annotations

import torch
from torch import Tensor

# Columns are compared in this many strips first; 16 was fastest for 6,000 to 8,000 columns (measured, AVX2).
_STRIPS = 16


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
    width = vocabulary // _STRIPS
    flat = log_probs.view(sentences, -1)
    if more > hypotheses * width:
        values, places = (log_probs + totals[:, :, None]).flatten(1).topk(more, dim=1)
    else:
        # The `more` columns with the largest maximum over the strips hold the `more` largest values: adding a
        # total keeps the order, so maxima are taken first and only what may win is added up.
        folded = log_probs[:, :, : _STRIPS * width].view(sentences, hypotheses, _STRIPS, width)
        maxima = (folded.amax(2) + totals[:, :, None]).flatten(1)
        columns = _largest(maxima, more)
        parents, columns = columns // width, columns % width
        strips = torch.arange(0, _STRIPS * width, width, device=flat.device)
        chosen = ((parents * vocabulary + columns)[:, :, None] + strips).flatten(1)
        if _STRIPS * width < vocabulary:
            first = torch.arange(0, hypotheses * vocabulary, vocabulary, device=flat.device)
            last = torch.arange(_STRIPS * width, vocabulary, device=flat.device)
            chosen = torch.cat([chosen, (first[:, None] + last).flatten().expand(sentences, -1)], dim=1)
        sums = flat.gather(1, chosen) + totals.gather(1, chosen // vocabulary)
        values, order = sums.topk(more, dim=1)
        places = chosen.gather(1, order)
    return _ordered(values, places, log_probs, totals, count)


def _largest(values: Tensor, count: int) -> Tensor:
    """The columns of the `count` largest of each row, in any order."""
    width = values.size(1) // _STRIPS
    if count * _STRIPS > width:
        return values.topk(count, dim=1, sorted=False).indices
    maxima = values[:, : _STRIPS * width].view(-1, _STRIPS, width).amax(1)
    columns = _largest(maxima, count)
    strips = torch.arange(0, _STRIPS * width, width, device=values.device)
    rest = torch.arange(_STRIPS * width, values.size(1), device=values.device)
    chosen = torch.cat([(columns[:, :, None] + strips).flatten(1), rest.expand(len(values), -1)], dim=1)
    return chosen.gather(1, values.gather(1, chosen).topk(count, dim=1, sorted=False).indices)


def _ordered(
    values: Tensor, places: Tensor, log_probs: Tensor, totals: Tensor, count: int
) -> tuple[Tensor, Tensor]:
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
