"""Streams of lines through the model: one record a line, in order, never one lost."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import repeat, zip_longest
from typing import Any, NamedTuple, Protocol

import numpy as np

from mt.decoding.alignment import alignments as attention_alignments
from mt.decoding.beam_search import Hypothesis
from mt.decoding.confidence import RecalibratedEngine, load_recalibration
from mt.decoding.grouping import length_groups
from mt.decoding.options import SearchOptions, search_options
from mt.decoding.overlong import Overlong, fitting_sources
from mt.decoding.penalties import normalised_score
from mt.decoding.records import translation_output
from mt.decoding.torch_engine import TorchEngine
from mt.errors import UserError
from mt.model.directory import LoadedModel
from mt.processes import WorkerPool

WINDOW = 2000
"""lines read ahead and sorted by length"""
_WORTH_WORKERS = 100  # lines of a window; a smaller one is translated by the process itself

Output = dict[str, Any]


class Source(NamedTuple):
    """What is translated for a line."""

    parts: list[list[int]]
    """nothing (it is blank), its ids, or those of the parts of a line that is too long"""
    prefix: list[int]
    """what the output begins with"""


class Engine(Protocol):
    """What turns ids of sources into outputs."""

    def search(
        self, source_ids: list[list[int]], options: SearchOptions, prefixes: list[list[int]] | None, /
    ) -> list[list[Hypothesis]]:
        """Up to `options.nbest` hypotheses of each sentence, best first; none for a sentence without ids.

        Those of a sentence begin with its prefix, target ids without end of sentence.
        """


@dataclass
class _Window:
    """Lines that are translated together."""

    first: int
    """number of its first line"""
    lines: list[str]
    places: list[int]
    """for each line its place in `sources`"""
    sources: list[Source]
    """what there is to translate, each different one once"""
    parts: list[tuple[list[int], Future[list[Output]]]] = field(default_factory=list)
    """places that worker processes translate"""


class Translator:
    """Translates with one model. A line's translation does not depend on the lines around it."""

    def __init__(self, loaded: LoadedModel, engine: Engine | None = None, recalibrate: bool = True) -> None:
        """Wraps what `mt.model.directory.load_model` returns; `engine`: what searches, our own where None;
        `recalibrate`: whether confidence goes through the recalibration stored with the model, if there is one."""
        self.loaded = loaded
        self.engine: Engine = TorchEngine(loaded) if engine is None else engine
        recalibration = load_recalibration(loaded) if recalibrate else None
        if recalibration is not None:
            self.engine = RecalibratedEngine(self.engine, loaded, recalibration.inference)

    def translate(
        self,
        lines: Iterable[str],
        *,
        prefixes: Iterable[str] | None = None,
        window: int = WINDOW,
        first_line: int = 0,
        overlong: Overlong = "split",
        alignments: bool = False,
        processes: int = 1,
        more_waiting: Callable[[], bool] | None = None,
        on_cut: Callable[[int], None] | None = None,
        **search: Any,
    ) -> Iterator[dict[str, Any]]:
        """Translates lines lazily: reads a window of them, translates it, hands out its records, reads on.

        Args:
            lines: text, one sentence each; a line feed at the end is ignored.
            prefixes: for each line the text that its translation begins with, in whole words; "" leaves the choice.
                A blank line has none; of a line that is split the first part has it.
            window: lines read ahead and sorted by length; equal ones among them are translated once.
            first_line: number of the first line.
            overlong: what becomes of a line of more tokens than the config's decode.max_length: "split" into
                sentences that are translated one by one and joined, or "cut".
            alignments: whether records bring "source_tokens" and "alignment", see `mt.decoding.alignment`.
            processes: above 1, windows of many lines are dealt to so many worker processes of one thread each. Not
                with a model on a GPU, nor with an engine that has threads of its own.
            more_waiting: asked before each further line of a window; on False the window is translated as it is.
            on_cut: called with the number of each line that is too long.
            search: `beam`, `nbest` and the other fields of `SearchOptions`; None: as the model's config says. With
                `nbest` above 1 each record lists up to so many different outputs under "nbest"; a line that was
                split has only one.

        Returns:
            An iterator of records: "line", "source" and what `translation_output` gives.

        Raises:
            UserError: an option out of range, at once; more or fewer prefixes than lines, when they end.
        """
        options = search_options(self.loaded.config.decode, **search)
        if window < 1:
            raise UserError(f"window is {window}; it must be at least 1")
        begun = (
            self._window(pairs, first, overlong, on_cut)
            for first, pairs in _numbered_windows(_pairs(lines, prefixes), window, first_line, more_waiting)
        )
        if processes == 1:
            return (record for window in begun for record in self._records(window, options, alignments))
        return self._deal(begun, options, alignments, processes, more_waiting)

    def _window(
        self, pairs: list[tuple[str, str]], first: int, overlong: Overlong, on_cut: Callable[[int], None] | None
    ) -> _Window:
        """Finds what there is to translate in these lines, each beside its prefix."""
        tokenizer, longest = self.loaded.tokenizer, self.loaded.config.decode.max_length
        lines, prefixes = [line for line, _ in pairs], [prefix for _, prefix in pairs]
        sources: list[Source] = []
        places: list[int] = []
        known: dict[tuple[tuple[int, ...], ...], int] = {}
        encoded = zip(lines, tokenizer.encode_source(lines), tokenizer.encode_target(prefixes))
        for offset, (line, ids, (*prefix, _)) in enumerate(encoded):
            # A line can also be blank to the tokeniser alone: zero-width characters, say.
            blank = not line.strip() or len(ids) <= 1
            fits = blank or len(ids) <= longest
            if not fits and on_cut is not None:
                on_cut(first + offset)
            key = () if blank else (tuple(ids), tuple(prefix))
            if key not in known:
                known[key] = len(sources)
                whole = [] if blank else [ids]
                parts = whole if fits else fitting_sources(line, ids, tokenizer, longest, overlong)
                sources.append(Source(parts, prefix))
            places.append(known[key])
        return _Window(first, lines, places, sources)

    def _deal(
        self,
        windows: Iterator[_Window],
        options: SearchOptions,
        alignments: bool,
        processes: int,
        more_waiting: Callable[[], bool] | None,
    ) -> Iterator[dict[str, Any]]:
        """Has worker processes translate the windows, the next ones begun while an earlier one is not yet done."""
        pending: deque[_Window] = deque()
        workers = WorkerPool(self._outputs, processes, "fork", "lower --threads or --batch_tokens and run it again")
        try:
            for window in windows:
                pending.append(window)
                if len(window.sources) >= _WORTH_WORKERS:
                    lengths = [sum(map(len, source.parts)) for source in window.sources]
                    for group in length_groups(lengths, options.batch_tokens // options.rows):
                        sources = [window.sources[place] for place in group]
                        window.parts.append((group, workers.submit(sources, options, alignments)))
                while pending and not (workers.has_capacity() and (more_waiting is None or more_waiting())):
                    yield from self._records(pending.popleft(), options, alignments, workers)
            while pending:
                yield from self._records(pending.popleft(), options, alignments, workers)
        finally:
            workers.close()

    def _records(
        self, window: _Window, options: SearchOptions, alignments: bool, workers: WorkerPool | None = None
    ) -> Iterator[dict[str, Any]]:
        """The records of a window, in the order of its lines."""
        if workers and window.parts:
            outputs: list[Output] = [{}] * len(window.sources)
            for group, future in window.parts:
                translated = workers.result(future)
                for place, output in zip(group, translated):
                    outputs[place] = output
        else:
            outputs = self._outputs(window.sources, options, alignments)
        used: set[int] = set()
        for offset, (line, place) in enumerate(zip(window.lines, window.places)):
            output = copy.deepcopy(outputs[place]) if place in used else outputs[place]
            used.add(place)
            yield {"line": window.first + offset, "source": line, **output}

    def _outputs(self, sources: list[Source], options: SearchOptions, alignments: bool) -> list[Output]:
        """Translates: for each line the fields of its record that its text does not tell."""
        flat = [ids for parts, _ in sources for ids in parts]
        begun = [[] if number else prefix for parts, prefix in sources for number in range(len(parts))]
        found = self.engine.search(flat, options, begun if any(begun) else None)
        places = iter(range(len(flat)))
        outputs = []
        for parts, _ in sources:
            hypotheses = [found[next(places)] for _ in parts]
            best = hypotheses[0] if len(parts) == 1 else _joined(hypotheses, options)
            outputs.append(translation_output(best, self.loaded.tokenizer, options.nbest))
        if alignments:
            self._align(sources, found, outputs, options)
        return outputs

    def _align(
        self, sources: list[Source], found: list[list[Hypothesis]], outputs: list[Output], options: SearchOptions
    ) -> None:
        """Adds the alignment of the best output of each line, of which `found` holds those of its parts."""
        flat = [ids for parts, _ in sources for ids in parts]
        # A part without an output, which only a broken model has, counts as one that ends at once.
        targets = [each[0].tokens if each else flat[place][-1:] for place, each in enumerate(found)]
        aligned = iter(zip(targets, attention_alignments(self.loaded, flat, targets, options.batch_tokens)))
        for (parts, _), output in zip(sources, outputs):
            pairs: list[list[int]] = []
            read = written = 0
            for ids in parts:
                tokens, part = next(aligned)
                pairs += [[source + read, target + written] for source, target in part]
                read, written = read + len(ids), written + len(tokens)
            pieces = [piece for ids in parts for piece in self.loaded.tokenizer.source_pieces(ids)]
            output |= {"source_tokens": pieces, "alignment": pairs}


def _joined(parts: list[list[Hypothesis]], options: SearchOptions) -> list[Hypothesis]:
    """The best outputs of the parts of a line as one, scored as one output of so many tokens; nothing of nothing."""
    best = [hypotheses[0] for hypotheses in parts if hypotheses]
    if not best:
        return []
    tokens = [token for hypothesis in best for token in hypothesis.tokens]
    total = sum(hypothesis.total for hypothesis in best)
    score = normalised_score(total, options.length_penalty, len(tokens), options.length_alpha)
    log_probs = np.concatenate([hypothesis.log_probs for hypothesis in best])
    known = [hypothesis.confidence for hypothesis in best if hypothesis.confidence is not None]
    return [Hypothesis(tokens, log_probs, total, score, np.concatenate(known) if known else None)]


def _pairs(lines: Iterable[str], prefixes: Iterable[str] | None) -> Iterator[tuple[str, str]]:
    """Each line beside its prefix."""
    if prefixes is None:
        yield from zip(lines, repeat(""))
        return
    for line, prefix in zip_longest(lines, prefixes):
        if line is None or prefix is None:
            raise UserError("there are not as many prefixes as lines; give one for each, empty where there is none")
        yield line, prefix


def _numbered_windows(
    pairs: Iterable[tuple[str, str]], size: int, first: int, more_waiting: Callable[[], bool] | None
) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Windows of lines beside their prefixes, each with the number of its first one."""
    window: list[tuple[str, str]] = []
    for line, prefix in pairs:
        window.append((_clean(line), _clean(prefix)))
        if len(window) == size or (more_waiting is not None and not more_waiting()):
            yield first, window
            first += len(window)
            window = []
    if window:
        yield first, window


def _clean(line: str) -> str:
    """Without its line feed; lone surrogates, which no UTF-8 file can hold, become U+FFFD."""
    return line.removesuffix("\n").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
