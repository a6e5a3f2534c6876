"""Our own engine: the model in torch under our beam search, in batches of similar length."""

from __future__ import annotations

import torch

from mt.decoding.beam_search import Hypothesis, beam_search
from mt.decoding.grouping import length_groups, padded
from mt.decoding.options import SearchOptions
from mt.model.directory import LoadedModel


class TorchEngine:
    """Searches with the loaded model itself, on whatever device it lies."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Wraps what `mt.model.directory.load_model` returns; the model is in evaluation mode."""
        self.loaded = loaded

    def search(self, source_ids: list[list[int]], options: SearchOptions) -> list[list[Hypothesis]]:
        """Beam search over sentences given as ids.

        Args:
            source_ids: of each sentence, end of sentence last; an empty list finds nothing.
            options: beam and the rest.

        Returns:
            Up to `options.nbest` hypotheses of each sentence, best first.
        """
        present = [index for index, ids in enumerate(source_ids) if ids]
        found: list[list[Hypothesis]] = [[] for _ in source_ids]
        lengths = [len(source_ids[index]) for index in present]
        for group in length_groups(lengths, options.batch_tokens // options.beam):
            indices = [present[place] for place in group]
            batch = self._search_batch([source_ids[index] for index in indices], options)
            for index, hypotheses in zip(indices, batch):
                found[index] = hypotheses
        return found

    def _search_batch(self, source_ids: list[list[int]], options: SearchOptions) -> list[list[Hypothesis]]:
        model, tokenizer, config = self.loaded.model, self.loaded.tokenizer, self.loaded.config.decode
        assert not model.training, "dropout would be on"
        device = model.output_weight.device
        with torch.inference_mode():
            memory = model.encode(padded(source_ids, tokenizer.pad_id, device))
            state = model.start(memory, options.beam)
        return beam_search(
            model.step,
            state,
            [int(config.max_length_ratio * len(ids)) + config.max_length_extra for ids in source_ids],
            beam=options.beam,
            nbest=options.nbest,
            penalty=options.length_penalty,
            alpha=options.length_alpha,
            begin_id=tokenizer.begin_id,
            end_id=tokenizer.end_id,
            forbidden_ids=(tokenizer.pad_id, tokenizer.begin_id),
            device=device,
        )
