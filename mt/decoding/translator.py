"""Streams of lines through the model: one record a line, in order, never one lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mt.decoding.beam_search import Hypothesis, beam_search
from mt.decoding.grouping import cut_source, length_groups, padded
from mt.decoding.records import translation_record
from mt.errors import UserError
from mt.model.directory import LoadedModel

_WINDOW = 1000
PENALTIES = ("none", "average", "gnmt")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How the outputs of a sentence are searched for; see `DecodeConfig`."""

    beam: int
    nbest: int
    length_penalty: str
    length_alpha: float
    batch_tokens: int

    def __post_init__(self) -> None:
        for name in ("beam", "nbest", "batch_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.nbest > self.beam:
            raise UserError(
                f"nbest is {self.nbest}; it must be at most beam, {self.beam}: raise beam or lower nbest"
            )
        if self.length_penalty not in PENALTIES:
            raise UserError(
                f"length_penalty is {self.length_penalty!r}; it must be one of {', '.join(PENALTIES)}"
            )
        if not 0 <= self.length_alpha < float("inf"):
            raise UserError(f"length_alpha is {self.length_alpha}; it must be 0 or more")


class Translator:
    """Translates with one model. A line's translation does not depend on the lines around it."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Wraps what `mt.model.directory.load_model` returns; the model is in evaluation mode."""
        self.loaded = loaded

    def translate(
        self,
        lines: Iterable[str],
        *,
        beam: int | None = None,
        nbest: int = 1,
        length_penalty: str | None = None,
        length_alpha: float | None = None,
        batch_tokens: int | None = None,
        window: int = _WINDOW,
        more_waiting: Callable[[], bool] | None = None,
        on_cut: Callable[[int], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Translates lines lazily: reads a window of them, translates it, hands out its records, reads on.

        Args:
            lines: text, one sentence each; a line feed at the end is ignored.
            beam, length_penalty, length_alpha, batch_tokens: None: as the model's config says.
            nbest: above 1, each record lists up to so many different outputs under "nbest".
            window: lines read ahead and sorted by length.
            more_waiting: asked before each further line of a window; on False the window is translated as it is.
            on_cut: called with the number of each line that was cut at the config's decode.max_length tokens.

        Returns:
            An iterator of records: see `translation_record`.

        Raises:
            UserError: an option out of range, at once.
        """
        config = self.loaded.config.decode
        options = SearchOptions(
            beam=config.beam if beam is None else beam,
            nbest=nbest,
            length_penalty=config.length_penalty if length_penalty is None else length_penalty,
            length_alpha=config.length_alpha if length_alpha is None else length_alpha,
            batch_tokens=config.batch_tokens if batch_tokens is None else batch_tokens,
        )
        if window < 1:
            raise UserError(f"window is {window}; it must be at least 1")
        return self._translate(_windows(lines, window, more_waiting), options, on_cut)

    def _translate(
        self, windows: Iterator[list[str]], options: SearchOptions, on_cut: Callable[[int], None] | None
    ) -> Iterator[dict[str, Any]]:
        first = 0
        for lines in windows:
            source_ids = self._source_ids(lines, first, on_cut)
            found = self.search(source_ids, options)
            for offset, (line, hypotheses) in enumerate(zip(lines, found)):
                yield translation_record(
                    first + offset, line, hypotheses, self.loaded.tokenizer, options.nbest
                )
            first += len(lines)

    def _source_ids(
        self, lines: list[str], first: int, on_cut: Callable[[int], None] | None
    ) -> list[list[int]]:
        """Ids of each line, end of sentence last; none for a blank line."""
        tokenizer, longest = self.loaded.tokenizer, self.loaded.config.decode.max_length
        all_ids: list[list[int]] = []
        for offset, (line, ids) in enumerate(zip(lines, tokenizer.encode_source(lines))):
            # A line can also be blank to the tokeniser alone: zero-width characters, say.
            blank = not line.strip() or len(ids) <= 1
            if not blank and len(ids) > longest and on_cut is not None:
                on_cut(first + offset)
            all_ids.append([] if blank else cut_source(ids, longest))
        return all_ids

    def search(self, source_ids: list[list[int]], options: SearchOptions) -> list[list[Hypothesis]]:
        """Beam search over sentences given as ids, in batches of similar length.

        Args:
            source_ids: of each sentence, end of sentence last; an empty list finds nothing.
            options: beam and the rest.

        Returns:
            Up to `options.nbest` hypotheses of each sentence, best first.
        """
        present = [index for index, ids in enumerate(source_ids) if ids]
        found: list[list[Hypothesis]] = [[] for _ in source_ids]
        groups = length_groups(
            [len(source_ids[index]) for index in present], options.batch_tokens // options.beam
        )
        for group in groups:
            indices = [present[place] for place in group]
            for index, hypotheses in zip(
                indices, self._search_batch([source_ids[i] for i in indices], options)
            ):
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


def _windows(lines: Iterable[str], size: int, more_waiting: Callable[[], bool] | None) -> Iterator[list[str]]:
    window: list[str] = []
    for line in lines:
        window.append(_encodable(line.removesuffix("\n")))
        if len(window) == size or (more_waiting is not None and not more_waiting()):
            yield window
            window = []
    if window:
        yield window


def _encodable(line: str) -> str:
    """Lone surrogates, which no UTF-8 file can hold, become U+FFFD."""
    return line.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
