"""Our own engine: the model in torch under our search, in batches of similar length."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mt.config import SearchConfig
from mt.decoding.beam_search import beam_search, normalised
from mt.decoding.constraints import Constraints
from mt.decoding.sampling import by_expected_chrf, sample
from mt.decoding.scoring import forced_hypotheses
from mt.decoding.shortlist import LOCAL_BOUNDARY, Shortlist, ShortlistedState, load_shortlist, shortlisted_step
from mt.decoding.sources import length_groups, padded
from mt.decoding.types import Hypothesis, Step
from mt.errors import UserError
from mt.model.cache import DecoderState
from mt.model.directory import LoadedModel


class TorchEngine:
    """Searches with the loaded model itself, on whatever device it lies, or with several as an ensemble."""

    def __init__(self, loaded: LoadedModel, *others: LoadedModel) -> None:
        """Wraps what `mt.model.directory.load_model` returns; the models are in evaluation mode. Raises UserError for
        models of different vocabularies."""
        self.loaded, self.models = loaded, [each.model for each in (loaded, *others)]
        for other in others:
            if loaded.tokenizer.vocabularies != other.tokenizer.vocabularies:
                raise UserError(
                    f"{other.folder}: its vocabulary differs from that of {loaded.folder}; models of an ensemble "
                    "share one: train them with the same tokenizer"
                )

    def search(
        self, source_ids: list[list[int]], options: SearchConfig, prefixes: list[list[int]] | None = None
    ) -> list[list[Hypothesis]]:
        """See Engine."""
        if options.shortlist and (prefixes is not None or len(self.models) > 1):
            raise UserError("shortlist: goes neither with prefixes nor with an ensemble; leave one of them out")
        found: list[list[Hypothesis]] = [[] for _ in source_ids]
        for group in length_groups([len(ids) for ids in source_ids], options.batch_tokens // options.rows):
            batch_prefixes = None if prefixes is None else [prefixes[index] for index in group]
            batch = self._search_batch([source_ids[index] for index in group], options, batch_prefixes)
            for index, hypotheses in zip(group, batch):
                if options.minimum_bayes_risk != "none":
                    texts = [self.loaded.tokenizer.decode_target(each.tokens) for each in hypotheses]
                    hypotheses = by_expected_chrf(hypotheses, texts)
                elif options.sample:  # what was drawn twice counts once
                    hypotheses = list({tuple(each.tokens): each for each in hypotheses}.values())
                found[index] = hypotheses[: options.nbest]
        return found

    @torch.inference_mode()
    def _search_batch(
        self, source_ids: list[list[int]], options: SearchConfig, prefixes: list[list[int]] | None
    ) -> list[list[Hypothesis]]:
        assert not any(model.training for model in self.models), "dropout would be on"
        tokenizer, model = self.loaded.tokenizer, self.models[0]
        device = model.output_weight.device
        padded_ids = padded(source_ids, tokenizer.pad_id, device)
        states = [each.start(each.encode(padded_ids)) for each in self.models]
        constraints = Constraints(
            [options.longest_output(len(ids)) for ids in source_ids],
            end_id=LOCAL_BOUNDARY if options.shortlist else tokenizer.end_id,
            forbidden_ids=() if options.shortlist else (tokenizer.pad_id, tokenizer.begin_id),  # it holds neither
            min_length=options.min_length,
            no_repeat_ngram=options.no_repeat_ngram,
            prefixes=prefixes,
            device=device,
        )
        if options.shortlist:
            ids, allowed = self._shortlist.candidate_vocabulary(source_ids)
            shortlisted = ShortlistedState(states[0], model, ids, allowed, tokenizer.end_id)
            found = beam_search(shortlisted_step, shortlisted, constraints, options, LOCAL_BOUNDARY)
            return self._with_target_ids(found, ids.tolist(), source_ids, options)
        step: Step[Any] = model.step if len(states) == 1 else self._ensemble_step
        state = states[0] if len(states) == 1 else _EnsembleState(states)
        if options.sample:
            seeds = [[options.seed, *ids] for ids in source_ids]  # the text decides, not its place or its batch
            return sample(step, state, constraints, seeds, options, tokenizer.begin_id)
        return beam_search(step, state, constraints, options, tokenizer.begin_id)

    def _ensemble_step(self, tokens: Tensor, state: _EnsembleState) -> Tensor:
        """(rows, vocabulary) log of the mean of the models' probabilities."""
        log_probs = [normalised(model.step(tokens, its)) for model, its in zip(self.models, state)]
        return torch.stack(log_probs).logsumexp(0) - math.log(len(self.models))

    @cached_property
    def _shortlist(self) -> Shortlist:
        return load_shortlist(self.loaded)

    def _with_target_ids(
        self, found: list[list[Hypothesis]], ids: list[int], source_ids: list[list[int]], options: SearchConfig
    ) -> list[list[Hypothesis]]:
        """Hypotheses of a shortlist's local ids with target ids; where scores are wanted, over the whole vocabulary."""
        ids[LOCAL_BOUNDARY] = self.loaded.tokenizer.end_id  # written, where it was the beginning as it was read
        outputs = [[[ids[token] for token in each.tokens] for each in hypotheses] for hypotheses in found]
        if options.token_scores or options.wanted > 1:
            return forced_hypotheses(self.loaded, source_ids, outputs, options)
        return [[each._replace(tokens=tokens[0]) for each in hypotheses] for hypotheses, tokens in zip(found, outputs)]


class _EnsembleState(list[DecoderState]):
    """The states of several models of one target vocabulary, moved together."""

    def expand(self, beams: int) -> None:
        for state in self:
            state.expand(beams)

    def reorder(self, beam_indices: Tensor) -> None:
        for state in self:
            state.reorder(beam_indices)

    def select(self, rows: Tensor) -> None:
        for state in self:
            state.select(rows)
