"""What an output must and must not contain, as -inf among the scores of the next token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Constraints:
    """Rules for the outputs of sentences side by side. Blocked tokens keep their share of the probability."""

    def __init__(
        self,
        max_lengths: Sequence[int],
        *,
        end_id: int,
        forbidden_ids: Sequence[int] = (),
        min_length: int = 1,
        no_repeat_ngram: int = 0,
        prefixes: Sequence[Sequence[int]] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Sets the rules; `min_length` and `no_repeat_ngram` are those of SearchConfig.

        Args:
            max_lengths: for each sentence the longest output, end of sentence included, at least 1; there every
                output must end. It goes before `min_length`; a longer prefix makes room for itself and the end.
            forbidden_ids: tokens that are never chosen.
            prefixes: for each sentence the tokens that its outputs begin with, without end of sentence.
        """
        prefixes = [()] * len(max_lengths) if prefixes is None else prefixes
        lengths = [max(length, len(prefix) + 1) for length, prefix in zip(max_lengths, prefixes)]
        self.end_id, self.forbidden_ids = end_id, forbidden_ids
        self.min_length, self.no_repeat_ngram = min_length, no_repeat_ngram
        self.shortest, self.longest = min(lengths, default=0), max(lengths, default=0)
        self.max_lengths = torch.tensor(lengths, device=device)
        width = max(map(len, prefixes), default=0)
        filled = [[*prefix, *[-1] * (width - len(prefix))] for prefix in prefixes]  # -1: nothing is forced
        self.prefixes = torch.tensor(filled, dtype=torch.int64, device=device)

    def select(self, sentences: Tensor) -> None:
        """Sentence i is from now on what sentence `sentences[i]` was."""
        self.max_lengths, self.prefixes = self.max_lengths[sentences], self.prefixes[sentences]

    def apply(self, scores: Tensor, length: int, written: Tensor | None) -> None:
        """Blocks in place what must not come next. `scores`: (sentences * rows, vocabulary), of token number `length`
        of each output, counted from 1; `written`: (sentences * rows, length - 1) int64, the tokens before it, which
        only `no_repeat_ngram` needs."""
        forced = self._forced(length, len(scores) // max(len(self.max_lengths), 1))
        if forced is not None:
            places = forced.clamp(min=0)  # -1, nothing forced, is no index to gather at
            free = scores.gather(1, places)  # before the rules below: what is forced goes before them
        for forbidden in self.forbidden_ids:
            scores[:, forbidden] = -torch.inf
        if length < self.min_length:
            scores[:, self.end_id] = -torch.inf
        if self.no_repeat_ngram:
            assert written is not None
            self._block_repetitions(scores, written)
        if forced is not None:
            scores.masked_fill_(forced >= 0, -torch.inf)
            scores.scatter_(1, places, torch.where(forced >= 0, free, scores.gather(1, places)))

    def _forced(self, length: int, rows: int) -> Tensor | None:
        """(sentences * rows, 1) int64, the only token allowed, -1 where there is a choice."""
        forced = self.prefixes[:, length - 1] if length <= self.prefixes.size(1) else None
        if length >= self.shortest:
            forced = torch.full_like(self.max_lengths, -1) if forced is None else forced
            forced = forced.masked_fill(self.max_lengths <= length, self.end_id)
        return None if forced is None else forced.repeat_interleave(rows)[:, None]

    def _block_repetitions(self, scores: Tensor, written: Tensor) -> None:
        size = self.no_repeat_ngram
        if written.size(1) < size:
            return
        windows = written.unfold(1, size, 1)  # (rows, windows, size)
        last = written[:, written.size(1) - size + 1 :]
        repeats = (windows[:, :, :-1] == last[:, None]).all(-1)
        # Each window adds infinity to its last token if what leads up to it has just been written again.
        blocked = torch.zeros_like(scores).scatter_add_(1, windows[:, :, -1], repeats.to(scores.dtype))
        scores.masked_fill_(blocked > 0, -torch.inf)
