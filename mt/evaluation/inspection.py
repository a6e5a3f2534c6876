"""Inside a model: the states before its output matrix, the rows of that, margins and gradients, on given text.

After Müller, Kornblith and Hinton 2019, "When Does Label Smoothing Help?", sections 2 and 3. A token's state x is the
decoder's last one where the reference is the prefix; a piece's template w_k is its row of the output matrix. An output
bias counts as one more column of w, where x has 1: so z_k = x . w_k are the logits. The wrong pieces of a token are all
but the reference's, padding and the beginning of sentence, which are right nowhere.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mt.config import LossConfig
from mt.decoding.scoring import Distributions, score_pairs
from mt.errors import UserError
from mt.evaluation.test_set import TestSet
from mt.evaluation.tokens import encoded_pairs
from mt.losses.build import build_loss, signature
from mt.losses.function import LossFunction
from mt.losses.relatives import RDrop
from mt.losses.smoothing import LabelSmoothedKL
from mt.metrics.bins import bin_of
from mt.metrics.noise import Floats
from mt.metrics.penultimate import projected, template_plane
from mt.model.directory import LoadedModel
from mt.progress import busy

Ids = NDArray[np.int64]

_SHOWN = 400  # states of a piece that are kept, to be drawn
_OFTEN, _SELDOM = 20, 5  # tokens of a piece that is chosen here, and of one that says anything at all
_CANDIDATES, _HARDEST = 200, 20
_BINS, _COLUMNS = 10, 60  # of confidence, and of the histograms of margins
_PERCENTILES = (5, 25, 50, 75, 95)
_DISTANCES = ("distance_variation", "distance_ratio", "logit_spread")
_GRADIENTS = ("loss_norm", "loss_pull", "cross_entropy_norm", "cross_entropy_pull")


@busy("looking inside")
def inspect_model(
    loaded: LoadedModel, test_set: TestSet, *, pieces: Sequence[str] = (), groups: int = 50
) -> dict[str, Any]:
    """The content of inspection.json; docs/calibration.md explains its figures.

    `pieces`: three target pieces, to project on the plane of their templates; none: `choose_pieces`. `groups`: of so
    many frequent pieces the clusters are measured. Raises UserError for a piece that the vocabulary does not have or
    that hardly stands in the text, and for text too short to choose from.
    """
    vocabulary = loaded.tokenizer.vocabularies[1]
    source_ids, target_ids, lines = encoded_pairs(loaded, test_set.sources, test_set.references[0])
    ids = np.array([piece for target in target_ids for piece in target], dtype=np.int64)
    counts = np.bincount(ids, minlength=len(vocabulary))
    chosen = named_pieces(pieces, vocabulary, counts) if pieces else choose_pieces(loaded, counts)
    frequent = [piece for piece in np.argsort(-counts, kind="stable")[:groups].tolist() if counts[piece] >= _SELDOM]
    lengths = [len(target) for target in target_ids]
    inside = Inside(loaded, lengths, chosen)
    deque(score_pairs(loaded, source_ids, target_ids, observe=inside.update), maxlen=0)
    found = inside.of_tokens
    nll, predicted = found["nll"], found["predicted"].astype(np.int64)
    margins = {"mean": found["margin"], "runner_up": found["runner_up"]}
    edges = np.histogram_bin_edges([*margins.values()], _COLUMNS)
    hardest = np.argsort(-nll, kind="stable")[:_HARDEST]
    pieces_there = ([vocabulary[each] for each in of[hardest]] for of in (ids, predicted))
    places = (np.repeat(lines, lengths), np.concatenate([*map(np.arange, lengths)]), nll)
    columns = [*pieces_there, *(each[hardest].tolist() for each in places)]
    return {
        "model": {"name": loaded.folder.resolve().name, "step": loaded.meta.get("step")},
        "loss": signature(loaded.config.loss),
        "data": test_set.description,
        "tokens": len(ids),
        "nll": float(nll.mean()),
        "accuracy": float((predicted == ids).mean()),
        "projection": inside.projection(vocabulary),
        "tightness": {"frequent": inside.tightness(frequent), "chosen": inside.tightness(chosen)},
        "margins": {
            **{name: _summary(values) for name, values in margins.items()},
            "expected": expected_margin(inside.losses["loss"], counts),
            "edges": edges.round(4).tolist(),
            "histograms": [np.histogram(values, edges)[0].tolist() for values in margins.values()],
        },
        "distances": {name: float(found[name].mean()) for name in _DISTANCES},
        "gradients": _gradients(found),
        "hardest_pieces": hardest_pieces(vocabulary, ids, predicted, nll),
        "hardest_tokens": [dict(zip(("piece", "predicted", "line", "position", "nll"), row)) for row in zip(*columns)],
    }


def named_pieces(pieces: Sequence[str], vocabulary: Sequence[str], counts: Ids) -> list[int]:
    """Ids of pieces that a user names; `counts` (vocabulary,): their tokens. Raises UserError unless they are three
    different ones, known, and not too rare."""
    if len(pieces) != 3 or len({*pieces}) != 3:
        raise UserError(f"--pieces {','.join(pieces)}: name three different pieces, as in --pieces ▁big,▁large,▁dog")
    for piece in pieces:
        if piece not in vocabulary:
            near = difflib.get_close_matches(f"▁{piece}", vocabulary)
            hint = f"did you mean {' or '.join(near)}?" if near else "▁ stands for the space before a word"
            raise UserError(f"--pieces: the target vocabulary has no piece {piece}; {hint}")
        if (count := counts[vocabulary.index(piece)]) < _SELDOM:
            remedy = f"name one that stands there {_SELDOM} times or more, or give more lines"
            raise UserError(f"--pieces: {piece} stands {count} times in the reference, which tells nothing; {remedy}")
    return [vocabulary.index(piece) for piece in pieces]


def choose_pieces(loaded: LoadedModel, counts: Ids) -> list[int]:
    """Of the frequent pieces that begin words the two with the most similar templates, by the cosine, and the one that
    is least like either; `counts` (vocabulary,): their tokens. Raises UserError if there are not three."""
    counts = counts * [piece.startswith("▁") for piece in loaded.tokenizer.vocabularies[1]]
    frequent = np.argsort(-counts, kind="stable")[:_CANDIDATES]
    frequent = frequent[counts[frequent] >= _OFTEN]
    if len(frequent) < 3:
        few = f"only {len(frequent)} pieces that begin words stand in the reference {_OFTEN} times or more"
        raise UserError(f"{few}, and three are compared; give more lines, or name three with --pieces")
    cosines = _cosines(_templates(loaded)[frequent].numpy(force=True))
    first, second = np.unravel_index(np.argmax(np.triu(cosines + 2, 1)), cosines.shape)  # + 2: all are above 0
    third = np.argmin(np.maximum(cosines[first], cosines[second]))
    return frequent[[first, second, third]].tolist()


def hardest_pieces(vocabulary: Sequence[str], ids: Ids, predicted: Ids, nll: Floats) -> list[dict[str, Any]]:
    """The pieces with the highest mean `nll` (nats), hardest first: their tokens, the share of these that is predicted
    right, and what is most often predicted instead (None: nothing). All (tokens,)."""
    counts, rows = np.bincount(ids), []
    mean = np.bincount(ids, weights=nll) / np.maximum(counts, 1)
    for piece in [each for each in np.argsort(-mean, kind="stable").tolist() if counts[each] >= _SELDOM][:_HARDEST]:
        guesses = np.bincount(predicted[ids == piece], minlength=len(vocabulary))
        accuracy, guesses[piece] = float(guesses[piece] / counts[piece]), 0
        confusion = vocabulary[int(guesses.argmax())] if guesses.any() else None
        told = {"piece": vocabulary[piece], "count": int(counts[piece]), "nll": float(mean[piece])}
        rows.append({**told, "accuracy": accuracy, "confusion": confusion})
    return rows


class Inside:
    """Figures of each token, sums over the states of each piece, and states of the `pieces`: a stream of distributions,
    in any order. `lengths`: tokens of each pair."""

    def __init__(self, loaded: LoadedModel, lengths: Sequence[int], pieces: Sequence[int]) -> None:
        tokenizer, self.templates = loaded.tokenizer, _templates(loaded)
        able = sorted({*range(tokenizer.target_size)} - {tokenizer.pad_id, tokenizer.begin_id})
        self.able = torch.tensor(able, device=self.templates.device)
        self.starts = np.cumsum([0, *lengths])
        configs = {"loss": loaded.config.loss, "cross_entropy": LossConfig(smoothing=0.0)}
        self.losses = {name: _loss(loaded, config) for name, config in configs.items()}
        self.of_tokens: dict[str, Floats] = {}
        self.states: dict[int, list[Tensor]] = {piece: [] for piece in pieces}
        self.sums = self.templates.new_zeros(len(self.templates), self.templates.shape[1] + 2)
        """of each piece: the states, their squared lengths, their number"""

    def update(self, chunk: Distributions) -> None:
        """Takes in the tokens of a chunk."""
        ids, states = chunk.target_ids, chunk.hidden.double()
        states = functional.pad(states, (0, self.templates.shape[1] - states.shape[1]), value=1.0)  # for a bias
        squares = states.square().sum(1, keepdim=True)
        self.sums.index_add_(0, ids, torch.cat([states, squares, torch.ones_like(squares)], 1))
        for piece, kept in self.states.items():
            kept.append(states[ids == piece][: _SHOWN - sum(map(len, kept))])
        right = torch.searchsorted(self.able, ids)[:, None]
        log_probs, templates = chunk.log_probs[:, self.able].double(), self.templates[self.able]
        margins = log_probs.gather(1, right) - log_probs
        logits = (states * self.templates[ids]).sum(1, keepdim=True) - margins
        distances = (squares + templates.square().sum(1) - 2 * logits).clamp(min=0).sqrt()
        (margin, spread), (distance, distance_spread) = _over_wrong(margins, right), _over_wrong(distances, right)
        found = {
            "nll": -chunk.log_probs.gather(1, ids[:, None])[:, 0],
            "predicted": chunk.log_probs.argmax(1),
            "margin": margin,
            "runner_up": margins.scatter(1, right, torch.inf).amin(1),
            "logit_spread": spread,
            "distance_variation": distance_spread / distance,
            "distance_ratio": distances.gather(1, right)[:, 0] / distance,
        }
        for name, loss in self.losses.items():
            if loss is not None and loss.passes == 1:
                found[f"{name}_norm"], found[f"{name}_pull"] = gradient_norms(loss, chunk.log_probs, ids)
        tokens = self.starts[chunk.pairs] + chunk.positions
        for name, values in found.items():
            self.of_tokens.setdefault(name, np.zeros(self.starts[-1]))[tokens] = values.numpy(force=True)

    def projection(self, vocabulary: Sequence[str]) -> list[dict[str, Any]]:
        """Of three pieces: their tokens, the cosines of their templates with each other, and template and states (the
        first _SHOWN) in the plane of the three templates."""
        templates = self.templates[list(self.states)].numpy(force=True)
        plane, found = template_plane(templates), []
        for (piece, states), template, cosines in zip(self.states.items(), templates, _cosines(templates)):
            told = {"piece": vocabulary[piece], "count": int(self.sums[piece, -1]), "cosines": cosines.tolist()}
            placed = {"template": template, "states": torch.cat(states).numpy(force=True)}
            found.append(told | {name: projected(each, *plane).round(4).tolist() for name, each in placed.items()})
        return found

    def tightness(self, pieces: Sequence[int]) -> dict[str, float]:
        """Mean squared distance of the states of a piece from their mean (`within`), of these means from theirs
        (`between`), and `ratio`, the first over the second; each piece counts the same."""
        means = self.sums[pieces] / self.sums[pieces, -1:]
        within = float((means[:, -2] - means[:, :-2].square().sum(1)).mean())
        between = float(means[:, :-2].var(0, correction=0).sum())
        return {"pieces": len(pieces), "within": within, "between": between, "ratio": within / between}


def expected_margin(loss: LossFunction | None, counts: Ids) -> float | None:
    """Of a model that has learnt label smoothing whole: the mean over tokens, of which class y has counts[y], of
    log q_y less the mean of log q_k over the other classes with mass; nats. log(1 + K (1 - a) / a) for `uniform`. None
    for any other loss, and without smoothing, where it is infinite."""
    smoothed = loss.smoothed if isinstance(loss, RDrop) else loss
    if not isinstance(smoothed, LabelSmoothedKL) or smoothed.target.hard:
        return None
    ids, target = torch.arange(len(counts)), smoothed.target
    weights, prior = target.weights(ids, torch.float64), target.prior_at(ids, torch.float64)
    log_prior = prior.log().masked_fill(prior == 0, 0)
    others = (log_prior.sum() - log_prior) / ((prior > 0).sum() - (prior > 0).int())
    margin = (weights.gold + weights.base * prior).log() - weights.base.log() - others
    return float(np.average(margin.numpy(), weights=counts))


def gradient_norms(loss: LossFunction, logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Of each token the length of d loss / d logits, and its size at the right piece: logits (rows, vocabulary), of
    which a number for each row is free, ids (rows,) int64 -> two (rows,)."""
    with torch.inference_mode(False):  # some losses need autograd
        gradient, ids = logits.clone(), ids.clone()
        loss.rows_(gradient, ids, gradient=True)
    return gradient.norm(dim=1), gradient.gather(1, ids[:, None])[:, 0].abs()


