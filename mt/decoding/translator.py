"""Streams of lines through the model: one record a line, in order, never one lost."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from mt.config import SearchConfig
from mt.config_file import search_config
from mt.decoding.records import one_line, separator_of, translation_output
from mt.decoding.sources import MoreWaiting, Overlong, check_streams, fitting_sources, length_groups, read_windows
from mt.decoding.types import Engine, Hypothesis, normalised_score
from mt.errors import UserError
from mt.model.directory import LoadedModel
from mt.processes import WorkerPool

if TYPE_CHECKING:
    from pathlib import Path

    from mt.decoding.confidence import Confidence

WINDOW = 2000
"""lines read ahead and sorted by length"""
_WORTH_WORKERS = 100  # lines of a window; a smaller one is translated by the process itself

Output = dict[str, Any]
_QUALITY = ("quality", "quality_low", "quality_high")


class _Source(NamedTuple):
    """What there is to translate of a line."""

    parts: list[list[int]]
    """its ids, or those of the parts of a line that is too long; nothing where it is blank or all unknown"""
    prefix: str
    """what the output begins with"""
    prefix_ids: list[int]
    unknown: int
    """how many tokens of the line no piece is known for"""
    overlong: bool


@dataclass
class _Window:
    """Lines that are translated together."""

    lines: list[str]
    places: list[int]
    """for each line its place in `sources`"""
    sources: list[_Source]
    """what there is to translate, each different one once"""

    def records(self, outputs: list[Output], separator: str) -> Iterator[Output]:
        """The records of its lines; `outputs`: of its sources. A line of which nothing is known stays as it is."""
        used: set[int] = set()
        for line, place in zip(self.lines, self.places):
            output = copy.deepcopy(outputs[place]) if place in used else outputs[place]  # records may be changed
            used.add(place)
            source = self.sources[place]
            if source.unknown and not source.parts:
                kept = separator.join(filter(None, (source.prefix, one_line(line))))
                quality = {name: 0.0 for name in _QUALITY if name in output}
                for each in (output, *output.get("nbest", ())):
                    each |= {"translation": kept, "confidence": 0.0}
                output |= quality
            yield {"source": line, **output}


class Translator:
    """Translates with one model. A line's translation does not depend on the lines around it."""

    def __init__(self, loaded: LoadedModel, engine: Engine | None = None, recalibrate: bool = True) -> None:
        """Wraps what `mt.model.directory.load_model` returns; `engine`: what searches, our own where None;
        `recalibrate`: whether confidence goes through the recalibration stored with the model, if there is one."""
        if engine is None:
            from mt.decoding.torch_engine import TorchEngine  # here, as all that needs torch: an engine may not

            engine = TorchEngine(loaded)
        self.loaded, self.engine = loaded, engine
        self.confidence: Confidence | None = None
        if recalibrate:
            from mt.decoding.confidence import Confidence, load_recalibration

            recalibration = load_recalibration(loaded)
            self.confidence = None if recalibration is None else Confidence(loaded, recalibration)
        self._judged, self._line_inputs = 0, np.zeros(())  # lines, and the sum of their inputs: (inputs,)
        self._separator = separator_of(loaded.config.data.target_language)

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
        **search: Any,
    ) -> Iterator[dict[str, Any]]:
        """Translates lines lazily: reads a window of them, translates it, hands out its records, reads on.

        Args:
            lines: text, one sentence each; a line feed at the end is ignored.
            prefixes: for each line the text that its translation begins with, in whole words; "" leaves the choice.
                A blank line has none; of a line that is split the first part has it. The output has it as it is
                given here, whatever the tokeniser makes of it.
            window: lines read ahead and sorted by length; equal ones among them are translated once.
            first_line: number of the first line.
            overlong: what becomes of a line of more tokens than max_length: "split" into sentences that are
                translated one by one and joined, or "cut".
            alignments: whether records bring "source_tokens" and "alignment", see `mt.decoding.scoring.alignments`.
            processes: above 1, windows of many lines are shared by so many worker processes of one thread each. Not
                with a model on a GPU, nor with an engine that has threads of its own.
            more_waiting: asked before each further line of a window; on False the window is translated as it is.
            search: fields of `SearchConfig`; None: as the model's config says. With `nbest` above 1 each record
                lists up to so many different outputs under "nbest"; a line that was split has only one.

        Returns:
            An iterator of records: "line", "source", what `translation_output` gives, "unknown", the number of source
            tokens that no piece is known for, and "overlong", whether the line was too long. A line of which nothing
            is known, no letter and no digit, is its own translation, with confidence 0. Where the model is calibrated,
            "quality", "quality_low" and "quality_high": see `mt.metrics.estimator.Quality`.

        Raises:
            UserError: an option out of range or `lines` that are none, at once; a line or prefix that is no text, or
                more or fewer prefixes than lines, when it is read. A TypeError, too, where a type is wrong.
        """
        check_streams(lines=lines, prefixes=() if prefixes is None else prefixes)
        options = search_config(self.loaded.config.decode, **search)
        for name, value, least in (("window", window, 1), ("first_line", first_line, 0), ("processes", processes, 1)):
            if not isinstance(value, (int, np.integer)) or value < least:
                raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}")
        if overlong not in get_args(Overlong):
            raise UserError(f"overlong is {overlong!r}; it must be one of {', '.join(get_args(Overlong))}")
        read = read_windows(lines, prefixes, window, first_line, more_waiting)
        windows = (self._window(pairs, options.max_length, overlong) for pairs in read)
        if processes > 1:
            translated = self._in_processes(windows, options, alignments, processes, more_waiting)
        else:
            translated = ((each, self._outputs(each.sources, options, alignments)) for each in windows)
        self._judged, self._line_inputs = 0, np.zeros(())
        records = (record for each, outputs in translated for record in each.records(outputs, self._separator))
        return ({"line": number, **self._noted(record)} for number, record in enumerate(records, first_line))

    def score(self, sources: Iterable[str], targets: Iterable[str]) -> Iterator[dict[str, Any]]:
        """What the model thinks of given translations, lazily; the records are those of `score_lines`. Raises UserError
        for what is no text and where there are not as many targets as sources, at the latest when it is read."""
        from mt.decoding.scoring import score_lines

        check_streams(sources=sources, targets=targets)
        read = read_windows(sources, targets, WINDOW, 0, None, "target")
        return score_lines(self.loaded, chain.from_iterable(read))

    def push_to_hub(self, name: str, evaluation: str | Path | None = None, **options: Any) -> str:
        """Publishes the model, with a card, on the Hugging Face hub; its address. See `mt.model.hub.publish`."""
        from mt.model.hub import publish

        loaded = self.loaded
        return publish(loaded.folder, loaded.config, loaded.meta, name, evaluation, **options)

    def __repr__(self) -> str:
        data, size = self.loaded.config.data, self.loaded.meta.get("parameters", 0)
        about = [f"{size:,} parameters", type(self.engine).__name__]
        about += ["not calibrated" if self.confidence is None else "calibrated", f"from {self.loaded.folder}"]
        return f"<Translator {data.source_language}-{data.target_language}: {', '.join(about)}>"

    def fit(self) -> dict[str, Any] | None:
        """How the lines of the last `translate` differ from those that confidence was fitted on, see `unlike`; None
        where nothing was fitted, or nothing was translated with confidence."""
        if self.confidence is None or not self._judged:
            return None
        from mt.decoding.confidence import unlike

        return unlike(self.confidence.recalibration.quality, self._line_inputs / self._judged, self._judged)

    def _noted(self, record: dict[str, Any]) -> dict[str, Any]:
        if (inputs := record.pop("line_inputs", None)) is not None:
            self._judged, self._line_inputs = self._judged + 1, self._line_inputs + inputs
        return record

    def _window(self, pairs: list[tuple[str, str]], longest: int, overlong: Overlong) -> _Window:
        """Finds what there is to translate in these lines, each beside its prefix."""
        tokenizer = self.loaded.tokenizer
        lines, prefixes = [line for line, _ in pairs], [prefix for _, prefix in pairs]
        window = _Window(lines, [], [])
        known: dict[tuple[tuple[int, ...], str], int] = {}
        encoded = zip(lines, prefixes, tokenizer.encode_source(lines), tokenizer.encode_target(prefixes))
        for line, prefix, ids, (*prefix_ids, _) in encoded:
            # A line can also be blank to the tokeniser alone: zero-width characters, say.
            blank = not line.strip() or len(ids) <= 1
            unknown = 0 if blank else ids.count(tokenizer.unknown_id)
            told = [] if blank else [ids]
            if unknown:
                pieces = tokenizer.source_pieces([each for each in ids[:-1] if each != tokenizer.unknown_id])
                told = [ids] if any(map(str.isalnum, "".join(pieces))) else []
            too_long = bool(told) and len(ids) > longest
            text = one_line(prefix.strip()) if prefix_ids and not blank else ""
            key = (() if blank else tuple(ids), text)
            if key not in known:
                known[key] = len(window.sources)
                parts = fitting_sources(line, ids, tokenizer, longest, overlong) if too_long else told
                window.sources.append(_Source(parts, text, prefix_ids if text else [], unknown, too_long))
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
        pool = WorkerPool(self._outputs, processes, "fork")

        def next_translated() -> tuple[_Window, list[Output]]:
            window, groups, futures = pending.popleft()
            if not groups:
                return window, self._outputs(window.sources, options, alignments)
            outputs = chain.from_iterable(map(pool.result, futures))
            in_order = sorted(zip(chain.from_iterable(groups), outputs), key=lambda pair: pair[0])
            return window, [output for _, output in in_order]

        try:
            for window in windows:
                lengths = [sum(map(len, source.parts)) for source in window.sources]
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
        flat = [ids for source in sources for ids in source.parts]
        prefixes = [[] if number else source.prefix_ids for source in sources for number in range(len(source.parts))]
        found = self.engine.search(flat, options, prefixes if any(prefixes) else None)
        judged = self.confidence if options.token_scores else None
        if judged is not None:
            found = judged.of_tokens(flat, found)
        of_parts = iter(found)
        outputs, whole = [], []
        for source in sources:
            hypotheses = [next(of_parts) for _ in source.parts]
            whole.append(hypotheses[0] if len(hypotheses) == 1 else _joined(hypotheses, options))
            form: dict[str, Any] = {"separator": self._separator, "prefix": (source.prefix, len(source.prefix_ids))}
            output = translation_output(whole[-1], self.loaded.tokenizer, options.nbest, **form)
            outputs.append(output | {"unknown": source.unknown, "overlong": source.overlong})
        if judged is not None:
            for output in outputs:
                output |= dict.fromkeys(_QUALITY, 100.0)  # of a blank line
            told = [place for place, best in enumerate(whole) if best]
            ids = [list(chain.from_iterable(sources[place].parts)) for place in told]
            qualities, inputs = judged.of_lines(ids, [whole[place][0] for place in told])
            for place, quality, of_line in zip(told, qualities.tolist(), inputs):
                outputs[place] |= dict(zip(_QUALITY, (round(each, 2) for each in quality))) | {"line_inputs": of_line}
        if alignments:
            self._align(sources, found, outputs, options)
        return outputs

    def _align(
        self, sources: list[_Source], found: list[list[Hypothesis]], outputs: list[Output], options: SearchConfig
    ) -> None:
        """Adds the alignment of the best output of each line, of which `found` holds those of its parts."""
        from mt.decoding.scoring import alignments

        flat = [ids for source in sources for ids in source.parts]
        # A part without an output, which only a broken model has, counts as one that ends at once.
        targets = [each[0].tokens if each else ids[-1:] for ids, each in zip(flat, found)]
        aligned = iter(zip(targets, alignments(self.loaded, flat, targets, options.batch_tokens)))
        for source, output in zip(sources, outputs):
            pairs: list[list[int]] = []
            read = written = 0
            for ids in source.parts:
                tokens, part = next(aligned)
                pairs += [[source + read, target + written] for source, target in part]
                read, written = read + len(ids), written + len(tokens)
            pieces = [piece for ids in source.parts for piece in self.loaded.tokenizer.source_pieces(ids)]
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
