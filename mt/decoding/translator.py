"""Streams of lines through the model: one record a line, in order, never one lost."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest
from typing import Any

import numpy as np

from mt.config import SearchConfig
from mt.config_file import search_config
from mt.decoding.confidence import load_recalibration, recalibrated
from mt.decoding.records import translation_output
from mt.decoding.scoring import alignments as attention_alignments
from mt.decoding.sources import Overlong, fitting_sources, length_groups
from mt.decoding.torch_engine import TorchEngine
from mt.decoding.types import Engine, Hypothesis, normalised_score
from mt.errors import UserError
from mt.model.directory import LoadedModel
from mt.processes import WorkerPool

WINDOW = 2000
"""lines read ahead and sorted by length"""
_WORTH_WORKERS = 100  # lines of a window; a smaller one is translated by the process itself

Output = dict[str, Any]
MoreWaiting = Callable[[], bool]
# What is translated for a line: nothing (it is blank), its ids, or those of the parts of a line that is too long; and
# the ids that the output begins with.
_Source = tuple[list[list[int]], list[int]]


@dataclass
class _Window:
    """Lines that are translated together."""

    first: int
    """number of its first line"""
    lines: list[str]
    places: list[int]
    """for each line its place in `sources`"""
    sources: list[_Source]
    """what there is to translate, each different one once"""

    def records(self, outputs: list[Output]) -> Iterator[Output]:
        """The records of its lines; `outputs`: of its sources."""
        used: set[int] = set()
        for number, (line, place) in enumerate(zip(self.lines, self.places), self.first):
            output = copy.deepcopy(outputs[place]) if place in used else outputs[place]  # records may be changed
            used.add(place)
            yield {"line": number, "source": line, **output}


class Translator:
    """Translates with one model. A line's translation does not depend on the lines around it."""

    def __init__(self, loaded: LoadedModel, engine: Engine | None = None, recalibrate: bool = True) -> None:
        """Wraps what `mt.model.directory.load_model` returns; `engine`: what searches, our own where None;
        `recalibrate`: whether confidence goes through the recalibration stored with the model, if there is one."""
        self.loaded = loaded
        self.engine: Engine = TorchEngine(loaded) if engine is None else engine
        self.recalibration = load_recalibration(loaded) if recalibrate else None

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
        more_waiting: MoreWaiting | None = None,
        on_overlong: Callable[[int], None] | None = None,
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
            alignments: whether records bring "source_tokens" and "alignment", see `mt.decoding.scoring.alignments`.
            processes: above 1, windows of many lines are shared by so many worker processes of one thread each. Not
                with a model on a GPU, nor with an engine that has threads of its own.
            more_waiting: asked before each further line of a window; on False the window is translated as it is.
            on_overlong: called with the number of each line that is too long.
            search: fields of `SearchConfig`; None: as the model's config says. With `nbest` above 1 each record
                lists up to so many different outputs under "nbest"; a line that was split has only one.

        Returns:
            An iterator of records: "line", "source" and what `translation_output` gives.

        Raises:
            UserError: an option out of range, at once; more or fewer prefixes than lines, when they end.
        """
        options = search_config(self.loaded.config.decode, **search)
        if window < 1:
            raise UserError(f"window is {window}; it must be at least 1")
        windows = (
            self._window(pairs, first, overlong, on_overlong)
            for first, pairs in _numbered_windows(lines, prefixes, window, first_line, more_waiting)
        )
        if processes > 1:
            translated = self._in_processes(windows, options, alignments, processes, more_waiting)
        else:
            translated = ((each, self._outputs(each.sources, options, alignments)) for each in windows)
        return (record for each, outputs in translated for record in each.records(outputs))

    def _window(
        self, pairs: list[tuple[str, str]], first: int, overlong: Overlong, on_overlong: Callable[[int], None] | None
    ) -> _Window:
        """Finds what there is to translate in these lines, each beside its prefix."""
        tokenizer, longest = self.loaded.tokenizer, self.loaded.config.decode.max_length
        lines, prefixes = [line for line, _ in pairs], [prefix for _, prefix in pairs]
        window = _Window(first, lines, [], [])
        known: dict[tuple[tuple[int, ...], ...], int] = {}
        encoded = zip(lines, tokenizer.encode_source(lines), tokenizer.encode_target(prefixes))
        for number, (line, ids, (*prefix, _)) in enumerate(encoded, first):
            # A line can also be blank to the tokeniser alone: zero-width characters, say.
            blank = not line.strip() or len(ids) <= 1
            fits = blank or len(ids) <= longest
            if not fits and on_overlong is not None:
                on_overlong(number)
            key = () if blank else (tuple(ids), tuple(prefix))
            if key not in known:
                known[key] = len(window.sources)
                whole = [] if blank else [ids]
                parts = whole if fits else fitting_sources(line, ids, tokenizer, longest, overlong)
                window.sources.append((parts, prefix))
            window.places.append(known[key])
        return window

    def _in_processes(
        self,
        windows: Iterator[_Window],
        options: SearchConfig,
        alignments: bool,
        processes: int,
        more_waiting: MoreWaiting | None,
    ) -> Iterator[tuple[_Window, list[Output]]]:
        """Has worker processes translate the windows, the next ones begun while an earlier one is not yet done."""
        pending: deque[tuple[_Window, list[list[int]], list[Future[list[Output]]]]] = deque()
        pool = WorkerPool(self._outputs, processes, "fork", "lower --threads or --batch_tokens and run it again")

        def next_translated() -> tuple[_Window, list[Output]]:
            window, groups, futures = pending.popleft()
            if not groups:
                return window, self._outputs(window.sources, options, alignments)
            outputs = chain.from_iterable(map(pool.result, futures))
            in_order = sorted(zip(chain.from_iterable(groups), outputs), key=lambda pair: pair[0])
            return window, [output for _, output in in_order]

        try:
            for window in windows:
                lengths = [sum(map(len, parts)) for parts, _ in window.sources]
                worth = len(lengths) >= _WORTH_WORKERS
                groups = length_groups(lengths, options.batch_tokens // options.rows) if worth else []
                shares = ([window.sources[place] for place in group] for group in groups)
                futures = [pool.submit(share, options, alignments) for share in shares]
                pending.append((window, groups, futures))
                # Where no further line waits, whoever writes them may be waiting for these translations.
                while pending and not (pool.has_capacity() and (more_waiting is None or more_waiting())):
                    yield next_translated()
            while pending:
                yield next_translated()
        finally:
            pool.close()

    def _outputs(self, sources: list[_Source], options: SearchConfig, alignments: bool) -> list[Output]:
        """Translates: for each line the fields of its record that its text does not tell."""
        flat = [ids for parts, _ in sources for ids in parts]
        prefixes = [[] if number else prefix for parts, prefix in sources for number in range(len(parts))]
        found = self.engine.search(flat, options, prefixes if any(prefixes) else None)
        if self.recalibration is not None and options.token_scores:
            found = recalibrated(self.loaded, self.recalibration.inference, flat, found)
        of_parts = iter(found)
        outputs = []
        for parts, _ in sources:
            hypotheses = [next(of_parts) for _ in parts]
            best = hypotheses[0] if len(parts) == 1 else _joined(hypotheses, options)
            outputs.append(translation_output(best, self.loaded.tokenizer, options.nbest))
        if alignments:
            self._align(sources, found, outputs, options)
        return outputs

    def _align(
        self, sources: list[_Source], found: list[list[Hypothesis]], outputs: list[Output], options: SearchConfig
    ) -> None:
        """Adds the alignment of the best output of each line, of which `found` holds those of its parts."""
        flat = [ids for parts, _ in sources for ids in parts]
        # A part without an output, which only a broken model has, counts as one that ends at once.
        targets = [each[0].tokens if each else ids[-1:] for ids, each in zip(flat, found)]
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


def _joined(parts: list[list[Hypothesis]], options: SearchConfig) -> list[Hypothesis]:
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


def _numbered_windows(
    lines: Iterable[str], prefixes: Iterable[str] | None, size: int, first: int, more_waiting: MoreWaiting | None
) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Windows of lines beside their prefixes, each with the number of its first one."""
    window: list[tuple[str, str]] = []
    for line, prefix in zip(lines, repeat("")) if prefixes is None else zip_longest(lines, prefixes):
        if line is None or prefix is None:
            raise UserError("there are not as many prefixes as lines; give one for each, empty where there is none")
        window.append((_clean(line), _clean(prefix)))
        if len(window) == size or (more_waiting is not None and not more_waiting()):
            yield first, window
            first, window = first + len(window), []
    if window:
        yield first, window


def _clean(line: str) -> str:
    """Without its line feed; lone surrogates, which no UTF-8 file can hold, become U+FFFD."""
    return line.removesuffix("\n").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
