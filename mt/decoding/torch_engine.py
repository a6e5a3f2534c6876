"""Our own engine: the model in torch under our search, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from mt.decoding.beam_search import Hypothesis, Rectify, Step, beam_search
from mt.decoding.constraints import Constraints
from mt.decoding.ensemble import EnsembleState, ensemble_step
from mt.decoding.grouping import length_groups, padded
from mt.decoding.minimum_bayes_risk import by_expected_utility
from mt.decoding.options import SearchOptions
from mt.decoding.sampling import sample
from mt.decoding.scoring import forced_hypotheses
from mt.decoding.shortlist import BORDER, Shortlist, ShortlistedState, load_shortlist, shortlisted_step
from mt.errors import UserError
from mt.metrics.maps import InverseLink, Temperature
from mt.model.directory import LoadedModel


class TorchEngine:
    """Searches with the loaded model itself, on whatever device it lies, or with several as an ensemble."""

    def __init__(self, loaded: LoadedModel, *others: LoadedModel) -> None:
        """Wraps what `mt.model.directory.load_model` returns; the models are in evaluation mode.

        Raises:
            UserError: models of different vocabularies.
        """
        self.loaded = loaded
        self.models = [each.model for each in (loaded, *others)]
        for other in others:
            if _pieces(loaded) != _pieces(other):
                raise UserError(
                    f"{other.folder}: its vocabulary differs from that of {loaded.folder}; models of an ensemble "
                    "share one: train them with the same tokenizer"
                )

    def search(
        self, source_ids: list[list[int]], options: SearchOptions, prefixes: list[list[int]] | None = None
    ) -> list[list[Hypothesis]]:
        """Searches for the best outputs of sentences given as ids, or samples them.

        Args:
            source_ids: of each sentence, end of sentence last; an empty list finds nothing.
            options: beam and the rest.
            prefixes: ids, without end of sentence, that the outputs of each sentence begin with; None: nothing.

        Returns:
            Up to `options.nbest` different hypotheses of each sentence, best first.
        """
        if options.shortlist and (prefixes is not None or len(self.models) > 1):
            raise UserError("shortlist: goes neither with prefixes nor with an ensemble; leave one of them out")
        present = [index for index, ids in enumerate(source_ids) if ids]
        found: list[list[Hypothesis]] = [[] for _ in source_ids]
        lengths = [len(source_ids[index]) for index in present]
        for group in length_groups(lengths, options.batch_tokens // options.rows):
            indices = [present[place] for place in group]
            begun = None if prefixes is None else [prefixes[index] for index in indices]
            batch = self._search_batch([source_ids[index] for index in indices], options, begun)
            for index, hypotheses in zip(indices, batch):
                if options.minimum_bayes_risk != "none":
                    texts = [self.loaded.tokenizer.decode_target(each.tokens) for each in hypotheses]
                    hypotheses = by_expected_utility(hypotheses, texts, options.minimum_bayes_risk)
                elif options.sample:  # what was drawn twice counts once
                    hypotheses = list({tuple(each.tokens): each for each in hypotheses}.values())
                found[index] = hypotheses[: options.nbest]
        return found

    @torch.inference_mode()
    def _search_batch(
        self, source_ids: list[list[int]], options: SearchOptions, prefixes: list[list[int]] | None
    ) -> list[list[Hypothesis]]:
        tokenizer = self.loaded.tokenizer
        assert not any(model.training for model in self.models), "dropout would be on"
        device = self.models[0].output_weight.device
        pieces = self._shortlist.pieces(source_ids, device) if options.shortlist else None
        begin_id, end_id = (tokenizer.begin_id, tokenizer.end_id) if pieces is None else (BORDER, BORDER)
        padded_ids = padded(source_ids, tokenizer.pad_id, device)
        states = [model.start(model.encode(padded_ids)) for model in self.models]
        constraints = Constraints(
            [self._longest(ids, options) for ids in source_ids],
            end_id=end_id,
            forbidden_ids=(tokenizer.pad_id, tokenizer.begin_id) if pieces is None else (),
            min_length=options.min_length,
            no_repeat_ngram=options.no_repeat_ngram,
            prefixes=prefixes,
            device=device,
        )
        step: Step[Any] = self.models[0].step
        state: Any = states[0]
        if pieces is not None:
            step = shortlisted_step(self.models[0])
            state = ShortlistedState(states[0], self.models[0], pieces, tokenizer.end_id)
        if len(states) > 1:
            step, state = ensemble_step([model.step for model in self.models]), EnsembleState(states)
        if options.sample:
            return sample(
                step,
                state,
                constraints,
                [[options.seed, *ids] for ids in source_ids],
                count=options.wanted,
                top_k=options.top_k,
                top_p=options.top_p,
                penalty=options.length_penalty,
                alpha=options.length_alpha,
                rectify=self._rectify(options),
                begin_id=tokenizer.begin_id,
            )
        found = beam_search(
            step,
            state,
            constraints,
            beam=options.rows,
            nbest=options.wanted,
            penalty=options.length_penalty,
            alpha=options.length_alpha,
            stop=options.stop,
            rectify=self._rectify(options),
            begin_id=begin_id,
        )
        return found if pieces is None else self._spelled(found, pieces.ids.tolist(), source_ids, options)

    @cached_property
    def _shortlist(self) -> Shortlist:
        return load_shortlist(self.loaded)

    def _spelled(
        self, found: list[list[Hypothesis]], ids: list[int], source_ids: list[list[int]], options: SearchOptions
    ) -> list[list[Hypothesis]]:
        """Hypotheses of numbers as hypotheses of ids; where scores are wanted, with those of the whole vocabulary."""
        end_id = self.loaded.tokenizer.end_id
        named = [
            [each._replace(tokens=[*(ids[number] for number in each.tokens[:-1]), end_id]) for each in hypotheses]
            for hypotheses in found
        ]
        if not options.token_scores and options.wanted == 1:
            return named
        outputs = [[each.tokens for each in hypotheses] for hypotheses in named]
        return forced_hypotheses(self.loaded, source_ids, outputs, options)

    def _longest(self, ids: Sequence[int], options: SearchOptions) -> int:
        config = self.loaded.config.decode
        longest = int(config.max_length_ratio * len(ids)) + config.max_length_extra
        return min(longest, options.max_output) if options.max_output else longest

    def _rectify(self, options: SearchOptions) -> Rectify | None:
        """What changes the model's distribution before it is searched; None: nothing."""
        link = None
        if options.rectify:
            if len(self.models) > 1:
                raise UserError("rectify: each model of an ensemble has a link of its own; use --temperature")
            link = InverseLink.of_loss(self.loaded.config.loss, self.loaded.tokenizer)
            if link is None:
                raise UserError(
                    f"rectify: the loss {self.loaded.config.loss.name} of {self.loaded.folder} has no inverse link "
                    "in closed form; use --temperature"
                )
        if link is None and options.temperature == 1:
            return None
        return Temperature(options.temperature, link=link).apply


def _pieces(loaded: LoadedModel) -> tuple[list[str], list[str]]:
    """The vocabularies of both sides."""
    tokenizer = loaded.tokenizer
    return (
        tokenizer.source_pieces(range(tokenizer.source_size)),
        tokenizer.target_pieces(range(tokenizer.target_size)),
    )
