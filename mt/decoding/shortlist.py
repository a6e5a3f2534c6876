"""A lexical shortlist: the target pieces that a sentence's translation may be written with.

They are the most frequent pieces of the target side, those that model 1 finds likeliest for each source piece, and
the source pieces themselves. They depend on the sentence alone, never on its batch. The search knows no others:
its probabilities are shares among them, and the projection onto the vocabulary, the dearest part of a step, shrinks
to a few hundred rows a sentence. Scores that are shown come from a forced pass over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mt.atomic import atomic_file
from mt.corpus.lexicon import likeliest_targets
from mt.corpus.store import TokenStore
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError
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

    def pieces(self, source_ids: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """(sentences, most pieces) int64: the ids that the numbers of each sentence stand for.

        At BORDER is beginning of sentence, which also fills up the back of the rows; between them ids rise.
        """
        tokenizer = self.tokenizer
        allowed = torch.zeros((len(source_ids), tokenizer.target_size), dtype=torch.bool)
        allowed[:, self.frequent] = True
        lengths = torch.tensor([len(ids) for ids in source_ids])
        of_sentence = torch.arange(len(source_ids)).repeat_interleave(lengths)
        sources = torch.tensor([token for ids in source_ids for token in ids])
        allowed[of_sentence[:, None], self.likely[sources]] = True
        allowed[:, [tokenizer.pad_id, tokenizer.begin_id, tokenizer.end_id]] = False
        counts = allowed.sum(1)
        rows, pieces = allowed.nonzero(as_tuple=True)
        places = torch.arange(1, len(rows) + 1) - (counts.cumsum(0) - counts)[rows]
        ids = torch.full((len(source_ids), int(counts.max()) + 1), tokenizer.begin_id)
        ids[rows, places] = pieces
        return ids.to(device)


class ShortlistedState:
    """A decoder state with the pieces of each sentence; tokens are numbers of them."""

    def __init__(self, state: DecoderState, model: Transformer, ids: Tensor, end_id: int) -> None:
        """state: of one row a sentence; ids: of `Shortlist.pieces`."""
        self.state = state
        self.ids = ids.clone()  # rows move as sentences leave
        written = ids.clone()
        written[:, BORDER] = end_id
        self.weight = model.output_weight[written]
        bias = self.weight.new_zeros(ids.shape) if model.output_bias is None else model.output_bias[written]
        # What fills up is never written.
        self.bias = bias.masked_fill(written == ids[:, :1], -torch.inf)[:, None]

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
        self.ids, self.weight, self.bias = (
            moved(field, 0, sentences) for field in (self.ids, self.weight, self.bias)
        )


def shortlisted_step(model: Transformer) -> Callable[[Tensor, ShortlistedState], Tensor]:
    """A step among the pieces of each sentence: (rows, most pieces) logits."""

    def step(tokens: Tensor, state: ShortlistedState) -> Tensor:
        sentences = len(state.ids)
        hidden = model.read(state.ids.gather(1, tokens.view(sentences, -1)).flatten(), state.state)
        grouped = hidden.view(sentences, -1, hidden.size(1))
        return torch.baddbmm(state.bias, grouped, state.weight.transpose(1, 2)).flatten(0, 1)

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