def _gradients(found: dict[str, Floats]) -> dict[str, Any]:
    """Means in bins of the right piece's probability, None where there is none."""
    bins = bin_of(np.exp(-found["nll"]), _BINS, "(l,r]")
    tokens = np.bincount(bins, minlength=_BINS)
    means: dict[str, Any] = dict.fromkeys(_GRADIENTS, [None] * _BINS)
    for name in found.keys() & means.keys():
        sums = np.bincount(bins, found[name], minlength=_BINS)
        means[name] = [float(each / count) if count else None for each, count in zip(sums, tokens)]
    return {"edges": [number / _BINS for number in range(_BINS + 1)], "tokens": tokens.tolist(), **means}


def _loss(loaded: LoadedModel, config: LossConfig) -> LossFunction | None:
    """None where the frequencies that its target needs are not known."""
    tokenizer, unigram = loaded.tokenizer, None
    if config.definition == "unigram":
        if loaded.piece_counts is None:
            return None
        unigram = torch.tensor(loaded.piece_counts[1], dtype=torch.float64)
    ids = {"pad_id": tokenizer.pad_id, "begin_id": tokenizer.begin_id}
    return build_loss(config, **ids, vocabulary_size=tokenizer.target_size, unigram=unigram)


def _templates(loaded: LoadedModel) -> Tensor:
    """(vocabulary, width) float64, one column more with an output bias."""
    weight, bias = loaded.model.output_weight, loaded.model.output_bias
    return (weight if bias is None else torch.cat([weight, bias[:, None]], 1)).detach().double()


def _cosines(rows: Floats) -> Floats:
    """(n, width) -> (n, n)."""
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return directions @ directions.T


def _over_wrong(values: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of values (rows, classes) over all but the right class (rows, 1): two (rows,)."""
    at_right, count = values.gather(1, right)[:, 0], values.shape[1] - 1
    mean = (values.sum(1) - at_right) / count
    square = (values.square().sum(1) - at_right.square()) / count
    return mean, (square - mean.square()).clamp(min=0).sqrt()


def _summary(values: Floats) -> dict[str, float]:
    names = ("mean", *map(str, _PERCENTILES))
    return dict(zip(names, [float(values.mean()), *np.percentile(values, _PERCENTILES).tolist()]))
