"""Streams of lines through the model: one record a line, in order, never one lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from mt.decoding.beam_search import Hypothesis
from mt.decoding.grouping import cut_source
from mt.decoding.options import SearchOptions
from mt.decoding.records import translation_record
from mt.decoding.torch_engine import TorchEngine
from mt.errors import UserError
from mt.model.directory import LoadedModel

_WINDOW = 1000


class Engine(Protocol):
    """What turns ids of sources into outputs."""

    def search(self, source_ids: list[list[int]], options: SearchOptions, /) -> list[list[Hypothesis]]:
        """Up to `options.nbest` hypotheses of each sentence, best first; none for a sentence without ids."""


class Translator:
    """Translates with one model. A line's translation does not depend on the lines around it."""

    def __init__(self, loaded: LoadedModel, engine: Engine | None = None) -> None:
        """Wraps what `mt.model.directory.load_model` returns; `engine`: what searches, our own where None."""
        self.loaded = loaded
        self.engine = TorchEngine(loaded) if engine is None else engine

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
            found = self.engine.search(source_ids, options)
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
