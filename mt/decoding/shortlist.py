"""A lexical shortlist: the target pieces that a sentence's translation may be written with.

They are the most frequent pieces of the target side, those that model 1 finds likeliest for each source piece, and
the source pieces themselves. They depend on the sentence alone, never on its batch. The search knows no others:
its probabilities are shares among them, and the projection onto the vocabulary, the dearest part of a step, shrinks
to the pieces of a batch. Scores that are shown come from a forced pass over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from mt.corpus.lexicon import likeliest_targets
from mt.corpus.store import TokenStore
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError
from mt.files.atomic import atomic_file
from mt.model.cache import DecoderState, moved
from mt.model.directory import LoadedModel
from mt.model.transformer import Transformer

FILE = "shortlist.safetensors"
BORDER = 0
"""number of the border of a sentence: read, its beginning; written, its end"""
_MOST_PAIRS = 200_000  # to learn from


class Shortlist:
    """What `tools/shortlist.py` stores in a model directory."""

    def __init__(self, frequent: Tensor, likely: Tensor, tokenizer: Tokenizer) -> None:
        """
        Args:
            frequent: (pieces,) int64 target ids that every sentence may use.
            likely: (source pieces, translations) int64 target ids that each source piece brings.
            tokenizer: whose ids they are.
        """
        self.frequent, self.likely, self.tokenizer = frequent, likely, tokenizer

    def pieces(self, source_ids: Sequence[Sequence[int]], device: torch.device) -> Pieces:
        """What the outputs of these sentences may be written with."""
        tokenizer = self.tokenizer
        allowed = torch.zeros((len(source_ids), tokenizer.target_size), dtype=torch.bool)
        allowed[:, self.frequent] = True
        lengths = torch.tensor([len(ids) for ids in source_ids])
        of_sentence = torch.arange(len(source_ids)).repeat_interleave(lengths)
        sources = torch.tensor([token for ids in source_ids for token in ids])
        allowed[of_sentence[:, None], self.likely[sources]] = True
        allowed[:, [tokenizer.pad_id, tokenizer.begin_id, tokenizer.end_id]] = False
        rising = allowed.any(0).nonzero()[:, 0]
        border = torch.ones((len(source_ids), 1), dtype=torch.bool)
        return Pieces(
            torch.cat([torch.tensor([tokenizer.begin_id]), rising]).to(device),
            torch.cat([border, allowed[:, rising]], dim=1).to(device),
        )


class Pieces(NamedTuple):
    """What a batch may be written with. Each piece has a number; the border of a sentence has BORDER."""

    ids: Tensor
    """(pieces,) int64 target ids that the numbers stand for, rising from the second on"""
    allowed: Tensor
    """(sentences, pieces) bool: which of them each sentence may use"""


class ShortlistedState:
    """A decoder state with the pieces of its sentences; tokens are numbers of them."""

    def __init__(self, state: DecoderState, model: Transformer, pieces: Pieces, end_id: int) -> None:
        """state: of one row a sentence."""
        self.state = state
        self.ids = pieces.ids
        written = pieces.ids.clone()
        written[BORDER] = end_id
        self.weight = model.output_weight[written]
        bias = self.weight.new_zeros(len(written)) if model.output_bias is None else model.output_bias[written]
        self.bias = torch.where(pieces.allowed, bias, -torch.inf)[:, None]

    def spread(self, beams: int) -> None:
        """See SearchState."""
        self.state.spread(beams)

    def reorder(self, beam_indices: Tensor) -> None:
        """See SearchState."""
        self.state.reorder(beam_indices)

    def keep(self, rows: Tensor) -> None:
        """See SearchState."""
        sentences = torch.div(rows[:: self.state.beams], self.state.beams, rounding_mode="floor")
        self.state.keep(rows)
        self.bias = moved(self.bias, 0, sentences)


def shortlisted_step(model: Transformer) -> Callable[[Tensor, ShortlistedState], Tensor]:
    """A step among the pieces of the batch, each sentence among its own: (rows, pieces) logits."""

    def step(tokens: Tensor, state: ShortlistedState) -> Tensor:
        logits = functional.linear(model.read(state.ids[tokens], state.state), state.weight)
        logits.view(len(state.bias), -1, logits.size(1)).add_(state.bias)
        return logits

    return step


def learn_shortlist(store: TokenStore, tokenizer: Tokenizer, frequent: int, likely: int) -> Shortlist:
    """Learns one from training pairs; of many, from as many evenly spread.

    Args:
        store: the pairs, of this tokeniser.
        tokenizer: the model's.
        frequent: target pieces for every sentence.
        likely: at most so many further ones for each source piece, beside the target piece of the same spelling.
    """
    sizes = tokenizer.source_size, tokenizer.target_size
    always = np.argsort(-store.target_counts(sizes[1]), kind="stable")[:frequent]
    picked = np.unique(np.linspace(0, len(store) - 1, min(len(store), _MOST_PAIRS)).astype(int)).tolist()
    sources, targets = [store.source(index) for index in picked], [store.target(index) for index in picked]
    best = likeliest_targets(sources, targets, sizes, likely, without=always)
    spelled = {piece: number for number, piece in enumerate(tokenizer.target_pieces(range(sizes[1])))}
    same = [spelled.get(piece, -1) for piece in tokenizer.source_pieces(range(sizes[0]))]
    best = np.concatenate([np.array(same)[:, None], best], axis=1)
    best = np.where(best < 0, always[0], best)
    return Shortlist(torch.from_numpy(always), torch.from_numpy(best), tokenizer)


def save_shortlist(shortlist: Shortlist, folder: Path) -> None:
    """Writes it into a model directory. Raises UserError when that fails."""
    tensors = {"frequent": shortlist.frequent.int(), "likely": shortlist.likely.int()}
    try:
        with atomic_file(folder / FILE) as temporary:
            save_file(tensors, temporary, {"tokenizer": shortlist.tokenizer.fingerprint})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / FILE}: cannot be written ({error}); make room") from None


def load_shortlist(loaded: LoadedModel) -> Shortlist:
    """The shortlist of the model directory. Raises UserError where there is none, or a broken or foreign one."""
    path = loaded.folder / FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with tools/shortlist.py {loaded.folder}")
    tokenizer = loaded.tokenizer
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            frequent, likely = (file.get_tensor(name).long() for name in ("frequent", "likely"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: broken ({error}); make it again with tools/shortlist.py {loaded.folder}") from None
    if metadata.get("tokenizer") != tokenizer.fingerprint:
        raise UserError(f"{path}: is of another tokenizer; make it again with tools/shortlist.py {loaded.folder}")
    return Shortlist(frequent, likely, tokenizer)
