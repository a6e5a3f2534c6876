"""A lexical shortlist: the target pieces that a sentence's translation may be written with.

They are the most frequent pieces of the target side, those that model 1 finds likeliest for each source piece, and
the source pieces themselves. They depend on the sentence alone, never on its batch. The search knows no others:
its probabilities are shares among them, and the projection onto the vocabulary, the dearest part of a step, shrinks
to the pieces of a batch. Scores that are shown come from a forced pass over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from mt.corpus.lexicon import likeliest_targets
from mt.corpus.store import TokenStore
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError
from mt.files.atomic import atomic_file
from mt.files.json_file import check_no_lfs_pointer
from mt.model.cache import DecoderState, select_in_place
from mt.model.directory import LoadedModel, fingerprint, write_tensors
from mt.model.transformer import Transformer

FILE = "shortlist.safetensors"
LOCAL_BOUNDARY = 0
"""local id of the boundary of a sentence: read, its beginning; written, its end"""
_MOST_PAIRS = 200_000  # to learn from


@dataclass(frozen=True)
class Shortlist:
    """What `tools/shortlist.py` stores in a model directory."""

    frequent: Tensor
    """(pieces,) int64 target ids that every sentence may use"""
    likely: Tensor
    """(source pieces, translations) int64 target ids that each source piece brings"""
    tokenizer: Tokenizer
    """whose ids they are"""

    def candidate_vocabulary(self, source_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """What the outputs of these sentences may be written with: (candidates,) int64, the target id of each local id,
        rising from the second on; and (sentences, candidates) bool, which of them each sentence may use."""
        tokenizer = self.tokenizer
        allowed = torch.zeros((len(source_ids), tokenizer.target_size), dtype=torch.bool)
        allowed[:, self.frequent] = True
        for row, ids in zip(allowed, source_ids):
            row[self.likely[torch.tensor(ids)].flatten()] = True
        allowed[:, [tokenizer.pad_id, tokenizer.begin_id, tokenizer.end_id]] = False
        rising = allowed.any(0).nonzero()[:, 0]
        allowed[:, tokenizer.begin_id] = True  # only now: it comes first, and not among the rising ones
        candidates = torch.cat([torch.tensor([tokenizer.begin_id]), rising])
        return candidates, allowed[:, candidates]


class ShortlistedState:
    """A decoder state, of one row a sentence at first, with the candidates of its sentences; tokens are local ids.
    `ids` and `allowed`: see `Shortlist.candidate_vocabulary`."""

    def __init__(self, state: DecoderState, model: Transformer, ids: Tensor, allowed: Tensor, end_id: int) -> None:
        self.state, self.model, self.ids = state, model, ids.to(model.output_weight.device)
        written = self.ids.clone()
        written[LOCAL_BOUNDARY] = end_id
        self.weight = model.output_weight[written]
        bias = self.weight.new_zeros(len(written)) if model.output_bias is None else model.output_bias[written]
        self.bias = torch.where(allowed.to(bias.device), bias, -torch.inf)[:, None]

    def expand(self, beams: int) -> None:
        """See SearchState."""
        self.state.expand(beams)

    def reorder(self, beam_indices: Tensor) -> None:
        """See SearchState."""
        self.state.reorder(beam_indices)

    def select(self, rows: Tensor) -> None:
        """See SearchState."""
        sentences = torch.div(rows[:: self.state.beams], self.state.beams, rounding_mode="floor")
        self.state.select(rows)
        self.bias = select_in_place(self.bias, 0, sentences)


def shortlisted_step(tokens: Tensor, state: ShortlistedState) -> Tensor:
    """(rows, candidates) logits, for each sentence among its own."""
    logits = functional.linear(state.model.read(state.ids[tokens], state.state), state.weight)
    logits.view(len(state.bias), -1, logits.size(1)).add_(state.bias)
    return logits


def learn_shortlist(store: TokenStore, tokenizer: Tokenizer, frequent: int, likely: int) -> Shortlist:
    """Learns one from training pairs; of many, from as many evenly spread. `frequent`: target pieces for every
    sentence; `likely`: at most so many further ones for each source piece, beside the target piece of the same
    spelling."""
    sizes = tokenizer.source_size, tokenizer.target_size
    always = np.argsort(-store.piece_counts(*sizes)[1], kind="stable")[:frequent]  # ties by the lower id
    picked = np.unique(np.linspace(0, len(store) - 1, min(len(store), _MOST_PAIRS)).astype(int)).tolist()
    sources, targets = [store.source(index) for index in picked], [store.target(index) for index in picked]
    best = likeliest_targets(sources, targets, sizes, likely, without=always)
    source_pieces, target_pieces = tokenizer.vocabularies
    spelled = {piece: number for number, piece in enumerate(target_pieces)}
    same = [spelled.get(piece, -1) for piece in source_pieces]
    best = np.concatenate([np.array(same)[:, None], best], axis=1)
    best = np.where(best < 0, always[0], best)  # a piece that is allowed anyway: rows stay equally long
    return Shortlist(torch.from_numpy(always), torch.from_numpy(best), tokenizer)


def save_shortlist(shortlist: Shortlist, folder: Path) -> None:
    """Writes it into a model directory. Raises UserError when that fails."""
    tensors = {"frequent": shortlist.frequent.int(), "likely": shortlist.likely.int()}
    with atomic_file(folder / FILE) as temporary:
        write_tensors(tensors, temporary, tokenizer=shortlist.tokenizer.fingerprint, content=fingerprint(tensors))


def load_shortlist(loaded: LoadedModel) -> Shortlist:
    """The shortlist of the model directory. Raises UserError where there is none, or a damaged or foreign one."""
    path, remedy = loaded.folder / FILE, f"make it again: shortlist {loaded.folder}"
    try:
        check_no_lfs_pointer(path)
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("frequent", "likely")}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: missing or broken ({error}); {remedy}") from None
    tokenizer, (frequent, likely) = loaded.tokenizer, tensors.values()
    if facts.get("tokenizer") != tokenizer.fingerprint:
        raise UserError(f"{path}: is of another tokenizer; {remedy}")
    if facts.get("content", content := fingerprint(tensors)) != content:  # an earlier version wrote none
        raise UserError(f"{path}: was changed or damaged after it was written; {remedy}")
    ids = torch.cat([frequent.flatten(), likely.flatten()])
    whole = (frequent.ndim, likely.ndim, ids.dtype) == (1, 2, torch.int32) and len(likely) == tokenizer.source_size
    if not whole or ids.min() < 0 or ids.max() >= tokenizer.target_size:
        raise UserError(f"{path}: holds other than ids of the vocabulary for each source piece; {remedy}")
    return Shortlist(frequent.long(), likely.long(), tokenizer)
